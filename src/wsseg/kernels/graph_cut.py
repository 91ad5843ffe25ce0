"""Alpha-expansion: the cheapest labels of a graph with a price per label and per cut edge.

The energy of labels l is ``sum_i unary[i, l_i] + sum_(i,j) weights_ij [l_i != l_j]`` (Potts). A
move lets every node keep its label or take the label alpha; the best move is a minimum cut, and
moves for all alphas repeat until none lowers the energy. With two labels the result is the optimum,
with more it costs at most twice the pairwise part of the optimum.

Reference: Y. Boykov, O. Veksler, R. Zabih, "Fast Approximate Energy Minimization via Graph Cuts",
TPAMI 2001; the graph of a move as in V. Kolmogorov, R. Zabih, "What Energy Functions Can Be
Minimized via Graph Cuts?", TPAMI 2004. Differences: the cut is SciPy's maximum flow, whose
capacities are integers, so energies are rounded to about a billionth of their sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# The flow that leaves the source stays below the largest 32-bit integer, rounding included.
_CAPACITY = 2**30


def potts_energy(labels: Ints, unary: Floats, edges: Ints, weights: Floats) -> float:
    """Add up what labels cost.

    Args:
        labels: (n,) int, column of `unary` per node.
        unary: (n, K) float64 price of each label, infinite where it is forbidden.
        edges: (m, 2) int, pairs of different nodes.
        weights: (m,) float64 >= 0, price of different labels at both ends.

    Returns:
        The energy, infinite where a forbidden label is taken.

    Example:
        >>> unary = np.array([[0.0, 1.0], [2.0, 0.0]])
        >>> potts_energy(np.array([0, 1]), unary, np.array([[0, 1]]), np.array([0.5]))
        0.5
    """
    differs = labels[edges[:, 0]] != labels[edges[:, 1]]
    return float(unary[np.arange(len(labels)), labels].sum() + weights[differs].sum())


def alpha_expansion(unary: Floats, edges: Ints, weights: Floats, *, max_cycles: int = 20) -> Ints:
    """Find cheap labels by expansion moves.

    Args:
        unary: (n, K) float64 price of each label, infinite where it is forbidden; every node has a
            label that is not.
        edges: (m, 2) int, pairs of different nodes.
        weights: (m,) float64 >= 0, price of different labels at both ends.
        max_cycles: Cycles over all labels at most.

    Returns:
        (n,) int64 columns of `unary`; where prices tie, the first label.

    Raises:
        ValueError: When a price is not a number or negative for an edge, or a node has no label.

    Example:
        >>> unary = np.array([[0, np.inf], [0.6, 0.5], [0.6, 0.5], [np.inf, 0]])
        >>> edges = np.array([[0, 1], [1, 2], [2, 3]])
        >>> alpha_expansion(unary, edges, np.array([1.0, 1.0, 0.1])).tolist()
        [0, 0, 0, 1]
    """
    _check(unary, edges, weights)
    finite = _without_infinity(unary, edges, weights)
    # All free nodes start with the same label, so that one move decides a cut between two labels.
    labels = np.isfinite(unary).argmax(axis=1).astype(np.int64)
    energy = potts_energy(labels, finite, edges, weights)
    for _ in range(max_cycles):
        before = energy
        for alpha in range(unary.shape[1]):
            moved = np.where(_takes(alpha, labels, finite, edges, weights), alpha, labels)
            cost = potts_energy(moved, finite, edges, weights)
            if cost < energy - 1e-9 * max(1.0, abs(energy)):
                labels, energy = moved, cost
        if energy == before:
            break
    return labels


def _check(unary: Floats, edges: Ints, weights: Floats) -> None:
    if (
        not np.isfinite(unary).any(axis=1).all()
        or np.isnan(unary).any()
        or (unary == -np.inf).any()
    ):
        raise ValueError("every node needs a label whose price is finite, and no price may be NaN")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights of edges must be finite and not negative")
    if len(edges) != len(weights) or (edges[:, 0] == edges[:, 1]).any():
        raise ValueError("edges and weights must be as many, and no edge may join a node to itself")


def _without_infinity(unary: Floats, edges: Ints, weights: Floats) -> Floats:
    """Make forbidden labels so dear that no saving at the node's edges can pay for them."""
    is_free = np.isfinite(unary)
    dearest = np.where(is_free, unary, -np.inf).max(axis=1)
    at_edges = np.bincount(edges.ravel(), np.repeat(weights, 2), minlength=len(unary))
    return np.where(is_free, unary, (dearest + 2 * at_edges + 1)[:, None])


def _takes(
    alpha: int, labels: Ints, unary: Floats, edges: Ints, weights: Floats
) -> npt.NDArray[np.bool_]:
    """Find the nodes that take alpha in the best move: those on the sink's side of the cut."""
    count = len(labels)
    nodes = np.arange(count)
    price = unary[:, alpha] - unary[nodes, labels]
    first, second = edges.T
    # Potts prices of an edge when both keep, the second takes alpha, the first takes alpha.
    keep = weights * (labels[first] != labels[second])
    second_takes = weights * (labels[first] != alpha)
    first_takes = weights * (labels[second] != alpha)
    price = price + np.bincount(first, first_takes - keep, minlength=count)
    price = price - np.bincount(second, first_takes, minlength=count)
    between = second_takes + first_takes - keep
    source, sink = count, count + 1
    heads = np.concatenate([np.full(count, source), nodes, first])
    tails = np.concatenate([nodes, np.full(count, sink), second])
    capacity = np.concatenate([np.maximum(price, 0), np.maximum(-price, 0), between])
    total = max(float(capacity[:count].sum()), float(capacity[count : 2 * count].sum()))
    largest = max(total, float(between.max(initial=0.0)))
    if total == 0 or largest == 0:
        return np.zeros(count, np.bool_)
    whole = np.rint(capacity * (_CAPACITY / largest)).astype(np.int32)
    return _sink_side(heads, tails, whole, count)


def _sink_side(
    heads: Ints, tails: Ints, capacity: npt.NDArray[np.int32], count: int
) -> npt.NDArray[np.bool_]:
    """Cut, and find the nodes that can still reach the sink; ties stay with the source."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    used = capacity > 0
    shape = (count + 2, count + 2)
    graph = csr_array((capacity[used], (heads[used], tails[used])), shape=shape)
    graph.sum_duplicates()
    result = maximum_flow(graph, count, count + 1)
    residual: csr_array = csr_array(graph.astype(np.int64) - result.flow.astype(np.int64))
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = breadth_first_order(
        csr_array(residual.T), count + 1, directed=True, return_predecessors=False
    )
    found = np.zeros(count + 2, np.bool_)
    found[reached] = True
    return found[:count]
