from __future__ import annotations

import math

import numpy as np
import pytest

from wsseg.cues.region_tree import MergeConfig, borders_of, build_tree, edge_strength
from wsseg.kernels._region_tree_passes import merge_regions, survival


def random_graph(num_regions, seed):
    """Cells of a grid with random colours and border strengths."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_regions).reshape(-1, 4)
    pairs, borders = borders_of(labels, rng.random(labels.shape) * 20)
    borders[:, 0] = rng.integers(1, 9, len(pairs))
    return (
        pairs,
        borders,
        rng.integers(1, 200, num_regions).astype(float),
        (rng.random((num_regions, 3)) * 40),
    )


def reference_merge(pairs, borders, areas, colours, weights):
    """Look through all pairs of regions for the two that differ least, again and again."""
    n = len(areas)
    regions = {i: (areas[i], np.asarray(colours[i]) * areas[i], 0.0) for i in range(n)}
    shared = {frozenset(p): tuple(b) for p, b in zip(pairs.tolist(), borders.tolist(), strict=True)}
    parents, heights = [-1] * (2 * n - 1), [0.0] * (2 * n - 1)
    for node in range(n, 2 * n - 1):

        def difference(pair, shared=shared):
            a, b = (regions[i] for i in pair)
            colour = math.dist(a[1] / a[0], b[1] / b[0])
            mixed = weights[0] * colour + (1 - weights[0]) * shared[pair][1] / shared[pair][0]
            smaller = min(a[0], b[0])
            return mixed * math.sqrt(smaller / (smaller + weights[1]))

        best = min(shared, key=difference)
        one, other = best
        height = max(difference(best), regions[one][2], regions[other][2])
        regions[node] = (
            regions[one][0] + regions[other][0],
            regions[one][1] + regions[other][1],
            height,
        )
        parents[one] = parents[other] = node
        heights[node] = height
        old, shared = shared, {}
        for pair, (length, strength) in old.items():
            moved = frozenset(node if i in best else i for i in pair)
            if len(moved) == 2:
                known = shared.get(moved, (0.0, 0.0))
                shared[moved] = (known[0] + length, known[1] + strength)
        del regions[one], regions[other]
    return parents, heights


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weights", [(0.5, 100.0), (0.0, 0.0), (1.0, 1000.0)])
def test_regions_merge_as_by_looking_through_all_pairs(seed, weights):
    graph = random_graph(40, seed)
    parents, heights = merge_regions(*graph, weights)
    expected_parents, expected_heights = reference_merge(*graph, weights)
    assert parents.tolist() == expected_parents
    np.testing.assert_allclose(heights, expected_heights, rtol=1e-9)


def test_the_graph_that_is_merged_stays_as_it_is():
    graph = random_graph(12, 0)
    before = [array.copy() for array in graph]
    merge_regions(*graph, (0.5, 10.0))
    for array, old in zip(graph, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_one_region_is_a_tree_of_one_node():
    tree = build_tree(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int64))
    assert tree.parents.tolist() == [-1]
    assert tree.mask(0).all()
    assert tree.labels_at(5.0).tolist() == [[0, 0], [0, 0]]


@pytest.fixture
def tree():
    image = np.random.default_rng(0).integers(0, 256, (12, 15, 3)).astype(np.uint8)
    labels = np.arange(12)[:, None] // 3 * 5 + np.arange(15)[None, :] // 3
    return build_tree(image, labels, MergeConfig(edge_sigma_px=0))


def test_a_node_covers_what_its_children_cover(tree):
    for node in range(tree.num_leaves, len(tree.parents)):
        one, other = (tree.mask(child) for child in tree.children[node])
        assert not (one & other).any()
        np.testing.assert_array_equal(one | other, tree.mask(node))
        assert tree.areas[node] == tree.mask(node).sum()
        assert (tree.parents[tree.children[node]] == node).all()
    assert tree.mask(len(tree.parents) - 1).all()


def test_heights_never_fall_towards_the_root(tree):
    assert (tree.heights[:-1] <= tree.heights[tree.parents[:-1]]).all()
    assert (tree.heights[: tree.num_leaves] == 0).all()


def test_higher_cuts_are_unions_of_lower_ones(tree):
    finer = tree.labels_at(0.0)
    assert len(np.unique(finer)) == tree.num_leaves
    for height in (*np.quantile(tree.heights, [0.3, 0.6, 0.9]), tree.heights[-1]):
        coarser = tree.labels_at(height)
        pairs = np.unique(np.stack([finer.ravel(), coarser.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(finer))  # each finer region lies in one coarser
        assert sorted(np.unique(coarser)) == list(range(coarser.max() + 1))
        finer = coarser
    assert coarser.max() == 0


def test_borders_have_their_length_and_strength():
    labels = np.array([[0, 0, 1], [2, 2, 1]])
    strength = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    pairs, borders = borders_of(labels, strength)
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert borders.tolist() == [[1, 3.0], [2, 4.5 + 9.0], [1, 24.0]]


def test_a_step_in_brightness_has_its_height_as_strength():
    lab = np.zeros((4, 8, 3), np.float32)
    lab[:, 4:, 0] = 30
    strength = edge_strength(lab, 0)
    assert strength[:, 3:5].tolist() == [[30.0, 30.0]] * 4
    assert not strength[:, :3].any()
    assert not strength[:, 5:].any()
    assert 15 < edge_strength(lab, 1.0).max() < 30


def test_survival_is_that_of_climbing_the_tree_written_out(tree):
    found = survival(tree.parents, tree.heights, tree.areas, tree.children, 0.8)
    masks = [tree.mask(node) for node in range(len(tree.parents))]

    def iou(a, b):
        return (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum()

    for node in range(len(masks)):
        above = [i for i in range(node, len(masks)) if (masks[node] & ~masks[i]).sum() == 0]
        larger = [tree.heights[i] for i in above if iou(node, i) < 0.8]
        end = min(larger, default=tree.heights[-1])
        same_below = [
            tree.heights[i]
            for i in range(node + 1)
            if (masks[i] & ~masks[node]).sum() == 0 and iou(node, i) >= 0.8
        ]
        assert found[node] == pytest.approx(end - min(same_below))
