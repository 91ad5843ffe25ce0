"""Superpixel pooling: every superpixel gets the mean of its scores, so that outlines follow edges.

The oldest weight-free repair of blurred maps; the superpixels are those of
`wsseg.refine.superpixels`:

    s'_c(x) = mean of s_c over the superpixel of x, at the size of the image

All rows are pooled, the background row too: a background rule may come before or after. What
lies inside one superpixel can no longer be told apart, so superpixels must be smaller than the
smallest object.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image
from wsseg.refine.superpixels import SuperpixelConfig, cached_superpixels, pool


class SuperpixelPooling(SuperpixelConfig, MethodConfig):
    """Settings of `superpixel_pooling`."""

    name: Literal["superpixel_pooling"] = Field(
        "superpixel_pooling", description="Which refiner: mean of the scores per superpixel."
    )


def superpixel_pooling(
    image: np.ndarray,
    scores: Scores,
    *,
    config: SuperpixelPooling = SuperpixelPooling(),
    context: RefineContext | None = None,
) -> Scores:
    """Average the scores over superpixels.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: Scores of the image.
        config: Which superpixels.
        context: Its cache keeps the superpixels of the image.

    Returns:
        Scores at full size (K, H, W); row 0 is pooled like the others (1 for an image without
        classes).

    Raises:
        DataError: When the image does not belong to the scores.

    Example:
        >>> image = np.zeros((8, 8, 3), np.uint8)
        >>> image[:, 4:] = 255
        >>> values = np.zeros((2, 8, 8), np.float32)
        >>> values[1, :, 4:6] = 1.0
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (8, 8))
        >>> config = SuperpixelPooling(method="felzenszwalb", sigma_px=0, min_area_px=20)
        >>> superpixel_pooling(image, scores, config=config).values[1, 0].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]
    """
    check_image(image, scores)
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    labels = cached_superpixels(image, config, context)
    return replace(full, values=pool(full.values, labels))
