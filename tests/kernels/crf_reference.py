"""The dense CRF in float64 with scipy.sparse, and by brute force: references for the kernels.

Written from the papers' steps alone, with dense key rows and dictionaries of vertices in place
of packed keys and hashing. Slow, and for small images or single runs.
"""

import numpy as np
from scipy import sparse


class ReferenceLattice:
    """Permutohedral lattice of points (N, d), already divided by their standard deviations."""

    def __init__(self, points: np.ndarray) -> None:
        size, self.dims = points.shape
        keys, weights = find_simplices(points)
        unique, inverse = np.unique(keys.reshape(-1, self.dims), axis=0, return_inverse=True)
        self.num_vertices = len(unique)
        columns = np.repeat(np.arange(size), self.dims + 1)
        self.splat = sparse.csr_matrix(
            (weights.ravel(), (inverse.ravel(), columns)), shape=(self.num_vertices, size)
        )
        self.blurs = [blur_matrix(unique, axis) for axis in range(self.dims + 1)]
        sums = self.filter(np.ones((size, 1)), normalised=False)[:, 0]
        self.norm = 1 / np.sqrt(sums + 1e-20)

    def filter(self, values: np.ndarray, normalised: bool = True) -> np.ndarray:
        """Filter (N, V) values."""
        if normalised:
            filtered = self.filter(self.norm[:, None] * values, normalised=False)
            return self.norm[:, None] * filtered
        vertices = self.splat @ values
        for blur in self.blurs:
            vertices = blur @ vertices
        return self.splat.T @ vertices / (1 + 2.0**-self.dims)


def find_simplices(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vertex keys (N, d + 1, d) and barycentric weights (N, d + 1)."""
    size, d = points.shape
    j = np.arange(d)
    scaled = points * (np.sqrt(2 / 3) * (d + 1) / np.sqrt((j + 1) * (j + 2)))
    elevated = np.zeros((size, d + 1))
    total = np.zeros(size)
    for j in range(d, 0, -1):
        elevated[:, j] = total - j * scaled[:, j - 1]
        total = total + scaled[:, j - 1]
    elevated[:, 0] = total
    nearest = np.rint(elevated / (d + 1))
    remainder = nearest * (d + 1)
    # How many coordinates are larger; of two equal ones, the earlier counts as larger.
    residual = elevated - remainder
    order = np.argsort(-residual, axis=1, kind="stable")
    rank = np.argsort(order, axis=1) + nearest.sum(axis=1).astype(int)[:, None]
    low, high = rank < 0, rank > d
    rank = rank + (d + 1) * (low.astype(int) - high)
    remainder = remainder + (d + 1) * (low.astype(int) - high)
    t = (elevated - remainder) / (d + 1)
    weights = np.zeros((size, d + 2))
    pixels = np.arange(size)
    for i in range(d + 1):
        weights[pixels, d - rank[:, i]] += t[:, i]
        weights[pixels, d - rank[:, i] + 1] -= t[:, i]
    weights[:, 0] += 1 + weights[:, d + 1]
    corners = [remainder + np.where(rank <= d - k, k, k - (d + 1)) for k in range(d + 1)]
    return np.stack(corners, axis=1)[:, :, :d].astype(np.int64), weights[:, : d + 1]


def blur_matrix(vertices: np.ndarray, axis: int) -> sparse.csr_matrix:
    """Return the (M, M) matrix with 1 on the diagonal and 1/2 for both neighbours on an axis."""
    count, d = vertices.shape
    step = np.full(d, 1)
    if axis < d:
        step[axis] -= d + 1
    number = {tuple(key): v for v, key in enumerate(vertices.tolist())}
    found = [number.get(tuple(key), -1) for key in (vertices + step).tolist()]
    to = np.array(found)
    known = np.flatnonzero(to >= 0)
    half = sparse.csr_matrix((np.full(len(known), 0.5), (known, to[known])), shape=(count, count))
    return (sparse.identity(count) + half + half.T).tocsr()


def features(image: np.ndarray, sxy: float, srgb: float | None = None) -> np.ndarray:
    """Return (N, 2) or (N, 5) points of an image."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    columns = [x.ravel() / sxy, y.ravel() / sxy]
    if srgb is not None:
        columns += [image[..., c].ravel() / srgb for c in range(3)]
    return np.stack(columns, axis=1)


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def mean_field(unary, iterations, filters) -> np.ndarray:
    """Iterate with (weight, filter) pairs; unary and result are (K, H, W)."""
    rows = -unary.reshape(len(unary), -1).T.astype(np.float64)
    marginals = softmax(rows)
    for _ in range(iterations):
        marginals = softmax(rows + sum(weight * apply(marginals) for weight, apply in filters))
    return marginals.T.reshape(unary.shape)


def lattice_marginals(image: np.ndarray, unary: np.ndarray, config) -> np.ndarray:
    """Mean field with lattice filters, in float64."""
    gaussian = ReferenceLattice(features(image, config.gauss_sxy_px))
    points = features(image, config.bilateral_sxy_px, config.bilateral_srgb)
    bilateral = ReferenceLattice(points)
    filters = [
        (config.gauss_compat, gaussian.filter),
        (config.bilateral_compat, bilateral.filter),
    ]
    return mean_field(unary, config.iterations, filters)


def exact_marginals(image: np.ndarray, unary: np.ndarray, config) -> np.ndarray:
    """Mean field with the exact Gaussian kernels, O(N²) memory."""

    def exact_filter(points):
        distance = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        kernel = np.exp(-0.5 * distance)
        norm = 1 / np.sqrt(kernel.sum(axis=1))
        return lambda values: norm[:, None] * (kernel @ (norm[:, None] * values))

    points = features(image, config.bilateral_sxy_px, config.bilateral_srgb)
    filters = [
        (config.gauss_compat, exact_filter(features(image, config.gauss_sxy_px))),
        (config.bilateral_compat, exact_filter(points)),
    ]
    return mean_field(unary, config.iterations, filters)
