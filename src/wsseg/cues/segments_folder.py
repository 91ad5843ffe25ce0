"""Segments that lie in a folder: one picture of segment numbers per image, by the image's id.

Any tool may write them, and true objects may stand in for segments, to see what better segments
would bring. A picture has one channel (a palette is ignored); 0 is no segment, and in pictures of
8 bits 255 is none either, as in the object masks of Pascal VOC. 16 bits hold any number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.cues.protocol import check_rgb
from wsseg.cues.segments import OpenedImage, Prompt, Segments, SegmentsContext, check_points
from wsseg.data.dataset import Dataset
from wsseg.errors import DataError
from wsseg.outside import MapsPath

__all__ = ["FolderBackend", "FolderSegments", "LabelMapSegments", "folder"]

_VOID = 255
# A segment answers to a box when this share of it lies inside.
_INSIDE = 0.9


class FolderSegments(MethodConfig):
    """Settings of the segments backend `folder`."""

    name: Literal["folder"] = Field(
        "folder", description="Which backend: pictures of segment numbers."
    )
    path: MapsPath = Field(
        min_length=1,
        description="Folder with one PNG of segment numbers per image, named by the image's id.",
    )
    split: bool = Field(
        False, description="Let the separate areas of one number be separate segments."
    )
    zero_is_segment: bool = Field(
        False, description="Let the pixels of number 0 be a segment too, such as the background."
    )


class FolderBackend:
    """Reads the segments of an image from a folder."""

    config_class: type[MethodConfig] = FolderSegments
    is_stored = False
    needs_whole_images = True

    def check(self, dataset: Dataset, *, config: FolderSegments) -> None:
        """Look for the pictures of all images before anything is computed.

        Args:
            dataset: The data set.
            config: Which folder.

        Raises:
            DataError: When the folder does not exist, or lacks the picture of an image.
        """
        path = Path(config.path)
        if not path.is_dir():
            raise DataError(f"The folder of the segments, {path}, does not exist.")
        missing = [s.id for s in dataset.samples if not (path / f"{s.id}.png").is_file()]
        if missing:
            raise DataError(f"{path} has no segments of these images; each needs ID.png:", missing)

    def __call__(
        self, image: np.ndarray, *, config: FolderSegments, context: SegmentsContext | None = None
    ) -> OpenedImage:
        """Read the segments of one image.

        Args:
            image: (H, W, 3) uint8 RGB, for its size.
            config: Which folder, and what counts as a segment.
            context: ``context.sample_id`` names the file.

        Returns:
            What answers `everything` and `at`.

        Raises:
            DataError: When the picture is missing, unreadable, or of another shape than the image.
        """
        check_rgb(image)
        if context is None or not context.sample_id:
            raise DataError(
                "The segments backend `folder` finds a picture by the image's id, and none was "
                "given."
            )
        path = Path(config.path) / f"{context.sample_id}.png"
        return LabelMapSegments(read_numbers(path, (image.shape[0], image.shape[1]), config))


folder = FolderBackend()


def read_numbers(
    path: Path, size: tuple[int, int], config: FolderSegments
) -> npt.NDArray[np.int32]:
    """Read a picture of segment numbers.

    Args:
        path: The picture.
        size: (H, W) of the image; a picture of another size and the same shape is resized.
        config: What counts as a segment.

    Returns:
        (H, W) int32, from 1; 0 where there is none.

    Raises:
        DataError: When it is missing, unreadable, of another shape, or has several channels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            is_byte = picture.mode in ("L", "P")
            numbers = np.asarray(picture)
    except FileNotFoundError:
        raise DataError(f"{path}: there are no segments for this image. Add them.") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as fault:
        raise DataError(f"{path}: cannot be read as a picture ({fault}).") from fault
    if numbers.ndim != 2:
        raise DataError(
            f"{path}: has {numbers.shape[-1]} channels; segment numbers have one. Write an 8- or "
            "16-bit grey PNG, or one with a palette."
        )
    found = numbers.astype(np.int64) + 1
    if not config.zero_is_segment:
        found[numbers == 0] = 0
    if is_byte:
        found[numbers == _VOID] = 0
    return _compact(_of_size(found, size, path), config.split)


def _of_size(
    numbers: npt.NDArray[np.int64], size: tuple[int, int], path: Path
) -> npt.NDArray[np.int64]:
    height, width = numbers.shape
    if (height, width) == size:
        return numbers
    if abs(height * size[1] - width * size[0]) > max(height, width) + max(size):
        raise DataError(
            f"{path}: the segments are {width} x {height} px, their image {size[1]} x {size[0]} "
            "px. Make them from the image as it is, upright and not cropped."
        )
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
    return numbers[rows[:, None], columns]


def _compact(numbers: npt.NDArray[np.int64], split: bool) -> npt.NDArray[np.int32]:
    """Number the segments 1, 2, ...; where they shall be split, every connected area on its own."""
    from scipy.ndimage import label

    if split:
        areas = np.zeros(numbers.shape, np.int64)
        for number in np.unique(numbers[numbers > 0]):
            own, _ = label(numbers == number, structure=np.ones((3, 3)))
            areas = np.where(own > 0, own + areas.max(), areas)
        numbers = areas
    known, places = np.unique(numbers, return_inverse=True)
    first = 0 if known[0] == 0 else 1
    return (places.reshape(numbers.shape) + first).astype(np.int32)


class LabelMapSegments:
    """Segments that do not overlap, given as a map of their numbers.

    Args:
        labels: (H, W) integers, 0 where there is no segment.
    """

    def __init__(self, labels: npt.NDArray[np.integer]) -> None:
        self.labels = labels

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self.labels.shape
        return height, width

    def everything(self) -> Segments:
        """List the segments, the largest first; all have the score 1."""
        numbers, areas = np.unique(self.labels[self.labels > 0], return_counts=True)
        order = np.argsort(-areas, kind="stable")
        return self._segments([numbers[order[i : i + 1]] for i in range(len(order))], 1.0)

    def at(self, prompts: Sequence[Prompt]) -> list[Segments]:
        """Say what is at points or in boxes; see `OpenedImage`.

        The segments that hold a positive point and no negative one are the answer, together. A box
        without positive points gets the segment that fits it best, of those nine tenths inside.
        """
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Segments:
        check_points(prompt, self.size)
        columns, rows = prompt.points.astype(int).reshape(-1, 2).T
        numbers = self.labels[rows, columns]
        denied = numbers[~prompt.positive]
        if prompt.box is None or prompt.positive.any():
            chosen = np.setdiff1d(numbers[prompt.positive], np.append(denied, 0))
            return self._segments([chosen] if len(chosen) else [], 1.0)
        return self._in_box(prompt.box, denied)

    def _in_box(self, box: np.ndarray, denied: np.ndarray) -> Segments:
        height, width = self.size
        x0, y0 = np.floor(np.clip(box[:2], 0, [width, height])).astype(int)
        x1, y1 = np.ceil(np.clip(box[2:], 0, [width, height])).astype(int)
        inside = np.bincount(self.labels[y0:y1, x0:x1].ravel())
        total = np.bincount(self.labels.ravel(), minlength=len(inside))[: len(inside)]
        box_area = max(1, (x1 - x0) * (y1 - y0))
        iou = inside / (total + box_area - inside)
        iou[inside < _INSIDE * total] = 0
        iou[[0, *denied[denied < len(iou)]]] = 0
        best = int(iou.argmax())
        return self._segments([np.array([best])] if iou[best] > 0 else [], float(iou[best]))

    def _segments(self, members: Sequence[np.ndarray], score: float) -> Segments:
        """Draw segments, each the union of some numbers."""
        height, width = self.size
        packed = np.empty((len(members), (height * width + 7) // 8), np.uint8)
        for row, numbers in zip(packed, members, strict=True):
            row[:] = np.packbits(np.isin(self.labels, numbers).reshape(-1))
        return Segments(packed, np.full(len(members), score, np.float32), self.size)
