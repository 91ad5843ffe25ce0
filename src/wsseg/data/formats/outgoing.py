"""What a writer of annotations gets of each image: shapes by kind, and what the file must hold.

Regions are the connected pixels of one class in the mask. Every shape gives a tag by itself, so
only tags without shape are listed apart.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import image_size, read_mask
from wsseg.data.labels import IGNORE, ClassList
from wsseg.data.outlines import outlines_and_holes
from wsseg.data.raster import Region, connected_regions, fill_polygon
from wsseg.errors import DataError

FileTransfer = Literal["copy", "none"]
IGNORE_NAME = "__ignore__"
BACKGROUND_NAME = "background"

Coordinates = NDArray[np.float32]


@dataclass
class Losses:
    """Counts what a format has no place for, so that nothing goes silently.

    Example:
        >>> losses = Losses("YOLO")
        >>> losses.count("points", 3)
        >>> losses.notes()
        ('YOLO has no place for points: 3 left out.',)
    """

    format: str
    _counts: Counter[str] = field(default_factory=Counter)

    def count(self, what: str, number: int = 1) -> None:
        """Note that some things of a kind, named in the plural, are left out."""
        self._counts[what] += number

    def notes(self) -> tuple[str, ...]:
        """One sentence per kind."""
        return tuple(
            f"{self.format} has no place for {what}: {count} left out."
            for what, count in sorted(self._counts.items())
            if count
        )


@dataclass(frozen=True, eq=False)
class Outgoing:
    """One image to write.

    Args:
        sample: The sample.
        file_name: ``ID`` with the suffix of the image.
        size: (H, W) of the upright image.
        tags: Names of classes that no shape shows.
        boxes: Class name and (x0, y0, x1, y1).
        points: Class name and (x, y); background among them.
        lines: Class name and (m, 2); background among them.
        regions: Class name and pixels; pixels to ignore are among them, as `IGNORE_NAME`.
    """

    sample: Sample
    file_name: str
    size: tuple[int, int]
    tags: tuple[str, ...]
    boxes: tuple[tuple[str, Coordinates], ...]
    points: tuple[tuple[str, Coordinates], ...]
    lines: tuple[tuple[str, Coordinates], ...]
    regions: tuple[tuple[str, Region], ...]

    @property
    def is_unseen(self) -> bool:
        """Whether nobody looked at the image, so that a file must not say "no class"."""
        return not self.sample.labels.kinds and not self.regions and self.sample.mask_path is None


def hides_a_class(item: Outgoing) -> bool:
    """Whether a class would seem absent where only boxes and regions can be written."""
    shown = {name for name, _ in (*item.boxes, *item.regions)}
    marks = {name for name, _ in (*item.points, *item.lines)} - {BACKGROUND_NAME}
    return bool(set(item.tags) | (marks - shown))


def outgoing(dataset: Dataset, *, keep_ignore: bool = True) -> Iterator[Outgoing]:
    """Prepare the images of a data set, one after the other.

    Args:
        dataset: Any data set.
        keep_ignore: Whether pixels to ignore become regions.

    Yields:
        What to write.

    Raises:
        DataError: When an image or a mask cannot be read, or they differ in size.
    """
    for sample in dataset.samples:
        yield _prepare(sample, dataset.classes, keep_ignore)


def _prepare(sample: Sample, classes: ClassList, keep_ignore: bool) -> Outgoing:
    size = image_size(sample.image_path)
    labels = sample.labels
    regions: tuple[tuple[str, Region], ...] = ()
    if sample.mask_path is not None:
        mask = read_mask(sample.mask_path, classes)
        if mask.shape != size:
            raise DataError(
                f"{sample.mask_path}: the mask is {mask.shape[1]} x {mask.shape[0]} px, its image "
                f"{size[1]} x {size[0]} px. Make the mask again at the size of the image."
            )
        named = _named_regions(mask, classes)
        regions = tuple(item for item in named if keep_ignore or item[0] != IGNORE_NAME)
    boxes = _named(labels.boxes.xyxy, labels.boxes.class_ids, classes) if labels.boxes else ()
    points = _named(labels.points.xy, labels.points.class_ids, classes) if labels.points else ()
    lines: tuple[tuple[str, Coordinates], ...] = ()
    if labels.scribbles:
        lines = _named(labels.scribbles.lines, labels.scribbles.class_ids, classes)
    # A line of one point is a click on background.
    points += tuple((name, line[0]) for name, line in lines if len(line) == 1)
    lines = tuple((name, line) for name, line in lines if len(line) > 1)
    shown = {name for name, _ in (*boxes, *points, *lines, *regions)}
    tags = tuple(classes.name_of(tag) for tag in sorted(labels.tags or ()))
    return Outgoing(
        sample,
        sample.id + sample.image_path.suffix,
        size,
        tuple(name for name in tags if name not in shown),
        boxes,
        points,
        lines,
        regions,
    )


def _named(
    shapes: Iterable[Coordinates], class_ids: NDArray[np.int64], classes: ClassList
) -> tuple[tuple[str, Coordinates], ...]:
    ids = class_ids.tolist()
    return tuple((classes.name_of(key), shape) for shape, key in zip(shapes, ids, strict=True))


def _named_regions(mask: NDArray[np.uint8], classes: ClassList) -> Iterator[tuple[str, Region]]:
    for class_id, region in connected_regions(mask):
        yield (IGNORE_NAME if class_id == IGNORE else classes.name_of(class_id)), region


def bridged_outlines(region: Region) -> list[NDArray[np.int64]]:
    """Trace a region by outlines without holes.

    Each hole is joined to the outline around it by a line that is walked there and back, so that
    filling the outline leaves the hole empty.

    Args:
        region: The pixels.

    Returns:
        Corner points (m, 2), in pixels of the image.
    """
    outer, holes = outlines_and_holes(region.pixels)
    joined = [ring.tolist() for ring in outer]
    for hole in holes:
        ring = max(joined, key=lambda ring: _holds(np.array(ring), hole))
        at = int(np.abs(np.array(ring) - hole[0]).sum(axis=1).argmin())
        around = hole.tolist()
        ring[at + 1 : at + 1] = [*around, around[0], ring[at]]
    offset = np.array([region.left, region.top])
    return [np.array(ring, np.int64) + offset for ring in joined]


def _holds(ring: NDArray[np.int64], hole: NDArray[np.int64]) -> bool:
    """Whether the first pixel in a hole lies inside of an outline."""
    top, left = hole[:, 1].min(), hole[hole[:, 1] == hole[:, 1].min(), 0].min()
    filled, _ = fill_polygon(ring.astype(np.float64), tuple(ring.max(axis=0)[::-1].tolist()))
    row, column = int(top) - filled.top, int(left) - filled.left
    height, width = filled.pixels.shape
    return 0 <= row < height and 0 <= column < width and bool(filled.pixels[row, column])


def copy_image(sample: Sample, target: Path) -> None:
    """Copy an image, unless it is there already.

    Raises:
        DataError: When there is no such image.
        OutputError: When the copy cannot be written.
    """
    from wsseg.atomic import atomic_path

    if not sample.image_path.is_file():
        raise DataError(f"{sample.image_path}: no such file. Check the data set it comes from.")
    if not (target.exists() and target.samefile(sample.image_path)):
        with atomic_path(target) as temporary:
            shutil.copyfile(sample.image_path, temporary)


def plain(value: float | np.floating) -> float | int:
    """Make a number for JSON and XML, as short as gives the same 32 bits back.

    Example:
        >>> plain(np.float32(0.1)), plain(np.float32(3))
        (0.1, 3)
    """
    short = float(str(np.float32(value)))
    return int(short) if short.is_integer() else short
