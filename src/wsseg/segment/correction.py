"""ADELE: when a class begins to be learned by heart, and which labels are corrected then.

A network first learns what is common in noisy masks, later their errors. Per class the IoU between
predictions while training and the masks is followed over epochs t and fitted by

    f(t) = a (1 - exp(-t^b / c)),      a, b in [0, 1], c >= 0

by least squares, later epochs counting more (deviation falling geometrically from 1 to 0.1). From
the epoch on in which |1 - f'(t) / f'(1)| exceeds 0.9 the class is corrected: at the end of every
epoch pixels predicted with more than 0.8 as an allowed class take that class.

Reference: Liu et al., "Adaptive Early-Learning Correction for Segmentation from Noisy Annotations",
CVPR 2022. Differences: an image's classes are those of its first pseudo mask, so that a correction
made twice, after an interruption, changes nothing the second time; corrections never contradict
tags and boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.segment.correction_config import Adele
from wsseg.segment.draft import Bools, Floats, Mask, carried_classes, outside_boxes

# Keeps 1 / c finite; no curve over whole epochs tells smaller ones apart.
_LEAST_C = 1e-6


def fit_curve(ious: Sequence[float]) -> tuple[float, float, float]:
    """Fit f(t) = a (1 - exp(-t^b / c)) to the values at t = 1, 2, ...

    Args:
        ious: IoU after each epoch, in [0, 1]; at least two.

    Returns:
        a, b and c.
    """
    from scipy.optimize import least_squares

    t = np.arange(1, len(ious) + 1, dtype=np.float64)
    y = np.asarray(ious, np.float64)
    deviation = np.geomspace(1, 0.1, len(t))

    def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c = parameters
        curve = a * -np.expm1(-np.minimum(t**b / max(c, _LEAST_C), 700.0))
        result: NDArray[np.float64] = (curve - y) / deviation
        return result

    found = least_squares(residuals, x0=(0.9, 0.9, 1.0), bounds=([0, 0, 0], [1, 1, np.inf]))
    a, b, c = (float(value) for value in found.x)
    return a, b, c


def slowdown(ious: Sequence[float]) -> float:
    """Tell how much slower the IoU rises now than in the first epoch.

    Args:
        ious: IoU after each epoch; at least two.

    Returns:
        |1 - f'(t) / f'(1)| at the last epoch t: 0 while it rises as fast, near 1 where it has
        stopped.

    Example:
        >>> slowdown([0.1, 0.2, 0.3, 0.4]) < 0.5, slowdown([0.5, 0.6, 0.6, 0.6, 0.6]) > 0.9
        (True, True)
    """
    _, b, c = fit_curve(ious)
    # f'(t) / f'(1), with a and the constants cancelled; they may be tiny.
    t = float(len(ious))
    exponent = (b - 1) * math.log(t) + (1 - t**b) / max(c, _LEAST_C)
    return abs(1 - math.exp(max(exponent, -700.0)))


def epoch_ious(counts: NDArray[np.int64]) -> list[float | None]:
    """Compute the IoU per class of predictions and masks of one epoch.

    Args:
        counts: (3, K) pixels in both, predicted, and labelled.

    Returns:
        K values in [0, 1]; None for a class that neither predictions nor masks show.
    """
    both, predicted, labelled = counts
    union = predicted + labelled - both
    return [
        float(hit) / float(all_) if all_ else None for hit, all_ in zip(both, union, strict=True)
    ]


def classes_to_correct(
    history: Sequence[Sequence[float | None]], known: Iterable[int], config: Adele
) -> list[int]:
    """Say which classes are corrected from now on.

    Args:
        history: IoU per class after each epoch so far, see `epoch_ious`.
        known: Classes that were corrected before; they stay.
        config: When learning by heart has begun.

    Returns:
        Class ids, background among them as soon as there is any.
    """
    chosen = set(known)
    if len(history) >= config.min_epochs:
        for class_id in range(1, len(history[0])):
            ious = [epoch[class_id] for epoch in history]
            values = [iou for iou in ious if iou is not None]
            # A class that was not seen in an epoch has no curve; one never learned has no slope.
            if class_id in chosen or len(values) < len(ious) or max(values) <= 0:
                continue
            if slowdown(values) > config.max_slowdown:
                chosen.add(class_id)
    if chosen:
        chosen.add(BACKGROUND)
    return sorted(chosen)


def corrected(
    mask: Mask,
    probabilities: Floats,
    classes: Iterable[int],
    *,
    first: Mask,
    labels: WeakLabels,
    config: Adele,
) -> Mask:
    """Replace labels by predictions that are sure and allowed.

    Args:
        mask: (H, W) uint8, the current labels.
        probabilities: (C + 1, H, W) float32.
        classes: The classes that are corrected now; predictions of others change nothing.
        first: (H, W) uint8, the first pseudo mask: its classes, and background, may be written.
        labels: What a person gave; it is never contradicted.
        config: How sure a prediction must be.

    Returns:
        (H, W) uint8; doing it again with the same predictions changes nothing.
    """
    predicted = probabilities.argmax(axis=0).astype(np.uint8)
    allowed = {BACKGROUND, *np.unique(first).tolist()} & set(classes) - {IGNORE}
    carried = carried_classes(labels)
    if carried is not None:
        allowed &= {BACKGROUND, *carried}
    change: Bools = probabilities.max(axis=0) > config.min_confidence
    change &= np.isin(predicted, sorted(allowed)) & (predicted != mask)
    if labels.boxes is not None and len(labels.boxes):
        change &= ~outside_boxes(predicted, labels.boxes)
    return np.where(change, predicted, mask)
