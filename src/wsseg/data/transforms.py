"""Random changes of image and mask for training, with the sampled geometry given back.

One crop is cut from the source, resized, padded, mirrored and turned; the colours are jittered
and normalised. Everything comes from the random generator that is passed in, so the same
generator state gives the same sample on every machine and worker.

The recipe (resize of the long side to a random length, random crop, padding with zeros after
normalisation, no hue jitter by default) is the one common to the image-label literature, e.g.
Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018.
It differs in that only the needed part of the source is resized, which changes nothing but the
time, and in that the brightness, contrast and saturation factors are applied as one linear map.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsseg.config import Config
from wsseg.data.colour import as_bytes, jitter, normalise
from wsseg.data.geometry import Geometry, crop_geometry, mirror_and_turn
from wsseg.data.labels import IGNORE

__all__ = ["IDENTITY", "AugmentConfig", "Augmented", "Geometry", "augment", "normalise"]

T = TypeVar("T", bound=np.generic)


class AugmentConfig(Config):
    """How training images are changed at random; the defaults suit a few hundred photographs."""

    long_side_px: tuple[int, int] | None = Field(
        None,
        description="Resize so that the long side is a random length in [low, high], pixels; "
        "null: see scale.",
    )
    scale: tuple[float, float] | None = Field(
        (0.75, 1.5),
        description="Resize by a random factor in [low, high], relative to the source; "
        "used where long_side_px is null; null: no resize.",
    )
    crop_px: int | None = Field(
        448,
        ge=16,
        le=8192,
        description="Side of the random square crop, pixels; smaller images are placed at random "
        "and padded; null: the whole image, so that batches need equal sizes.",
    )
    hflip: float = Field(0.5, ge=0, le=1, description="Probability of mirroring left to right.")
    vflip: float = Field(0.0, ge=0, le=1, description="Probability of mirroring top to bottom.")
    rot90: float = Field(
        0.0, ge=0, le=1, description="Probability of turning by 90, 180 or 270 degrees."
    )
    brightness: float = Field(
        0.3, ge=0, le=1, description="Brightness factor is drawn from [1 - b, 1 + b]."
    )
    contrast: float = Field(
        0.3, ge=0, le=1, description="Contrast factor is drawn from [1 - c, 1 + c]."
    )
    saturation: float = Field(
        0.3, ge=0, le=1, description="Saturation factor is drawn from [1 - s, 1 + s]."
    )
    hue_deg: float = Field(
        0.0, ge=0, le=180, description="Hue is turned by up to this many degrees; slow."
    )
    grey: float = Field(0.0, ge=0, le=1, description="Probability of removing all colour.")
    noise: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Largest standard deviation of Gaussian noise, fraction of the value range; "
        "slow.",
    )
    blur_px: float = Field(
        0.0, ge=0, le=10, description="Largest standard deviation of Gaussian blur, pixels."
    )

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name in ("long_side_px", "scale"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ValueError(
                    f"{name} is {list(pair)}; expected [low, high] with 0 < low <= high"
                )
        return self


#: No change at all: the source, normalised.
IDENTITY = AugmentConfig(scale=None, crop_px=None, hflip=0, brightness=0, contrast=0, saturation=0)


class Augmented(NamedTuple):
    """A random view of an image.

    Attributes:
        image: (1 or 3, h, w) float32, normalised, zero where it is padded.
        mask: (h, w) uint8 class ids, 255 where it is padded; None where none was given.
        valid: (h, w) bool, True where the view shows the image and not padding.
        geometry: The map from the source to the view.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    valid: NDArray[np.bool_]
    geometry: Geometry


def augment(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    rng: np.random.Generator,
    config: AugmentConfig,
    *,
    in_channels: Literal[1, 3] = 3,
    focus: tuple[float, float] | None = None,
) -> Augmented:
    """Draw one random view of an image and, where there is one, of its mask.

    Args:
        image: (H, W, 3) uint8 RGB; left unchanged.
        mask: (H, W) uint8 class ids, 255 ignored, or None.
        rng: Source of all randomness.
        config: What may change, and by how much.
        in_channels: 3 for colour, 1 for grey networks (see :func:`normalise`).
        focus: Point (x, y) in source pixels that the crop must contain; None: any crop.

    Returns:
        The view, its mask, which of its pixels are image, and where they came from.

    Example:
        >>> image = np.zeros((20, 30, 3), np.uint8)
        >>> config = AugmentConfig(crop_px=32, scale=None, hflip=0)
        >>> view, mask, valid, geometry = augment(image, None, np.random.default_rng(0), config)
        >>> view.shape, int(valid.sum()), geometry.source_size, geometry.size
        ((3, 32, 32), 600, (20, 30), (32, 32))
    """
    window, placed, canvas = _draw_crop(image.shape[:2], rng, config, focus)
    geometry = crop_geometry(image.shape[:2], window, placed, canvas)
    flips = (bool(rng.random() < config.hflip), bool(rng.random() < config.vflip))
    turns = int(rng.integers(1, 4)) if rng.random() < config.rot90 else 0

    patch = jitter(_resized(_cut(image, window), placed, is_mask=False), rng, config)
    view = np.zeros((in_channels, *canvas), np.float32)
    _paste(view, normalise(patch, in_channels), placed)
    valid = np.zeros(canvas, np.bool_)
    _paste(valid, np.True_, placed)
    new_mask = None
    if mask is not None:
        new_mask = np.full(canvas, IGNORE, np.uint8)
        _paste(new_mask, _resized(_cut(mask, window), placed, is_mask=True), placed)
        new_mask = _turned(new_mask, flips, turns)
    return Augmented(
        _turned(view, flips, turns),
        new_mask,
        _turned(valid, flips, turns),
        mirror_and_turn(geometry, hflip=flips[0], vflip=flips[1], turns=turns),
    )


def _draw_crop(
    size: tuple[int, ...],
    rng: np.random.Generator,
    config: AugmentConfig,
    focus: tuple[float, float] | None,
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Draw source window, its place in the view (both left, top, right, bottom), view size."""
    height, width = size
    factor = 1.0
    if config.long_side_px is not None:
        low, high = config.long_side_px
        factor = int(rng.integers(low, high + 1)) / max(height, width)
    elif config.scale is not None:
        factor = float(rng.uniform(*config.scale))
    x = _draw_span(width, factor, config.crop_px, focus[0] if focus else None, rng)
    y = _draw_span(height, factor, config.crop_px, focus[1] if focus else None, rng)
    return (
        (x[0], y[0], x[1], y[1]),
        (x[2], y[2], x[3], y[3]),
        (y[4], x[4]),
    )


def _draw_span(
    length: int, factor: float, crop_px: int | None, centre: float | None, rng: np.random.Generator
) -> tuple[int, int, int, int, int]:
    """Draw one axis: source start and end, place start and end, view length."""
    resized = max(1, round(length * factor))
    if crop_px is None:
        return 0, length, 0, resized, resized
    if resized <= crop_px:
        start = int(rng.integers(0, crop_px - resized + 1))
        return 0, length, start, start + resized, crop_px
    # The source window is a whole number of pixels: the real scale differs from `factor` by less
    # than one source pixel over the crop, and the geometry states it exactly.
    window = min(length, max(1, round(crop_px * length / resized)))
    low, high = 0, length - window
    if centre is not None:
        pixel = min(max(int(centre), 0), length - 1)
        low, high = max(low, pixel - window + 1), min(high, pixel)
    start = int(rng.integers(low, high + 1))
    return start, start + window, 0, crop_px, crop_px


def _cut(array: NDArray[np.uint8], window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    left, top, right, bottom = window
    return array[top:bottom, left:right]


def _resized(
    array: NDArray[np.uint8], placed: tuple[int, int, int, int], *, is_mask: bool
) -> NDArray[np.uint8]:
    """Resize to the size of its place; pixel areas are averaged when it shrinks."""
    import cv2

    width, height = placed[2] - placed[0], placed[3] - placed[1]
    if array.shape[:2] == (height, width):
        return np.ascontiguousarray(array)
    if is_mask:
        method = cv2.INTER_NEAREST_EXACT
    elif height < array.shape[0] and width < array.shape[1]:
        method = cv2.INTER_AREA
    else:
        method = cv2.INTER_LINEAR
    return as_bytes(cv2.resize(array, (width, height), interpolation=method))


def _paste(
    canvas: NDArray[np.generic],
    patch: NDArray[np.generic] | np.generic,
    placed: tuple[int, int, int, int],
) -> None:
    left, top, right, bottom = placed
    canvas[..., top:bottom, left:right] = patch


def _turned(array: NDArray[T], flips: tuple[bool, bool], turns: int) -> NDArray[T]:
    """Mirror and then turn the last two axes; `turns` quarter turns against the clock."""
    if flips[0]:
        array = array[..., ::-1]
    if flips[1]:
        array = array[..., ::-1, :]
    if turns:
        array = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(array)
