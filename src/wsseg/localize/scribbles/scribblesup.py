"""ScribbleSup's graph cut: superpixels take the classes of scribbles, cut where looks change.

Every superpixel gets one of the classes that were marked in the image, at the lowest price:

* a marked superpixel has the class of its marks;
* another one pays log |S| for each of the |S| marked classes, and, where there is a network,
  the mean of -log P(class) over its pixels (clean-up `graph_cut` of self-training rounds);
* touching superpixels of different classes pay
  ``exp(-|hc_i - hc_j|^2 / delta_colour^2 - |ht_i - ht_j|^2 / delta_texture^2)``,
  with histograms hc of R, G and B (25 bins each) and ht of the differences to the right and
  downwards (10 bins each).

The price is minimised by alpha-expansion.

Reference: D. Lin, J. Dai, J. Jia, K. He, J. Sun, "ScribbleSup: Scribble-Supervised Convolutional
Networks for Semantic Segmentation", CVPR 2016 (from memory). Differences: the paper's deltas, 5 and
10, belong to histograms of a scale that could not be confirmed; for ours, which sum to 1 per
channel, every edge would weigh more than 0.7, so the defaults are a tenth. A superpixel that two
classes marked is split. Points count as scribbles; superpixels at the border stand in for the
background where nobody marked it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.config import Config
from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.data.labels import IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.kernels.graph_cut import alpha_expansion
from wsseg.localize.direct import LocalizeContext, scores_of_mask
from wsseg.localize.points.left_open import left_open
from wsseg.localize.points.marks import SeedMap
from wsseg.localize.points.seed_map import SeedLocalizerConfig, fill_from_seeds, seeds_of
from wsseg.localize.scribbles.graph import Ints, Nodes, neighbours, nodes_of

Floats = npt.NDArray[np.float64]

COLOUR_BINS = 25
TEXTURE_BINS = 10


class CutConfig(Config):
    """What marked superpixels, and cuts between superpixels, cost."""

    delta_colour: float = Field(
        0.5,
        gt=0,
        le=1000,
        description="Distance of colour histograms (sum 1 per channel) at which a cut costs 0.37.",
    )
    delta_texture: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="Distance of texture histograms (sum 1 per direction) at which a cut costs "
        "0.37.",
    )
    pairwise_weight: float = Field(
        1.0, ge=0, le=1000, description="Factor of what cuts cost; 0: neighbours do not matter."
    )
    max_cycles: int = Field(
        20, ge=1, le=1000, description="Cycles of alpha-expansion at most; few are needed."
    )


class Scribblesup(SeedLocalizerConfig):
    """Settings of `scribblesup`."""

    name: Literal["scribblesup"] = Field(
        "scribblesup", description="Graph cut between superpixels from scribbles and points."
    )
    superpixels: SuperpixelConfig = Field(
        SuperpixelConfig(method="felzenszwalb"),
        description="Superpixels that get a class each; also for `background`.",
    )
    cut: CutConfig = Field(CutConfig(), description="What labels cost.")


def scribblesup(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: Scribblesup = Scribblesup(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Cut an image between its scribbles.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with scribbles or points, in pixels of the image.
        config: Superpixels, how seeds are drawn, and what labels cost.
        context: Takes notes.

    Returns:
        Scores (K, H, W) of 0 and 1; 0 in all rows where nothing can be known.
    """
    seeds = seeds_of(image, labels, config, context, stand_in=True)
    reason = fill_from_seeds(seeds)
    if reason:
        if context is not None:
            context.note(f"{reason}; only the seeds were kept")
        return left_open(scores_of_mask(seeds), labels, config, context)
    cells = superpixels(image, config.superpixels)
    class_ids = np.unique(seeds[seeds != IGNORE])
    mask = cut_mask(image, cells, seeds, class_ids, config.cut)
    return left_open(scores_of_mask(mask, class_ids.tolist()), labels, config, context)


def cut_mask(
    image: npt.NDArray[np.uint8],
    cells: npt.NDArray[np.integer],
    seeds: SeedMap,
    class_ids: npt.NDArray[np.uint8],
    config: CutConfig,
    probabilities: npt.NDArray[np.float32] | None = None,
) -> SeedMap:
    """Give every superpixel a class, as cheaply as possible.

    Args:
        image: (H, W, 3) uint8 RGB.
        cells: (H, W) superpixel of every pixel.
        seeds: (H, W) uint8, 255 where nothing is known.
        class_ids: (K,) classes to choose from; all classes of the seeds are among them.
        config: What labels cost.
        probabilities: (K, H, W) float32 of a network, in the order of ``class_ids``; None: none.

    Returns:
        (H, W) uint8 class ids; seeds have theirs.
    """
    nodes = nodes_of(cells, seeds)
    unary = unary_of(nodes, class_ids, probabilities)
    edges = neighbours(nodes.cells)
    colour, texture = histograms(image, nodes)
    weights = config.pairwise_weight * edge_weights(colour, texture, edges, config)
    chosen = alpha_expansion(unary, edges, weights, max_cycles=config.max_cycles)
    mask: SeedMap = class_ids[chosen][nodes.cells]
    return mask


def unary_of(
    nodes: Nodes,
    class_ids: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[np.float32] | None = None,
) -> Floats:
    """Compute the price of every class at every node.

    Args:
        nodes: The nodes of the image.
        class_ids: (K,) classes to choose from.
        probabilities: (K, H, W) float32 of a network; None: none.

    Returns:
        (n, K) float64, infinite for all classes but its own where a node is marked.

    Example:
        >>> nodes = nodes_of(np.array([[0, 1]]), np.array([[4, 255]], np.uint8))
        >>> unary_of(nodes, np.array([0, 4], np.uint8)).round(2).tolist()
        [[inf, 0.0], [0.69, 0.69]]
    """
    unary = np.full((len(nodes), len(class_ids)), np.log(len(class_ids)))
    marked = nodes.seeds != IGNORE
    unary[marked] = np.where(nodes.seeds[marked, None] == class_ids, 0.0, np.inf)
    if probabilities is not None:
        logs = -np.log(np.clip(probabilities.astype(np.float64), 1e-5, 1.0))
        unary += nodes.mean(logs.transpose(1, 2, 0))
    return unary


def histograms(image: npt.NDArray[np.uint8], nodes: Nodes) -> tuple[Floats, Floats]:
    """Count colours and differences of every node.

    Args:
        image: (H, W, 3) uint8 RGB.
        nodes: Its nodes.

    Returns:
        (n, 75) of red, green and blue, and (n, 20) of the differences of grey to the right and
        downwards, from -255 to 255; each part sums to 1 per node.
    """
    grey = image.astype(np.float64).mean(axis=2)
    right = np.diff(grey, axis=1, append=grey[:, -1:])
    down = np.diff(grey, axis=0, append=grey[-1:])
    colour = [_histogram(image[..., k] / 256, nodes, COLOUR_BINS) for k in range(3)]
    texture = [_histogram((d + 255) / 511, nodes, TEXTURE_BINS) for d in (right, down)]
    return np.concatenate(colour, axis=1), np.concatenate(texture, axis=1)


def _histogram(values: npt.NDArray[np.float64], nodes: Nodes, bins: int) -> Floats:
    """Count values in [0, 1) per node: (n, bins), rows sum to 1."""
    index = nodes.cells.ravel() * bins + (values.ravel() * bins).astype(np.int64)
    counts = np.bincount(index, minlength=len(nodes) * bins).reshape(len(nodes), bins)
    return counts / nodes.sizes[:, None]


def edge_weights(colour: Floats, texture: Floats, edges: Ints, config: CutConfig) -> Floats:
    """Compute what different classes at both ends of an edge cost, in [0, 1].

    Args:
        colour: (n, d) histograms.
        texture: (n, d) histograms.
        edges: (m, 2) int, pairs of nodes.
        config: The deltas.

    Returns:
        (m,) float64.
    """
    first, second = edges.T
    by_colour = ((colour[first] - colour[second]) ** 2).sum(axis=1) / config.delta_colour**2
    by_texture = ((texture[first] - texture[second]) ** 2).sum(axis=1) / config.delta_texture**2
    weights: Floats = np.exp(-by_colour - by_texture)
    return weights
