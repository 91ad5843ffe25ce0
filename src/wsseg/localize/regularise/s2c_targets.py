"""From class maps of a training crop to the class of every pixel, by asking for segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsseg.cues.peaks import map_peaks
from wsseg.cues.segments import OpenedImage, Prompt, Segments
from wsseg.data.colour import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD
from wsseg.refine.map_prompts import soft_mask

IGNORED = -1
_OUTSIDE = -1e5


@dataclass(frozen=True)
class PeakRule:
    """Which peaks of a map are prompts.

    Args:
        distance_px: Peaks are farther apart than this.
        min_value: Least value of a peak beside the highest one.
        min_support: Where a backend has no logits: least mean of the map over the segment of
            another peak, as a share of that over the segment of the highest one.
    """

    distance_px: int = 20
    min_value: float = 0.5
    min_support: float = 0.5


def prompted_classes(
    maps: npt.NDArray[np.float32],
    present: npt.NDArray[np.bool_],
    opened: OpenedImage,
    rule: PeakRule,
    valid: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int64]:
    """Settle the class of every pixel.

    All peaks of a class are one prompt; the last answer is its mask. In its mask a class has the
    confidence logit times mean of its map over the mask; the largest wins, and where no mask lies
    is background.

    A backend without logits knows no doubt: joined to one prompt, a single stray peak would add
    all of the segment under it. There every peak asks on its own. The segment under the highest
    peak counts, and that of another peak where the mean of the map over it reaches
    ``rule.min_support`` of that mean; each has its own mean as its confidence.

    Args:
        maps: (C, H, W) in [0, 1].
        present: (C,) bool.
        opened: The crop.
        rule: Which peaks.
        valid: (H, W) bool, False where the crop is padded; None: nowhere.

    Returns:
        (H, W) int64: 0 to C - 1 for classes, C for the background, -1 for padding and for all of
        an image in which a present class gets no segment.
    """
    height, width = maps.shape[1:]
    ignored = np.full((height, width), IGNORED, np.int64)
    class_rows = np.flatnonzero(present)
    confidence = np.full((len(maps), height, width), _OUTSIDE)
    peaks = [map_peaks(maps[row], rule.distance_px, rule.min_value) for row in class_rows]
    if any(len(found) == 0 for found in peaks):
        return ignored
    answers = opened.at([Prompt(found) for found in peaks]) if peaks else []
    for row, points, answer in zip(class_rows, peaks, answers, strict=True):
        parts = _masks(opened, points, answer, maps[row], rule)
        if not parts:
            return ignored
        for logits, mean in parts:
            mask = logits > 0
            confidence[row][mask] = np.maximum(confidence[row][mask], logits[mask] * mean)
    targets = confidence.argmax(axis=0).astype(np.int64)
    targets[confidence.max(axis=0) < 0] = len(maps)
    if valid is not None:
        targets[~valid] = IGNORED
    return targets


def _masks(
    opened: OpenedImage,
    points: npt.NDArray[np.float64],
    answer: Segments,
    values: npt.NDArray[np.float32],
    rule: PeakRule,
) -> list[tuple[npt.NDArray[np.float32], float]]:
    """List the masks of one class with the mean of its map over each.

    Args:
        opened: The crop.
        points: (P, 2) peaks of the map, the highest first.
        answer: What the backend says to all of them together.
        values: (H, W) the map.
        rule: Which segments of further peaks count.
    """
    if answer.logits is not None:
        return _last_masks([answer], values)
    singly = [answer]
    if len(points) > 1:
        singly = opened.at([Prompt(point[None]) for point in points])
    found = _last_masks(singly, values)
    least = rule.min_support * found[0][1] if found else 0.0
    return [one for number, one in enumerate(found) if number == 0 or one[1] >= least]


def _last_masks(
    answers: Sequence[Segments], values: npt.NDArray[np.float32]
) -> list[tuple[npt.NDArray[np.float32], float]]:
    """Take the last segment of every answer that has one, with the mean of the map over it."""
    logits = [soft_mask(answer, len(answer) - 1) for answer in answers if len(answer)]
    return [(one, float(values[one > 0].mean(dtype=np.float64))) for one in logits if one.any()]


def crop_pixels(images: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Undo the normalisation of training images.

    Args:
        images: (N, 3 or 1, H, W) normalised as `wsseg.data.colour.normalise` does.

    Returns:
        (N, H, W, 3) uint8 RGB, C-contiguous; grey for images of one channel, the mean colour where
        they are padded.

    Example:
        >>> from wsseg.data.colour import normalise
        >>> image = np.array([[[10, 20, 250]]], np.uint8)
        >>> crop_pixels(normalise(image)[None])[0].tolist()
        [[[10, 20, 250]]]
    """
    is_grey = images.shape[1] == 1
    mean = np.array((GREY_MEAN,) if is_grey else IMAGENET_MEAN, np.float32)
    std = np.array((GREY_STD,) if is_grey else IMAGENET_STD, np.float32)
    values = images.transpose(0, 2, 3, 1) * std + mean
    pixels = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))
