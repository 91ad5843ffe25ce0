"""Images at the size that a run works with: shrunk to a longest side where the recipe says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.data.image_io import read_image


def working_size(size: tuple[int, int], max_side_px: int | None) -> tuple[int, int]:
    """Shrink a size so that its longer side fits.

    Args:
        size: (H, W) in pixels.
        max_side_px: The longest side allowed; None allows any.

    Returns:
        (H, W), each at least 1.

    Example:
        >>> working_size((300, 600), 200)
        (100, 200)
    """
    longest = max(size)
    if max_side_px is None or longest <= max_side_px:
        return size
    factor = max_side_px / longest
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def read_working_image(path: Path, max_side_px: int | None) -> NDArray[np.uint8]:
    """Read an image and shrink it by area averaging where it is larger than allowed.

    Args:
        path: Any file that Pillow opens.
        max_side_px: The longest side allowed, in pixels; None reads the image as it is.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: When the file cannot be read.
    """
    image = read_image(path)
    height, width = working_size(image.shape[:2], max_side_px)
    if (height, width) == image.shape[:2]:
        return image
    import cv2

    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)
