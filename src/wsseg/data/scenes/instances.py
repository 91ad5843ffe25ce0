"""Scenes *instances*: several objects of several classes that touch, at very different scales.

Two to six machine parts lie on a bench. One part covers 5-60 % of the image when it is drawn, many
touch their neighbour, and some are a little hidden by it. Parts of one class come in any colour.
"""

from __future__ import annotations

import numpy as np

from wsseg.data.scenes.canvas import MIN_COVERAGE, Canvas, FloatArray, Scene, blank, develop
from wsseg.data.scenes.drawing import (
    Outline,
    blob,
    colour_field,
    coverage,
    directional_light,
    ellipse,
    grid,
    placed,
    polar,
    random_colour,
    smooth_noise,
)

CLASSES = ("nut", "washer", "gear", "bolt")
AREA_RANGE = (0.05, 0.6)
MIN_VISIBLE = 0.03
_MAX_HIDDEN = 0.25
_TRIES = 10


def make(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Paint two to six machine parts, large ones first, on a bench."""
    canvas = blank(size)
    _bench(canvas, rng)
    anchors: list[tuple[np.ndarray, float]] = []
    wanted = int(rng.integers(2, 7))
    largest = float(np.exp(rng.uniform(np.log(0.07), np.log(AREA_RANGE[1]))))
    for index in range(wanted):
        share = largest if index == 0 else rng.uniform(AREA_RANGE[0], max(0.06, 0.6 * largest))
        for _ in range(_TRIES):
            anchor = _try_part(canvas, rng, float(share), anchors)
            if anchor is not None:
                anchors.append(anchor)
                break
    canvas.shade(directional_light(rng, size, (0.1, 0.5)))
    return develop(canvas, rng)


def _bench(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a wooden or stained bench with scraps on it."""
    height, width = canvas.size
    dark, light = random_colour(rng, (0.05, 0.4)), random_colour(rng, (0.05, 0.4))
    canvas.rgb[:] = colour_field(rng, canvas.size, dark, light)
    if rng.random() < 0.5:
        x, y = grid(canvas.size)
        angle = rng.uniform(0, np.pi)
        across = x * np.cos(angle) + y * np.sin(angle)
        veins = np.sin(across * (40.0 / canvas.unit) + 8 * smooth_noise(rng, canvas.size, 4))
        canvas.shade((1.0 + 0.15 * veins).astype(np.float32))
    for _ in range(rng.integers(4, 11)):
        scrap = placed(
            blob(rng, 0.4),
            rng.random(2) * (width, height),
            0,
            canvas.unit * rng.uniform(0.01, 0.05),
        )
        canvas.paint(coverage([scrap], canvas.size), random_colour(rng))


def _try_part(
    canvas: Canvas,
    rng: np.random.Generator,
    share: float,
    anchors: list[tuple[np.ndarray, float]],
) -> tuple[np.ndarray, float] | None:
    """Paint one part if a place is found where it hides little; return its centre and radius."""
    class_id = int(rng.integers(1, len(CLASSES) + 1))
    solid, holes, limit = _shape(class_id, rng)
    net = _area(solid) - sum(_area(hole) for hole in holes)
    radius = min(np.sqrt(share * canvas.mask.size / net), limit * canvas.unit)
    centre = _place(canvas, rng, radius, anchors)
    angle = rng.uniform(0, 2 * np.pi)
    cover = coverage([placed(solid, centre, angle, radius)], canvas.size)
    for hole in holes:
        cover = cover * (1 - coverage([placed(hole, centre, angle, radius)], canvas.size))
    if not _fits(canvas, cover):
        return None
    canvas.claim(cover, class_id)
    rim = coverage([placed(solid, centre, angle, 0.86 * radius)], canvas.size)
    _paint_part(canvas, rng, cover, rim)
    return centre, radius


def _shape(class_id: int, rng: np.random.Generator) -> tuple[Outline, list[Outline], float]:
    """Outline a part about (0, 0) at radius 1, its holes, and its largest radius / shorter side."""
    if class_id == 1:
        return polar(np.ones(6)), [ellipse((0, 0), np.full(2, rng.uniform(0.35, 0.5)))], 0.52
    if class_id == 2:
        return ellipse((0, 0), (1, 1)), [ellipse((0, 0), np.full(2, rng.uniform(0.4, 0.65)))], 0.49
    if class_id == 3:
        teeth = int(rng.integers(8, 13))
        hole = ellipse((0, 0), np.full(2, rng.uniform(0.12, 0.25)))
        return polar(np.tile([1.0, 1.0, 0.78, 0.78], teeth)), [hole], 0.5
    thick = rng.uniform(0.14, 0.2)
    head = np.array([(-1.0, 2.1), (-0.6, 2.1), (-0.6, 1.0), (1.0, 1.0)]) * (1.0, thick)
    return np.concatenate([head, head[::-1] * (1.0, -1.0)]), [], 0.62


def _area(outline: Outline) -> float:
    """Area of a simple polygon (shoelace formula)."""
    x, y = outline.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _place(
    canvas: Canvas,
    rng: np.random.Generator,
    radius: float,
    anchors: list[tuple[np.ndarray, float]],
) -> np.ndarray:
    """Choose a centre: touching an earlier part (two in three), or anywhere."""
    extent = np.array(canvas.size[::-1], dtype=float)
    margin = np.minimum(0.85 * radius, 0.5 * extent)
    if anchors and rng.random() < 0.67:
        centre, other = anchors[int(rng.integers(len(anchors)))]
        angle = rng.uniform(0, 2 * np.pi)
        gap = (radius + other) * rng.uniform(0.82, 0.98)
        return np.clip(
            centre + gap * np.array([np.cos(angle), np.sin(angle)]), margin, extent - margin
        )
    return rng.uniform(margin, extent - margin)


def _fits(canvas: Canvas, cover: FloatArray) -> bool:
    """Tell whether a part is large enough and hides at most a quarter of any other."""
    inside = cover >= MIN_COVERAGE
    pixels = canvas.mask.size
    share = np.count_nonzero(inside) / pixels
    if not 0.9 * AREA_RANGE[0] <= share <= AREA_RANGE[1] * 1.05:
        return False
    before = np.bincount(canvas.instances.ravel(), minlength=canvas.num_objects + 1)
    hidden = np.bincount(canvas.instances[inside], minlength=canvas.num_objects + 1)
    left = before - hidden
    return bool(
        (hidden[1:] <= _MAX_HIDDEN * before[1:]).all() and (left[1:] >= MIN_VISIBLE * pixels).all()
    )


def _paint_part(
    canvas: Canvas, rng: np.random.Generator, cover: FloatArray, inner: FloatArray
) -> None:
    """Give a part a surface: plain, mottled or brushed, with a darker edge."""
    colour = random_colour(rng, (0.0, 0.7), (0.3, 0.95))
    kind = rng.integers(3)
    if kind == 0:
        surface = np.ones(canvas.size, np.float32)
    elif kind == 1:
        surface = 0.75 + 0.5 * smooth_noise(rng, canvas.size, rng.uniform(8, 30))
    else:
        lines = rng.random((1, canvas.size[1]), dtype=np.float32)
        surface = np.broadcast_to(0.8 + 0.4 * lines, canvas.size)
    canvas.paint(cover, colour * rng.uniform(0.55, 0.8))
    canvas.paint(np.minimum(cover, inner), colour * surface[..., None])
