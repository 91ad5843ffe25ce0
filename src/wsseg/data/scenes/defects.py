"""Scenes *defects*: inspection of brushed metal and woven fabric.

About 40 % of the images are flawless. The others carry one to four defects: scratches (thin, bright
or dark), dents (nothing but shading), stains (faint and tinted) and pores (groups of dark pits).
Texture direction, lighting and colour differ from image to image; harmless texture lines and dust
look a little like defects. A class covers 0.1 % to 8 % of an image that it is in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsseg.data.scenes.canvas import MIN_COVERAGE, Canvas, FloatArray, Scene, blank, develop
from wsseg.data.scenes.drawing import (
    Outline,
    blob,
    coverage,
    curve,
    directional_light,
    ellipse,
    grid,
    hsv,
    placed,
    polar,
    random_colour,
    smooth_noise,
    stroke,
)

CLASSES = ("scratch", "dent", "stain", "pore")
OK_SHARE = 0.4
AREA_RANGE = (0.001, 0.08)
_TRIES = 12


def make(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Paint a flawless surface or one with one to four defects."""
    canvas = blank(size)
    light_rad = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.55:
        _metal(canvas, rng)
    else:
        _fabric(canvas, rng)
    if rng.random() >= OK_SHARE:
        for class_id in _draw_classes(rng):
            _place(canvas, rng, int(class_id), light_rad)
    canvas.shade(directional_light(rng, size, (0.1, 0.6)))
    return develop(canvas, rng, noise=(0.008, 0.025))


def _draw_classes(rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw one to four defects of one or two kinds, as one fault of a machine leaves them."""
    kinds = rng.choice(len(CLASSES), size=2 if rng.random() < 0.4 else 1, replace=False) + 1
    extra = rng.choice(kinds, size=int(rng.integers(0, 3)))
    return np.concatenate([kinds, extra])


def _directions(size: tuple[int, int], angle_rad: float) -> tuple[FloatArray, FloatArray]:
    """Coordinates along and across a direction, in pixels, (H, W) each."""
    x, y = grid(size)
    cos, sin = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    return x * cos + y * sin, y * cos - x * sin


def _metal(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint brushed metal: fine lines in one direction, and broad sheen."""
    import cv2

    angle = rng.uniform(0, np.pi)
    length = int(rng.integers(9, 16)) | 1
    reach = (length - 1) / 2
    line = np.array([[-reach, 0.0], [reach, 0.0]])
    kernel = coverage(stroke(placed(line, (length / 2, length / 2), angle), 1.2), (length, length))
    grain = rng.standard_normal(canvas.size, dtype=np.float32)
    brushed = cv2.filter2D(
        grain, -1, kernel / np.sqrt(np.square(kernel).sum()), borderType=cv2.BORDER_REFLECT
    )
    _, across = _directions(canvas.size, angle)
    table = rng.standard_normal(512, dtype=np.float32)
    position = (across * (128 / canvas.unit) * rng.uniform(0.4, 1.0)).astype(np.int32) % 512
    lines = table[position] * smooth_noise(rng, canvas.size, 3)
    sheen = smooth_noise(rng, canvas.size, rng.uniform(1.5, 4)) - 0.5
    tone = 1 + rng.uniform(0.03, 0.09) * brushed + rng.uniform(0.0, 0.08) * lines + 0.25 * sheen
    colour = hsv(rng.random(), rng.uniform(0.0, 0.15), rng.uniform(0.45, 0.75))
    canvas.rgb[:] = colour * tone[..., None]
    _dust(canvas, rng)


def _fabric(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a weave of two threads, turned by any angle, with uneven threads and creases."""
    angle = rng.uniform(0, np.pi)
    along, across = _directions(canvas.size, angle)
    period = max(3.0, canvas.unit * rng.uniform(0.028, 0.05))
    u, v = along / np.float32(period), across / np.float32(period)
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    over = (column + row) % 2 == 0
    threads = rng.standard_normal((2, 256), dtype=np.float32)
    warp = np.cos(np.float32(np.pi) * (u - column - 0.5)) + 0.15 * threads[0][column % 256]
    weft = np.cos(np.float32(np.pi) * (v - row - 0.5)) + 0.15 * threads[1][row % 256]
    relief = np.where(over, warp, weft) - 0.64
    crease = smooth_noise(rng, canvas.size, rng.uniform(2, 5)) - 0.5
    tone = 1 + rng.uniform(0.15, 0.35) * relief + 0.25 * crease
    first = random_colour(rng, (0.05, 0.6), (0.4, 0.75))
    second = first * rng.uniform(0.85, 1.15)
    canvas.rgb[:] = np.where(over[..., None], first, second) * tone[..., None]
    _dust(canvas, rng)


def _dust(canvas: Canvas, rng: np.random.Generator) -> None:
    """Scatter a few harmless specks, smaller and paler than pores."""
    height, width = canvas.size
    for _ in range(rng.integers(0, 5)):
        speck = ellipse(rng.random(2) * (width, height), np.full(2, 0.006 * canvas.unit))
        canvas.paint(coverage([speck], canvas.size), np.ones(3) * rng.uniform(0.3, 1.0), 0.4)


def _place(canvas: Canvas, rng: np.random.Generator, class_id: int, light_rad: float) -> None:
    """Draw defects of a class until one has the right area and touches no other."""
    import cv2

    pixels = canvas.mask.size
    for _ in range(_TRIES):
        centre = rng.uniform(0.12, 0.88, 2) * canvas.size[::-1]
        shape = _SHAPES[class_id](canvas, rng, centre)
        inside = shape >= MIN_COVERAGE
        area = np.count_nonzero(inside)
        total = area + np.count_nonzero(canvas.mask == class_id)
        near = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        fits = area >= AREA_RANGE[0] * pixels and total <= AREA_RANGE[1] * pixels
        if fits and not canvas.mask[near].any():
            canvas.claim(shape, class_id)
            _PAINTERS[class_id](canvas, rng, shape, light_rad)
            return


def _scratch_shape(canvas: Canvas, rng: np.random.Generator, centre: Outline) -> FloatArray:
    """A thin, slightly bent line with pointed ends."""
    length = canvas.unit * rng.uniform(0.13, 0.65)
    path = curve(rng, (0, 0), length, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.9))
    path += centre - path[len(path) // 2]
    taper = np.sin(np.linspace(0.12 * np.pi, 0.93 * np.pi, len(path)))
    widest = max(2.0, canvas.unit * rng.uniform(0.013, 0.024))
    return coverage(stroke(path, widest * (0.45 + 0.55 * taper)), canvas.size)


def _dent_shape(canvas: Canvas, rng: np.random.Generator, centre: Outline) -> FloatArray:
    """An ellipse."""
    radii = canvas.unit * rng.uniform(0.035, 0.125) * np.array([1.0, rng.uniform(0.6, 1.0)])
    return coverage([ellipse(centre, radii, rng.uniform(0, np.pi))], canvas.size)


def _stain_shape(canvas: Canvas, rng: np.random.Generator, centre: Outline) -> FloatArray:
    """An irregular patch with a soft edge that runs over a few pixels."""
    import cv2

    reach = canvas.unit * rng.uniform(0.04, 0.13)
    patch = coverage([placed(blob(rng, 0.35), centre, 0, reach)], canvas.size)
    for _ in range(rng.integers(0, 3)):
        near = centre + reach * rng.uniform(-1.0, 1.0, 2)
        drop = placed(blob(rng, 0.3), near, 0, reach * rng.uniform(0.3, 0.6))
        patch = np.maximum(patch, coverage([drop], canvas.size))
    softness = canvas.unit * rng.uniform(0.006, 0.016)
    return np.asarray(cv2.GaussianBlur(patch, (0, 0), softness), np.float32)


def _pore_shape(canvas: Canvas, rng: np.random.Generator, centre: Outline) -> FloatArray:
    """A group of small round pits."""
    reach = canvas.unit * rng.uniform(0.05, 0.1)
    pits = []
    for _ in range(rng.integers(2, 9)):
        radius = max(1.3, canvas.unit * rng.uniform(0.011, 0.022))
        pits.append(placed(polar(np.ones(12)), centre + rng.normal(0, 0.6, 2) * reach, 0, radius))
    return coverage(pits, canvas.size)


def _paint_scratch(
    canvas: Canvas, rng: np.random.Generator, shape: FloatArray, light_rad: float
) -> None:
    """A bright or dark groove with a faint counter-edge on the side of the light."""
    bright = rng.random() < 0.6
    contrast = rng.uniform(0.5, 0.95)
    edge = _shifted(shape, light_rad, 1)
    canvas.paint(np.clip(edge - shape, 0, 1), np.full(3, 0.05 if bright else 0.95), 0.25)
    canvas.paint(shape, np.full(3, 0.98 if bright else 0.06), contrast)


def _paint_dent(
    canvas: Canvas, rng: np.random.Generator, shape: FloatArray, light_rad: float
) -> None:
    """Light on the far wall, shadow on the near wall; the texture stays."""
    x, y = grid(canvas.size)
    weight = float(shape.sum())
    centre_x, centre_y = float((shape * x).sum()) / weight, float((shape * y).sum()) / weight
    reach = np.sqrt(weight / np.pi)
    slope = (x - centre_x) * np.cos(light_rad) + (y - centre_y) * np.sin(light_rad)
    relief = np.clip(slope / reach, -1.1, 1.1) * rng.uniform(0.45, 0.75)
    canvas.shade((1 + relief * shape).astype(np.float32))


def _paint_stain(
    canvas: Canvas, rng: np.random.Generator, shape: FloatArray, light_rad: float
) -> None:
    """A tint that lets the texture through; ``light_rad`` is not used."""
    del light_rad
    tint = random_colour(rng, (0.25, 0.7), (0.3, 0.6))
    canvas.paint(shape, canvas.rgb * 1.3 * tint + 0.04, rng.uniform(0.6, 0.9))


def _paint_pore(
    canvas: Canvas, rng: np.random.Generator, shape: FloatArray, light_rad: float
) -> None:
    """Dark pits with a lit rim."""
    rim = np.clip(_shifted(shape, light_rad, 1) - shape, 0, 1)
    canvas.paint(rim, np.ones(3), 0.35)
    canvas.paint(shape, np.full(3, rng.uniform(0.02, 0.12)), rng.uniform(0.75, 0.95))


def _shifted(shape: FloatArray, angle_rad: float, distance_px: int) -> FloatArray:
    """Move a coverage by whole pixels in a direction; what leaves on one side is lost."""
    import cv2

    dx = float(round(distance_px * np.cos(angle_rad)))
    dy = float(round(distance_px * np.sin(angle_rad)))
    move = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    return np.asarray(cv2.warpAffine(shape, move, shape.shape[::-1]), np.float32)


_SHAPES = {1: _scratch_shape, 2: _dent_shape, 3: _stain_shape, 4: _pore_shape}
_PAINTERS = {1: _paint_scratch, 2: _paint_dent, 3: _paint_stain, 4: _paint_pore}
