"""Boxes as pixels of an image: which rows and columns they cover, and which box is in front.

A pixel belongs to a box when its centre lies inside; a box that is too thin to hold a centre gets
the pixels it touches. Boxes are cut at the edge of the image; those outside of it are left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.localize.direct import LocalizeContext


class BoxWindow(NamedTuple):
    """The pixels of one box.

    Attributes:
        class_id: Class of the box.
        top: First row.
        bottom: Row behind the last one.
        left: First column.
        right: Column behind the last one.
    """

    class_id: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to cut the box out of an image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def inner(self, fraction: float) -> BoxWindow:
        """Return the centred part with the same aspect and a fraction of the area.

        Args:
            fraction: Share of the area, in (0, 1].

        Example:
            >>> BoxWindow(1, 0, 10, 0, 20).inner(0.25)
            BoxWindow(class_id=1, top=2, bottom=7, left=5, right=15)
        """
        top, bottom = _shrunk(self.top, self.bottom, math.sqrt(fraction))
        left, right = _shrunk(self.left, self.right, math.sqrt(fraction))
        return BoxWindow(self.class_id, top, bottom, left, right)


def _shrunk(low: int, high: int, factor: float) -> tuple[int, int]:
    length = max(1, round((high - low) * factor))
    start = low + (high - low - length) // 2
    return start, start + length


def box_window(
    xyxy: npt.NDArray[np.floating], class_id: int, size: tuple[int, int]
) -> BoxWindow | None:
    """Find the pixels of a box.

    Args:
        xyxy: (4,) left, top, right, bottom in pixels; inverted ones are empty.
        class_id: Its class.
        size: (H, W) of the image.

    Returns:
        The pixels; None where the box has no area or lies outside of the image.

    Example:
        >>> box_window(np.array([1.0, -3.0, 3.0, 2.0]), 4, (5, 6))
        BoxWindow(class_id=4, top=0, bottom=2, left=1, right=3)
        >>> box_window(np.array([7.0, 0.0, 9.0, 2.0]), 4, (5, 6)) is None
        True
    """
    x0, y0, x1, y1 = (float(value) for value in xyxy)
    columns, rows = _span(x0, x1, size[1]), _span(y0, y1, size[0])
    if columns is None or rows is None:
        return None
    return BoxWindow(class_id, *rows, *columns)


def _span(low: float, high: float, length: int) -> tuple[int, int] | None:
    low, high = max(low, 0.0), min(high, float(length))
    if not high > low:
        return None
    first, after = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if after <= first:
        first = min(int(low), length - 1)
        after = max(first + 1, min(math.ceil(high), length))
    return first, after


def front_last(
    labels: WeakLabels, size: tuple[int, int], context: LocalizeContext | None = None
) -> list[BoxWindow]:
    """List the boxes of an image from back to front: large ones first.

    Args:
        labels: Labels of the image.
        size: (H, W) of the image.
        context: Learns how many boxes lie outside of the image.

    Returns:
        The boxes with pixels, by falling area; of equal ones the later is in front.
    """
    if labels.boxes is None:
        return []
    pairs = zip(labels.boxes.xyxy, labels.boxes.class_ids.tolist(), strict=True)
    found = [box_window(xyxy, class_id, size) for xyxy, class_id in pairs]
    windows = [window for window in found if window is not None]
    if context is not None and len(windows) < len(found):
        context.note(f"{len(found) - len(windows)} box(es) outside of the image were left out")
    return sorted(windows, key=lambda window: -window.area)


def outside_of_boxes(
    labels: WeakLabels, size: tuple[int, int], context: LocalizeContext | None = None
) -> int:
    """Say what pixels outside of all boxes are.

    A box without a pixel of the image is no box: its class may still be anywhere.

    Args:
        labels: Labels of the image.
        size: (H, W) of the image.
        context: Learns that something was left open.

    Returns:
        0, background; or 255, unknown, where a tagged class has no box in the image and so may be
        anywhere, or where nobody tagged the image and no box lies in it.

    Example:
        >>> from wsseg.data.labels import Boxes
        >>> boxes = Boxes([[0, 0, 4, 4]], [1])
        >>> outside_of_boxes(WeakLabels(tags={1, 2}, boxes=boxes), (8, 8))
        255
        >>> outside_of_boxes(WeakLabels(tags={1}, boxes=boxes), (8, 8))
        0
    """
    boxed = boxed_classes(labels, size)
    if labels.tags is None:
        if boxed:
            return BACKGROUND
        if context is not None:
            context.note("no box lies in the image, so nothing is known of it")
        return IGNORE
    missing = sorted(labels.tags - boxed)
    if not missing:
        return BACKGROUND
    if context is not None:
        named = ", ".join(map(str, missing))
        context.note(
            f"tagged class(es) {named} have no box in the image, so the outside of boxes is unknown"
        )
    return IGNORE


def boxed_classes(labels: WeakLabels, size: tuple[int, int]) -> frozenset[int]:
    """List the classes that have a box with at least one pixel of an image (H, W)."""
    return frozenset(window.class_id for window in front_last(labels, size))
