"""Random walker from points and scribbles: whose seed is reached first?

A walker that starts at a pixel and avoids strong edges reaches the seeds of some class first; the
probability of that is the score of the class. It solves a sparse linear system, exactly, on a copy
of the image of at most 256 pixels. Pixels whose best probability is below 0.7 stay unknown, and
seeds keep their class.

Reference: L. Grady, "Random Walks for Image Segmentation", TPAMI 2006; solved by scikit-image with
a direct sparse factorisation. Difference: doubtful pixels are left open.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.kernels.seeded_walk import seeded_walk
from wsseg.localize.boxes.grabcut_segment import resized_image, shrink_factor
from wsseg.localize.direct import LocalizeContext, scaled_labels, scores_of_mask
from wsseg.localize.points.left_open import left_open
from wsseg.localize.points.marks import SeedMap, draw_marks, ridges
from wsseg.localize.points.seed_map import SeedLocalizerConfig, fill_from_seeds, seeds_of


class RandomWalkerSeeds(SeedLocalizerConfig):
    """Settings of `random_walker_seeds`."""

    name: Literal["random_walker_seeds"] = Field(
        "random_walker_seeds", description="Random walks from points and scribbles."
    )
    beta: float = Field(
        5.0,
        ge=0,
        le=1e6,
        description="How much a walker avoids edges, against the mean contrast of the image; 0: "
        "not at all.",
    )
    max_side_px: int = Field(
        256,
        ge=16,
        le=2048,
        description="The walk happens on the image shrunk to this longest side, pixels; memory "
        "and time grow faster than the number of pixels.",
    )
    min_confidence: float = Field(
        0.7, ge=0, le=1, description="Pixels whose best probability is below stay unknown."
    )


def random_walker_seeds(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: RandomWalkerSeeds = RandomWalkerSeeds(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Spread points and scribbles by random walks.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with points or scribbles, in pixels of the image.
        config: How seeds are drawn and spread.
        context: Takes notes.

    Returns:
        Scores (K, H, W): probabilities; doubtful pixels are 0 in all rows.
    """
    seeds = seeds_of(image, labels, config, context, stand_in=True)
    reason = fill_from_seeds(seeds)
    if reason:
        if context is not None:
            context.note(f"{reason}; only the seeds were kept")
        return left_open(scores_of_mask(seeds), labels, config, context)
    import cv2

    size = (image.shape[0], image.shape[1])
    class_ids = np.array(sorted(set(np.unique(seeds).tolist()) - {IGNORE} | {BACKGROUND}), np.uint8)
    factor = shrink_factor(size, config.max_side_px)
    small = resized_image(image, factor)
    coarse = coarse_seeds(seeds, labels, config, (small.shape[0], small.shape[1]))
    walked = first_reached(small, coarse, class_ids, config.beta)
    full = np.stack([cv2.resize(row, size[::-1], interpolation=cv2.INTER_LINEAR) for row in walked])
    full = np.clip(full, 0.0, 1.0).astype(np.float32)
    full[:, full.max(axis=0) < config.min_confidence] = 0.0
    pinned = seeds != IGNORE
    full[:, pinned] = class_ids[:, None] == seeds[pinned]
    return left_open(Scores(full, class_ids, size), labels, config, context)


def coarse_seeds(
    seeds: SeedMap, labels: WeakLabels, config: SeedLocalizerConfig, size: tuple[int, int]
) -> SeedMap:
    """Carry seeds to a smaller grid without losing thin strokes.

    Args:
        seeds: (H, W) seeds of the image, with automatic background.
        labels: The labels that they were drawn from.
        config: How they were drawn.
        size: (h, w) of the grid.

    Returns:
        (h, w) seeds: strokes and points drawn anew, and the cells of which at least half is
        background, or the cells with the most of it where there are none.
    """
    if size == seeds.shape:
        return seeds
    import cv2

    factor = max(size[0] / seeds.shape[0], size[1] / seeds.shape[1])
    labels = scaled_labels(labels, (seeds.shape[0], seeds.shape[1]), size)
    drawn = draw_marks(
        labels,
        size,
        point_radius_px=max(0.5, config.point_radius_px * factor),
        point_spacing_frac=config.point_spacing_frac,
        scribble_width_px=max(1.0, config.scribble_width_px * factor),
    ).seeds
    background = (seeds == BACKGROUND).astype(np.float32)
    share = cv2.resize(background, size[::-1], interpolation=cv2.INTER_AREA)
    most = min(0.5, float(share.max()))
    if most > 0:
        drawn[(share >= most - 1e-4) & (drawn == IGNORE)] = BACKGROUND
    if config.ridges:
        # Lines of one pixel never fill half a cell. Where the seeds have none, none is wanted; a
        # line may fall into the next cell.
        near = cv2.dilate(share, np.ones((3, 3))) > 0
        drawn[ridges(labels, size) & near & (drawn == IGNORE)] = BACKGROUND
    return drawn


def first_reached(
    image: npt.NDArray[np.uint8],
    seeds: SeedMap,
    class_ids: npt.NDArray[np.uint8],
    beta: float,
) -> npt.NDArray[np.float32]:
    """Compute the probability that a walker reaches the seeds of each class first.

    Args:
        image: (h, w, 3) uint8 RGB.
        seeds: (h, w) uint8; at least one pixel is 255, unknown.
        class_ids: (K,) classes of the rows; those without a seed get 0.
        beta: How much walkers avoid edges.

    Returns:
        (K, h, w) float32 in [0, 1], summing to one per pixel.
    """
    values = np.zeros((len(class_ids), *seeds.shape), np.float32)
    shown = [row for row, class_id in enumerate(class_ids) if (seeds == class_id).any()]
    if len(shown) < 2 or not (seeds == IGNORE).any():
        for row in shown:
            values[row] = 1.0 if len(shown) == 1 else seeds == class_ids[row]
        return values
    numbered = np.zeros(seeds.shape, np.int64)
    for number, row in enumerate(shown, start=1):
        numbered[seeds == class_ids[row]] = number
    values[shown] = seeded_walk(image.astype(np.float64) / 255, numbered, beta)
    return values
