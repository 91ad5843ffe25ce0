"""From pixel counts to numbers: IoU, precision, recall, accuracy and their means.

A class that occurs neither in the ground truth nor in the predictions has no IoU: it is NaN and
does not enter the means ("nanmean"). A class that is only predicted has IoU 0 and does enter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """The numbers of one confusion matrix; fractions in [0, 1], NaN where undefined.

    Args:
        iou: (C + 1,) intersection over union, background first.
        precision: (C + 1,) share of the predicted pixels that are right.
        recall: (C + 1,) share of the true pixels that were found.
        miou: Mean IoU over the classes that occur, background included.
        miou_foreground: The same without background.
        pixel_accuracy: Share of all counted pixels that are right; predictions of 255 are wrong.
        ignored: Share of all counted pixels whose prediction is 255.
        gt_pixels: (C + 1,) int64, counted pixels of each true class.
    """

    iou: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    miou: float
    miou_foreground: float
    pixel_accuracy: float
    ignored: float
    gt_pixels: np.ndarray


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, giving NaN where the denominator is zero.

    Returns:
        float64 array of the common shape.

    Example:
        >>> import numpy as np
        >>> ratio(np.array([1, 0]), np.array([2, 0])).tolist()
        [0.5, nan]
    """
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    result = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def nan_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Average what is not NaN; NaN where there is nothing.

    Returns:
        float64 array without the averaged axis.

    Example:
        >>> import numpy as np
        >>> float(nan_mean(np.array([1.0, np.nan, 0.0])))
        0.5
    """
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def iou_from_counts(counts: np.ndarray) -> np.ndarray:
    """Compute the IoU of every class for one matrix or a stack of them.

    Args:
        counts: (..., C + 1, C + 2) pixel counts as made by `pair_counts`.

    Returns:
        (..., C + 1) float64, TP / (TP + FP + FN); NaN where the class occurs nowhere.

    Example:
        >>> import numpy as np
        >>> iou_from_counts(np.array([[3, 1, 0], [0, 4, 0]])).tolist()
        [0.75, 0.8]
    """
    hits, truth, predicted = totals(counts)
    return ratio(hits, truth + predicted - hits)


def totals(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split counts into right pixels, true pixels and predicted pixels per class.

    Args:
        counts: (..., C + 1, C + 2) pixel counts.

    Returns:
        Three arrays (..., C + 1).
    """
    square = counts[..., :, :-1]
    return np.diagonal(square, axis1=-2, axis2=-1), counts.sum(axis=-1), square.sum(axis=-2)


def metrics_from_counts(counts: np.ndarray) -> Metrics:
    """Compute all numbers of one confusion matrix.

    Args:
        counts: (C + 1, C + 2) pixel counts as made by `pair_counts`.

    Returns:
        The numbers.

    Example:
        >>> import numpy as np
        >>> result = metrics_from_counts(np.array([[3, 1, 0], [0, 2, 2]]))
        >>> round(result.miou, 3), result.pixel_accuracy, result.ignored
        (0.575, 0.625, 0.25)
    """
    hits, truth, predicted = totals(counts)
    iou = iou_from_counts(counts)
    num_pixels = counts.sum()
    return Metrics(
        iou=iou,
        precision=ratio(hits, predicted),
        recall=ratio(hits, truth),
        miou=float(nan_mean(iou)),
        miou_foreground=float(nan_mean(iou[1:])),
        pixel_accuracy=float(ratio(hits.sum(), num_pixels)),
        ignored=float(ratio(counts[:, -1].sum(), num_pixels)),
        gt_pixels=truth,
    )
