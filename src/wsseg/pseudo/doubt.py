"""Doubt: how unsure a pseudo mask is, without looking at any label map of a person.

Four signs, each in [0, 1]; the images that deserve a look come first:

* uncertainty: u = Σ_x w(x) (1 - (p1(x) - p2(x))) / Σ_x w(x), where p are the scores of a pixel
  divided by their sum, p1 and p2 the two largest, and w = 1 - p_background. Weighting by the
  foreground share keeps a large sure background from hiding an unsure object;
* ignored: share of ignore pixels among those that are not background;
* missing: share of the tagged classes that got no pixel;
* extreme: how far the area of a class is from what is usual in the data set. With z the distance
  of log(area fraction) from the median over images, in units of 1.4826 median absolute
  deviations (at least 0.25), extreme = clip((z - 2) / 2, 0, 1), the largest over the classes.
  A class with fewer than 5 images has no "usual".

    doubt = 1 - (1 - uncertainty / 2) (1 - ignored / 2) (1 - missing) (1 - extreme / 2)

Each sign can only raise the doubt; a tagged class that is altogether missing is certain to be
wrong. The score orders images, it is no probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.data.scores import Scores

_MIN_IMAGES = 5
_MIN_DEVIATION = 0.25


@dataclass(frozen=True)
class MaskEvidence:
    """What the doubt of one image is made of; all JSON-able.

    Args:
        uncertainty: In [0, 1].
        ignored: In [0, 1].
        missing: In [0, 1].
        areas: Area fraction of each class that has pixels.
    """

    uncertainty: float
    ignored: float
    missing: float
    areas: dict[int, float] = field(default_factory=dict)


def mask_evidence(
    scores: Scores, mask: np.ndarray, tags: frozenset[int] | None = None
) -> MaskEvidence:
    """Gather the signs of doubt of one image.

    Args:
        scores: The scores that the mask was made from.
        mask: (H, W) uint8 pseudo mask.
        tags: Class ids that a person gave; None when the image is not tagged.

    Returns:
        The signs; an image without classes has none.

    Example:
        >>> values = np.array([[[0.5, 0.5]], [[0.5, 0.0]]], np.float32)
        >>> scores = Scores(values, np.array([0, 1], np.uint8), (1, 2))
        >>> mask_evidence(scores, np.array([[255, 0]], np.uint8), frozenset({1}))
        MaskEvidence(uncertainty=1.0, ignored=1.0, missing=1.0, areas={})
    """
    counts = np.bincount(mask.reshape(-1), minlength=256)
    present = [int(c) for c in np.flatnonzero(counts) if c not in (BACKGROUND, IGNORE)]
    not_background = int(mask.size - counts[BACKGROUND])
    missing = 0.0
    if tags:
        missing = len(tags - set(present)) / len(tags)
    return MaskEvidence(
        uncertainty=_uncertainty(scores.values),
        ignored=float(counts[IGNORE] / not_background) if not_background else 0.0,
        missing=missing,
        areas={class_id: float(counts[class_id] / mask.size) for class_id in present},
    )


def _uncertainty(values: np.ndarray) -> float:
    """Average 1 - margin over pixels, weighted by their foreground share."""
    if len(values) == 1:
        return 0.0
    total = values.sum(axis=0)
    shares = values / np.where(total > 0, total, 1)
    weight = np.where(total > 0, 1 - shares[0], 0)
    second, best = np.partition(shares, (-2, -1), axis=0)[-2:]
    weight_sum = float(weight.sum(dtype=np.float64))
    if weight_sum <= 0:
        return 0.0
    mean = float((weight * (1 - (best - second))).sum(dtype=np.float64)) / weight_sum
    return min(max(mean, 0.0), 1.0)


def doubt_scores(evidence: Mapping[str, MaskEvidence]) -> dict[str, float]:
    """Compute the doubt of every image of a data set.

    Args:
        evidence: The signs of each image, by image id.

    Returns:
        ``{image id: doubt}`` in the order of the input, each in [0, 1].

    Example:
        >>> signs = {"a": MaskEvidence(0.0, 0.0, 0.0), "b": MaskEvidence(0.4, 0.0, 0.0)}
        >>> doubt_scores(signs)
        {'a': 0.0, 'b': 0.2}
    """
    usual = _usual_areas(evidence)
    result = {}
    for image_id, signs in evidence.items():
        trust = (
            (1 - signs.uncertainty / 2)
            * (1 - signs.ignored / 2)
            * (1 - signs.missing)
            * (1 - _extreme(signs.areas, usual) / 2)
        )
        result[image_id] = round(min(max(1 - trust, 0.0), 1.0), 6)
    return result


def _usual_areas(evidence: Mapping[str, MaskEvidence]) -> dict[int, tuple[float, float]]:
    """Give median and deviation of the log area of every class with enough images."""
    logs: dict[int, list[float]] = {}
    for signs in evidence.values():
        for class_id, area in signs.areas.items():
            logs.setdefault(class_id, []).append(float(np.log(area)))
    usual = {}
    for class_id, values in logs.items():
        if len(values) >= _MIN_IMAGES:
            middle = float(np.median(values))
            deviation = 1.4826 * float(np.median(np.abs(np.array(values) - middle)))
            usual[class_id] = (middle, max(deviation, _MIN_DEVIATION))
    return usual


def _extreme(areas: Mapping[int, float], usual: Mapping[int, tuple[float, float]]) -> float:
    highest = 0.0
    for class_id, area in areas.items():
        if class_id in usual:
            middle, deviation = usual[class_id]
            distance = abs(float(np.log(area)) - middle) / deviation
            highest = max(highest, min(max((distance - 2) / 2, 0.0), 1.0))
    return highest
