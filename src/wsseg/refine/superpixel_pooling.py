"""Superpixel pooling: every superpixel gets the mean of its scores, so that outlines follow edges.

The oldest weight-free repair of blurred maps. Superpixels are SLIC (Achanta, Shaji, Smith,
Lucchi, Fua, Süsstrunk, "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", IEEE
TPAMI 2012) or the graph-based ones of Felzenszwalb & Huttenlocher, "Efficient Graph-Based Image
Segmentation", IJCV 2004, both by scikit-image:

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

# Below this side length superpixel methods have no room for their windows.
_MIN_SIDE_PX = 4


class SuperpixelPooling(MethodConfig):
    """Settings of `superpixel_pooling`."""

    name: Literal["superpixel_pooling"] = Field(
        "superpixel_pooling", description="Which refiner: mean of the scores per superpixel."
    )
    method: Literal["slic", "felzenszwalb"] = Field(
        "slic",
        description="`slic`: compact superpixels of about equal area; `felzenszwalb`: areas "
        "that adapt to the contrast.",
    )
    area_px: int = Field(
        200, ge=4, le=100_000, description="`slic`: mean area of a superpixel in pixels."
    )
    compactness: float = Field(
        10.0, gt=0, le=1000, description="`slic`: weight of distance against colour (Lab units)."
    )
    sigma_px: float = Field(
        1.0, ge=0, le=20, description="Gaussian blur before the segmentation, in pixels."
    )
    scale: float = Field(
        100.0, gt=0, le=100_000, description="`felzenszwalb`: higher gives larger superpixels."
    )
    min_area_px: int = Field(
        50, ge=1, le=100_000, description="`felzenszwalb`: smallest superpixel in pixels."
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
    labels = _cached_superpixels(image, config, context)
    return replace(full, values=pool(full.values, labels))


def _cached_superpixels(
    image: np.ndarray, config: SuperpixelPooling, context: RefineContext | None
) -> np.ndarray:
    if context is None:
        return superpixels(image, config)
    key = ("superpixel_pooling", config)
    if key not in context.cache:
        context.cache[key] = superpixels(image, config)
    return context.cache[key]


def superpixels(image: np.ndarray, config: SuperpixelPooling = SuperpixelPooling()) -> np.ndarray:
    """Cut an image into superpixels.

    Args:
        image: (H, W, 3) uint8 RGB; three equal channels are handled as grey.
        config: Which superpixels.

    Returns:
        (H, W) int64, numbered from 0. An image with a side below 4 pixels, or smaller than one
        superpixel of SLIC, has one superpixel per pixel.
    """
    height, width = image.shape[:2]
    is_too_small = min(height, width) < _MIN_SIDE_PX
    if is_too_small or (config.method == "slic" and height * width <= config.area_px):
        return np.arange(height * width, dtype=np.int64).reshape(height, width)
    is_grey = bool((image == image[..., :1]).all())
    picture = image[..., 0] if is_grey else image
    labels = _slic(picture, config) if config.method == "slic" else _felzenszwalb(picture, config)
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


def _slic(picture: np.ndarray, config: SuperpixelPooling) -> np.ndarray:
    from skimage.segmentation import slic

    num_superpixels = max(2, round(picture.shape[0] * picture.shape[1] / config.area_px))
    # Colours are compared in Lab, where lightness reaches to 100; grey values only reach to 1.
    is_grey = picture.ndim == 2
    return slic(
        picture,
        n_segments=num_superpixels,
        compactness=config.compactness / 100 if is_grey else config.compactness,
        sigma=config.sigma_px,
        start_label=0,
        channel_axis=None if is_grey else -1,
    )


def _felzenszwalb(picture: np.ndarray, config: SuperpixelPooling) -> np.ndarray:
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(
        picture,
        scale=config.scale,
        sigma=config.sigma_px,
        min_size=config.min_area_px,
        channel_axis=None if picture.ndim == 2 else -1,
    )


def pool(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Replace values by their mean over each region.

    Args:
        values: (K, H, W) float32.
        labels: (H, W) int64 region numbers from 0.

    Returns:
        (K, H, W) float32 within the range of the input.

    Example:
        >>> values = np.array([[[0.0, 1.0, 0.5]]], np.float32)
        >>> pool(values, np.array([[0, 0, 1]])).tolist()
        [[[0.5, 0.5, 0.5]]]
    """
    flat = labels.reshape(-1)
    areas = np.bincount(flat)
    pooled = np.empty_like(values)
    for row, source in zip(pooled, values, strict=True):
        means = np.bincount(flat, weights=source.reshape(-1), minlength=len(areas)) / areas
        row[:] = means[flat].reshape(labels.shape)
    return np.clip(pooled, 0.0, 1.0, out=pooled)
