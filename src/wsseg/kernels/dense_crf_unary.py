"""Unary energies of a dense CRF from scores or labels, and which labels are worth keeping."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

MIN_PROBABILITY = 1e-5


def unary_from_scores(scores: npt.ArrayLike) -> Floats:
    """Turn soft scores into energies: U = -log(clip(s, 1e-5, 1)).

    Args:
        scores: (K, H, W) in [0, 1]; they need not sum to one, only their ratios matter.

    Returns:
        (K, H, W) float32 energies.

    Example:
        >>> unary_from_scores([[[1.0]], [[0.5]]]).round(3).tolist()
        [[[-0.0]], [[0.6930000185966492]]]
    """
    clipped = np.clip(np.asarray(scores, np.float32), MIN_PROBABILITY, 1.0)
    energies = np.log(clipped, out=clipped)
    return np.negative(energies, out=energies)


def unary_from_labels(
    labels: npt.NDArray[np.integer], num_labels: int, gt_prob: float = 0.7
) -> Floats:
    """Turn hard labels into energies: -log g for the label, -log((1 - g) / (K - 1)) for others.

    Args:
        labels: (H, W) integers in [0, K).
        num_labels: K, the number of labels.
        gt_prob: How sure the labels are, g in (0, 1); IRN uses 0.7.

    Returns:
        (K, H, W) float32 energies; all 0 when K = 1.

    Raises:
        ValueError: When a label is out of range or g is not in (0, 1).

    Example:
        >>> unary_from_labels(np.array([[1]]), 3, 0.5).round(2).tolist()
        [[[1.3899999856948853]], [[0.6899999976158142]], [[1.3899999856948853]]]
    """
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob is {gt_prob}; expected a number between 0 and 1.")
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels has shape {labels.shape}; expected (H, W).")
    if labels.min() < 0 or labels.max() >= num_labels:
        raise ValueError(
            f"labels has values from {labels.min()} to {labels.max()}; expected 0 to "
            f"{num_labels - 1}."
        )
    if num_labels == 1:
        return np.zeros((1, *labels.shape), np.float32)
    is_given = np.arange(num_labels)[:, None, None] == labels
    others = -np.log((1 - gt_prob) / (num_labels - 1))
    return np.where(is_given, -np.log(gt_prob), others).astype(np.float32)


def likely_labels(unary: npt.NDArray[np.floating], prune_below: float) -> npt.NDArray[np.intp]:
    """Find the labels whose probability in softmax(-U) reaches a bound somewhere.

    Args:
        unary: (K, H, W) energies.
        prune_below: The bound; 0 keeps all labels.

    Returns:
        Ascending label numbers; the most probable label is always among them.
    """
    if prune_below <= 0:
        return np.arange(len(unary))
    lowest = unary.min(axis=0)
    odds = np.exp(lowest - unary)
    odds /= odds.sum(axis=0)
    peaks = odds.reshape(len(unary), -1).max(axis=1)
    return np.flatnonzero((peaks >= prune_below) | (peaks == peaks.max()))
