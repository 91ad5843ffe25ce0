from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from wsseg.localize.clusters import kmeans, squared_distances


def inertia(points: np.ndarray, labels: np.ndarray) -> float:
    """Sum up squared distances to the means of the clusters, point by point."""
    total = 0.0
    for cluster in set(labels.tolist()):
        members = points[labels == cluster]
        total += float(((members - members.mean(axis=0)) ** 2).sum())
    return total


def test_the_partition_is_the_best_of_all_partitions():
    for seed in range(5):
        points = np.random.default_rng(seed).normal(size=(8, 2))
        best = min(inertia(points, np.array(one)) for one in product(range(3), repeat=8))
        found = kmeans(points, 3, np.random.default_rng(seed), restarts=100)
        assert inertia(points, found) == pytest.approx(best, rel=1e-9)


def test_every_point_is_nearest_to_the_mean_of_its_cluster():
    points = np.random.default_rng(4).normal(size=(50, 3))
    labels = kmeans(points, 6, np.random.default_rng(4))
    means = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(6)])
    nearest = [int(np.linalg.norm(means - point, axis=1).argmin()) for point in points]
    assert labels.tolist() == nearest


def test_far_groups_come_apart_and_are_numbered_as_they_are_met():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 60)
    points = rng.normal(scale=0.01, size=(60, 5)) + 10 * np.eye(5)[truth]
    found = kmeans(points.astype(np.float32), 4, rng)
    order = list(dict.fromkeys(truth.tolist()))
    assert found.tolist() == [order.index(one) for one in truth]


def test_the_same_generator_gives_the_same_clusters():
    points = np.random.default_rng(1).normal(size=(40, 6))
    first, again = (kmeans(points, 5, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_clusters_do_not_depend_on_where_the_points_lie(shift):
    points = np.random.default_rng(2).normal(size=(30, 3))
    expected = kmeans(points, 3, np.random.default_rng(0))
    assert np.array_equal(kmeans(points + shift, 3, np.random.default_rng(0)), expected)


def test_fewer_points_than_clusters_are_clusters_of_their_own():
    points = np.array([[3.0], [1.0], [2.0]])
    assert kmeans(points, 10, np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_equal_points_share_a_cluster():
    points = np.array([[1.0, 2.0]] * 4 + [[5.0, 5.0]])
    assert kmeans(points, 3, np.random.default_rng(0)).tolist() == [0, 0, 0, 0, 1]


def test_distances_agree_with_their_definition():
    rng = np.random.default_rng(3)
    points, centres = rng.normal(size=(6, 4)), rng.normal(size=(3, 4))
    expected = [[float(((p - c) ** 2).sum()) for c in centres] for p in points]
    np.testing.assert_allclose(squared_distances(points, centres), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("points", "count"),
    [(np.zeros((0, 2)), 1), (np.zeros(3), 1), (np.full((2, 2), np.nan), 1), (np.zeros((2, 2)), 0)],
)
def test_what_cannot_be_clustered_is_refused(points, count):
    with pytest.raises(ValueError, match="Expected"):
        kmeans(points, count, np.random.default_rng(0))
