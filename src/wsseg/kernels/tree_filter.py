"""Filtering along a minimum spanning tree of the pixel grid, with gradients.

The tree joins every cell of a grid to all others by the edges between neighbours (4-connected)
that differ least, so that a path crosses an edge of the image only where it must. How alike two
cells are, ``s_ij``, is the product of the weights along the path between them: one weak link sets
them apart. The filter is ``y_i = sum_j s_ij x_j / sum_j s_ij``. All pairs are summed in two
passes, from the leaves to the root and back:

    up    u_p += w_c u_c          (c child of p)
    down  y_c = w_c y_p + (1 - w_c^2) u_c

Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019 (from
memory), as used by Liang et al., "Tree Energy Loss: Towards Sparsely Annotated Semantic
Segmentation", CVPR 2022. It differs in that it runs on the processor, in float64, and that the
gradient of the weights is that of the two passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsseg.kernels import _tree_filter_passes as passes

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GridTree:
    """A spanning tree of a grid; cells are numbered row by row.

    Args:
        order: (n,) int64, the cells with parents before children; the first is the root.
        parents: (n,) int64; the root is its own.
    """

    order: Indices
    parents: Indices


def spanning_tree(guide: npt.NDArray[np.floating]) -> GridTree:
    """Join the cells of a guide by the edges that differ least.

    Args:
        guide: (h, w, c) finite numbers; the squared distance of two neighbours is their
            difference. Edges that are alike are taken in a fixed order.

    Returns:
        The tree.

    Raises:
        ValueError: When the shape does not fit or a number is not finite.

    Example:
        >>> tree = spanning_tree(np.array([[[0.0], [9.0]], [[0.0], [8.0]]]))
        >>> tree.order.tolist(), tree.parents.tolist()
        ([0, 2, 3, 1], [0, 3, 0, 2])
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    if guide.ndim != 3 or guide.size == 0:
        raise ValueError(f"guide has shape {guide.shape}; expected (h, w, c), nothing empty.")
    if not np.isfinite(guide).all():
        raise ValueError("guide contains NaN or infinite numbers.")
    height, width, _ = guide.shape
    count = height * width
    if count == 1:
        return GridTree(np.zeros(1, np.int64), np.zeros(1, np.int64))
    cells = np.arange(count).reshape(height, width)
    ends = np.concatenate(
        [
            np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()]),
            np.stack([cells[:-1].ravel(), cells[1:].ravel()]),
        ],
        axis=1,
    )
    flat = guide.reshape(count, -1).astype(np.float64)
    # SciPy takes 0 for no edge.
    costs = np.square(flat[ends[0]] - flat[ends[1]]).sum(axis=1) + 1
    graph = coo_matrix((costs, (ends[0], ends[1])), shape=(count, count)).tocsr()
    order, parents = breadth_first_order(minimum_spanning_tree(graph), 0, directed=False)
    parents[0] = 0
    return GridTree(order.astype(np.int64), parents.astype(np.int64))


def tree_filter(values: Floats, weights: Floats, tree: GridTree) -> Floats:
    """Average the values of all cells, weighted by the product of weights along the path.

    Args:
        values: (n, k) float64.
        weights: (n,) float64 in [0, 1], of each cell's edge to its parent; the root's is not read.
        tree: The tree of the n cells.

    Returns:
        (n, k) float64.

    Example:
        >>> tree = spanning_tree(np.array([[[0.0], [1.0]]]))
        >>> tree_filter(np.array([[0.0], [3.0]]), np.array([1.0, 0.5]), tree).ravel().tolist()
        [1.0, 2.0]
    """
    _, sums = passes.gather_and_spread(with_ones(values), weights, tree.order, tree.parents)
    return sums[:, :-1] / sums[:, -1:]


def tree_filter_gradients(
    gradient: Floats, values: Floats, weights: Floats, tree: GridTree
) -> tuple[Floats, Floats]:
    """Carry the gradient of a filter's result back to what went in.

    Args:
        gradient: (n, k) float64, of the result of `tree_filter`.
        values: (n, k) float64, as given to it.
        weights: (n,) float64, as given to it.
        tree: The tree.

    Returns:
        (n, k) gradient of the values and (n,) gradient of the weights, 0 at the root.
    """
    sums = passes.gather_and_spread(with_ones(values), weights, tree.order, tree.parents)
    total = sums[1][:, -1:]
    result = sums[1][:, :-1] / total
    of_sums = np.empty_like(sums[1])
    of_sums[:, :-1] = gradient / total
    of_sums[:, -1] = -(gradient * result).sum(axis=1) / total[:, 0]
    # The unnormalised filter is symmetric: its adjoint is itself.
    _, of_values = passes.gather_and_spread(of_sums, weights, tree.order, tree.parents)
    of_weights = passes.weight_gradient(of_sums, sums, weights, tree.order, tree.parents)
    return of_values[:, :-1], of_weights


def with_ones(values: Floats) -> Floats:
    """Append a column of ones, whose sums normalise the others."""
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)
