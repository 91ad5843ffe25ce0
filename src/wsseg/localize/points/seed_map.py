"""Points and scribbles as pixels whose class is known: the seeds that all else grows from.

A scribble is drawn 3 pixels wide with round ends and joints, as the evaluation of ScribbleSup's
labels does (D. Lin et al., "ScribbleSup: Scribble-Supervised Convolutional Networks for Semantic
Segmentation", CVPR 2016). A point is a disc. A pixel belongs to a stroke when its centre is at most
half the width away. Pixels that two classes claim are unknown; between the discs of two points the
nearer one wins.

Where nobody marked background, superpixels at the border of the image that hold no seed may stand
in for it: objects are rarely cut off on all sides. Not so superpixels that two classes claim, and
none where a tagged class has no seed in the image, because they may be that class.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.data.labels import BACKGROUND, IGNORE, Points, Scribbles, WeakLabels
from wsseg.localize.direct import DirectLocalizerConfig, LocalizeContext

SeedMap = npt.NDArray[np.uint8]
"""(H, W): 0 background, class ids, 255 where nothing is known."""


class Marks(NamedTuple):
    """What points and scribbles say about pixels.

    Attributes:
        seeds: (H, W) uint8: 0 background, class ids, 255 where nothing is known.
        contested: (H, W) bool, True where two classes claim a pixel; nothing is known there.
    """

    seeds: SeedMap
    contested: npt.NDArray[np.bool_]


class SeedLocalizerConfig(DirectLocalizerConfig):
    """What all localizers from points and scribbles share."""

    label_kinds: ClassVar[tuple[str, ...]] = ("points", "scribbles")

    point_radius_px: float = Field(
        3.0, gt=0, le=1000, description="Radius of the disc that stands for a point, pixels."
    )
    scribble_width_px: float = Field(
        3.0, ge=1, le=1000, description="Width of a drawn scribble, pixels."
    )
    background: Literal["none", "border"] = Field(
        "border",
        description="Where no scribble marks background: border = superpixels at the border of the "
        "image without any seed stand in for it; none: nothing does.",
    )
    superpixels: SuperpixelConfig = Field(
        SuperpixelConfig(area_px=64), description="Superpixels, for `background`."
    )


def draw_seeds(
    labels: WeakLabels,
    size: tuple[int, int],
    *,
    point_radius_px: float = 3.0,
    scribble_width_px: float = 3.0,
    context: LocalizeContext | None = None,
) -> SeedMap:
    """Draw points and scribbles; see `draw_marks`.

    Args:
        labels: Labels in pixels of the image.
        size: (H, W) of the image.
        point_radius_px: Radius of points.
        scribble_width_px: Width of scribbles.
        context: Learns of points outside of the image.

    Returns:
        (H, W) uint8: 0 background, class ids, 255 where nothing is known.

    Example:
        >>> labels = WeakLabels(points=Points([[1.5, 0.5]], [4]))
        >>> draw_seeds(labels, (1, 5), point_radius_px=1).tolist()
        [[4, 4, 4, 255, 255]]
    """
    return draw_marks(
        labels,
        size,
        point_radius_px=point_radius_px,
        scribble_width_px=scribble_width_px,
        context=context,
    ).seeds


def draw_marks(
    labels: WeakLabels,
    size: tuple[int, int],
    *,
    point_radius_px: float = 3.0,
    scribble_width_px: float = 3.0,
    context: LocalizeContext | None = None,
) -> Marks:
    """Draw points and scribbles, and tell where they contradict each other.

    Args:
        labels: Labels in pixels of the image.
        size: (H, W) of the image.
        point_radius_px: Radius of points.
        scribble_width_px: Width of scribbles.
        context: Learns of points outside of the image.

    Returns:
        The seeds, and the pixels that two classes claim.

    Example:
        >>> labels = WeakLabels(points=Points([[0.5, 0.5], [2.5, 0.5]], [4, 7]))
        >>> marks = draw_marks(labels, (1, 5), point_radius_px=1)
        >>> marks.seeds.tolist(), marks.contested.astype(int).tolist()
        ([[4, 255, 7, 7, 255]], [[0, 1, 0, 0, 0]])
    """
    marks = Marks(np.full(size, IGNORE, np.uint8), np.zeros(size, np.bool_))
    if labels.points is not None:
        _draw_points(marks, labels.points, point_radius_px, context)
    if labels.scribbles is not None:
        _draw_scribbles(marks, labels.scribbles, scribble_width_px / 2)
    return marks


def _draw_points(
    marks: Marks, points: Points, radius: float, context: LocalizeContext | None
) -> None:
    seeds, contested = marks
    height, width = seeds.shape
    x, y = points.xy.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if context is not None and not inside.all():
        context.note(f"{int((~inside).sum())} point(s) outside of the image were left out")
    nearest = np.full(seeds.shape, np.inf)
    pairs = zip(points.xy[inside].astype(np.float64), points.class_ids[inside], strict=True)
    for xy, class_id in pairs:
        # A point is always worth the pixel that it lies in.
        centre = np.floor(xy) + 0.5
        window = _window(centre[None], radius, seeds.shape)
        squared = _squared_distance(window, centre, centre)
        part, best, tie = seeds[window], nearest[window], contested[window]
        closer = (squared <= radius**2) & (squared < best)
        tied = (squared <= radius**2) & (squared == best) & (part != class_id)
        part[closer], best[closer], tie[closer] = class_id, squared[closer], False
        part[tied], tie[tied] = IGNORE, True


def _draw_scribbles(marks: Marks, scribbles: Scribbles, radius: float) -> None:
    seeds = marks.seeds
    drawn = np.full(seeds.shape, IGNORE, np.uint8)
    contested = marks.contested.copy()
    for line, class_id in zip(scribbles.lines, scribbles.class_ids.tolist(), strict=True):
        stroke = stroke_mask(line, radius, (seeds.shape[0], seeds.shape[1]))
        contested |= stroke & (drawn != IGNORE) & (drawn != class_id)
        drawn[stroke] = class_id
    is_drawn = drawn != IGNORE
    contested |= is_drawn & (seeds != IGNORE) & (seeds != drawn)
    seeds[is_drawn] = drawn[is_drawn]
    seeds[contested] = IGNORE
    marks.contested[:] = contested


def stroke_mask(
    line: npt.NDArray[np.floating], radius: float, size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Find the pixels whose centres are close to a polyline.

    Args:
        line: (m, 2) points (x, y) in pixels; one point is a dot.
        radius: Largest distance, pixels.
        size: (H, W) of the image.

    Returns:
        (H, W) bool.

    Example:
        >>> stroke_mask(np.array([[0.5, 0.5], [2.5, 0.5]]), 0.5, (2, 4)).astype(int).tolist()
        [[1, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask = np.zeros(size, np.bool_)
    points = np.asarray(line, np.float64).reshape(-1, 2)
    starts, ends = (points[:-1], points[1:]) if len(points) > 1 else (points, points)
    for start, end in zip(starts, ends, strict=True):
        window = _window(np.stack([start, end]), radius, size)
        mask[window] |= _squared_distance(window, start, end) <= radius**2
    return mask


def _window(
    points: npt.NDArray[np.float64], radius: float, size: tuple[int, ...]
) -> tuple[slice, slice]:
    """Find the rows and columns that points with a radius can reach."""
    low = np.floor(points.min(axis=0) - radius - 1)
    high = np.ceil(points.max(axis=0) + radius + 1)
    left, top = (int(v) for v in np.clip(low, 0, size[::-1]))
    right, bottom = (int(v) for v in np.clip(high, 0, size[::-1]))
    return slice(top, bottom), slice(left, right)


def _squared_distance(
    window: tuple[slice, slice], start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Measure from the pixel centres of a window to the segment between two points."""
    y, x = np.mgrid[window] + 0.5
    along = end - start
    length = float(along @ along)
    share = np.zeros_like(x)
    if length > 0:
        share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length, 0, 1)
    result: npt.NDArray[np.float64] = (x - start[0] - share * along[0]) ** 2 + (
        y - start[1] - share * along[1]
    ) ** 2
    return result


def seeds_of(
    image: npt.NDArray[np.uint8],
    labels: WeakLabels,
    config: SeedLocalizerConfig,
    context: LocalizeContext | None = None,
    *,
    stand_in: bool = False,
) -> SeedMap:
    """Draw the seeds of an image, background included where the settings ask for it.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: Its labels, in pixels of the image.
        config: How seeds are drawn.
        context: Takes notes.
        stand_in: Let superpixels at the border stand in for all that is not seeded even where a
            tagged class has no seed, so that the others have something to grow against. The
            caller passes the result to `wsseg.localize.points.left_open.left_open`.

    Returns:
        (H, W) uint8: 0 background, class ids, 255 where nothing is known.
    """
    seeds, contested = draw_marks(
        labels,
        (image.shape[0], image.shape[1]),
        point_radius_px=config.point_radius_px,
        scribble_width_px=config.scribble_width_px,
        context=context,
    )
    is_marked = bool((seeds == BACKGROUND).any())
    if config.background != "border" or is_marked or not (seeds != IGNORE).any():
        return seeds
    if unseeded_classes(labels, seeds) and not stand_in:
        if context is not None:
            context.note("a tagged class has no seed, so the border may be that class")
        return seeds
    border = border_background(image, seeds, config.superpixels, contested)
    seeds[border] = BACKGROUND
    if context is not None:
        context.facts["automatic_background"] = round(float(border.mean()), 4)
        if not border.any():
            context.note("no background is known: every superpixel at the border has a seed")
    return seeds


def unseeded_classes(labels: WeakLabels, seeds: SeedMap) -> frozenset[int]:
    """List the tagged classes that no seed of the image shows: they may be anywhere."""
    return (labels.tags or frozenset()) - frozenset(np.unique(seeds).tolist())


def border_background(
    image: npt.NDArray[np.uint8],
    seeds: SeedMap,
    config: SuperpixelConfig = SuperpixelConfig(),
    contested: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Find the superpixels at the border of the image that hold no seed.

    Args:
        image: (H, W, 3) uint8 RGB.
        seeds: (H, W) uint8, 255 where nothing is known.
        config: Which superpixels.
        contested: (H, W) bool, pixels that two classes claim: some seed is there, too.

    Returns:
        (H, W) bool.
    """
    cells = superpixels(image, config)
    edge = np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])
    at_border = np.zeros(int(cells.max()) + 1, np.bool_)
    at_border[edge] = True
    at_border[cells[seeds != IGNORE]] = False
    if contested is not None:
        at_border[cells[contested]] = False
    return np.asarray(at_border[cells], np.bool_)


def fill_from_seeds(seeds: SeedMap) -> str:
    """Say why nothing can grow from seeds; ``""`` where it can."""
    known = set(np.unique(seeds).tolist()) - {IGNORE}
    if not known:
        return "no seed lies in the image"
    if len(known) == 1:
        return "all seeds are of one class, so there is nothing to tell it from"
    return "" if (seeds == IGNORE).any() else "every pixel is a seed"
