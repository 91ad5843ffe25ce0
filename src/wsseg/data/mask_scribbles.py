"""Make scribbles from a ground-truth mask: lines along the middle of objects, or free curves.

A scribble is what a person draws in one stroke: a part of the longest path through the skeleton
(medial axis) of an object, or a Bézier curve between random places in it. The skeleton of a disc or
a square is hardly more than a dot: such compact objects get a curve in either style. Whatever the
style, the line one pixel wide through the vertices never leaves the class: a curve that does is
drawn anew, and after some tries the skeleton is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, Scribbles
from wsseg.data.mask_labels import Instances, Mask, components

ScribbleStyle = Literal["skeleton", "bezier"]

_BEZIER_TRIES = 20
_BEZIER_POINTS = 16
_SIMPLIFY_PX = 1.0
_COMPACT_FRAC = 0.5

_Bool = npt.NDArray[np.bool_]
_Line = npt.NDArray[np.float32]


def scribbles_from_mask(
    mask: Mask,
    *,
    rng: np.random.Generator,
    style: ScribbleStyle = "skeleton",
    length_frac: float = 0.6,
    num_background: int = 1,
    instances: Instances | None = None,
    min_area_px: int = 1,
) -> Scribbles:
    """Scribble on every object and on the background.

    Args:
        mask: (H, W) uint8 class ids, 255 = ignore.
        rng: Source of positions and curves.
        style: "skeleton" or "bezier".
        length_frac: Share in (0, 1] of the longest path through the skeleton that is drawn; for
            Bézier curves, the reach of the curve as a share of the object's extent.
        num_background: Number of lines of class 0, on the largest background areas.
        instances: (H, W) object numbers, see `components`.
        min_area_px: Smaller objects get no scribble.

    Returns:
        Polylines through pixel centres with their classes, objects first.

    Example:
        >>> mask = np.zeros((3, 7), np.uint8)
        >>> mask[1, 1:6] = 2
        >>> lines = scribbles_from_mask(
        ...     mask, rng=np.random.default_rng(0), length_frac=1.0, num_background=0)
        >>> sorted(lines.lines[0].tolist()), lines.class_ids.tolist()
        ([[1.5, 1.5], [5.5, 1.5]], [2])
    """
    lines: list[_Line] = []
    class_ids: list[int] = []
    objects = components(mask, instances=instances, min_area_px=min_area_px)
    for class_id, window, pixels in (*objects, *_background(mask, num_background)):
        offset = np.array([window[1].start, window[0].start], np.float32)
        lines.append(_scribble(pixels, rng, style, length_frac) + offset)
        class_ids.append(class_id)
    return Scribbles(tuple(lines), np.array(class_ids, np.int64))


def line_pixels(line: npt.NDArray[np.floating], size: tuple[int, int]) -> _Bool:
    """Draw a polyline one pixel wide through the pixels that hold its vertices.

    Args:
        line: (m, 2) float (x, y) pixels, all inside the image.
        size: Height and width of the image.

    Returns:
        (H, W) bool.
    """
    import cv2

    canvas = np.zeros(size, np.uint8)
    vertices = np.floor(line).astype(np.int32)
    cv2.polylines(canvas, [vertices], isClosed=False, color=1, thickness=1, lineType=cv2.LINE_8)
    # OpenCV draws nothing for a line of one point.
    canvas[vertices[:, 1], vertices[:, 0]] = 1
    return canvas.astype(np.bool_)


def _background(mask: Mask, number: int) -> Iterator[tuple[int, tuple[slice, slice], _Bool]]:
    """Give the largest connected background areas, largest first."""
    if number == 0:
        return
    found = list(components((mask == BACKGROUND).astype(np.uint8)))
    found.sort(key=lambda item: -int(np.count_nonzero(item[2])))
    for _, window, pixels in found[:number]:
        yield BACKGROUND, window, pixels


def _scribble(
    pixels: _Bool, rng: np.random.Generator, style: ScribbleStyle, length_frac: float
) -> _Line:
    """Draw one line inside an area; (x, y) relative to the area's window."""
    path = _longest_skeleton_path(pixels)
    is_compact = len(path) < _COMPACT_FRAC * max(pixels.shape)
    if style == "bezier" or is_compact:
        curve = _bezier(pixels, rng, length_frac)
        if curve is not None:
            return curve
    length = max(1, round(length_frac * len(path)))
    start = int(rng.integers(0, len(path) - length + 1))
    path = path[start : start + length]
    short = _simplified(path)
    return short if _stays_inside(short, pixels) else path


def _stays_inside(line: _Line, pixels: _Bool) -> bool:
    return not (line_pixels(line, pixels.shape) & ~pixels).any()


def _bezier(pixels: _Bool, rng: np.random.Generator, length_frac: float) -> _Line | None:
    """Draw a cubic Bézier curve between random pixels; None where none fits in."""
    row, column = np.nonzero(pixels)
    places = np.stack([column, row], axis=1) + 0.5
    reach = max(1.0, length_frac * float(np.ptp(places, axis=0).max()))
    t = np.linspace(0.0, 1.0, _BEZIER_POINTS)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    for _ in range(_BEZIER_TRIES):
        controls = places[rng.integers(len(places), size=4)]
        longest = float(np.hypot(*(controls[3] - controls[0])))
        if longest > reach:
            controls = controls[0] + (controls - controls[0]) * (reach / longest)
        curve = np.floor(weights @ controls).astype(np.float32) + np.float32(0.5)
        keep = np.append(True, np.any(np.diff(curve, axis=0) != 0, axis=1))
        curve = curve[keep]
        bounded = (curve >= 0).all() and (curve < pixels.shape[::-1]).all()
        if bounded and len(curve) > 1 and _stays_inside(curve, pixels):
            return curve
    return None


def _longest_skeleton_path(pixels: _Bool) -> _Line:
    """Follow the skeleton of an area from one far end to another; (m, 2) pixel centres.

    The farthest point from any start is one end, the farthest from there the other: exact on a
    tree, and near the longest where the skeleton has loops.
    """
    from skimage.morphology import skeletonize

    # Without a margin, the skeleton of an area that fills its window runs into the corners.
    skeleton = skeletonize(np.pad(pixels, 1))[1:-1, 1:-1]
    if not skeleton.any():
        skeleton = pixels
    row, column = np.nonzero(skeleton)
    first, _ = _far_end(skeleton, row, column, 0)
    last, before = _far_end(skeleton, row, column, first)
    path = [last]
    while path[-1] != first:
        path.append(int(before[path[-1]]))
    return np.stack([column[path] + 0.5, row[path] + 0.5], axis=1).astype(np.float32)


def _far_end(
    skeleton: _Bool, row: npt.NDArray[np.intp], column: npt.NDArray[np.intp], start: int
) -> tuple[int, npt.NDArray[np.int32]]:
    """Find the pixel with the longest way from ``start``, and the predecessors on all ways."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    number = np.full(np.add(skeleton.shape, 2), -1, np.int64)
    number[row + 1, column + 1] = np.arange(len(row))
    links, lengths = [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        other = number[row + 1 + dy, column + 1 + dx]
        near = np.flatnonzero(other >= 0)
        links.append(np.stack([near, other[near]]))
        lengths.append(np.full(len(near), np.hypot(dy, dx)))
    ends = np.concatenate(links, axis=1)
    graph = coo_array((np.concatenate(lengths), (ends[0], ends[1])), shape=(len(row), len(row)))
    distance, before = dijkstra(
        graph.tocsr(), directed=False, indices=np.array(start), return_predecessors=True
    )
    return int(np.argmax(np.where(np.isfinite(distance), distance, -1.0))), np.asarray(before)


def _simplified(path: _Line) -> _Line:
    """Drop vertices that lie within a pixel of the line through the others."""
    import cv2

    if len(path) < 3:
        return path
    # OpenCV keeps the ends of an open curve and a subset of the points between.
    short = cv2.approxPolyDP(np.ascontiguousarray(path)[:, None], _SIMPLIFY_PX, closed=False)
    return np.asarray(short, np.float32).reshape(-1, 2)
