"""Confident areas: where class maps are sure of a class or of the background, and where not.

Affinity networks (AffinityNet, IRN) learn which pixels belong together from the maps of the very
images that they will correct, so they look only at pixels whose label is hardly in doubt. Both
rules ask a dense CRF twice, once with so much background that what is left is confident
foreground, once with so little that what is left of the background is confident too:

* two alphas (Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision
  for Weakly Supervised Semantic Segmentation", CVPR 2018): background (1 - max_c s_c)^alpha with a
  low and a high alpha. A pixel that both rules claim is background.
* two thresholds (Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with
  Inter-pixel Relations", CVPR 2019): a high and a low constant background, and a CRF that sees
  the resulting labels instead of the scores. A pixel that both rules claim is foreground.

Only the class rows of the scores are used; whatever a background rule wrote into row 0 is not.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.data.scores import Scores
from wsseg.kernels.dense_crf_config import IRN, PSA, CrfConfig
from wsseg.refine.dense_crf import DenseCrf, dense_crf
from wsseg.refine.protocol import RefineContext, check_image

Labels = npt.NDArray[np.uint8]
Cache = dict[Hashable, Any]

# Where no label reaches this, a map shows padding and not the image (PSA's own constant).
MIN_SCORE = 1e-5


class Marginals(NamedTuple):
    """What the two CRFs of the rule of two alphas say, at the size of the image.

    Attributes:
        low: Marginals with much background (low alpha), which tell confident foreground.
        high: Marginals with little background (high alpha), which tell confident background.
    """

    low: Scores
    high: Scores


def affinity_labels_two_alphas(
    image: npt.NDArray[np.uint8],
    scores: Scores,
    *,
    alpha_low: float = 4.0,
    alpha_high: float = 32.0,
    crf: CrfConfig = PSA,
    cache: Cache | None = None,
    device: str = "cpu",
) -> Labels:
    """Label confident pixels by PSA's rule: a low and a high exponent of the background.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        scores: Scores of that image; row 0 is not used. Not changed.
        alpha_low: Exponent > 0 that gives much background.
        alpha_high: Exponent > ``alpha_low`` that gives little background.
        crf: Kernels and iterations of both CRFs.
        cache: Keeps the lattices for further CRFs on the image; None: for these two only.
        device: Where the CRF runs.

    Returns:
        (H, W) uint8: 0 confident background, a class id where that class is confident, 255
        elsewhere. All background for an image without classes.

    Raises:
        DataError: When the image does not belong to the scores.
        ValueError: When the exponents are not 0 < low < high.

    Example:
        >>> image = np.zeros((4, 6, 3), np.uint8)
        >>> image[:, 3:] = 200
        >>> values = np.full((2, 4, 6), 0.02, np.float32)
        >>> values[1, :, 3:] = 0.9
        >>> scores = Scores(values, np.array([0, 7], np.uint8), (4, 6))
        >>> affinity_labels_two_alphas(image, scores)[0].tolist()
        [0, 0, 0, 7, 7, 7]
    """
    marginals = two_alpha_marginals(
        image,
        scores,
        alpha_low=alpha_low,
        alpha_high=alpha_high,
        crf=crf,
        cache=cache,
        device=device,
    )
    return labels_from_marginals(marginals.low.values, marginals.high.values, scores.class_ids)


def two_alpha_marginals(
    image: npt.NDArray[np.uint8],
    scores: Scores,
    *,
    alpha_low: float = 4.0,
    alpha_high: float = 32.0,
    crf: CrfConfig = PSA,
    cache: Cache | None = None,
    device: str = "cpu",
) -> Marginals:
    """Run the two CRFs of PSA's rule; see `affinity_labels_two_alphas` for the arguments.

    Returns:
        Marginals (K, H, W) with a low and with a high exponent; all 1 for an image without
        classes.

    Raises:
        DataError: When the image does not belong to the scores.
        ValueError: When the exponents are not 0 < low < high.
    """
    if not 0 < alpha_low < alpha_high:
        raise ValueError(
            f"alpha_low is {alpha_low} and alpha_high {alpha_high}; expected 0 < low < high."
        )
    check_image(image, scores)
    settings = DenseCrf(**crf.model_dump())
    context = RefineContext(device=device, cache={} if cache is None else cache)
    full = replace(scores, values=scores.resized())
    low, high = (
        dense_crf(image, with_power_background(full, alpha), config=settings, context=context)
        for alpha in (alpha_low, alpha_high)
    )
    return Marginals(low, high)


def with_power_background(scores: Scores, alpha: float) -> Scores:
    """Write (1 - strongest class)^alpha into row 0; 1 where there is no class.

    Args:
        scores: Scores; not changed.
        alpha: Exponent > 0; a higher one gives less background.

    Returns:
        Scores whose other rows are the same.

    Example:
        >>> values = np.array([[[0.9]], [[0.5]], [[0.25]]], np.float32)
        >>> scores = Scores(values, np.array([0, 3, 7], np.uint8), (1, 1))
        >>> with_power_background(scores, 4).values[:, 0, 0].tolist()
        [0.0625, 0.5, 0.25]
    """
    strongest = scores.values[1:].max(axis=0, initial=0.0)
    return scores.with_background(((1 - strongest) ** np.float32(alpha)).astype(np.float32))


def labels_from_marginals(
    low: npt.NDArray[np.float32],
    high: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.uint8],
) -> Labels:
    """Combine the two CRFs of PSA's rule, at any resolution.

    Args:
        low: (K, h, w) marginals with much background, row 0 the background.
        high: (K, h, w) marginals with little background.
        class_ids: (K,) ids of the rows.

    Returns:
        (h, w) uint8: a class id where that class wins in ``low``; 0 where the background wins in
        ``high``, also where a class wins in ``low``; 255 elsewhere, and where ``low`` is below
        1e-5 in every row, which is padding.

    Example:
        >>> low = np.array([[[0.1, 0.6, 0.6]], [[0.9, 0.4, 0.4]]], np.float32)
        >>> high = np.array([[[0.0, 0.3, 0.8]], [[1.0, 0.7, 0.2]]], np.float32)
        >>> labels_from_marginals(low, high, np.array([0, 7], np.uint8)).tolist()
        [[7, 255, 0]]
    """
    labels = class_ids[low.argmax(axis=0)]
    labels[labels == BACKGROUND] = IGNORE
    labels[high.argmax(axis=0) == 0] = BACKGROUND
    labels[low.max(axis=0) < MIN_SCORE] = IGNORE
    return labels


def affinity_labels_two_thresholds(
    image: npt.NDArray[np.uint8],
    scores: Scores,
    *,
    fg_threshold: float = 0.30,
    bg_threshold: float = 0.05,
    crf: CrfConfig = IRN,
    gt_prob: float = 0.7,
    cache: Cache | None = None,
    device: str = "cpu",
) -> Labels:
    """Label confident pixels by IRN's rule: a high and a low constant background.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        scores: Scores of that image; row 0 is not used. Not changed.
        fg_threshold: Background score in [0, 1]; what beats it is confident foreground.
        bg_threshold: Background score in [0, ``fg_threshold``]; what it beats is confident
            background.
        crf: Kernels and iterations of both CRFs.
        gt_prob: How sure the CRFs take the labels of the thresholds to be, in (0, 1).
        cache: Keeps the lattices for further CRFs on the image; None: for these two only.
        device: Where the CRF runs.

    Returns:
        (H, W) uint8: 0 confident background, a class id where that class is confident, 255
        elsewhere. All background for an image without classes.

    Raises:
        DataError: When the image does not belong to the scores.
        ValueError: When the thresholds are not 0 <= background <= foreground <= 1.

    Example:
        >>> image = np.zeros((1, 6, 3), np.uint8)
        >>> image[:, 2:4], image[:, 4:] = 100, 200
        >>> values = np.zeros((2, 1, 6), np.float32)
        >>> values[1, 0] = [0, 0, 0.2, 0.2, 0.9, 0.9]
        >>> scores = Scores(values, np.array([0, 7], np.uint8), (1, 6))
        >>> no_blur = CrfConfig(gauss_compat=0, bilateral_sxy_px=50, bilateral_srgb=5)
        >>> affinity_labels_two_thresholds(image, scores, crf=no_blur).tolist()
        [[0, 0, 255, 255, 7, 7]]
    """
    if not 0 <= bg_threshold <= fg_threshold <= 1:
        raise ValueError(
            f"bg_threshold is {bg_threshold} and fg_threshold {fg_threshold}; expected "
            "0 <= background <= foreground <= 1."
        )
    check_image(image, scores)
    if len(scores.class_ids) == 1:
        return np.full(scores.size, BACKGROUND, np.uint8)
    settings = DenseCrf(**crf.model_dump(), gt_prob=gt_prob)
    context = RefineContext(device=device, cache={} if cache is None else cache)
    full = replace(scores, values=scores.resized())
    labels = []
    for threshold in (fg_threshold, bg_threshold):
        cut = full.with_background(np.full(scores.size, threshold, np.float32))
        winner = dense_crf(image, cut, config=settings, context=context).values.argmax(axis=0)
        labels.append(scores.class_ids[winner])
    confident, generous = labels
    result = confident.copy()
    result[confident == BACKGROUND] = IGNORE
    result[(confident == BACKGROUND) & (generous == BACKGROUND)] = BACKGROUND
    return result
