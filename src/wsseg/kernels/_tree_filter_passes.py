"""Compiled passes over a spanning tree, for `wsseg.kernels.tree_filter`.

Nodes come in the order of a breadth-first search, so that parents stand before their children: one
loop backwards gathers towards the root, one loop forwards spreads from it.
"""

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled


@compiled
def gather_and_spread(
    values: np.ndarray, weights: np.ndarray, order: np.ndarray, parents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the values of all nodes, weighted by the product of weights along the path.

    Args:
        values: (n, k) float64.
        weights: (n,) float64, of each node's edge to its parent; that of the root is not read.
        order: (n,) int64, nodes with parents before children.
        parents: (n,) int64; that of the root is not read.

    Returns:
        (n, k) sums over each node's subtree, and (n, k) sums over the tree.
    """
    below = values.copy()
    num_channels = values.shape[1]
    for place in range(len(order) - 1, 0, -1):
        node = order[place]
        parent, weight = parents[node], weights[node]
        for channel in range(num_channels):
            below[parent, channel] += weight * below[node, channel]
    everywhere = below.copy()
    for place in range(1, len(order)):
        node = order[place]
        parent, weight = parents[node], weights[node]
        rest = 1 - weight * weight
        for channel in range(num_channels):
            everywhere[node, channel] = (
                weight * everywhere[parent, channel] + rest * below[node, channel]
            )
    return below, everywhere


@compiled
def weight_gradient(
    gradient: np.ndarray,
    sums: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
    order: np.ndarray,
    parents: np.ndarray,
) -> np.ndarray:
    """Carry the gradient of the sums over the tree back to the weights.

    Args:
        gradient: (n, k) float64, of the sums over the tree.
        sums: Both results of `gather_and_spread`.
        weights: (n,) float64.
        order: (n,) int64.
        parents: (n,) int64.

    Returns:
        (n,) float64; 0 at the root.
    """
    below, everywhere = sums
    num_channels = gradient.shape[1]
    found = np.zeros(len(order))
    of_everywhere = gradient.copy()
    of_below = np.zeros_like(gradient)
    for place in range(len(order) - 1, 0, -1):
        node = order[place]
        parent, weight = parents[node], weights[node]
        rest = 1 - weight * weight
        for channel in range(num_channels):
            share = of_everywhere[node, channel]
            found[node] += share * (everywhere[parent, channel] - 2 * weight * below[node, channel])
            of_everywhere[parent, channel] += weight * share
            of_below[node, channel] = rest * share
    root = order[0]
    of_below[root] = of_everywhere[root]
    for place in range(1, len(order)):
        node = order[place]
        parent, weight = parents[node], weights[node]
        for channel in range(num_channels):
            found[node] += of_below[parent, channel] * below[node, channel]
            of_below[node, channel] += weight * of_below[parent, channel]
    return found
