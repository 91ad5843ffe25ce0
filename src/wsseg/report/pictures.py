"""Images made small enough, in pixels and in bytes, to live inside one HTML page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsseg.report.model import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL_SIDE_PX = 400
_SMALL_SIDE_PX = 200
_MIN_SIDE_PX = 24
_QUALITIES = (82, 68, 52, 36)
# Lower quality makes a file about this much smaller; when more is needed the size goes down.
_QUALITY_REACH = 2.0


def thumbnail(image: NDArray[np.uint8], *, max_side: int = THUMBNAIL_SIDE_PX) -> NDArray[np.uint8]:
    """Bring an image to a size for viewing.

    A large image is shrunk until its longer side is ``max_side``. A tiny one, below 200 pixels,
    is enlarged by a whole factor without smoothing, so that outlines and numbers can be read.

    Args:
        image: (H, W, 3) uint8 RGB.
        max_side: Pixels.

    Returns:
        (h, w, 3) uint8 with the same aspect ratio, at least one pixel each way; a new array.

    Example:
        >>> thumbnail(np.zeros((10, 40, 3), np.uint8), max_side=20).shape
        (5, 20, 3)
    """
    from PIL import Image

    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= max_side:
        times = max(1, min(_SMALL_SIDE_PX, max_side) // longer)
        return image.repeat(times, axis=0).repeat(times, axis=1)
    factor = max_side / longer
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    shrunk = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(shrunk, dtype=np.uint8)


def picture(image: NDArray[np.uint8], *, max_bytes: int) -> Picture:
    """Encode an image for a page, as WebP (JPEG where Pillow was built without WebP).

    Quality goes down first and then the size, until the encoded file fits.

    Args:
        image: (H, W, 3) uint8 RGB.
        max_bytes: Bound on the encoded file, before base64 adds a third; pictures are not made
            smaller than 24 pixels to reach it.

    Returns:
        The picture as a ``data:`` address.
    """
    from PIL import Image, features

    kind = "webp" if features.check("webp") else "jpeg"
    shown = Image.fromarray(image)
    while True:
        for quality in _QUALITIES:
            content = _encode(shown, kind, quality)
            if len(content) <= max_bytes:
                return _picture(shown, kind, content)
            if len(content) > _QUALITY_REACH * max_bytes:
                break
        if max(shown.size) <= _MIN_SIDE_PX:
            return _picture(shown, kind, content)
        factor = min(0.8, max(0.4, (_QUALITY_REACH * max_bytes / len(content)) ** 0.5))
        size = (max(1, int(shown.width * factor)), max(1, int(shown.height * factor)))
        shown = shown.resize(size, Image.Resampling.LANCZOS)


def _encode(image: Image, kind: str, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def _picture(image: Image, kind: str, content: bytes) -> Picture:
    encoded = base64.b64encode(content).decode("ascii")
    return Picture(f"data:image/{kind};base64,{encoded}", image.width, image.height)
