"""Scenes *parts* and *graded*: the class shows in a small part of the object.

Four kinds of beetle share body, legs, colours and texture; only the pattern on the head, 10-20 % of
the object, tells them apart. A classifier needs the head alone, so its class activation map covers
the head and misses the body: the best-known failure of CAM. The mask is the whole beetle. The head
is a paler piece of the body, as a face is of an animal, so that what the two have in common can be
seen: an edge between them that is stronger than the beetle's own would leave nothing to find the
body by.
"""

from __future__ import annotations

import numpy as np

from wsseg.data.scenes.canvas import MIN_COVERAGE, Canvas, FloatArray, Scene, blank, develop
from wsseg.data.scenes.drawing import (
    Outline,
    blob,
    box,
    colour_field,
    coverage,
    curve,
    directional_light,
    ellipse,
    hsv,
    placed,
    random_colour,
    smooth_noise,
    stroke,
)

CLASSES = ("ring", "stripes", "spots", "cross")
EMPTY_SHARE = 0.12
PAIR_SHARE = 0.35
_HUES = (0.0, 0.15, 0.38, 0.62)
# How far the head's colour is from the body's, on the way to white.
_PALENESS = 0.35
# Of bodies that tell the class: the most frequent hue, away from that of the pattern, and how far
# hues spread around it. Guessing by the nearest one is right about seven times of ten.
_BODY_HUES = (0.5, 0.75, 0.0, 0.25)
_BODY_HUE_SPREAD = 0.12


def make_graded(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Paint 0, 1 or 2 beetles whose bodies hint at their class."""
    return make(rng, size, body_tells=True)


def make(rng: np.random.Generator, size: tuple[int, int], *, body_tells: bool = False) -> Scene:
    """Paint 0, 1 or 2 beetles on cluttered ground."""
    canvas = blank(size)
    _ground(canvas, rng)
    heads: list[tuple[int, FloatArray]] = []
    draw = rng.random()
    if draw >= EMPTY_SHARE:
        num_objects = 2 if draw < EMPTY_SHARE + PAIR_SHARE else 1
        heads = [_beetle(canvas, rng, slot, num_objects, body_tells) for slot in range(num_objects)]
    canvas.shade(directional_light(rng, size, (0.1, 0.5)))
    part = np.zeros(size, np.bool_)
    for number, cover in heads:
        part |= (cover >= MIN_COVERAGE) & (canvas.instances == number)
    return develop(canvas, rng, regions={"part": part})


def _ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint earth with leaves, stones and twigs in muted colours."""
    height, width = canvas.size
    canvas.rgb[:] = colour_field(
        rng, canvas.size, random_colour(rng, (0.1, 0.4)), random_colour(rng, (0.1, 0.4))
    )
    for _ in range(rng.integers(6, 15)):
        centre = rng.random(2) * (width, height)
        reach = canvas.unit * rng.uniform(0.03, 0.11)
        kind = rng.integers(3)
        if kind == 0:
            shape = [placed(blob(rng), centre, 0.0, reach)]
        elif kind == 1:
            shape = [ellipse(centre, (reach, reach * 0.4), rng.uniform(0, np.pi))]
        else:
            path = curve(rng, centre, reach * 5, rng.uniform(0, 2 * np.pi), 0.8)
            shape = stroke(path, reach * 0.25)
        canvas.paint(coverage(shape, canvas.size), random_colour(rng, (0.05, 0.5), (0.15, 0.9)))


def _beetle(
    canvas: Canvas, rng: np.random.Generator, slot: int, num_objects: int, body_tells: bool
) -> tuple[int, FloatArray]:
    """Paint one beetle; return its number and the coverage of its head."""
    class_id = int(rng.integers(1, len(CLASSES) + 1))
    height, width = canvas.size
    reach = canvas.unit * (rng.uniform(0.2, 0.31) if num_objects == 1 else rng.uniform(0.16, 0.22))
    across = 0.5 if num_objects == 1 else (0.28, 0.72)[slot]
    centre = np.array([across, 0.5]) if width >= height else np.array([0.5, across])
    centre = (centre + rng.uniform(-0.07, 0.07, 2)) * (width, height)
    angle = rng.uniform(0, 2 * np.pi)

    def put(outline: Outline) -> Outline:
        return placed(outline, centre, angle, reach)

    body_width = rng.uniform(0.5, 0.66)
    head_radius = rng.uniform(0.32, 0.4)
    head_at = np.array([-(0.85 + head_radius * 0.7), 0.0])
    body = coverage([put(placed(blob(rng, 0.06), (0, 0), 0, (1.0, body_width)))], canvas.size)
    limbs = coverage([put(piece) for piece in _legs(rng, body_width)], canvas.size)
    head = coverage([put(ellipse(head_at, (head_radius, head_radius)))], canvas.size)

    number = canvas.claim(np.maximum(np.maximum(body, limbs), head), class_id)
    _paint_body(canvas, rng, np.maximum(body, head), limbs, _body_colour(rng, class_id, body_tells))
    canvas.paint(_PALENESS * head, np.ones(3))
    hue = _HUES[class_id - 1] + rng.uniform(-0.06, 0.06)
    accent = hsv(hue, rng.uniform(0.8, 1.0), rng.uniform(0.7, 1.0))
    pattern = [put(placed(piece, head_at, 0.0, head_radius)) for piece in _pattern(class_id, rng)]
    canvas.paint(np.minimum(coverage(pattern, canvas.size), head), accent)
    return number, head


def _legs(rng: np.random.Generator, body_width: float) -> list[Outline]:
    """Outline six bent legs in units of half the body length."""
    pieces: list[Outline] = []
    for x in (-0.5, 0.05, 0.6):
        for side in (-1.0, 1.0):
            knee = (x + rng.uniform(-0.15, 0.15), side * (body_width + 0.22))
            foot = (knee[0] + rng.uniform(-0.2, 0.25), side * (body_width + 0.42))
            pieces += stroke([(x, side * body_width * 0.5), knee, foot], (0.16, 0.12, 0.08))
    return pieces


def _body_colour(rng: np.random.Generator, class_id: int, body_tells: bool) -> FloatArray:
    """Draw a colour: from one distribution for all classes, or from one for each, which overlap."""
    if not body_tells:
        return random_colour(rng, (0.1, 0.75), (0.2, 0.85))
    hue = rng.normal(_BODY_HUES[class_id - 1], _BODY_HUE_SPREAD) % 1.0
    return hsv(hue, rng.uniform(0.35, 0.75), rng.uniform(0.3, 0.85))


def _paint_body(
    canvas: Canvas,
    rng: np.random.Generator,
    body: FloatArray,
    limbs: FloatArray,
    colour: FloatArray,
) -> None:
    """Colour legs, and body with head."""
    canvas.paint(limbs, colour * rng.uniform(0.4, 0.8))
    mottle = 0.7 + 0.6 * smooth_noise(rng, canvas.size, rng.uniform(4, 30))
    canvas.paint(body, colour * mottle[..., None])


def _pattern(class_id: int, rng: np.random.Generator) -> list[Outline]:
    """Outline the pattern of a class inside the unit circle."""
    turn = rng.uniform(0, np.pi)
    if class_id == 1:
        circle = np.linspace(0.0, 2 * np.pi, 25)
        return stroke(0.58 * np.stack([np.cos(circle), np.sin(circle)], axis=1), 0.36)
    if class_id == 2:
        bars = [box((0.0, y), (1.0, 0.15), 0.0) for y in (-0.6, 0.0, 0.6)]
        return [placed(bar, (0, 0), turn) for bar in bars]
    if class_id == 3:
        corners = [(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)]
        return [placed(ellipse(at, (0.27, 0.27)), (0, 0), turn) for at in corners]
    return [box((0, 0), (0.9, 0.18), turn), box((0, 0), (0.18, 0.9), turn)]
