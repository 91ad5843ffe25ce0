"""What normal patches look like: a Gaussian per position, or a small set of typical patches.

PaDiM: T. Defard, A. Setkov, A. Loesch, R. Audigier, "PaDiM: a Patch Distribution Modeling Framework
for Anomaly Detection and Localization", ICPR Workshops 2020. PatchCore: K. Roth, L. Pemula,
J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall in Industrial Anomaly Detection",
CVPR 2022. Both from memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsseg.errors import RecipeError

# Added to the diagonal of every covariance, as in PaDiM.
RIDGE = 0.01
MAX_GAUSSIAN_BYTES = 2 * 1024**3
_CHUNK = 4096


class Gaussians:
    """Collects mean and covariance of every position, one image at a time (PaDiM).

    Example:
        >>> model = Gaussians()
        >>> for value in (1.0, 3.0):
        ...     model.add(torch.full((1, 1, 1), value))
        >>> mean, factor = model.finished()
        >>> distances = gaussian_distances(torch.full((1, 1, 1), 4.0), mean, factor)
        >>> round(float(distances), 3)  # (4 - 2) / sqrt(2 + 0.01)
        1.411
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin: Tensor | None = None
        self._sum = torch.zeros(0)
        self._products = torch.zeros(0)

    def add(self, cells: Tensor) -> None:
        """Add an image.

        Args:
            cells: (h, w, D) float32, of the same shape every time.

        Raises:
            RecipeError: When the covariances would not fit into 2 GiB.
        """
        height, width, features = cells.shape
        points = cells.reshape(height * width, features).double()
        if self._origin is None:
            needed = height * width * features**2 * 8
            if needed > MAX_GAUSSIAN_BYTES:
                raise RecipeError(
                    f"padim would keep {height} x {width} covariances of {features} features, "
                    f"{needed / 1024**3:.1f} GiB; at most 2 GiB are allowed. Lower num_features or "
                    "side_px of the cue `anomaly`, or leave out its first stage."
                )
            # Sums are taken around the first image, so that large means cost no digits.
            self._origin = points
            self._sum = torch.zeros_like(points)
            self._products = torch.zeros(height * width, features, features, dtype=torch.float64)
        offset = points - self._origin
        self._sum += offset
        self._products.baddbmm_(offset[:, :, None], offset[:, None, :])
        self.count += 1

    def finished(self) -> tuple[Tensor, Tensor]:
        """Compute the distributions.

        Returns:
            (G, D) float32 means of the G positions, and (G, D, D) float32 lower factors L of the
            inverse covariances, L L^T = (cov + 0.01 I)^-1.
        """
        if self._origin is None:
            raise ValueError("finished() was called before add().")
        mean = self._sum / self.count
        divisor = max(1, self.count - 1)
        factors = torch.empty(self._products.shape)
        eye = RIDGE * torch.eye(mean.shape[1], dtype=torch.float64)
        for start in range(0, len(mean), _CHUNK):
            part = slice(start, start + _CHUNK)
            outer = mean[part, :, None] * mean[part, None, :] * self.count
            covariance = (self._products[part] - outer) / divisor + eye
            factors[part] = torch.linalg.cholesky(torch.linalg.inv(covariance)).float()
        return (self._origin + mean).float(), factors


def gaussian_distances(cells: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Compute the Mahalanobis distance of every cell from its position's distribution.

    Args:
        cells: (h, w, D) float32.
        mean: (h * w, D).
        factor: (h * w, D, D), as from `Gaussians.finished`.

    Returns:
        (h, w) float32 >= 0.
    """
    offset = cells.reshape(-1, 1, cells.shape[2]) - mean[:, None]
    return torch.bmm(offset, factor).norm(dim=2).reshape(cells.shape[:2])


def coreset(patches: Tensor, count: int) -> Tensor:
    """Pick patches that leave none far from all picked ones (greedy k-centre).

    Args:
        patches: (N, D) float32.
        count: How many to pick, 1 to N.

    Returns:
        (count,) int64 indices, in the order of picking; the first is the patch nearest to the mean.

    Example:
        >>> coreset(torch.tensor([[0.0], [1.0], [0.1], [9.0]]), 2).tolist()
        [1, 3]
    """
    nearest = ((patches - patches.mean(dim=0)) ** 2).sum(dim=1)
    picked = torch.empty(count, dtype=torch.int64)
    picked[0] = nearest.argmin()
    distance = torch.full((len(patches),), torch.inf)
    for index in range(1, count):
        last = ((patches - patches[picked[index - 1]]) ** 2).sum(dim=1)
        distance = torch.minimum(distance, last)
        picked[index] = distance.argmax()
    return picked


def nearest_distances(cells: Tensor, bank: Tensor) -> Tensor:
    """Compute the distance of every cell to the nearest patch of a set.

    Args:
        cells: (h, w, D) float32.
        bank: (M, D) float32.

    Returns:
        (h, w) float32 >= 0.
    """
    points = cells.reshape(-1, cells.shape[2])
    parts = [
        # Not by matrix products, which lose small distances to rounding.
        torch.cdist(part, bank, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        for part in points.split(_CHUNK)
    ]
    return torch.cat(parts).reshape(cells.shape[:2])


def calibrated(distances: np.ndarray, median: float, quantile: float) -> np.ndarray:
    """Turn distances into values from 0 to 1.

    Args:
        distances: Any shape, >= 0.
        median: Median distance of normal pixels; it and below becomes 0.
        quantile: High quantile of the distance of normal pixels; it becomes 0.5.

    Returns:
        float32 in [0, 1]: 1 - 2^-(d - median) / (quantile - median).

    Example:
        >>> calibrated(np.array([1.0, 2.0, 3.0, 4.0]), 2.0, 3.0).tolist()
        [0.0, 0.0, 0.5, 0.75]
    """
    spread = max(quantile - median, 1e-6 * max(1.0, abs(median)))
    above = np.maximum(np.asarray(distances, np.float64) - median, 0) / spread
    return np.asarray(1 - np.exp2(-above), np.float32)
