"""The picture that a scene is painted on, and what becomes of it.

Painting is back to front. Every shape is rasterised to its *coverage*, the share of each pixel that
lies inside it; colour is blended by the coverage and the label follows one rule: **a pixel belongs
to the topmost object whose coverage of it is at least one half.** Image and mask come from the same
coverage, so masks are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Colour = npt.ArrayLike

MIN_COVERAGE = 0.5


@dataclass(frozen=True, eq=False)
class Scene:
    """One synthetic image with its exact mask.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class ids, 0 background; no pixel is to be ignored.
        tags: Class ids that occur in the mask; empty for an image without any object.
        instances: (H, W) uint16, 0 background, else the number of the object from 1.
        regions: Places of interest that are not classes, each (H, W) bool: ``"part"`` (the only
            discriminative pixels of an object), ``"rail"`` and ``"water"`` (the background that
            goes with a class).
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    tags: frozenset[int]
    instances: npt.NDArray[np.uint16]
    regions: Mapping[str, BoolArray] = field(default_factory=dict)


@dataclass(eq=False)
class Canvas:
    """A scene being painted; the arrays are changed in place.

    Args:
        rgb: (H, W, 3) float32 in about [0, 1].
        mask: (H, W) uint8 class ids.
        instances: (H, W) uint16 object numbers.
    """

    rgb: FloatArray
    mask: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint16]
    num_objects: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def unit(self) -> float:
        """The shorter side in pixels: lengths of objects are fractions of it."""
        return float(min(self.size))

    def paint(self, cover: FloatArray, colour: Colour, opacity: float = 1.0) -> None:
        """Blend a colour, (3,) or (H, W, 3) in [0, 1], over the covered pixels."""
        window = bounding_window(cover)
        if window is None:
            return
        paint = np.asarray(colour, dtype=np.float32)
        if paint.ndim == 3:
            paint = paint[window]
        below = self.rgb[window]
        below += (paint - below) * (cover[window] * np.float32(opacity))[..., None]

    def shade(self, factor: FloatArray) -> None:
        """Multiply the picture by a factor per pixel, (H, W)."""
        self.rgb *= factor[..., None]

    def claim(self, cover: FloatArray, class_id: int) -> int:
        """Give the pixels that are at least half covered to a new object; return its number."""
        inside = cover >= MIN_COVERAGE
        self.num_objects += 1
        self.mask[inside] = class_id
        self.instances[inside] = self.num_objects
        return self.num_objects

    def hide(self, cover: FloatArray) -> None:
        """Take the pixels that are at least half covered away from the objects below."""
        inside = cover >= MIN_COVERAGE
        self.mask[inside] = 0
        self.instances[inside] = 0


def blank(size: tuple[int, int]) -> Canvas:
    """Start a black canvas of the given height and width."""
    return Canvas(
        rgb=np.zeros((*size, 3), np.float32),
        mask=np.zeros(size, np.uint8),
        instances=np.zeros(size, np.uint16),
    )


def bounding_window(cover: FloatArray) -> tuple[slice, slice] | None:
    """Find the smallest window that holds every covered pixel; None where nothing is covered."""
    rows = np.flatnonzero(cover.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(cover.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def develop(
    canvas: Canvas,
    rng: np.random.Generator,
    *,
    noise: tuple[float, float] = (0.01, 0.04),
    regions: Mapping[str, BoolArray] | None = None,
) -> Scene:
    """Photograph a finished canvas: gamma, sensor noise, 8 bits.

    Args:
        canvas: The finished picture.
        rng: Source of the gamma and the noise.
        noise: Range of the standard deviation of the sensor noise, in [0, 1] grey values.
        regions: Places of interest handed on to the scene.
    """
    rgb = np.clip(canvas.rgb, 0.0, 1.0)
    rgb **= np.float32(rng.uniform(0.8, 1.25))
    grain = rng.standard_normal(rgb.shape[:2], dtype=np.float32)
    colour_grain = rng.standard_normal((*rgb.shape[:2], 3), dtype=np.float32)
    level = np.float32(rng.uniform(*noise))
    rgb += level * (0.8 * grain[..., None] + 0.6 * colour_grain)
    image = np.clip(rgb * 255.0 + 0.5, 0, 255).astype(np.uint8)
    tags = frozenset(int(value) for value in np.unique(canvas.mask) if value)
    return Scene(image, canvas.mask, tags, canvas.instances, dict(regions or {}))
