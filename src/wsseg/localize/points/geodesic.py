"""Geodesic growth: every superpixel takes the class of the seed with the easiest way to it.

Neighbouring superpixels are joined by edges as long as their difference in colour (Lab) plus a
small constant; the way to a seed is the shortest path. A superpixel takes the class of its nearest
seed. Where the second-nearest class is about as near, or seeds of two classes lie in one
superpixel, the pixels stay unknown. Seeds keep their class.

Reference: shortest paths by Dijkstra on the region adjacency graph, the common way to grow points
and scribbles; similar in spirit to X. Bai and G. Sapiro, "A Geodesic Framework for Fast Interactive
Image and Video Segmentation and Matting", ICCV 2007 (from memory). Differences: colour distance
between superpixels instead of gradients of a likelihood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.direct import LocalizeContext, scores_of_mask
from wsseg.localize.points.left_open import left_open
from wsseg.localize.points.marks import SeedMap
from wsseg.localize.points.seed_map import SeedLocalizerConfig, fill_from_seeds, seeds_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Geodesic(SeedLocalizerConfig):
    """Settings of `geodesic`."""

    name: Literal["geodesic"] = Field(
        "geodesic", description="Nearest seed by the way of least colour change."
    )
    superpixels: SuperpixelConfig = Field(
        SuperpixelConfig(area_px=64), description="Superpixels that seeds grow over."
    )
    step: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Length of an edge between superpixels of the same colour, in Lab units; "
        "higher makes short ways count more than smooth ones.",
    )
    min_lead: float = Field(
        0.1,
        ge=0,
        le=1,
        description="By what part the way to the second-nearest class must be longer; pixels "
        "below stay unknown.",
    )


def geodesic(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: Geodesic = Geodesic(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Grow points and scribbles over superpixels.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with points or scribbles, in pixels of the image.
        config: Superpixels, how seeds are drawn, and when ways are too alike.
        context: Takes notes.

    Returns:
        Scores (K, H, W) of 0 and 1; doubtful pixels are 0 in all rows.
    """
    seeds = seeds_of(image, labels, config, context, stand_in=True)
    reason = fill_from_seeds(seeds)
    if reason:
        if context is not None:
            context.note(f"{reason}; only the seeds were kept")
        return left_open(scores_of_mask(seeds), labels, config, context)
    cells = superpixels(image, config.superpixels)
    class_ids = np.array(sorted(set(np.unique(seeds).tolist()) - {IGNORE}), np.uint8)
    graph = adjacency(image, cells, config.step)
    mask = nearest_class(graph, cells, seeds, class_ids, config.min_lead)[cells]
    pinned = seeds != IGNORE
    mask[pinned] = seeds[pinned]
    scores = scores_of_mask(mask, (*class_ids.tolist(), BACKGROUND))
    return left_open(scores, labels, config, context)


def adjacency(
    image: npt.NDArray[np.uint8], cells: npt.NDArray[np.integer], step: float
) -> csr_array:
    """Join neighbouring superpixels by edges as long as their difference in colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        cells: (H, W) superpixel of every pixel, numbered from 0.
        step: Length that every edge has at least.

    Returns:
        Sparse (n, n) float64 of the edges from lower to higher numbers.
    """
    from scipy.sparse import csr_array

    from wsseg.cues.lab import lab_image

    count = int(cells.max()) + 1
    flat = cells.ravel()
    sizes = np.bincount(flat, minlength=count)
    lab = lab_image(image).reshape(-1, 3)
    means = np.stack(
        [np.bincount(flat, weights=lab[:, k], minlength=count) / sizes for k in range(3)], axis=1
    )
    across = np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()])
    down = np.stack([cells[:-1].ravel(), cells[1:].ravel()])
    pairs = np.concatenate([across, down], axis=1)
    pairs = np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1)
    lengths = step + np.linalg.norm(means[pairs[0]] - means[pairs[1]], axis=1)
    return csr_array((lengths, (pairs[0], pairs[1])), shape=(count, count))


def nearest_class(
    graph: csr_array,
    cells: npt.NDArray[np.integer],
    seeds: SeedMap,
    class_ids: npt.NDArray[np.uint8],
    min_lead: float,
) -> npt.NDArray[np.uint8]:
    """Find the class of every superpixel's nearest seed.

    Args:
        graph: What `adjacency` returns.
        cells: (H, W) superpixel of every pixel.
        seeds: (H, W) uint8 seeds.
        class_ids: (K,) the classes that have seeds, at least two.
        min_lead: By what part the second-nearest class must be farther.

    Returns:
        (n,) uint8 class of each superpixel, 255 where two are about as near.
    """
    from scipy.sparse.csgraph import dijkstra

    distances = np.stack(
        [
            dijkstra(
                graph, directed=False, indices=np.unique(cells[seeds == class_id]), min_only=True
            )
            for class_id in class_ids
        ]
    )
    first, second = np.partition(distances, 1, axis=0)[:2]
    nearest = class_ids[distances.argmin(axis=0)]
    is_close = (second <= first) | (second - first < min_lead * second)
    result: npt.NDArray[np.uint8] = np.where(is_close, IGNORE, nearest).astype(np.uint8)
    return result
