from __future__ import annotations

import itertools

import numpy as np
import pytest

from wsseg.kernels.graph_cut import alpha_expansion, potts_energy


def cheapest(unary, edges, weights) -> float:
    """Try all labelings."""
    best = np.inf
    for labels in itertools.product(range(unary.shape[1]), repeat=len(unary)):
        cost = sum(unary[node, label] for node, label in enumerate(labels))
        for (a, b), weight in zip(edges, weights, strict=True):
            cost += weight * (labels[a] != labels[b])
        best = min(best, cost)
    return best


def drawn(seed: int, nodes: int, labels: int):
    rng = np.random.default_rng(seed)
    unary = rng.random((nodes, labels))
    pairs = np.array(list(itertools.combinations(range(nodes), 2)))
    edges = pairs[rng.random(len(pairs)) < 0.6]
    return unary, edges, rng.random(len(edges))


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_between_two_labels_is_the_cheapest_of_all(seed):
    unary, edges, weights = drawn(seed, 8, 2)
    unary[0], unary[7] = (0, np.inf), (np.inf, 0)
    labels = alpha_expansion(unary, edges, weights)
    assert potts_energy(labels, unary, edges, weights) == pytest.approx(
        cheapest(unary, edges, weights), abs=1e-6
    )


@pytest.mark.parametrize("seed", range(20))
def test_three_labels_cost_at_most_the_optimum_and_its_edges_again(seed):
    unary, edges, weights = drawn(seed, 6, 3)
    unary[:3] = np.where(np.eye(3, dtype=bool), 0, np.inf)
    labels = alpha_expansion(unary, edges, weights)
    best = cheapest(unary, edges, weights)
    found = potts_energy(labels, unary, edges, weights)
    assert best - 1e-6 <= found <= 2 * best + 1e-6
    # No move that gives one label to any set of nodes lowers the price.
    for alpha in range(3):
        for chosen in itertools.product((False, True), repeat=6):
            moved = np.where(chosen, alpha, labels)
            assert potts_energy(moved, unary, edges, weights) >= found - 1e-6


def test_forbidden_labels_are_never_taken_whatever_their_neighbours_want():
    unary = np.array([[0.0, 50.0], [np.inf, 1.0], [0.0, 50.0]])
    labels = alpha_expansion(unary, np.array([[0, 1], [1, 2]]), np.array([10.0, 10.0]))
    assert labels.tolist() == [0, 1, 0]


def test_ties_keep_the_first_label():
    unary = np.zeros((3, 2))
    assert alpha_expansion(unary, np.array([[0, 1]]), np.array([1.0])).tolist() == [0, 0, 0]


def test_nodes_without_edges_take_their_cheapest_label():
    unary = np.array([[2.0, 1.0, 3.0], [0.5, 4.0, 0.25]])
    found = alpha_expansion(unary, np.zeros((0, 2), np.int64), np.zeros(0))
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("unary", "edges", "weights", "words"),
    [
        ([[np.inf, np.inf]], [], [], "price is finite"),
        ([[0.0, np.nan]], [], [], "NaN"),
        ([[0.0], [0.0]], [[0, 1]], [-1.0], "not negative"),
        ([[0.0], [0.0]], [[1, 1]], [1.0], "itself"),
    ],
)
def test_prices_that_mean_nothing_are_refused(unary, edges, weights, words):
    with pytest.raises(ValueError, match=words):
        alpha_expansion(
            np.array(unary), np.array(edges, np.int64).reshape(-1, 2), np.array(weights)
        )
