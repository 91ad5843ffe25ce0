"""Outlines of masks along pixel edges: polygons that rasterise back to exactly the same pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Directions as (dx, dy): right, down, left, up; a right turn is the next one.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outlines(region: NDArray[np.bool_]) -> tuple[list[NDArray[np.int64]], bool]:
    """Trace the edges between a region and its surroundings.

    Pixels that touch only at a corner get outlines of their own, so that no outline crosses
    itself.

    Args:
        region: (H, W) bool.

    Returns:
        Closed outlines (m, 2) int64 of corner points (x, y) in pixels, clockwise on the screen,
        first point not repeated; and whether the region has holes, whose outlines are left out.

    Example:
        >>> rings, has_holes = outlines(np.array([[False, True], [False, True]]))
        >>> rings[0].tolist(), has_holes
        ([[1, 0], [2, 0], [2, 2], [1, 2]], False)
    """
    outer, holes = outlines_and_holes(region)
    return outer, bool(holes)


def outlines_and_holes(
    region: NDArray[np.bool_],
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Trace the edges of a region and of its holes.

    Args:
        region: (H, W) bool.

    Returns:
        The outlines, clockwise on the screen, and the edges of the holes, counter-clockwise; as in
        :func:`outlines`.

    Example:
        >>> ring = np.ones((3, 3), bool)
        >>> ring[1, 1] = False
        >>> outer, holes = outlines_and_holes(ring)
        >>> len(outer), holes[0].tolist()
        (1, [[1, 1], [1, 2], [2, 2], [2, 1]])
    """
    open_edges = _edges(region)
    outer: list[NDArray[np.int64]] = []
    holes: list[NDArray[np.int64]] = []
    while open_edges:
        ring = _follow(open_edges)
        # Clockwise on the screen, where y points down, the shoelace sum is positive.
        (outer if _shoelace(ring) > 0 else holes).append(ring)
    return outer, holes


def _edges(region: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """List the directed edges by their first corner, the region to the right of each."""
    padded = np.pad(region, 1).astype(np.int8)
    down = np.diff(padded, axis=0)[:, 1:-1]
    across = np.diff(padded, axis=1)[1:-1]
    found: dict[tuple[int, int], list[int]] = {}
    # Top edges lead right, right edges down, bottom edges left, left edges up.
    for direction, changes, dx, dy in (
        (0, down == 1, 0, 0),
        (1, across == -1, 0, 0),
        (2, down == -1, 1, 0),
        (3, across == 1, 0, 1),
    ):
        for y, x in np.argwhere(changes).tolist():
            found.setdefault((x + dx, y + dy), []).append(direction)
    # Begin at the top left, so that the result does not depend on the order of directions.
    return dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0])))


def _follow(open_edges: dict[tuple[int, int], list[int]]) -> NDArray[np.int64]:
    """Take one closed outline out of the open edges; keeps only its corners."""
    start = next(iter(open_edges))
    direction = open_edges[start][0]
    corner = start
    corners: list[tuple[int, int]] = []
    previous = -1
    while True:
        choices = open_edges.get(corner, [])
        if len(choices) > 1 and previous >= 0:
            # Where two pixels touch at a corner, turn right: around the same pixel.
            direction = (previous + 1) % 4
        elif choices and previous >= 0:
            direction = choices[0]
        if direction != previous:
            corners.append(corner)
        choices.remove(direction)
        if not choices:
            del open_edges[corner]
        corner = (corner[0] + _STEPS[direction][0], corner[1] + _STEPS[direction][1])
        previous = direction
        if corner == start:
            break
    return np.array(corners, np.int64)


def _shoelace(ring: NDArray[np.int64]) -> int:
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
