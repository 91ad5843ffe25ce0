"""GrabCut+^i without its edge detector: what many slightly moved boxes agree on.

GrabCut runs on copies of a box whose edges are moved at random by up to 5 % of its sides. Pixels
that at least 70 % of the runs call foreground get the class; those that less than 20 % do, and
those outside of the box, are not of the object; the rest is unknown.

Reference: A. Khoreva et al., "Simple Does It: Weakly Supervised Instance and Semantic
Segmentation", CVPR 2017 (GrabCut+^i; from memory). Differences: the "+" of the paper replaces
the colour contrast between neighbours by a trained boundary detector, which is not available here,
so the contrast is that of plain GrabCut; fewer runs by default (the paper: about 150).
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from wsseg.data.labels import IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.grabcut import GrabcutConfig, note_fallen, paint_fallback
from wsseg.localize.boxes.grabcut_segment import (
    resized_image,
    segment_crop,
    shrink_factor,
    surrounding,
)
from wsseg.localize.boxes.windows import BoxWindow, box_window, front_last, outside_of_boxes
from wsseg.localize.direct import LocalizeContext, scores_of_mask


class GrabcutJitter(GrabcutConfig):
    """Settings of `grabcut_jitter`."""

    name: Literal["grabcut_jitter"] = Field(
        "grabcut_jitter", description="What GrabCut in many slightly moved boxes agrees on."
    )
    runs: int = Field(
        20, ge=2, le=1000, description="Moved boxes per object; the paper takes about 150."
    )
    jitter_frac: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="Edges are moved by up to this fraction of the box's sides.",
    )
    foreground: float = Field(
        0.7, gt=0, le=1, description="Share of the runs from which a pixel gets the class."
    )
    background: float = Field(
        0.2, gt=0, le=1, description="Share of the runs below which a pixel is not of the object."
    )
    max_side_px: int = Field(
        160,
        ge=16,
        le=8192,
        description="Crops with a longer side are shrunk to it, pixels; the time grows with the "
        "area and with `runs`.",
    )
    fallback: Literal["filled", "inner"] = Field(
        "inner",
        description="What a box becomes whose foreground is not plausible: filled with its class, "
        "or its inner fifth with the rest unknown.",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> GrabcutJitter:
        if self.background > self.foreground:
            raise ValueError(
                f"background is {self.background}; it must not be above foreground "
                f"({self.foreground})."
            )
        return self


def grabcut_jitter(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: GrabcutJitter = GrabcutJitter(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Give pixels the class that most moved boxes agree on, and leave the doubtful ones open.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with boxes, in pixels of the image.
        config: How the boxes are moved and from when pixels are believed.
        context: Its seed and sample id give the moves; takes notes.

    Returns:
        Scores (K, H, W) of 0 and 1; doubtful pixels are 0 in all rows.
    """
    context = context or LocalizeContext()
    size = (image.shape[0], image.shape[1])
    mask = np.full(size, outside_of_boxes(labels, size, context), np.uint8)
    windows = front_last(labels, size, context)
    rng = np.random.default_rng([context.seed, zlib.crc32(context.sample_id.encode())])
    fallen = 0
    for window in windows:
        votes = foreground_votes(image, window, config, rng)
        sure = votes >= config.foreground
        if not config.min_frac <= sure.mean() <= config.max_frac:
            fallen += 1
            paint_fallback(mask, window, config)
            continue
        part = mask[window.slices]
        part[(votes >= config.background) & ~sure] = IGNORE
        part[sure] = window.class_id
    note_fallen(context, fallen, len(windows), config)
    return scores_of_mask(mask, (window.class_id for window in windows))


def foreground_votes(
    image: npt.NDArray[np.uint8],
    window: BoxWindow,
    config: GrabcutJitter,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Count how often moved copies of a box call its pixels foreground.

    Args:
        image: (H, W, 3) uint8 RGB.
        window: The box.
        config: Number and size of the moves.
        rng: Source of all randomness.

    Returns:
        (h, w) float32 of the box, share of the runs; runs that fail vote for nothing.
    """
    import cv2

    size = (image.shape[0], image.shape[1])
    around = surrounding(window, size, config.margin_frac + config.jitter_frac)
    crop = image[around.slices]
    factor = shrink_factor((crop.shape[0], crop.shape[1]), config.max_side_px)
    small = resized_image(crop, factor)
    shape = (small.shape[0], small.shape[1])
    # The factors of the two sides differ by rounding.
    scale = np.array([shape[1] / crop.shape[1], shape[0] / crop.shape[0]] * 2)
    corners = np.array([window.left, window.top, window.right, window.bottom], np.float64)
    sides = np.array([window.right - window.left, window.bottom - window.top] * 2)
    offset = np.array([around.left, around.top] * 2)
    total = np.zeros(shape, np.float32)
    for run in range(config.runs):
        moved = corners + sides * rng.uniform(-config.jitter_frac, config.jitter_frac, 4)
        place = box_window((moved - offset) * scale, window.class_id, shape)
        if place is None:
            continue
        inside = np.zeros(shape, np.bool_)
        inside[place.slices] = True
        found = segment_crop(small, inside, iterations=config.iterations, seed=run)
        if found is not None:
            total += found
    votes = cv2.resize(total / config.runs, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    top, left = window.top - around.top, window.left - around.left
    height, width = window.bottom - window.top, window.right - window.left
    return np.asarray(votes[top : top + height, left : left + width], np.float32)
