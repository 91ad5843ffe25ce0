"""Pixels of drawn outlines: a pixel belongs to a polygon when its centre lies inside.

The rule is exact and has no border of its own, so an outline along pixel edges gives back exactly
the pixels that it was traced from (`wsseg.data.outlines`). Filled is what the outline winds around
at least once (non-zero winding), so an outline that overlaps itself leaves no holes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import BACKGROUND


@dataclass(frozen=True, eq=False)
class Region:
    """Some pixels of an image, stored within a rectangle.

    Args:
        pixels: (h, w) bool.
        top: Row of the rectangle in the image.
        left: Column of the rectangle in the image.
    """

    pixels: NDArray[np.bool_]
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the rectangle, to cut it out of an image."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.pixels.sum())

    def cut(self, size: tuple[int, int]) -> Region:
        """Leave out what lies outside of an image of size (H, W).

        Example:
            >>> Region(np.ones((2, 3), bool), -1, 2).cut((4, 4)).pixels.shape
            (1, 2)
        """
        height, width = self.pixels.shape
        top, left = max(0, -self.top), max(0, -self.left)
        bottom, right = min(height, size[0] - self.top), min(width, size[1] - self.left)
        kept = self.pixels[top : max(top, bottom), left : max(left, right)]
        return Region(kept, self.top + top, self.left + left)

    def trimmed(self) -> Region:
        """Shrink the rectangle to the pixels."""
        rows, columns = np.flatnonzero(self.pixels.any(1)), np.flatnonzero(self.pixels.any(0))
        if not rows.size:
            return Region(np.zeros((0, 0), np.bool_), self.top, self.left)
        kept = self.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return Region(kept, self.top + int(rows[0]), self.left + int(columns[0]))


def connected_regions(mask: NDArray[np.uint8]) -> Iterator[tuple[int, Region]]:
    """Cut a mask into its connected regions; pixels that touch at a corner are connected.

    Args:
        mask: (H, W) uint8 class ids.

    Yields:
        Class id, 255 among them but not 0, and pixels, in the order of the ids.
    """
    import cv2

    for class_id in np.unique(mask).tolist():
        if class_id == BACKGROUND:
            continue
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(
            (mask == class_id).astype(np.uint8), connectivity=8
        )
        # Row 0 of the statistics is everything else.
        for label, (left, top, width, height, _) in enumerate(statistics.tolist()):
            if label > 0:
                box = labels[top : top + height, left : left + width]
                yield class_id, Region(box == label, top, left)


def fill_polygon(ring: NDArray[np.float64], size: tuple[int, int]) -> tuple[Region, bool]:
    """Find the pixels whose centres lie inside of an outline.

    Args:
        ring: (m, 2) corner points (x, y) in pixels, closed from the last to the first; points
            outside of the image are allowed.
        size: (H, W) of the image.

    Returns:
        The pixels, and whether the outline visibly crosses or overlaps itself.

    Example:
        >>> region, crosses = fill_polygon(np.array([[1.0, 0], [3, 0], [3, 2], [1, 2]]), (3, 4))
        >>> region.top, region.left, region.pixels.shape, region.area, crosses
        (0, 1, (2, 2), 4, False)
    """
    ring = np.asarray(ring, np.float64)
    low = np.clip(np.floor(ring.min(axis=0)), 0, size[::-1]).astype(np.int64)
    high = np.clip(np.ceil(ring.max(axis=0)), 0, size[::-1]).astype(np.int64)
    left, top = int(low[0]), int(low[1])
    width, height = int(high[0]) - left, int(high[1]) - top
    if width <= 0 or height <= 0:
        return Region(np.zeros((0, 0), np.bool_), top, left), False
    winding = _winding(ring - (left, top), height, width)
    crosses = bool(winding.max() > 1 or winding.min() < -1 or winding.max() * winding.min() < 0)
    return Region(winding != 0, top, left), crosses


def _winding(ring: NDArray[np.float64], height: int, width: int) -> NDArray[np.int64]:
    """Count for every pixel centre how often the outline winds around it."""
    start, end = ring, np.roll(ring, -1, axis=0)
    # An edge counts for the rows whose centre it passes; a corner on a centre counts once.
    first = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(np.int64)
    after = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(np.int64)
    count = after - first
    edge = np.repeat(np.arange(len(ring)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    rise = end[edge, 1] - start[edge, 1]
    share = (row + 0.5 - start[edge, 1]) / rise
    x = start[edge, 0] + share * (end[edge, 0] - start[edge, 0])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    changes = np.zeros((height, width + 1), np.int64)
    np.add.at(changes, (row, column), np.sign(rise).astype(np.int64))
    return changes.cumsum(axis=1)[:, :width]
