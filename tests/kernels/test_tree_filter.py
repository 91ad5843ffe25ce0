"""Tests of wsseg.kernels.tree_filter."""

from __future__ import annotations

import numpy as np
import pytest

from wsseg.kernels.tree_filter import (
    GridTree,
    spanning_tree,
    tree_filter,
    tree_filter_gradients,
)


def _paths(tree: GridTree, weights: np.ndarray) -> np.ndarray:
    """Multiply the weights along the path between each two cells, edge by edge, in float64."""
    n = len(weights)
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(n)]
    for node in tree.order[1:]:
        neighbours[node].append((tree.parents[node], weights[node]))
        neighbours[tree.parents[node]].append((node, weights[node]))
    found = np.zeros((n, n))
    for start in range(n):
        found[start, start] = 1
        seen, stack = {start}, [start]
        while stack:
            node = stack.pop()
            for other, weight in neighbours[node]:
                if other not in seen:
                    seen.add(other)
                    found[start, other] = found[start, node] * weight
                    stack.append(other)
    return found


def _case(height: int = 6, width: int = 7, channels: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    tree = spanning_tree(rng.random((height, width, 3)))
    values = rng.normal(size=(height * width, channels))
    return tree, values, rng.uniform(0.1, 1, height * width), rng


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (6, 7), (24, 32)])
def test_two_passes_equal_the_sum_over_all_paths(size: tuple[int, int]):
    tree, values, weights, _ = _case(*size)
    paths = _paths(tree, weights)
    expected = paths @ values / paths.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tree_filter(values, weights, tree), expected, atol=1e-12)


def test_the_tree_is_a_lightest_one_of_the_four_connected_grid():
    """Kruskal by hand over all edges has the same total cost, and parents are neighbours."""
    rng = np.random.default_rng(1)
    guide = rng.integers(0, 4, (5, 6, 2)).astype(float)
    tree = spanning_tree(guide)
    flat, width = guide.reshape(-1, 2), 6

    def cost(a: int, b: int) -> float:
        return float(((flat[a] - flat[b]) ** 2).sum())

    edges = [
        (cost(i, j), i, j)
        for i in range(30)
        for j in (i + 1, i + width)
        if j < 30 and (j == i + width or j % width)
    ]
    group = list(range(30))
    lightest = 0.0
    for price, i, j in sorted(edges):
        if group[i] != group[j]:
            lightest += price
            group = [group[i] if g == group[j] else g for g in group]
    pairs = {(i, j) for _, i, j in edges}
    found = [(int(tree.parents[node]), int(node)) for node in tree.order[1:]]
    assert all((min(pair), max(pair)) in pairs for pair in found)
    assert sorted(tree.order) == list(range(30))
    assert sum(cost(*pair) for pair in found) == lightest


def test_parents_come_before_their_children():
    tree, *_ = _case(9, 8)
    place = np.empty(72, int)
    place[tree.order] = np.arange(72)
    assert (place[tree.parents[tree.order[1:]]] < place[tree.order[1:]]).all()


def test_a_path_does_not_cross_an_edge_that_can_be_walked_around():
    """A wall with a gap: both sides are joined through the gap, whose cells are like them."""
    guide = np.zeros((5, 5, 1))
    guide[:4, 2] = 50
    tree = spanning_tree(guide)
    alike = np.abs(guide.reshape(-1) - guide.reshape(-1)[tree.parents]) == 0
    weights = np.where(alike, 1.0, 0.0)
    values = np.zeros((25, 1))
    values[0] = 1
    filtered = tree_filter(values, weights, tree).reshape(5, 5)
    is_wall = guide[..., 0] == 50
    np.testing.assert_allclose(filtered[~is_wall], 1 / 21)
    assert filtered[is_wall].max() == 0


def test_gradients_are_those_of_central_differences():
    tree, values, weights, rng = _case(4, 5, 2)
    seen = rng.normal(size=values.shape)
    of_values, of_weights = tree_filter_gradients(seen, values, weights, tree)

    def loss(v: np.ndarray, w: np.ndarray) -> float:
        return float((tree_filter(v, w, tree) * seen).sum())

    step = 1e-6
    for index in np.ndindex(values.shape):
        change = np.zeros_like(values)
        change[index] = step
        slope = (loss(values + change, weights) - loss(values - change, weights)) / (2 * step)
        assert of_values[index] == pytest.approx(slope, abs=1e-7)
    for node in range(len(weights)):
        change = np.zeros_like(weights)
        change[node] = step
        slope = (loss(values, weights + change) - loss(values, weights - change)) / (2 * step)
        assert of_weights[node] == pytest.approx(slope, abs=1e-7)
    assert of_weights[tree.order[0]] == 0


def test_edges_without_any_weight_leave_each_cell_alone():
    tree, values, weights, _ = _case()
    np.testing.assert_allclose(tree_filter(values, np.zeros_like(weights), tree), values)


def test_a_guide_that_is_no_grid_or_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        spanning_tree(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="NaN"):
        spanning_tree(np.full((2, 2, 1), np.nan))
