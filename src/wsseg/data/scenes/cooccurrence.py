"""Scenes *co-occurrence*: two classes never appear without their background.

A train always stands on a rail and a boat floats on water; rail and water are background and are
seen alone in only 3 % of the images without their class. Tags cannot tell the two apart, so a class
activation map spills from the train onto the rail. Houses, the third class, have no companion.
"""

from __future__ import annotations

import numpy as np

from wsseg.data.scenes.canvas import BoolArray, Canvas, FloatArray, Scene, blank, develop
from wsseg.data.scenes.drawing import (
    Outline,
    blob,
    box,
    colour_field,
    coverage,
    directional_light,
    ellipse,
    grid,
    hsv,
    placed,
    random_colour,
    smooth_noise,
)

CLASSES = ("train", "boat", "house")
PRESENCE = 0.45
ALONE_SHARE = 0.03

_DARK = np.array([0.12, 0.12, 0.13])


def make(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Paint a landscape with none to all of house, train on rail, and boat on water."""
    canvas = blank(size)
    has_train, has_boat, has_house = (rng.random(3) < PRESENCE).tolist()
    has_rail = has_train or rng.random() < ALONE_SHARE
    has_water = has_boat or rng.random() < ALONE_SHARE
    regions = {"rail": np.zeros(size, np.bool_), "water": np.zeros(size, np.bool_)}
    _land(canvas, rng)
    if has_house:
        _house(canvas, rng)
    if has_rail:
        regions["rail"] = _railway(canvas, rng, with_train=has_train)
    if has_water:
        regions["water"] = _lake(canvas, rng, with_boat=has_boat)
        regions["rail"] &= ~regions["water"]
    free = canvas.mask == 0
    canvas.shade(directional_light(rng, size, (0.0, 0.4)))
    return develop(canvas, rng, regions={name: area & free for name, area in regions.items()})


def _land(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint sky, hills, ground and bushes."""
    height, width = canvas.size
    _, y = grid(canvas.size)
    horizon = height * rng.uniform(0.25, 0.4)
    sky = hsv(rng.uniform(0.5, 0.66), rng.uniform(0.05, 0.5), rng.uniform(0.6, 1.0))
    canvas.rgb[:] = sky + (1 - sky) * (0.5 * np.clip(y / horizon, 0, 1))[..., None]
    hue = rng.uniform(0.08, 0.36)
    for _ in range(rng.integers(1, 4)):
        centre = (rng.uniform(0, width), horizon + 0.05 * height)
        reach = (width * rng.uniform(0.2, 0.5), height * rng.uniform(0.06, 0.2))
        hill = placed(blob(rng, 0.15), centre, 0, reach)
        canvas.paint(coverage([hill], canvas.size), random_colour(rng, (0.1, 0.4), (0.35, 0.7)))
    ground = colour_field(
        rng,
        canvas.size,
        hsv(hue, rng.uniform(0.15, 0.5), rng.uniform(0.25, 0.5)),
        hsv(hue + 0.04, rng.uniform(0.15, 0.5), rng.uniform(0.5, 0.8)),
    )
    below = coverage([box((width / 2, horizon + height), (width, height))], canvas.size)
    canvas.paint(below, ground)
    for _ in range(rng.integers(2, 8)):
        centre = (rng.uniform(0, width), rng.uniform(horizon, height))
        bush = placed(blob(rng, 0.3), centre, 0, canvas.unit * rng.uniform(0.02, 0.07))
        colour = hsv(rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.7), rng.uniform(0.15, 0.6))
        canvas.paint(coverage([bush], canvas.size), colour)


def _texture(canvas: Canvas, rng: np.random.Generator, colour: FloatArray) -> FloatArray:
    """Give a colour the mottling of a painted, weathered surface, (H, W, 3)."""
    return colour * (0.8 + 0.4 * smooth_noise(rng, canvas.size, rng.uniform(6, 25)))[..., None]


def _house(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a house with roof, door and windows on the ground behind the rail."""
    height, width = canvas.size
    half = canvas.unit * np.array([rng.uniform(0.09, 0.17), rng.uniform(0.07, 0.13)])
    foot = height * rng.uniform(0.46, 0.56)
    centre = np.array([rng.uniform(half[0], width - half[0]), foot - half[1]])
    wall = box(centre, half)
    eaves, roof_height = 1.12 * half[0], half[1] * rng.uniform(0.7, 1.3)
    ridge = eaves * rng.uniform(0.0, 0.6)
    roof = np.array([(-eaves, 0.0), (-ridge, -roof_height), (ridge, -roof_height), (eaves, 0.0)])
    roof = roof + centre - (0.0, half[1])
    canvas.claim(coverage([wall, roof], canvas.size), 3)
    colour = random_colour(rng, (0.0, 0.5), (0.5, 0.95))
    canvas.paint(coverage([wall], canvas.size), _texture(canvas, rng, colour))
    canvas.paint(coverage([roof], canvas.size), random_colour(rng, (0.3, 0.7), (0.2, 0.6)))
    holes = [
        box(centre + half * (x, -0.25), half * (0.14, 0.22))
        for x in (-0.6, 0.6, 0.0)[: rng.integers(2, 4)]
    ]
    door = box(centre + half * (rng.uniform(-0.2, 0.2), 0.6), half * (0.15, 0.4))
    canvas.paint(coverage([*holes, door], canvas.size), random_colour(rng, (0, 0.4), (0.1, 0.4)))


def _railway(canvas: Canvas, rng: np.random.Generator, *, with_train: bool) -> BoolArray:
    """Paint a gravel bed with sleepers and rails, and a train on it; return the bed's pixels."""
    height, width = canvas.size
    slope = rng.uniform(-0.07, 0.07)
    origin = np.array([width / 2, height * rng.uniform(0.6, 0.72)])
    unit = canvas.unit

    def put(outline: Outline) -> Outline:
        return placed(outline, origin, slope)

    depth = unit * rng.uniform(0.09, 0.13)
    bed = coverage([put(box((0, depth / 2), (width, depth / 2)))], canvas.size)
    gravel = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.25), rng.uniform(0.45, 0.65))
    grain = rng.random(canvas.size, dtype=np.float32)
    canvas.hide(bed)
    canvas.paint(bed, gravel * (0.7 + 0.6 * grain)[..., None])
    spacing = unit * rng.uniform(0.05, 0.07)
    sleepers = [
        put(box((x, 0.5 * depth), (0.3 * spacing, 0.36 * depth)))
        for x in np.arange(-width, width, spacing)
    ]
    wood = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.3))
    canvas.paint(coverage(sleepers, canvas.size), wood)
    steel = hsv(0.6, 0.08, rng.uniform(0.7, 0.95))
    rails = [put(box((0, at * depth), (width, 0.045 * depth + 0.3))) for at in (0.3, 0.72)]
    canvas.paint(coverage(rails, canvas.size), steel)
    if with_train:
        _train(canvas, rng, origin, slope)
    return bed >= 0.5


def _train(canvas: Canvas, rng: np.random.Generator, origin: Outline, slope: float) -> None:
    """Paint an engine and up to two wagons standing on the rail."""
    width, unit = canvas.size[1], canvas.unit
    num_cars = int(rng.integers(1, 4))
    tall = unit * rng.uniform(0.12, 0.18)
    long = unit * rng.uniform(0.2, 0.3)
    step = long + 0.03 * unit
    first = rng.uniform(-0.5 * width + 0.5 * long, 0.5 * width - 0.5 * long)
    facing = 1.0 if first < 0 else -1.0
    colour = random_colour(rng, (0.3, 0.9), (0.3, 0.9))
    bodies: list[Outline] = []
    trims: list[Outline] = []
    wheels: list[Outline] = []
    for index in range(num_cars):
        middle = first + facing * index * step
        shape, windows = (_engine if index == 0 else _wagon)(rng, long, tall)
        # The engine looks away from its wagons.
        flip = np.array([-facing, 1.0])
        bodies += [placed(piece * flip + (middle, 0.0), origin, slope) for piece in shape]
        trims += [placed(piece * flip + (middle, 0.0), origin, slope) for piece in windows]
        for x in (-0.32, -0.14, 0.14, 0.32):
            at = (middle + x * long, -0.07 * tall)
            wheels.append(placed(ellipse(at, (0.17 * tall, 0.17 * tall)), origin, slope))
    couplings = abs(first + facing * (num_cars - 1) * step - first) / 2
    middle = first + facing * couplings
    bodies.append(
        placed(box((middle, -0.2 * tall), (couplings + 0.3 * long, 0.05 * tall)), origin, slope)
    )
    body, wheel = coverage(bodies, canvas.size), coverage(wheels, canvas.size)
    canvas.claim(np.maximum(body, wheel), 1)
    canvas.paint(body, _texture(canvas, rng, colour))
    canvas.paint(wheel, _DARK)
    canvas.paint(coverage(trims, canvas.size), random_colour(rng, (0.0, 0.4), (0.05, 1.0)))


def _engine(
    rng: np.random.Generator, long: float, tall: float
) -> tuple[list[Outline], list[Outline]]:
    """Outline a locomotive over (0, 0), looking to the right; body pieces and windows."""
    cab = box((-0.3 * long, -0.6 * tall), (0.2 * long, 0.5 * tall))
    boiler = box((0.12 * long, -0.45 * tall), (0.36 * long, 0.33 * tall))
    chimney = box((0.33 * long, -0.9 * tall), (0.05 * long, rng.uniform(0.1, 0.3) * tall))
    window = box((-0.3 * long, -0.8 * tall), (0.11 * long, 0.16 * tall))
    return [cab, boiler, chimney], [window]


def _wagon(
    rng: np.random.Generator, long: float, tall: float
) -> tuple[list[Outline], list[Outline]]:
    """Outline a coach over (0, 0); body pieces and windows."""
    body = box((0.0, -0.55 * tall), (0.5 * long, rng.uniform(0.36, 0.45) * tall))
    if rng.random() < 0.3:
        return [body], []
    windows = [
        box((x * long, -0.68 * tall), (0.07 * long, 0.13 * tall))
        for x in (-0.33, -0.11, 0.11, 0.33)
    ]
    return [body], windows


def _lake(canvas: Canvas, rng: np.random.Generator, *, with_boat: bool) -> BoolArray:
    """Paint rippled water along the lower edge, and a boat on it; return the water's pixels."""
    height, width = canvas.size
    shore = height * rng.uniform(0.76, 0.83)
    lake = coverage([box((width / 2, shore + height), (width * 2, height), 0.0)], canvas.size)
    x, y = grid(canvas.size)
    wave = canvas.unit * rng.uniform(0.03, 0.05)
    drift = 6.0 * smooth_noise(rng, canvas.size, 5)
    ripple = np.sin(2 * np.pi * y / wave + drift + 0.02 * x)
    tint = hsv(rng.uniform(0.45, 0.63), rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.75))
    canvas.hide(lake)
    canvas.paint(lake, tint * (1.0 + 0.22 * ripple)[..., None])
    if with_boat:
        _boat(canvas, rng, shore)
    return lake >= 0.5


def _boat(canvas: Canvas, rng: np.random.Generator, shore: float) -> None:
    """Paint a hull with either a sail or a cabin, floating below the shore line."""
    height, width = canvas.size
    half = canvas.unit * rng.uniform(0.12, 0.21)
    deep = half * rng.uniform(0.3, 0.45)
    floor = min(shore + deep + 0.02 * height + rng.uniform(0, 0.08) * height, 0.97 * height)
    at = np.array([rng.uniform(half, max(width - half, half + 1)), floor])
    lean = rng.uniform(-0.05, 0.05)
    side = rng.choice([-1.0, 1.0])

    def put(outline: Outline) -> Outline:
        return placed(outline * (side, 1.0), at, lean)

    hull = put(np.array([(-half, -deep), (half, -deep), (0.72 * half, 0), (-0.78 * half, 0)]))
    if rng.random() < 0.5:
        tall = half * rng.uniform(1.2, 1.7)
        mast = put(box((0, -deep - tall / 2), (0.03 * half + 0.4, tall / 2)))
        sail = np.array(
            [(0.06 * half, -deep - tall), (0.7 * half, -1.3 * deep), (0.06 * half, -1.3 * deep)]
        )
        upper, windows = [put(sail), mast], [mast]
    else:
        cabin = box((-0.2 * half, -1.5 * deep), (0.45 * half, 0.6 * deep))
        funnel = box((-0.4 * half, -2.3 * deep), (0.1 * half, 0.5 * deep))
        upper = [put(cabin), put(funnel)]
        windows = [
            put(box((x * half, -1.6 * deep), (0.1 * half, 0.22 * deep))) for x in (-0.45, -0.1)
        ]
    canvas.claim(coverage([hull, *upper], canvas.size), 2)
    canvas.paint(coverage(upper, canvas.size), random_colour(rng, (0.0, 0.4), (0.6, 1.0)))
    canvas.paint(coverage(windows, canvas.size), _DARK)
    hull_colour = random_colour(rng, (0.3, 0.9), (0.25, 0.8))
    canvas.paint(coverage([hull], canvas.size), _texture(canvas, rng, hull_colour))
