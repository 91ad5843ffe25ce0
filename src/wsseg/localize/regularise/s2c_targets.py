"""From class maps of a training crop to the class of every pixel, by asking for segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsseg.cues.peaks import map_peaks
from wsseg.cues.segments import OpenedImage, Prompt
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
    """

    distance_px: int = 20
    min_value: float = 0.5


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
    for row, answer in zip(class_rows, answers, strict=True):
        if len(answer) == 0:
            return ignored
        logits = soft_mask(answer, len(answer) - 1)
        mask = logits > 0
        if not mask.any():
            return ignored
        confidence[row][mask] = logits[mask] * maps[row][mask].mean(dtype=np.float64)
    targets = confidence.argmax(axis=0).astype(np.int64)
    targets[confidence.max(axis=0) < 0] = len(maps)
    if valid is not None:
        targets[~valid] = IGNORED
    return targets


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
