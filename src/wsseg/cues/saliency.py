"""Saliency without weights: which parts of an image stand out from the rest of it.

One entry for the four methods, each in a file of its own: `rbd` (boundary connectivity; the
default), `mbd` (minimum barrier distance), `ft` (frequency-tuned) and `spectral_residual`. They
know nothing of classes and were made for photographs of one clear object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from wsseg import registry
from wsseg.errors import RecipeError, unknown_name

if TYPE_CHECKING:
    from wsseg.cues.protocol import CueMap

SaliencyMethod = Literal["rbd", "mbd", "ft", "spectral_residual"]

# Relative range below which a map shows rounding only.
_MIN_RANGE = 1e-6


def saliency(image: np.ndarray, method: SaliencyMethod = "rbd") -> CueMap:
    """Tell how much each pixel stands out, with a method's default settings.

    Args:
        image: (H, W, 3) uint8 RGB; grey images have three equal channels.
        method: ``"rbd"``, ``"mbd"``, ``"ft"`` or ``"spectral_residual"``.

    Returns:
        (H, W) float32 in [0, 1]. The highest value is 1, or 0 where nothing stands out.

    Raises:
        DataError: When the image is no (H, W, 3) uint8 array.
        RecipeError: When there is no such method.

    Example:
        >>> image = np.full((40, 60, 3), 90, np.uint8)
        >>> image[15:25, 20:35] = 200, 60, 60
        >>> found = saliency(image, "mbd")
        >>> bool(found[20, 25] > 0.9), bool(found[2, 2] < 0.1)
        (True, True)
    """
    names = get_args(SaliencyMethod)
    if method not in names:
        raise RecipeError(unknown_name("saliency method", method, names))
    function: Callable[[np.ndarray], CueMap] = registry.load("cues", method)
    return function(image)


def stretched(values: np.ndarray) -> CueMap:
    """Map the lowest value to 0 and the highest to 1.

    Args:
        values: (H, W) finite numbers.

    Returns:
        (H, W) float32; zero everywhere where all values are equal up to rounding.

    Example:
        >>> stretched(np.array([[1.0, 2.0, 3.0]])).tolist(), stretched(np.ones((1, 2))).tolist()
        ([[0.0, 0.5, 1.0]], [[0.0, 0.0]])
    """
    low, high = float(values.min()), float(values.max())
    # Stretching rounding would blow it up to a pattern.
    if high - low <= _MIN_RANGE * max(1.0, abs(high)):
        return np.zeros(values.shape, np.float32)
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.clip(scaled, 0, 1).astype(np.float32)
