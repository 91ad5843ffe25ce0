"""Segments: areas of an image that belong together, whatever they are; one interface, two backends.

A backend opens an image once and then answers as often as it is asked:

    opened = registry.load("segments", "superpixels")(image, config=..., context=...)
    opened.everything()            all segments of the image, with scores
    opened.at([Prompt(...), ...])  what is at these points, or in this box: up to three per prompt

`wsseg.cues.segments_tree` needs no weights; a promptable segmentation network is the other kind.
Backends are registered in the group ``segments``, other packages add theirs through the
entry-point group ``wsseg.segments``.

Masks are kept packed, eight pixels per byte: a few hundred segments of a photograph take a few
megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, SerializeAsAny

from wsseg import registry
from wsseg.config import MethodConfig
from wsseg.errors import DataError

Bools = npt.NDArray[np.bool_]


DEFAULT_BACKEND = "superpixels"


def _checked_settings(value: Any) -> Any:
    return registry.settings("segments", DEFAULT_BACKEND if value is None else value)


SegmentsField = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_checked_settings)]
"""A field of any configuration that holds the settings of a backend; keys of such fields are listed
in `wsseg.explain.GROUPS`. Null stands for `DEFAULT_BACKEND` and becomes its settings, so that the
recipe of a run names the backend that it used."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Masks of an image with their scores; they may overlap, and there may be none.

    Args:
        packed: (S, ceil(H * W / 8)) uint8, the pixels of each mask row by row, highest bit first.
        scores: (S,) float32 in [0, 1]: how stable, or how good, each is thought to be.
        size: (H, W) of the image.
        logits: (S, h, w) float32 where the backend has soft masks (positive: inside), else None.

    Example:
        >>> masks = np.zeros((2, 2, 3), bool)
        >>> masks[0, :, 0] = masks[1, 0, :2] = True
        >>> segments = Segments.of_masks(masks, np.array([0.9, 0.5]))
        >>> len(segments), segments.areas().tolist(), segments.label_map().tolist()
        (2, [2, 2], [[1, 2, 0], [1, 0, 0]])
    """

    packed: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32]
    size: tuple[int, int]
    logits: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        height, width = self.size
        expected = (len(self.scores), (height * width + 7) // 8)
        if self.packed.shape != expected or self.packed.dtype != np.uint8:
            raise ValueError(
                f"packed has shape {self.packed.shape} and type {self.packed.dtype}; expected "
                f"{expected} uint8. Make Segments from masks by Segments.of_masks."
            )

    @staticmethod
    def of_masks(
        masks: np.ndarray, scores: np.ndarray, logits: npt.NDArray[np.float32] | None = None
    ) -> Segments:
        """Pack masks.

        Args:
            masks: (S, H, W) bool; S may be 0.
            scores: (S,) numbers in [0, 1].
            logits: (S, h, w) float32, or None.
        """
        if masks.ndim != 3 or masks.dtype != bool:
            raise ValueError(
                f"masks has shape {masks.shape} and type {masks.dtype}; expected (S, H, W) bool."
            )
        height, width = masks.shape[1:]
        packed = np.packbits(masks.reshape(len(masks), height * width), axis=1)
        return Segments(packed, np.asarray(scores, np.float32), (height, width), logits)

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, index: int) -> Bools:
        """Unpack one mask: (H, W) bool."""
        height, width = self.size
        bits = np.unpackbits(self.packed[index], count=height * width)
        return bits.view(np.bool_).reshape(height, width)

    @property
    def masks(self) -> Bools:
        """All masks unpacked: (S, H, W) bool."""
        height, width = self.size
        bits = np.unpackbits(self.packed, axis=1, count=height * width)
        return bits.view(np.bool_).reshape(len(self), height, width)

    def areas(self) -> npt.NDArray[np.int64]:
        """Count the pixels of each mask, (S,)."""
        return np.bitwise_count(self.packed).sum(axis=1, dtype=np.int64)

    def overlaps(self, mask: np.ndarray) -> npt.NDArray[np.int64]:
        """Count the pixels that each segment shares with a mask.

        Args:
            mask: (H, W) bool.

        Returns:
            (S,) int64.
        """
        if mask.shape != self.size:
            raise ValueError(f"mask has shape {mask.shape}; expected {self.size}.")
        wanted = np.packbits(np.asarray(mask, bool).reshape(-1))
        return np.bitwise_count(self.packed & wanted).sum(axis=1, dtype=np.int64)

    def label_map(self, order: Sequence[int] | None = None) -> npt.NDArray[np.int32]:
        """Paint all segments into one map; where they overlap, the one painted last is seen.

        Args:
            order: Indices in the order of painting; None: from the last to the first, so that the
                first (the backends give the best one first) lies on top. By falling area, the
                smallest is on top.

        Returns:
            (H, W) int32: 1 + index of the segment, 0 where there is none. It holds any number of
            segments; 8 bits would hold 255.
        """
        labels = np.zeros(self.size, np.int32)
        for index in range(len(self) - 1, -1, -1) if order is None else order:
            labels[self.mask(index)] = index + 1
        return labels


@dataclass(frozen=True, eq=False)
class Prompt:
    """A question about one object: points on it and beside it, a box around it, or both.

    Args:
        points: (P, 2) numbers, x and y in pixels; a point lies in the pixel floor(y), floor(x).
        positive: (P,) bool: on the object (True) or not; None: all are on it.
        box: (4,) numbers, x0, y0, x1, y1 in pixels, half-open, or None.

    Raises:
        ValueError: When a shape is wrong, or there is neither a positive point nor a box.

    Example:
        >>> Prompt([(12, 30)]).positive.tolist()
        [True]
    """

    points: Any = ()
    positive: Any = None
    box: Any = None

    def __post_init__(self) -> None:
        points = np.asarray(self.points, np.float64).reshape(-1, 2)
        positive = np.ones(len(points), bool)
        if self.positive is not None:
            positive = np.asarray(self.positive, bool)
        if positive.shape != (len(points),):
            raise ValueError(f"positive has shape {positive.shape}; expected ({len(points)},).")
        box = None
        if self.box is not None:
            box = np.asarray(self.box, np.float64)
            if box.shape != (4,) or not (box[0] < box[2] and box[1] < box[3]):
                raise ValueError(
                    f"box is {self.box}; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1."
                )
        if box is None and not positive.any():
            raise ValueError("A prompt needs a positive point or a box, and got neither.")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "positive", positive)
        object.__setattr__(self, "box", box)


@dataclass
class SegmentsContext:
    """What a backend may know besides the image.

    Args:
        sample_id: Id of the sample, for messages and files.
        device: Where torch code runs.
        folder: Where a backend may keep what is expensive, per image; None: nowhere.
        shared: Reused between all images, such as a loaded network.
    """

    sample_id: str = ""
    device: str = "cpu"
    folder: Path | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict)


class OpenedImage(Protocol):
    """An image that a backend has looked at."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        ...

    def everything(self) -> Segments:
        """List the segments of the whole image, the best first; there may be none."""
        ...

    def at(self, prompts: Sequence[Prompt]) -> list[Segments]:
        """Answer questions about single objects.

        Args:
            prompts: The questions.

        Returns:
            Per prompt up to three segments, a part, a larger part and the whole; none where
            nothing stands apart there.

        Raises:
            DataError: When a point lies outside of the image.
        """
        ...


class SegmentBackend(Protocol):
    """Opens images; what is registered in the group ``segments``."""

    def __call__(
        self, image: np.ndarray, *, config: Any = ..., context: SegmentsContext | None = None
    ) -> OpenedImage:
        """Look at an image.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            config: The backend's own frozen settings.
            context: What else is known; None means nothing is.
        """
        ...


def check_points(prompt: Prompt, size: tuple[int, int]) -> None:
    """Refuse points that lie outside of an image.

    Args:
        prompt: The prompt.
        size: (H, W) of the image.

    Raises:
        DataError: Naming the first of them.
    """
    height, width = size
    for x, y in prompt.points:
        if not (0 <= x < width and 0 <= y < height):
            raise DataError(
                f"The point ({x:g}, {y:g}) lies outside of the image of {width} x {height} px."
            )


def open_segments(
    image: np.ndarray,
    config: MethodConfig | str = DEFAULT_BACKEND,
    context: SegmentsContext | None = None,
) -> OpenedImage:
    """Open an image with a backend.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: The backend's settings, or its name for its defaults.
        context: Device, cache and what is shared between images.

    Returns:
        What answers `OpenedImage.everything` and `OpenedImage.at`.

    Raises:
        DataError: When the image is no (H, W, 3) uint8 array.
        RecipeError: When there is no such backend.

    Example:
        >>> image = np.full((120, 180, 3), 90, np.uint8)
        >>> image[40:80, 60:120] = 200, 60, 60
        >>> opened = open_segments(image)
        >>> [answer] = opened.at([Prompt([(90, 60)])])
        >>> bool(2200 < answer.areas()[-1] < 2500), bool(answer.scores[-1] > 0.9)
        (True, True)
    """
    if isinstance(config, str):
        config = registry.config_class("segments", config)()
    name = str(config.model_dump()["name"])
    backend: Callable[..., OpenedImage] = registry.load("segments", name)
    return backend(image, config=config, context=context)
