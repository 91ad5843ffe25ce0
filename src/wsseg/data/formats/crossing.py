"""Find where scribbles of two classes cross."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from wsseg.data.formats.drawn import Coordinates


def crossing(lines: Sequence[tuple[Coordinates, int]]) -> tuple[int, int, tuple[int, int]] | None:
    """Find a pixel on lines of two classes.

    Args:
        lines: Polylines (m, 2) in pixels with their class ids.

    Returns:
        Both class ids and the pixel (x, y); None when no lines of different classes meet.

    Example:
        >>> across, down = np.array([[0.5, 2.5], [4.5, 2.5]]), np.array([[2.5, 0.5], [2.5, 4.5]])
        >>> crossing([(across, 1), (down, 2)])
        (1, 2, (2, 2))
    """
    seen: dict[tuple[int, int], int] = {}
    for line, class_id in lines:
        for x, y in _pixels(line).tolist():
            other = seen.setdefault((x, y), class_id)
            if other != class_id:
                return other, class_id, (x, y)
    return None


def _pixels(line: Coordinates) -> np.ndarray:
    """List the pixels on a polyline, in order; steps are half a pixel at most."""
    parts = [line[:1]]
    for start, end in pairwise(line):
        count = int(np.ceil(2 * np.abs(end - start).max())) + 1
        parts.append(start + (end - start) * np.linspace(0, 1, count)[:, None])
    return np.floor(np.concatenate(parts)).astype(np.int64)
