"""Average precision of an image classifier, per class and on average (mAP).

AP = Σ_n (R_n - R_{n-1}) P_n over the distinct scores in descending order, without interpolation
(Manning, Raghavan, Schütze, "Introduction to Information Retrieval", 2008; from memory). Images
with equal scores enter together, so the result does not depend on their order. PASCAL VOC's
interpolated AP differs slightly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsseg.evaluate.metrics import nan_mean


def average_precision(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Compute the average precision of every class.

    Args:
        scores: (N, C) numbers, higher means the class is more likely; logits or probabilities.
        tags: (N, C) bool, whether the image shows the class. Leave untagged images out.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class that no image shows.

    Raises:
        ValueError: When the shapes differ or a score is NaN.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.9], [0.8], [0.1]])
        >>> average_precision(scores, np.array([[True], [False], [True]])).round(3).tolist()
        [0.833]
    """
    if scores.shape != tags.shape or scores.ndim != 2:
        raise ValueError(f"Expected two arrays (N, C), got {scores.shape} and {tags.shape}.")
    if np.isnan(scores).any():
        raise ValueError("The scores hold NaN; the classifier has diverged.")
    columns = zip(scores.T, tags.T.astype(bool), strict=True)
    return np.array([_one_class(score, tag) for score, tag in columns], dtype=np.float64)


def _one_class(scores: np.ndarray, tags: np.ndarray) -> float:
    num_positives = int(tags.sum())
    if num_positives == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(tags[order])
    # Only the last image of each run of equal scores is a threshold.
    is_last = np.append(np.diff(scores[order]) != 0, True)
    hits, ranks = hits[is_last], np.flatnonzero(is_last) + 1
    gained = np.diff(hits, prepend=0)
    return float(np.sum(gained * hits / ranks) / num_positives)


def classifier_entry(
    scores: np.ndarray, tags: np.ndarray, class_names: Sequence[str], *, split: str
) -> dict[str, Any]:
    """Build the ``classifier`` part of ``metrics.json``.

    Args:
        scores: (N, C) scores of the tagged images.
        tags: (N, C) bool.
        class_names: C names.
        split: The split that the images belong to.

    Returns:
        ``{"split", "map", "ap": {name: value}, "num_images"}``; None where undefined. mAP is the
        mean over the classes that some image shows.

    Example:
        >>> import numpy as np
        >>> classifier_entry(np.array([[0.9]]), np.array([[True]]), ["dent"], split="val")
        {'split': 'val', 'map': 1.0, 'ap': {'dent': 1.0}, 'num_images': 1}
    """
    from wsseg.evaluate.summary import none_if_nan

    ap = average_precision(scores, tags)
    values = [none_if_nan(value) for value in ap]
    return {
        "split": split,
        "map": none_if_nan(nan_mean(ap)),
        "ap": dict(zip(class_names, values, strict=True)),
        "num_images": len(scores),
    }
