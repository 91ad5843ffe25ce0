"""Points and scribbles as pixels: discs, strokes, and the lines between them.

A scribble is drawn 3 pixels wide with round ends and joints, as the evaluation of ScribbleSup's
labels does (D. Lin et al., "ScribbleSup: Scribble-Supervised Convolutional Networks for Semantic
Segmentation", CVPR 2016). A point is a disc. A pixel belongs to a stroke when its centre is at most
half the width away. Pixels that two classes claim are unknown; between the discs of two points the
nearer one wins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE, Points, Scribbles, WeakLabels
from wsseg.localize.direct import LocalizeContext

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


def draw_marks(
    labels: WeakLabels,
    size: tuple[int, int],
    *,
    point_radius_px: float = 3.0,
    point_spacing_frac: float = float("inf"),
    scribble_width_px: float = 3.0,
    context: LocalizeContext | None = None,
) -> Marks:
    """Draw points and scribbles, and tell where they contradict each other.

    Args:
        labels: Labels in pixels of the image.
        size: (H, W) of the image.
        point_radius_px: Radius of points.
        point_spacing_frac: Largest radius of a point as a share of the way to the next point.
        scribble_width_px: Width of scribbles.
        context: Learns of points outside of the image.

    Returns:
        The seeds, and the pixels that two classes claim.

    Example:
        >>> one = WeakLabels(points=Points([[1.5, 0.5]], [4]))
        >>> draw_marks(one, (1, 5), point_radius_px=1).seeds.tolist()
        [[4, 4, 4, 255, 255]]
        >>> labels = WeakLabels(points=Points([[0.5, 0.5], [2.5, 0.5]], [4, 7]))
        >>> marks = draw_marks(labels, (1, 5), point_radius_px=1)
        >>> marks.seeds.tolist(), marks.contested.astype(int).tolist()
        ([[4, 255, 7, 7, 255]], [[0, 1, 0, 0, 0]])
    """
    marks = Marks(np.full(size, IGNORE, np.uint8), np.zeros(size, np.bool_))
    if labels.points is not None:
        radii = point_radii(labels.points.xy, point_radius_px, point_spacing_frac)
        _draw_points(marks, labels.points, radii, context)
    if labels.scribbles is not None:
        _draw_scribbles(marks, labels.scribbles, scribble_width_px / 2)
    return marks


def point_radii(
    xy: npt.NDArray[np.floating], radius: float, spacing_frac: float
) -> npt.NDArray[np.float64]:
    """Choose the radius of each point's disc.

    Args:
        xy: (n, 2) points in pixels.
        radius: Largest radius, pixels.
        spacing_frac: Largest share of the way to the next point at another place.

    Returns:
        (n,) float64 in pixels.

    Example:
        >>> point_radii(np.array([[0.0, 0], [8, 0], [80, 0]]), 3.0, 0.125).tolist()
        [1.0, 1.0, 3.0]
    """
    from scipy.spatial import KDTree

    radii = np.full(len(xy), float(radius))
    places, which = np.unique(np.asarray(xy, np.float64), axis=0, return_inverse=True)
    if len(places) > 1 and np.isfinite(spacing_frac):
        distances = np.asarray(KDTree(places).query(places, k=2)[0], np.float64)
        radii = np.minimum(radii, spacing_frac * distances[which.ravel(), 1])
    return radii


def _draw_points(
    marks: Marks, points: Points, radii: npt.NDArray[np.float64], context: LocalizeContext | None
) -> None:
    seeds, contested = marks
    height, width = seeds.shape
    x, y = points.xy.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if context is not None and not inside.all():
        context.note(f"{int((~inside).sum())} point(s) outside of the image were left out")
    nearest = np.full(seeds.shape, np.inf)
    found = (points.xy[inside].astype(np.float64), points.class_ids[inside], radii[inside])
    for xy, class_id, radius in zip(*found, strict=True):
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


def ridges(labels: WeakLabels, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Find the lines halfway between two marks of objects: the edges of their Voronoi cells.

    Args:
        labels: Points and scribbles, in pixels of the image; strokes of background do not count.
        size: (H, W) of the image.

    Returns:
        (H, W) bool, True where the pixel to the right or below has another nearest mark, so that
        no walk from pixel to pixel can pass from mark to mark beside the lines.

    Example:
        >>> labels = WeakLabels(points=Points([[0.5, 0.5], [4.5, 0.5]], [1, 1]))
        >>> ridges(labels, (1, 5)).astype(int).tolist()
        [[0, 0, 1, 0, 0]]
    """
    from scipy import ndimage

    marks = np.zeros(size, np.int32)
    found = 0
    if labels.points is not None:
        at = np.floor(labels.points.xy).astype(int)
        for x, y in at[((at >= 0) & (at < (size[1], size[0]))).all(axis=1)].tolist():
            found += 1
            marks[y, x] = found
    if labels.scribbles is not None:
        for line, class_id in zip(labels.scribbles.lines, labels.scribbles.class_ids, strict=True):
            if class_id != BACKGROUND:
                found += 1
                marks[stroke_mask(line, 0.5, (size[0], size[1]))] = found
    lines = np.zeros(size, np.bool_)
    if found < 2:
        return lines
    rows, columns = ndimage.distance_transform_edt(
        marks == 0, return_distances=False, return_indices=True
    )
    nearest = marks[rows, columns]
    lines[:, :-1] |= nearest[:, :-1] != nearest[:, 1:]
    lines[:-1] |= nearest[:-1] != nearest[1:]
    return lines
