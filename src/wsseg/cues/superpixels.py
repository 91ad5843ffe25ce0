"""Superpixels: an image cut into small areas of one colour each.

SLIC: Achanta, Shaji, Smith, Lucchi, Fua, Süsstrunk, "SLIC Superpixels Compared to
State-of-the-art Superpixel Methods", IEEE TPAMI 2012. Graph-based: Felzenszwalb & Huttenlocher,
"Efficient Graph-Based Image Segmentation", IJCV 2004. Both by scikit-image.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.config import Config

# Below this side length superpixel methods have no room for their windows.
_MIN_SIDE_PX = 4


class SuperpixelConfig(Config):
    """How an image is cut into superpixels."""

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

    def superpixels(self) -> SuperpixelConfig:
        """The settings of the superpixels alone."""
        return SuperpixelConfig(
            **{key: getattr(self, key) for key in SuperpixelConfig.model_fields}
        )


def superpixels(image: np.ndarray, config: SuperpixelConfig = SuperpixelConfig()) -> np.ndarray:
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


def _slic(picture: np.ndarray, config: SuperpixelConfig) -> np.ndarray:
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


def _felzenszwalb(picture: np.ndarray, config: SuperpixelConfig) -> np.ndarray:
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(
        picture,
        scale=config.scale,
        sigma=config.sigma_px,
        min_size=config.min_area_px,
        channel_axis=None if picture.ndim == 2 else -1,
    )
