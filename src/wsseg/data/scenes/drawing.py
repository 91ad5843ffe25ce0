"""Shapes, textures and light for synthetic scenes.

Geometry is (x, y) in pixels, where pixel column 0 covers x from 0 to 1; shapes are (n, 2) outlines.
Coverage is measured on a grid four times as fine as the image in both directions.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsseg.data.scenes.canvas import FloatArray

SUPERSAMPLE = 4
_FRACTION_BITS = 4

Outline = npt.NDArray[np.float64]


def coverage(outlines: Sequence[Outline], size: tuple[int, int]) -> FloatArray:
    """Rasterise the union of closed outlines.

    Args:
        outlines: Polygons, each (n, 2) float (x, y) pixels; they may overlap and leave the image.
        size: Height and width in pixels.

    Returns:
        (H, W) float32 in [0, 1]: the share of each pixel inside any of the outlines.

    Example:
        >>> square = np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 3.0], [1.0, 3.0]])
        >>> (coverage([square], (4, 4)) >= 0.5).astype(int)
        array([[0, 0, 0, 0],
               [0, 1, 1, 0],
               [0, 1, 1, 0],
               [0, 0, 0, 0]])
    """
    import cv2

    cover = np.zeros(size, np.float32)
    corners = np.concatenate(outlines)
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, size[::-1])
    if (high <= low).any():
        return cover
    width, height = (high - low).tolist()
    fine = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    for outline in outlines:
        # OpenCV counts from pixel centres: x = 0 is fine position -0.5.
        fine_xy = (outline - low) * SUPERSAMPLE - 0.5
        fixed = np.rint(fine_xy * (1 << _FRACTION_BITS)).astype(np.int32)
        cv2.fillPoly(fine, [fixed], 255, lineType=cv2.LINE_8, shift=_FRACTION_BITS)
    small = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    cover[low[1] : high[1], low[0] : high[0]] = small * np.float32(1 / 255)
    return cover


def ellipse(centre: npt.ArrayLike, radii: npt.ArrayLike, angle_rad: float = 0.0) -> Outline:
    """Outline an ellipse of the given half axes, turned by an angle."""
    turn = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    unit = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return placed(unit * np.asarray(radii, dtype=float), centre, angle_rad)


def box(centre: npt.ArrayLike, half: npt.ArrayLike, angle_rad: float = 0.0) -> Outline:
    """Outline a rectangle of the given half width and half height, turned by an angle."""
    unit = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    return placed(unit * np.asarray(half, dtype=float), centre, angle_rad)


def polar(radii: npt.ArrayLike, phase_rad: float = 0.0) -> Outline:
    """Outline a star-shaped figure about (0, 0) from radii at equal angles."""
    lengths = np.asarray(radii, dtype=float)
    turn = phase_rad + np.linspace(0.0, 2 * np.pi, len(lengths), endpoint=False)
    return lengths[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def blob(rng: np.random.Generator, roughness: float = 0.2, corners: int = 32) -> Outline:
    """Outline an irregular round figure of radius about 1 around (0, 0)."""
    turn = np.linspace(0.0, 2 * np.pi, corners, endpoint=False)
    radii = np.ones(corners)
    for order in range(2, 6):
        radii += (
            roughness / order * rng.normal() * np.cos(order * turn + rng.uniform(0.0, 2 * np.pi))
        )
    return polar(np.clip(radii, 0.4, 1.6))


def stroke(path: npt.ArrayLike, widths: npt.ArrayLike) -> list[Outline]:
    """Outline a line of changing width with round joints.

    Args:
        path: (n, 2) float (x, y) pixels, n at least 2.
        widths: (n,) or one number: full width in pixels at each point.

    Returns:
        Outlines of the pieces, to be rasterised together.
    """
    points = np.asarray(path, dtype=float)
    half = np.broadcast_to(np.asarray(widths, dtype=float) / 2, (len(points),))
    pieces: list[Outline] = []
    for start, end, half_start, half_end in zip(
        points[:-1], points[1:], half[:-1], half[1:], strict=True
    ):
        along = end - start
        normal = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9)
        pieces.append(
            np.stack(
                [
                    start + normal * half_start,
                    end + normal * half_end,
                    end - normal * half_end,
                    start - normal * half_start,
                ]
            )
        )
    joints = _OCTAGON * half[1:-1, None, None] + points[1:-1, None]
    return [*pieces, *joints]


_OCTAGON = polar(np.ones(8))


def placed(
    outline: Outline, centre: npt.ArrayLike, angle_rad: float = 0.0, scale: npt.ArrayLike = 1.0
) -> Outline:
    """Scale (one factor, or one per axis), turn and shift an outline."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    turned = (outline * np.asarray(scale, dtype=float)) @ np.array([[cos, sin], [-sin, cos]])
    return turned + np.asarray(centre, dtype=float)


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: float) -> FloatArray:
    """Draw a smooth random field with about ``cells`` bumps along the longer side, in [0, 1]."""
    import cv2

    step = max(size) / cells
    grid_size = [max(2, int(np.ceil(length / step)) + 1) for length in size]
    grid = rng.random(grid_size, dtype=np.float32)
    field = cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.clip(field, 0.0, 1.0).astype(np.float32, copy=False)


def colour_field(
    rng: np.random.Generator, size: tuple[int, int], first: npt.ArrayLike, second: npt.ArrayLike
) -> FloatArray:
    """Mix two colours by a smooth random field; return (H, W, 3) float32."""
    mix = 0.7 * smooth_noise(rng, size, 3) + 0.3 * smooth_noise(rng, size, 14)
    low, high = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return low + (high - low) * mix[..., None]


def hsv(hue: float, saturation: float, value: float) -> FloatArray:
    """Convert hue (turns), saturation and value, each in [0, 1], to an RGB colour (3,)."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return np.array(rgb, np.float32)


def random_colour(
    rng: np.random.Generator,
    saturation: tuple[float, float] = (0.1, 0.6),
    value: tuple[float, float] = (0.25, 0.9),
) -> FloatArray:
    """Draw a colour of any hue with saturation and value in the given ranges."""
    return hsv(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def grid(size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Give the x (1, W) and y (H, 1) coordinates of the pixel centres as float32."""
    x = np.arange(size[1], dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(size[0], dtype=np.float32)[:, None] + np.float32(0.5)
    return x, y


def directional_light(
    rng: np.random.Generator, size: tuple[int, int], strength: tuple[float, float]
) -> FloatArray:
    """Draw uneven lighting: a gradient in a random direction, mean about 1, (H, W) float32."""
    x, y = grid(size)
    angle = rng.uniform(0.0, 2 * np.pi)
    ramp = (x / size[1] - 0.5) * np.cos(angle) + (y / size[0] - 0.5) * np.sin(angle)
    light = rng.uniform(0.8, 1.15) * (1.0 + rng.uniform(*strength) * ramp)
    return light.astype(np.float32)


def curve(
    rng: np.random.Generator, start: npt.ArrayLike, length: float, angle_rad: float, bend: float
) -> Outline:
    """Draw a gently bent path (12, 2) of the given length in pixels from a start point.

    Args:
        rng: Source of the bend.
        start: (x, y) of the first point.
        length: Length in pixels.
        angle_rad: Mean direction.
        bend: Largest change of direction over the whole path, in radians.
    """
    turns = np.linspace(-0.5, 0.5, 11) * rng.uniform(-bend, bend)
    turns += np.cumsum(rng.normal(0.0, 0.06 * bend, 11))
    steps = np.stack([np.cos(angle_rad + turns), np.sin(angle_rad + turns)], axis=1)
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(steps * (length / 11), axis=0)])
    return path + np.asarray(start, dtype=float)
