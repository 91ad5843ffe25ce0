"""Class lists and weak labels: the words in which a person tells what an image shows.

Class ids are 0 for background, 1..C for the foreground classes in the order of the class list,
and 255 for pixels to be ignored. Arrays are indexed [row, column]; geometry is (x, y) in pixels,
where pixel column 0 covers x from 0 to 1. The colour map is the one of PASCAL VOC (Everingham et
al., "The PASCAL Visual Object Classes Challenge", IJCV 2010), built by shuffling the bits of the
class id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsseg.errors import DataError, did_you_mean

BACKGROUND = 0
IGNORE = 255
MAX_CLASSES = 254

_BACKGROUND_NAME = "background"


def voc_palette() -> npt.NDArray[np.uint8]:
    """Build the colour map of PASCAL VOC.

    Bit 3j + c of the class id becomes bit 7 - j of colour channel c, so neighbouring ids get
    clearly different colours.

    Returns:
        Colours (256, 3) uint8 RGB, row = class id.

    Example:
        >>> voc_palette()[:3].tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    ids = np.arange(256, dtype=np.int64)
    colours = np.zeros((256, 3), dtype=np.int64)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            colours[:, channel] |= bit << (7 - level)
    return colours.astype(np.uint8)


def class_name_fault(name: str) -> str:
    """Say why a text cannot be a class name, or return ``""`` when it can.

    Example:
        >>> class_name_fault("scratch; dent")
        'contains ";", which separates tags'
        >>> class_name_fault("흠집")
        ''
    """
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "has blanks at its ends"
    if name == "?":
        return 'means "not tagged" in labels.csv'
    if ";" in name:
        return 'contains ";", which separates tags'
    if not name.isprintable():
        return "contains a line break or another control character"
    if name.casefold() == _BACKGROUND_NAME:
        return f"is reserved for class id {BACKGROUND}"
    return ""


@dataclass(frozen=True)
class ClassList:
    """The foreground classes in order; class id = position + 1.

    Args:
        names: Unique names, at most 254, without ``;`` and without "background".

    Raises:
        DataError: If a name is empty, reserved, repeated or contains ``;``.

    Example:
        >>> classes = ClassList(("scratch", "dent"))
        >>> classes.num_classes, classes.id_of("dent"), classes.name_of(1)
        (2, 2, 'scratch')
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        faults = [
            f'class name "{name}" {fault}'
            for name in self.names
            if (fault := class_name_fault(name))
        ]
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        faults += [f'class name "{name}" occurs more than once' for name in repeated]
        if faults:
            raise DataError("The class list is not valid; rename these classes.", faults)
        if len(self.names) > MAX_CLASSES:
            raise DataError(
                f"The class list has {len(self.names)} classes; at most {MAX_CLASSES} fit into an "
                "8-bit mask. Merge or leave out classes."
            )

    @property
    def num_classes(self) -> int:
        """Number C of foreground classes."""
        return len(self.names)

    def id_of(self, name: str) -> int:
        """Return the id (1..C; 0 for "background") of a class name.

        Raises:
            DataError: If there is no such class; the message names the nearest one.
        """
        if name == _BACKGROUND_NAME:
            return BACKGROUND
        try:
            return self.names.index(name) + 1
        except ValueError:
            known = ", ".join(self.names) or "none"
            raise DataError(
                f'Class "{name}" is not in the class list ({known}).'
                f"{did_you_mean(name, self.names)}"
            ) from None

    def name_of(self, class_id: int) -> str:
        """Return the name of a class id in 0..C or 255.

        Raises:
            DataError: If the id is outside the class list.
        """
        if class_id == BACKGROUND:
            return _BACKGROUND_NAME
        if class_id == IGNORE:
            return "ignore"
        if 1 <= class_id <= self.num_classes:
            return self.names[class_id - 1]
        raise DataError(
            f"Class id {class_id} is not in the class list; allowed are 0 to {self.num_classes} "
            f"and {IGNORE}."
        )

    def palette(self) -> npt.NDArray[np.uint8]:
        """Return the colours (256, 3) uint8 RGB of all ids (PASCAL VOC colour map)."""
        return voc_palette()


def _class_ids(values: npt.ArrayLike, count: int, what: str) -> npt.NDArray[np.int64]:
    """Check one foreground class id per shape."""
    ids = np.asarray(values, dtype=np.int64)
    if ids.shape != (count,):
        raise ValueError(f"class_ids must have shape ({count},), one per {what}, got {ids.shape}.")
    if ids.size and (ids.min() < 1 or ids.max() > MAX_CLASSES):
        raise ValueError(f"class_ids must be in 1..{MAX_CLASSES}, got {sorted(set(ids.tolist()))}.")
    return ids


def _coordinates(values: npt.ArrayLike, width: int, what: str) -> npt.NDArray[np.float32]:
    """Check finite float32 rows of ``width`` coordinates."""
    array = np.asarray(values, dtype=np.float32)
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, width)
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"{what} must have shape (n, {width}), got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} must be finite, got NaN or infinity.")
    return array


@dataclass(frozen=True, eq=False)
class Boxes:
    """Axis-parallel boxes with their classes.

    Args:
        xyxy: (n, 4) float32: left, top, right, bottom in pixels, half-open, right > left and
            bottom > top.
        class_ids: (n,) int64 in 1..C.

    Raises:
        ValueError: If a shape is wrong, a coordinate is not finite, or a box is empty.

    Example:
        >>> len(Boxes([[0, 0, 4, 2]], [1]))
        1
    """

    xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        xyxy = _coordinates(self.xyxy, 4, "xyxy")
        if (xyxy[:, 2:] <= xyxy[:, :2]).any():
            bad = xyxy[(xyxy[:, 2:] <= xyxy[:, :2]).any(axis=1)][0].tolist()
            raise ValueError(f"A box needs right > left and bottom > top, got {bad}.")
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "class_ids", _class_ids(self.class_ids, len(xyxy), "box"))

    def __hash__(self) -> int:
        return hash(tuple(self.class_ids.tolist()))

    def __len__(self) -> int:
        return len(self.xyxy)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Boxes)
            and np.array_equal(self.xyxy, other.xyxy)
            and np.array_equal(self.class_ids, other.class_ids)
        )


@dataclass(frozen=True, eq=False)
class Points:
    """Single clicks with their classes.

    Args:
        xy: (n, 2) float32 pixels.
        class_ids: (n,) int64 in 1..C.

    Raises:
        ValueError: If a shape is wrong or a coordinate is not finite.
    """

    xy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        xy = _coordinates(self.xy, 2, "xy")
        object.__setattr__(self, "xy", xy)
        object.__setattr__(self, "class_ids", _class_ids(self.class_ids, len(xy), "point"))

    def __hash__(self) -> int:
        return hash(tuple(self.class_ids.tolist()))

    def __len__(self) -> int:
        return len(self.xy)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Points)
            and np.array_equal(self.xy, other.xy)
            and np.array_equal(self.class_ids, other.class_ids)
        )


@dataclass(frozen=True, eq=False)
class Scribbles:
    """Polylines with their classes; a line of class 0 marks background.

    Args:
        lines: One (m, 2) float32 array of (x, y) pixels per line, m >= 1.
        class_ids: (n,) int64 in 0..C.

    Raises:
        ValueError: If a shape is wrong, a line is empty or a coordinate is not finite.
    """

    lines: tuple[npt.NDArray[np.float32], ...]
    class_ids: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        lines = tuple(_coordinates(line, 2, "A scribble") for line in self.lines)
        if any(len(line) == 0 for line in lines):
            raise ValueError("A scribble needs at least one point, got an empty line.")
        ids = np.asarray(self.class_ids, dtype=np.int64)
        if ids.shape != (len(lines),):
            raise ValueError(f"class_ids must have shape ({len(lines)},), got {ids.shape}.")
        if ids.size and (ids.min() < 0 or ids.max() > MAX_CLASSES):
            raise ValueError(f"class_ids must be in 0..{MAX_CLASSES}, got {ids.tolist()}.")
        object.__setattr__(self, "lines", lines)
        object.__setattr__(self, "class_ids", ids)

    def __hash__(self) -> int:
        return hash(tuple(self.class_ids.tolist()))

    def __len__(self) -> int:
        return len(self.lines)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Scribbles)
            and len(self) == len(other)
            and all(np.array_equal(a, b) for a, b in zip(self.lines, other.lines, strict=True))
            and np.array_equal(self.class_ids, other.class_ids)
        )


@dataclass(frozen=True)
class WeakLabels:
    """What a person gave for one image.

    Args:
        tags: Ids (1..C) of the classes present. ``None``: nobody tagged the image; the empty
            set: somebody looked and found no class ("ok").
        boxes: Boxes, or None where nobody drew boxes.
        points: Points, or None.
        scribbles: Scribbles, or None.

    Example:
        >>> WeakLabels(tags={2, 1}).kinds
        ('tags',)
        >>> WeakLabels().is_untagged, WeakLabels(tags=()).is_ok
        (True, True)
    """

    tags: frozenset[int] | None = None
    boxes: Boxes | None = None
    points: Points | None = None
    scribbles: Scribbles | None = None

    def __post_init__(self) -> None:
        if self.tags is not None:
            tags = frozenset(int(tag) for tag in self.tags)
            if any(not 1 <= tag <= MAX_CLASSES for tag in tags):
                raise ValueError(f"tags must be ids in 1..{MAX_CLASSES}, got {sorted(tags)}.")
            object.__setattr__(self, "tags", tags)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of label present, out of tags, boxes, points, scribbles."""
        names = ("tags", "boxes", "points", "scribbles")
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def is_untagged(self) -> bool:
        """Whether nobody tagged the image."""
        return self.tags is None

    @property
    def is_ok(self) -> bool:
        """Whether the image was tagged as showing no class."""
        return self.tags is not None and not self.tags

    def class_ids(self) -> frozenset[int]:
        """Return the ids of all foreground classes that occur in any kind of label."""
        ids: set[int] = set(self.tags or ())
        shapes: Iterable[Boxes | Points | Scribbles | None]
        shapes = (self.boxes, self.points, self.scribbles)
        for shape in shapes:
            if shape is not None:
                ids.update(int(value) for value in shape.class_ids)
        return frozenset(ids - {BACKGROUND})
