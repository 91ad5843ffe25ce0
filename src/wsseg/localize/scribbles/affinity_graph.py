"""The graph that GraphNet and label propagation share: alike and neighbouring superpixels.

Nodes are SLIC superpixels. Their place in feature space is their mean colour (Lab) and position;
two nodes are joined when they touch or when one is among the nearest of the other in feature space,
and an edge weighs ``exp(-|d|^2 / (2 sigma^2))`` with d the difference in feature space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.localize.points.marks import SeedMap
from wsseg.localize.points.seed_map import SeedLocalizerConfig
from wsseg.localize.scribbles.graph import Ints, Nodes, neighbours, nodes_of, unique_pairs

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
# What SuperpixelConfig accepts.
_LARGEST_AREA_PX = 100_000


class AffinityGraphConfig(SeedLocalizerConfig):
    """How an image becomes a graph."""

    label_kinds = ("points", "scribbles", "boxes")

    num_nodes: int = Field(800, ge=2, le=20_000, description="Superpixels per image, about.")
    min_node_px: int = Field(
        16,
        ge=4,
        le=10_000,
        description="Mean area of a superpixel at least: small images get fewer.",
    )
    compactness: float = Field(
        10.0, gt=0, le=1000, description="SLIC: weight of distance against colour (Lab units)."
    )
    neighbours: int = Field(
        8, ge=0, le=100, description="Nearest nodes in feature space that a node is joined to."
    )
    position_weight: float = Field(
        20.0,
        ge=0,
        le=1000,
        description="What the longer side of the image is worth in feature space, in Lab units.",
    )
    sigma: float = Field(
        10.0, gt=0, le=1000, description="Distance in feature space at which an edge is worth 0.61."
    )
    balance: bool = Field(
        True,
        description="Every class counts the same, however many superpixels are marked with it; "
        "false, as published: a point is outvoted by a background of many superpixels.",
    )
    box_inner_frac: float = Field(
        0.2, gt=0, le=1, description="Share of a box's area, around its middle, that is its class."
    )


def image_nodes(image: npt.NDArray[np.uint8], seeds: SeedMap, config: AffinityGraphConfig) -> Nodes:
    """Cut an image into nodes.

    Args:
        image: (H, W, 3) uint8 RGB.
        seeds: (H, W) uint8, 255 where nothing is known.
        config: How many nodes.

    Returns:
        The nodes, with their seeds.
    """
    area = max(config.min_node_px, image.shape[0] * image.shape[1] // config.num_nodes)
    slic = SuperpixelConfig(area_px=min(area, _LARGEST_AREA_PX), compactness=config.compactness)
    return nodes_of(superpixels(image, slic), seeds)


def node_features(image: npt.NDArray[np.uint8], nodes: Nodes, position_weight: float) -> Floats:
    """Describe nodes by mean colour and position.

    Args:
        image: (H, W, 3) uint8 RGB.
        nodes: Its nodes.
        position_weight: What the longer side of the image is worth, in Lab units.

    Returns:
        (n, 5) float64: L, a, b, x, y.
    """
    from wsseg.cues.lab import lab_image

    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    place = np.stack([columns, rows], axis=2) * (position_weight / max(image.shape[:2]))
    return np.concatenate([nodes.mean(lab_image(image)), nodes.mean(place)], axis=1)


def affinities(features: Floats, touching: Ints, config: AffinityGraphConfig) -> csr_array:
    """Join nodes that touch or are alike.

    Args:
        features: (n, d) float64.
        touching: (m, 2) int, pairs of nodes that touch.
        config: How many neighbours, and sigma.

    Returns:
        Sparse symmetric (n, n) float64 with weights in (0, 1], diagonal empty.
    """
    from scipy.sparse import csr_array

    pairs = unique_pairs(np.concatenate([touching, nearest_pairs(features, config.neighbours)]))
    squared = ((features[pairs[:, 0]] - features[pairs[:, 1]]) ** 2).sum(axis=1)
    # Far neighbours stay joined, if only by a thread.
    weights = np.maximum(np.exp(-squared / (2 * config.sigma**2)), 1e-12)
    count = len(features)
    half = csr_array((weights, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return csr_array(half + half.T)


def nearest_pairs(features: Floats, number: int) -> Ints:
    """Pair every node with its nearest ones in feature space: (m, 2) int64."""
    from scipy.spatial import cKDTree

    count = len(features)
    number = min(number, count - 1)
    if number < 1:
        return np.zeros((0, 2), np.int64)
    found = cKDTree(features).query(features, k=number + 1)[1].astype(np.int64)
    return np.stack([np.repeat(np.arange(count), number + 1), found.ravel()], axis=1)


def graph_of(
    image: npt.NDArray[np.uint8], nodes: Nodes, config: AffinityGraphConfig
) -> tuple[csr_array, Floats]:
    """Make the graph of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        nodes: Its nodes.
        config: The graph's settings.

    Returns:
        Sparse (n, n) affinities, and (n, 5) features of the nodes.
    """
    features = node_features(image, nodes, config.position_weight)
    return affinities(features, neighbours(nodes.cells), config), features
