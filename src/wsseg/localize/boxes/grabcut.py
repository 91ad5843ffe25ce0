"""GrabCut per box: the object is what differs in colour from the surroundings of its box.

For each box, GrabCut starts with the box as probable foreground and a frame around it as
background. Instances are painted from large to small, so that small ones are in front. Where the
result covers less than a tenth of its box, or nearly all of it, GrabCut has found nothing; the box
is filled instead, and the manifest says so.

Reference: C. Rother, V. Kolmogorov, A. Blake, "GrabCut: Interactive Foreground Extraction using
Iterated Graph Cuts", SIGGRAPH 2004; used as a baseline for boxes by A. Khoreva et al., CVPR 2017.
Differences: the crop around the box is limited in size, and results that cannot be right are
replaced.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from wsseg.data.labels import IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.grabcut_segment import (
    Bools,
    box_mask,
    resized_image,
    resized_mask,
    segment_crop,
    shrink_factor,
    surrounding,
)
from wsseg.localize.boxes.windows import BoxWindow, front_last, outside_of_boxes
from wsseg.localize.direct import DirectLocalizerConfig, LocalizeContext, scores_of_mask


class GrabcutConfig(DirectLocalizerConfig):
    """What the localizers by GrabCut share."""

    label_kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    iterations: int = Field(
        5, ge=1, le=100, description="Rounds of fitting the colours and cutting."
    )
    margin_frac: float = Field(
        0.2,
        gt=0,
        le=5,
        description="Width of the frame around a box that is its background, as a fraction of the "
        "box's sides; at least 2 pixels.",
    )
    max_side_px: int = Field(
        320,
        ge=16,
        le=8192,
        description="Crops with a longer side are shrunk to it, pixels; the time grows with the "
        "area (300 pixels: about a second).",
    )
    min_frac: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="A foreground that covers less of its box is not believed; see `fallback`.",
    )
    max_frac: float = Field(
        0.95, gt=0, le=1, description="Neither is one that covers more of its box."
    )
    fallback: Literal["filled", "inner"] = Field(
        "filled",
        description="What a box becomes then: filled with its class, or its inner fifth with the "
        "rest unknown.",
    )


class Grabcut(GrabcutConfig):
    """Settings of `grabcut`."""

    name: Literal["grabcut"] = Field("grabcut", description="GrabCut inside every box.")


def grabcut(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: Grabcut = Grabcut(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Cut the object out of every box.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with boxes, in pixels of the image.
        config: How GrabCut runs and when it is believed.
        context: Its seed; takes notes on boxes that were filled instead.

    Returns:
        Scores (K, H, W) of 0 and 1.

    Example:
        >>> from wsseg.data.labels import Boxes
        >>> image = np.full((40, 40, 3), 30, np.uint8)
        >>> image[12:28, 10:30] = (200, 40, 40)
        >>> labels = WeakLabels(boxes=Boxes([[6, 8, 34, 32]], [2]))
        >>> scores = grabcut(image, labels)
        >>> scores.class_ids.tolist(), float(scores.values[1].sum())
        ([0, 2], 320.0)
    """
    context = context or LocalizeContext()
    size = (image.shape[0], image.shape[1])
    mask = np.full(size, outside_of_boxes(labels, size, context), np.uint8)
    windows = front_last(labels, size, context)
    fallen = 0
    for window in windows:
        found = cut_box(image, window, config, context.seed)
        if found is None:
            fallen += 1
            paint_fallback(mask, window, config)
            continue
        mask[window.slices][found] = window.class_id
    note_fallen(context, fallen, len(windows), config)
    return scores_of_mask(mask, (window.class_id for window in windows))


def cut_box(image: np.ndarray, window: BoxWindow, config: GrabcutConfig, seed: int) -> Bools | None:
    """Cut the object out of one box.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        window: The box.
        config: How GrabCut runs and when it is believed.
        seed: Seed of OpenCV's generator.

    Returns:
        The foreground within the box, (h, w) bool; None where it cannot be right.
    """
    around = surrounding(window, (image.shape[0], image.shape[1]), config.margin_frac)
    crop = image[around.slices]
    factor = shrink_factor((crop.shape[0], crop.shape[1]), config.max_side_px)
    small = resized_image(crop, factor)
    inside = box_mask(window, around)
    shape = (small.shape[0], small.shape[1])
    found = segment_crop(
        small, resized_mask(inside, shape), iterations=config.iterations, seed=seed
    )
    if found is None:
        return None
    full = resized_mask(found, (crop.shape[0], crop.shape[1]))
    top, left = window.top - around.top, window.left - around.left
    height, width = window.bottom - window.top, window.right - window.left
    within = full[top : top + height, left : left + width]
    return within if config.min_frac <= within.mean() <= config.max_frac else None


def paint_fallback(mask: np.ndarray, window: BoxWindow, config: GrabcutConfig) -> None:
    """Paint a box that GrabCut could not cut into a label map (H, W), in place."""
    if config.fallback == "inner":
        mask[window.slices] = IGNORE
        mask[window.inner(0.2).slices] = window.class_id
    else:
        mask[window.slices] = window.class_id


def note_fallen(
    context: LocalizeContext, fallen: int, num_boxes: int, config: GrabcutConfig
) -> None:
    """Say in the manifest how many boxes were not cut."""
    context.facts["boxes"] = num_boxes
    context.facts["fallback_boxes"] = fallen
    if fallen:
        what = "filled" if config.fallback == "filled" else "taken by their inner fifth"
        context.note(f"{fallen} of {num_boxes} box(es) are {what}: GrabCut found nothing plausible")
