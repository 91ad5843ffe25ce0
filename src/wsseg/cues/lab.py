"""Images in CIE Lab, where distances are those that people see."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def lab_image(image: np.ndarray) -> npt.NDArray[np.float32]:
    """Convert an image to CIE Lab (D65).

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W, 3) float32: L in [0, 100], a and b about [-128, 127].

    Example:
        >>> lab_image(np.full((1, 1, 3), 255, np.uint8)).round(1).tolist()
        [[[100.0, 0.0, 0.0]]]
    """
    import cv2

    converted = cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
    if (image == image[..., :1]).all():
        # The conversion leaves a trace of colour in grey pixels.
        converted[..., 1:] = 0
    return converted.astype(np.float32, copy=False)
