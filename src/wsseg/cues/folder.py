"""Cues that lie in a folder: one grey picture per image, matched by the image's id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.data.image_io import IMAGE_SUFFIXES, read_image
from wsseg.errors import DataError


def read_cue(folder: Path, sample_id: str, size: tuple[int, int]) -> NDArray[np.float32]:
    """Read the map of one image, such as the saliency map of any other tool.

    Args:
        folder: Folder of the maps; ``folder/ID.png`` (or another image suffix) belongs to ID.
        sample_id: Id of the image, a relative path without suffix.
        size: (H, W) of the image; maps of another size with the same shape are resized.

    Returns:
        (H, W) float32 in [0, 1]; white is 1.

    Raises:
        DataError: When the map is missing, unreadable, or of another shape than the image.
    """
    path = _find(folder, sample_id)
    values = read_image(path)[:, :, 0].astype(np.float32) / np.float32(255)
    if values.shape == size:
        return values
    height, width = values.shape
    # One pixel of rounding per side is what shrinking to a longest side can do.
    if abs(height * size[1] - width * size[0]) > max(height, width) + max(size):
        raise DataError(
            f"{path}: the map is {width} x {height} px, its image {size[1]} x {size[0]} px. Make "
            "it from the image as it is, upright and not cropped."
        )
    import cv2

    resized = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 1)


def _find(folder: Path, sample_id: str) -> Path:
    for suffix in (".png", *sorted(IMAGE_SUFFIXES - {".png"})):
        path = folder / f"{sample_id}{suffix}"
        if path.is_file():
            return path
    raise DataError(
        f"{folder / sample_id}.png: there is no map for this image. Add it, or use another "
        "background rule."
    )
