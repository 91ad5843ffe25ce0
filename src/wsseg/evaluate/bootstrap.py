"""Is the difference of two methods more than luck? A paired bootstrap over images.

Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979; the
percentile interval. Images are drawn with replacement, the same ones for both methods, and the
data-set mIoU of both is computed from the summed pixel counts of the drawn images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsseg.evaluate.metrics import nan_mean, ratio, totals

_RESAMPLES_PER_BLOCK = 256


@dataclass(frozen=True)
class BootstrapResult:
    """How much better method B is than method A.

    Args:
        difference: mIoU of B minus mIoU of A on all images.
        low: Lower end of the confidence interval of the difference.
        high: Upper end.
        confidence: Probability that the interval stands for, such as 0.95.
        share_better: Share of the resampled data sets on which B is strictly better than A.
        num_images: Number of images.
        num_resamples: Number of resampled data sets.
    """

    difference: float
    low: float
    high: float
    confidence: float
    share_better: float
    num_images: int
    num_resamples: int


def bootstrap_miou_difference(
    counts_a: np.ndarray,
    counts_b: np.ndarray,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    foreground_only: bool = False,
    seed: int = 0,
) -> BootstrapResult:
    """Estimate a confidence interval of the mIoU difference of two methods.

    Args:
        counts_a: (n, C + 1, C + 2) pixel counts per image (`pair_counts`) of method A.
        counts_b: The same images in the same order for method B.
        num_resamples: Number of resampled data sets, at least 1.
        confidence: Probability of the interval, in (0, 1).
        foreground_only: Leave the background out of the mean.
        seed: Seed of the drawing.

    Returns:
        Difference and interval. Classes that do not occur in a resample do not enter its mean.

    Raises:
        ValueError: When the shapes differ, there is no image, or a setting is out of range.

    Example:
        >>> import numpy as np
        >>> bad = np.array([[[4, 0, 0], [2, 2, 0]]] * 5)
        >>> good = np.array([[[4, 0, 0], [0, 4, 0]]] * 5)
        >>> result = bootstrap_miou_difference(bad, good, num_resamples=100)
        >>> round(result.difference, 3), round(result.low, 3), result.share_better
        (0.417, 0.417, 1.0)
    """
    if counts_a.shape != counts_b.shape or counts_a.ndim != 3 or len(counts_a) == 0:
        raise ValueError(
            "Both methods need the counts (n, C + 1, C + 2) of the same n >= 1 images, got "
            f"{counts_a.shape} and {counts_b.shape}."
        )
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"num_resamples must be at least 1 and confidence inside (0, 1), got {num_resamples} "
            f"and {confidence}."
        )
    parts = np.stack([_parts(counts_a), _parts(counts_b)])
    first = 1 if foreground_only else 0
    every_image = np.ones((1, len(counts_a)))
    difference = float(_difference(parts, every_image, first)[0])
    differences = _resampled(parts, first, num_resamples, seed)
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return BootstrapResult(
        difference=difference,
        low=float(low),
        high=float(high),
        confidence=confidence,
        share_better=float(np.mean(differences > 0)),
        num_images=len(counts_a),
        num_resamples=num_resamples,
    )


def _parts(counts: np.ndarray) -> np.ndarray:
    """Reduce (n, C + 1, C + 2) counts to (n, 2, C + 1): intersection and union."""
    hits, truth, predicted = totals(counts)
    return np.stack([hits, truth + predicted - hits], axis=1).astype(np.float64)


def _resampled(parts: np.ndarray, first: int, num_resamples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    num_images = parts.shape[1]
    even = np.full(num_images, 1 / num_images)
    blocks = []
    for start in range(0, num_resamples, _RESAMPLES_PER_BLOCK):
        size = min(_RESAMPLES_PER_BLOCK, num_resamples - start)
        weights = rng.multinomial(num_images, even, size=size).astype(np.float64)
        blocks.append(_difference(parts, weights, first))
    return np.concatenate(blocks)


def _difference(parts: np.ndarray, weights: np.ndarray, first: int) -> np.ndarray:
    """Compute mIoU of B minus mIoU of A for (R, n) image weights."""
    methods, num_images, _, num_ids = parts.shape
    flat = np.moveaxis(parts, 1, 0).reshape(num_images, -1)
    # Sums of whole numbers below 2**53: exact in float64.
    sums = (weights @ flat).reshape(len(weights), methods, 2, num_ids)
    miou = nan_mean(ratio(sums[:, :, 0, first:], sums[:, :, 1, first:]))
    return miou[:, 1] - miou[:, 0]
