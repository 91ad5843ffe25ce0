"""k-means with the same result every time.

Lloyd's iterations from the seeds of Arthur and Vassilvitskii, "k-means++: The Advantages of Careful
Seeding", SODA 2007, several times over; the solution with the smallest sum of squared distances
counts. Everything is float64 and drawn from one generator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESTARTS = 10
MAX_ITERATIONS = 300


def kmeans(
    points: NDArray[np.floating],
    num_clusters: int,
    rng: np.random.Generator,
    *,
    restarts: int = RESTARTS,
    max_iterations: int = MAX_ITERATIONS,
) -> NDArray[np.int64]:
    """Cluster points.

    Args:
        points: (n, D).
        num_clusters: K >= 1; where there are fewer points, so many clusters are made.
        rng: Source of all randomness.
        restarts: How often to start anew.
        max_iterations: Of one start.

    Returns:
        (n,) int64, the cluster of each point, 0 to min(K, n) - 1, numbered in the order in which
        the points meet them. Fewer clusters than asked for have points where points are equal.

    Raises:
        ValueError: When ``points`` is not (n, D) with n >= 1, has values that are not finite, or a
            number is below 1.

    Example:
        >>> points = np.array([[0.0], [9.0], [0.2], [9.1]])
        >>> kmeans(points, 2, np.random.default_rng(0)).tolist()
        [0, 1, 0, 1]
    """
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"Expected finite points (n, D) with n >= 1, but got {points.shape}.")
    if min(num_clusters, restarts, max_iterations) < 1:
        raise ValueError(
            f"Expected numbers of at least 1, but got num_clusters={num_clusters}, "
            f"restarts={restarts}, max_iterations={max_iterations}."
        )
    centred = points.astype(np.float64)
    centred -= centred.mean(axis=0)
    count = min(num_clusters, len(centred))
    best, lowest = np.zeros(len(centred), np.int64), np.inf
    for _ in range(restarts):
        labels, inertia = _one_start(centred, _seeds(centred, count, rng), max_iterations)
        if inertia < lowest:
            best, lowest = labels, inertia
    return _in_order(best)


def squared_distances(
    points: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Measure every point against every centre.

    Args:
        points: (n, D).
        centres: (K, D).

    Returns:
        (n, K), not negative.
    """
    found = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * points @ centres.T
    return np.maximum(found, 0)


def _seeds(
    points: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw centres, each with a probability that grows with its distance from those before."""
    chosen = [int(rng.integers(len(points)))]
    nearest = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        total = nearest.sum()
        # All points lie on centres already: any will do.
        weights = nearest / total if total > 0 else None
        chosen.append(int(rng.choice(len(points), p=weights)))
        nearest = np.minimum(nearest, squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen].copy()


def _one_start(
    points: NDArray[np.float64], centres: NDArray[np.float64], max_iterations: int
) -> tuple[NDArray[np.int64], float]:
    labels = np.full(len(points), -1, np.int64)
    for _ in range(max_iterations):
        distances = squared_distances(points, centres)
        found = distances.argmin(axis=1)
        if np.array_equal(found, labels):
            break
        labels = found
        centres = _means(points, labels, distances)
    distances = squared_distances(points, centres)
    labels = distances.argmin(axis=1)
    return labels, float(distances[np.arange(len(points)), labels].sum())


def _means(
    points: NDArray[np.float64], labels: NDArray[np.int64], distances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the points of each cluster; an empty one moves to the point that is farthest off."""
    num_clusters = distances.shape[1]
    sizes = np.bincount(labels, minlength=num_clusters)
    centres = np.zeros((num_clusters, points.shape[1]))
    for cluster in np.flatnonzero(sizes):
        centres[cluster] = points[labels == cluster].mean(axis=0)
    far = np.argsort(-distances[np.arange(len(points)), labels], kind="stable")
    for place, empty in enumerate(np.flatnonzero(sizes == 0)):
        centres[empty] = points[far[place]]
    return centres


def _in_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters by their first point."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), np.int64)
    ranks[np.argsort(first)] = np.arange(len(first))
    return ranks[inverse]
