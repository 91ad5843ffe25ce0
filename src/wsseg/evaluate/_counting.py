"""Counting loops compiled by numba; imported by the functions that count, not before."""

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled

_NUM_COPIES = 4
_IGNORE = 255


@compiled
def count_pairs(
    truth: np.ndarray, prediction: np.ndarray, index: np.ndarray, size: int
) -> np.ndarray:  # pragma: no cover - compiled
    """Count how often each pair of values occurs at the same place.

    Neighbouring pixels mostly hold the same pair; four copies of the table, used in turn, let
    the processor add to one while the last addition to another is still under way.

    Args:
        truth: (P,) uint8.
        prediction: (P,) uint8.
        index: (256,) int64, table row of each value.
        size: Number of table rows and columns.

    Returns:
        (size, size) int64, rows are truth.
    """
    table = np.zeros((_NUM_COPIES, size * size), np.int64)
    num_pixels = truth.size
    whole = num_pixels - num_pixels % 4
    for i in range(0, whole, 4):
        table[0, index[truth[i]] * size + index[prediction[i]]] += 1
        table[1, index[truth[i + 1]] * size + index[prediction[i + 1]]] += 1
        table[2, index[truth[i + 2]] * size + index[prediction[i + 2]]] += 1
        table[3, index[truth[i + 3]] * size + index[prediction[i + 3]]] += 1
    for i in range(whole, num_pixels):
        table[0, index[truth[i]] * size + index[prediction[i]]] += 1
    return table.sum(axis=0).reshape(size, size)


@compiled
def count_bins(
    values: np.ndarray,
    columns: np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray,
    table: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Add one image to a table of (truth, strongest class, thresholds passed).

    Args:
        values: (F, P) float32, foreground scores.
        columns: (F,) int64, table column of each foreground row.
        truth: (P,) uint8, table row of each pixel; 255 is not counted.
        thresholds: (T,) float32, ascending.
        table: (C + 1, C, T + 1) int64, changed in place; the last axis is how many thresholds
            lie strictly below the pixel's strongest score.
    """
    num_classes, num_pixels = values.shape
    num_thresholds = thresholds.size
    for p in range(num_pixels):
        row = truth[p]
        if row == _IGNORE:
            continue
        best = values[0, p]
        winner = 0
        for k in range(1, num_classes):
            if values[k, p] > best:
                best = values[k, p]
                winner = k
        low = 0
        high = num_thresholds
        while low < high:
            middle = (low + high) // 2
            if thresholds[middle] < best:
                low = middle + 1
            else:
                high = middle
        table[row, columns[winner], low] += 1
