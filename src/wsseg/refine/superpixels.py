"""Superpixels for refiners: cut once per image, and scores pooled over them.

The superpixels themselves are those of `wsseg.cues.superpixels`.
"""

from __future__ import annotations

import numpy as np

from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.refine.protocol import RefineContext

__all__ = ["SuperpixelConfig", "cached_superpixels", "pool", "superpixels"]


def cached_superpixels(
    image: np.ndarray, config: SuperpixelConfig, context: RefineContext | None
) -> np.ndarray:
    """Cut an image into superpixels once for all refiners of that image.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: Which superpixels.
        context: Its cache keeps them; None computes them anew.

    Returns:
        (H, W) int64, as from `superpixels`.
    """
    settings = config.superpixels()
    if context is None:
        return superpixels(image, settings)
    key = ("superpixels", settings)
    if key not in context.cache:
        context.cache[key] = superpixels(image, settings)
    return context.cache[key]


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
