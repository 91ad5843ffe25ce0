"""Guided filter: each score map becomes, in every window, a linear function of the image's colours.

    window w:   q_i = a_w · I_i + b_w,   (a_w, b_w) minimise  sum_{i in w} (q_i - p_i)² + ε |a_w|²
                a_w = (Σ_w + ε U)^-1 cov_w(I, p),   b_w = mean_w(p) - a_w · mean_w(I)
    output:     q_i = mean over the windows around i of a_w · I_i + mean of b_w

with the colours I in [0, 1], their covariance Σ_w, and the map p. Where the image has an edge, the
map gets one; where it is flat, the map is blurred. The cost does not depend on the radius.

Reference: K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010; IEEE TPAMI 2013 (the colour
form). Differences: none in the filter; windows are cut off at the border of the image, as in the
authors' code (from memory), and results are clipped to [0, 1].

All rows are filtered, the background row too: a background rule may come before or after.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image

Doubles = npt.NDArray[np.float64]


class GuidedFilter(MethodConfig):
    """Settings of `guided_filter`."""

    name: Literal["guided_filter"] = Field(
        "guided_filter", description="Which refiner: score maps as linear functions of the colours."
    )
    radius_frac: float = Field(
        0.04,
        gt=0,
        le=1,
        description="Radius of the window as a fraction of the longer side of the image, at least "
        "one pixel.",
    )
    radius_px: int | None = Field(
        None, ge=1, le=10_000, description="Radius in pixels instead; null: by `radius_frac`."
    )
    eps: float = Field(
        1e-3,
        ge=1e-8,
        le=10,
        description="Variance of colours (in [0, 1]) below which an area counts as flat; higher "
        "blurs more.",
    )


def guided_filter(
    image: np.ndarray,
    scores: Scores,
    *,
    config: GuidedFilter = GuidedFilter(),
    context: RefineContext | None = None,  # noqa: ARG001 - every refiner has the same signature
) -> Scores:
    """Filter the scores with the image as a guide.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: Scores of the image.
        config: Radius and regularisation.
        context: Not used.

    Returns:
        Scores at full size (K, H, W); row 0 is filtered like the others (1 for an image without
        classes).

    Raises:
        DataError: When the image does not belong to the scores.

    Example:
        >>> image = np.zeros((1, 6, 3), np.uint8)
        >>> image[:, 3:] = 255
        >>> values = np.zeros((2, 1, 6), np.float32)
        >>> values[1, 0] = [0.0, 0.0, 0.3, 0.7, 1.0, 1.0]
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (1, 6))
        >>> config = GuidedFilter(radius_px=2, eps=1e-4)
        >>> [round(float(v), 2) for v in guided_filter(image, scores, config=config).values[1, 0]]
        [0.1, 0.11, 0.15, 0.85, 0.89, 0.9]
    """
    check_image(image, scores)
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    radius_px = config.radius_px or max(1, round(config.radius_frac * max(full.size)))
    guide = image.astype(np.float64) / 255
    return replace(full, values=filter_maps(full.values, guide, radius_px, config.eps))


def filter_maps(
    values: npt.NDArray[np.float32], guide: Doubles, radius_px: int, eps: float
) -> npt.NDArray[np.float32]:
    """Filter maps with a colour guide.

    Args:
        values: (K, H, W) float32 in [0, 1].
        guide: (H, W, 3) float64 in [0, 1].
        radius_px: Windows have 2 * radius_px + 1 pixels per side, less at the border.
        eps: Regularisation, > 0.

    Returns:
        (K, H, W) float32, clipped to [0, 1].
    """
    # A window that covers the whole image everywhere grows no further.
    radius_px = min(radius_px, max(guide.shape[:2]))
    counts = _box_sum(np.ones(guide.shape[:2]), radius_px)
    mean = _box_sum(guide, radius_px) / counts[..., None]
    inverse = _inverse_covariance(guide, mean, counts, radius_px, eps)
    filtered = np.empty_like(values)
    for row, source in zip(filtered, values, strict=True):
        target = source.astype(np.float64)
        target_mean = _box_sum(target, radius_px) / counts
        products = _box_sum(guide * target[..., None], radius_px) / counts[..., None]
        covariance = products - mean * target_mean[..., None]
        slope = np.einsum("hwij,hwj->hwi", inverse, covariance)
        offset = target_mean - (slope * mean).sum(axis=2)
        slope = _box_sum(slope, radius_px) / counts[..., None]
        offset = _box_sum(offset, radius_px) / counts
        row[:] = np.clip((slope * guide).sum(axis=2) + offset, 0.0, 1.0)
    return filtered


def _inverse_covariance(
    guide: Doubles, mean: Doubles, counts: Doubles, radius_px: int, eps: float
) -> Doubles:
    """Invert the covariance of the colours around each pixel plus eps: (H, W, 3, 3)."""
    outer = guide[..., :, None] * guide[..., None, :]
    sums = _box_sum(outer.reshape(*guide.shape[:2], 9), radius_px).reshape(outer.shape)
    covariance = sums / counts[..., None, None] - mean[..., :, None] * mean[..., None, :]
    return np.asarray(np.linalg.inv(covariance + eps * np.eye(3)), np.float64)


def _box_sum(planes: Doubles, radius_px: int) -> Doubles:
    """Sum (H, W) or (H, W, D) over the windows, as far as they lie in the image."""
    import cv2

    side = 2 * radius_px + 1
    sums = cv2.boxFilter(
        np.ascontiguousarray(planes),
        cv2.CV_64F,
        (side, side),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    return np.asarray(sums, np.float64)
