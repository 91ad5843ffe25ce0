"""Images and masks on disk: any format Pillow opens comes in, palette PNG goes out.

Rules, the same for every image:

* Orientation: pixels are turned upright as the EXIF orientation says. Masks always match the
  upright image; :func:`to_stored_orientation` turns one back for tools that ignore EXIF.
* Grey, 1-bit, palette, CMYK and other colour spaces become RGB. Embedded colour profiles are not
  applied.
* Transparency is composited on white.
* More than 8 bits per grey value: the depth is the smallest of 8, 10, 12, 14 and 16 bits that
  holds the largest value of the image, and the full range of that depth becomes 0..255. Values
  that are negative or larger than 65535 are stretched from their minimum..maximum instead.
* Floating point: a range inside 0..1 is multiplied by 255, other ranges follow the rule above.
* Several pages or frames: the first one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from wsseg.data.labels import IGNORE, ClassList, voc_palette
from wsseg.errors import DataError

_SUFFIX_NAMES = "avif bmp dib gif j2k jp2 jpe jpeg jpg jfif pbm pgm png pnm ppm tga tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIX_NAMES.split())
"""Lower-case suffixes that readers take for images when they list a folder."""

_ORIENTATION_TAG = 0x0112
_BIT_DEPTHS = (8, 10, 12, 14, 16)
_MAX_VALUES_SHOWN = 8


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image as upright RGB.

    Args:
        path: Any file that Pillow opens. The rules for depth, transparency and orientation are
            those of this module.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: If the file is missing, empty, damaged, truncated, too large or not an image.
    """
    with _opened(path) as picture:
        picture.load()
        array = _to_rgb(picture, path)
        return _contiguous(_upright(array, _orientation(picture)))


def image_size(path: Path) -> tuple[int, int]:
    """Read the size (H, W) in pixels of the upright image, without decoding it where possible.

    Raises:
        DataError: If the file is missing, empty or not an image.
    """
    with _opened(path) as picture:
        width, height = picture.size
        # Pillow announces the upright size of a TIFF itself.
        turned = picture.format != "TIFF" and _orientation(picture) >= 5
        return (width, height) if turned else (height, width)


def read_mask(path: Path, classes: ClassList | None = None) -> npt.NDArray[np.uint8]:
    """Read an index mask; the stored values are the class ids, a palette is not applied.

    Args:
        path: Palette or grey image, 8 bits (or 16 bits with values below 256).
        classes: Where given, values other than 0..C and 255 are an error.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: If the file is unreadable, a colour picture, a JPEG, or holds values outside
            the class list; the message names the file and the values.
    """
    with _opened(path) as picture:
        picture.load()
        if picture.format == "JPEG":
            raise DataError(
                f"{path}: a mask must not be a JPEG, whose compression changes class ids. "
                "Export the masks again as PNG."
            )
        if picture.mode not in {"P", "L", "1", "I", "I;16", "I;16B", "I;16L"}:
            raise DataError(_colour_mask_message(picture, path))
        values = _upright(np.asarray(picture), _orientation(picture))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        raise DataError(
            f"{path}: mask values reach from {low} to {high}; expected class ids 0 to 255. It may "
            "be an instance mask: write the class id instead of the instance number."
        )
    mask = _contiguous(values.astype(np.uint8))
    if classes is not None:
        check_mask_values(mask, classes, path)
    return mask


def write_mask(path: Path, mask: npt.NDArray[np.uint8], palette: bool = True) -> None:
    """Write a mask as 8-bit PNG, atomically.

    Args:
        path: File to write, usually ending in ``.png``; its folder is made where missing.
        mask: (H, W) uint8 class ids, 255 = ignore, in the orientation of the upright image.
        palette: Whether to add the PASCAL VOC colours, which make the mask visible in any
            viewer. The stored values are the same without.

    Raises:
        ValueError: If the mask is not a two-dimensional uint8 array.
        OutputError: If the file cannot be written.
    """
    from wsseg.atomic import atomic_path

    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise ValueError(f"mask must be (H, W) uint8, got {mask.shape} {mask.dtype}.")
    picture = Image.fromarray(np.ascontiguousarray(mask))
    if palette:
        # putpalette turns a grey picture into a palette picture with the same indices.
        picture.putpalette(voc_palette().tobytes())
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        picture.save(stream, format="PNG")


def to_stored_orientation(mask: npt.NDArray[np.uint8], image_path: Path) -> npt.NDArray[np.uint8]:
    """Turn a mask of the upright image back to the orientation stored in the image file.

    Args:
        mask: (H, W) uint8 that matches the upright image.
        image_path: The image with the EXIF orientation.

    Returns:
        (H, W) or (W, H) uint8 that matches the pixels for tools that ignore EXIF. TIFF images
        are never turned, because most tools read them upright as Pillow does.

    Raises:
        DataError: If the image is unreadable.
    """
    with _opened(image_path) as picture:
        orientation = 1 if picture.format == "TIFF" else _orientation(picture)
    # Turning by 90 degrees is undone by the opposite turn; the other six undo themselves.
    return _contiguous(_upright(mask, {6: 8, 8: 6}.get(orientation, orientation)))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever Pillow raises becomes a DataError that names file and remedy."""
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes). Copy it again or remove it.")
        with Image.open(path) as picture:
            yield picture
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path, or remove its label.") from None
    except Image.DecompressionBombError as fault:
        raise DataError(
            f"{path}: the image is too large ({fault}). Cut it into smaller images; or, if you "
            "trust the file, raise PIL.Image.MAX_IMAGE_PIXELS from Python."
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path}: not an image, or in a format that Pillow does not read. Convert it to PNG "
            "or JPEG, or remove it."
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as fault:
        raise DataError(
            f"{path}: the image is damaged or truncated ({fault}). Copy it again from its source "
            "or remove it."
        ) from fault
    except (IndexError, KeyError, TypeError, OverflowError) as fault:
        raise DataError(f"{path}: the image is damaged ({fault!r}). Copy it again.") from fault


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation 1..8; 1 where it is absent or unreadable, as viewers do."""
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Undo an EXIF orientation on (H, W) or (H, W, 3)."""
    match orientation:
        case 2:
            return array[:, ::-1]
        case 3:
            return array[::-1, ::-1]
        case 4:
            return array[::-1]
        case 5:
            return array.swapaxes(0, 1)
        case 6:
            return np.rot90(array, -1)
        case 7:
            return array[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(array, 1)
        case _:
            return array


def _contiguous(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Copy into an own, writable array in row order."""
    return np.array(array, dtype=np.uint8, order="C")


def _to_rgb(picture: Image.Image, path: Path) -> npt.NDArray[np.uint8]:
    """Convert a loaded picture to (H, W, 3) uint8, in the stored orientation."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = _to_8_bits(np.asarray(picture), path)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, with_alpha).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


def _to_8_bits(values: npt.NDArray[Any], path: Path) -> npt.NDArray[np.uint8]:
    """Scale deep grey values to 0..255 by the rules of this module."""
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise DataError(
            f"{path}: the image holds NaN or infinite values. Replace them, e.g. by 0, and save "
            "it again."
        )
    low, high = float(wide.min()), float(wide.max())
    if low < 0 or high > 65535:
        return np.rint((wide - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)
    if values.dtype.kind == "f" and high <= 1:
        return np.rint(wide * 255).astype(np.uint8)
    full = next(2**bits - 1 for bits in _BIT_DEPTHS if high <= 2**bits - 1)
    return np.rint(wide * (255 / full)).astype(np.uint8)


def _colour_mask_message(picture: Image.Image, path: Path) -> str:
    """Explain why a colour picture is not taken for a mask."""
    colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    shown = ", ".join(str(tuple(colour)) for colour in colours[:_MAX_VALUES_SHOWN].tolist())
    known = {tuple(colour) for colour in voc_palette().tolist()}
    hint = ""
    if all(tuple(colour) in known for colour in colours.tolist()):
        hint = " The colours are those of the PASCAL VOC colour map, so the ids can be restored."
    return (
        f"{path}: a mask stores class ids, but this is a {picture.mode} picture with "
        f"{len(colours)} colours ({shown}{', ...' if len(colours) > _MAX_VALUES_SHOWN else ''}). "
        f"Save it as 8-bit palette or grey PNG whose value is the class id.{hint}"
    )


def check_mask_values(mask: npt.NDArray[np.uint8], classes: ClassList, path: Path) -> None:
    """Refuse a mask with values outside the class list.

    Args:
        mask: (H, W) uint8.
        classes: The class list.
        path: The mask's file, for the message.

    Raises:
        DataError: When a value is neither 0 to C nor 255.
    """
    present = np.unique(mask)
    outside = present[(present > classes.num_classes) & (present != IGNORE)].tolist()
    if not outside:
        return
    shown = ", ".join(str(value) for value in outside[:_MAX_VALUES_SHOWN])
    more = f" and {len(outside) - _MAX_VALUES_SHOWN} more" if len(outside) > 8 else ""
    raise DataError(
        f"{path}: the mask has the values {shown}{more}, which are not in the class list; expected "
        f"class ids 0 to {classes.num_classes} and {IGNORE}. Save the class ids instead of grey "
        "levels or colours, or add the missing classes to classes.csv."
    )
