"""GrabCut from scribbles and points: one cut per class against all that is marked otherwise.

For each class its seeds are foreground and the seeds of all other classes are background; GrabCut
fits colours to both and cuts the rest. Pixels that no class takes are background, pixels that
several take are unknown, and seeds keep their class. A class whose cut covers nearly the whole
image, or cannot be made, keeps its seeds alone.

Reference: C. Rother, V. Kolmogorov, A. Blake, "GrabCut: Interactive Foreground Extraction using
Iterated Graph Cuts", SIGGRAPH 2004. Differences: several classes, one after the other; unmarked
pixels start on the side whose seeds have the more similar colour (Lab), because a few seeds among
thousands of pixels of unknown class say little about the colours of either side.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.grabcut_segment import (
    Bools,
    cut,
    resized_image,
    resized_mask,
    shrink_factor,
)
from wsseg.localize.direct import LocalizeContext, scores_of_mask
from wsseg.localize.points.left_open import left_open
from wsseg.localize.points.marks import SeedMap
from wsseg.localize.points.random_walker_seeds import coarse_seeds
from wsseg.localize.points.seed_map import SeedLocalizerConfig, fill_from_seeds, seeds_of


class GrabcutScribbles(SeedLocalizerConfig):
    """Settings of `grabcut_scribbles`."""

    name: Literal["grabcut_scribbles"] = Field(
        "grabcut_scribbles", description="GrabCut from scribbles and points, class by class."
    )
    iterations: int = Field(
        5, ge=1, le=100, description="Rounds of fitting the colours and cutting."
    )
    max_side_px: int = Field(
        320,
        ge=16,
        le=8192,
        description="The cut happens on the image shrunk to this longest side, pixels.",
    )
    max_frac: float = Field(
        0.95,
        gt=0,
        le=1,
        description="A class that would cover more of the image keeps its seeds alone.",
    )


def grabcut_scribbles(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: GrabcutScribbles = GrabcutScribbles(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Cut every class out of the image, from its seeds.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with points or scribbles, in pixels of the image.
        config: How seeds are drawn and GrabCut runs.
        context: Its seed; takes notes.

    Returns:
        Scores (K, H, W) of 0 and 1; contested pixels are 0 in all rows.
    """
    context = context or LocalizeContext()
    seeds = seeds_of(image, labels, config, context, stand_in=True)
    reason = fill_from_seeds(seeds)
    if reason:
        context.note(f"{reason}; only the seeds were kept")
        return left_open(scores_of_mask(seeds), labels, config, context)
    size = (image.shape[0], image.shape[1])
    small = resized_image(image, shrink_factor(size, config.max_side_px))
    coarse = coarse_seeds(seeds, labels, config, (small.shape[0], small.shape[1]))
    classes = sorted(set(np.unique(seeds).tolist()) - {BACKGROUND, IGNORE})
    mask = np.zeros(size, np.uint8)
    kept_alone = []
    for class_id in classes:
        found = _cut_class(small, coarse, class_id, config, context.seed)
        if found is None:
            kept_alone.append(class_id)
            continue
        full = resized_mask(found, size)
        mask[full] = np.where(mask[full] == BACKGROUND, class_id, IGNORE)
    if kept_alone:
        # What these classes cover is not known, so what is left is not background.
        mask[mask == BACKGROUND] = IGNORE
        context.note(f"class(es) {', '.join(map(str, kept_alone))} keep their seeds alone")
    pinned = seeds != IGNORE
    mask[pinned] = seeds[pinned]
    return left_open(scores_of_mask(mask, classes), labels, config, context)


def _cut_class(
    image: npt.NDArray[np.uint8],
    seeds: SeedMap,
    class_id: int,
    config: GrabcutScribbles,
    seed: int,
) -> Bools | None:
    """Return the pixels of one class (h, w) bool; None where the cut cannot be right."""
    import cv2

    is_near = nearer_in_colour(image, seeds == class_id, (seeds != IGNORE) & (seeds != class_id))
    mask = np.where(is_near, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[(seeds != IGNORE) & (seeds != class_id)] = cv2.GC_BGD
    mask[seeds == class_id] = cv2.GC_FGD
    found = cut(image, mask, iterations=config.iterations, seed=seed)
    return None if found is None or found.mean() > config.max_frac else found


def nearer_in_colour(image: npt.NDArray[np.uint8], one: Bools, other: Bools) -> Bools:
    """Find the pixels whose colour is nearer to some pixel of one set than to all of another.

    Args:
        image: (h, w, 3) uint8 RGB.
        one: (h, w) bool, a set of pixels.
        other: (h, w) bool, another one; where either is empty, nothing is nearer.

    Returns:
        (h, w) bool.
    """
    from scipy.spatial import cKDTree

    from wsseg.cues.lab import lab_image

    if not one.any() or not other.any():
        return np.zeros(one.shape, np.bool_)
    lab = lab_image(image)
    pixels = lab.reshape(-1, 3)
    to_one = cKDTree(lab[one]).query(pixels)[0]
    to_other = cKDTree(lab[other]).query(pixels)[0]
    return np.asarray(to_one < to_other, np.bool_).reshape(one.shape)
