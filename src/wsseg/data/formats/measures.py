"""Numbers, sizes and simple shapes as annotation files write them; what is no number is None."""

from __future__ import annotations

import math

import numpy as np

from wsseg.data.formats.drawn import Coordinates

_LARGEST_COORDINATE = 1e7


def number(value: object) -> float | None:
    """Read a finite number of sensible size; text counts where it is a number.

    Example:
        >>> number("2.5"), number(True), number("nan")
        (2.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) and abs(read) <= _LARGEST_COORDINATE else None


def coordinates(values: object) -> Coordinates | None:
    """Read a list of (x, y), nested or flat.

    Args:
        values: ``[[x, y], ...]`` or ``[x, y, x, y, ...]``.

    Returns:
        (n, 2), n >= 1; None when it is something else.

    Example:
        >>> coordinates([[0, 1], [2, 3]]).tolist() == coordinates([0, 1, 2, 3]).tolist()
        True
    """
    if not isinstance(values, list | tuple) or not values:
        return None
    flat: list[object] = []
    for value in values:
        if isinstance(value, list | tuple):
            if len(value) != 2:
                return None
            flat.extend(value)
        else:
            flat.append(value)
    numbers = [number(value) for value in flat]
    if len(numbers) % 2 or any(value is None for value in numbers):
        return None
    return np.array(numbers, np.float64).reshape(-1, 2)


def turned_corners(corners: Coordinates, degrees: float, pivot: Coordinates) -> Coordinates:
    """Turn a rectangle clockwise on the screen.

    Args:
        corners: (2, 2) left top and right bottom.
        degrees: The angle.
        pivot: (2,) the point that stays.

    Returns:
        (4, 2) corners.

    Example:
        >>> turned = turned_corners(np.array([[0.0, 0], [2, 1]]), 90, np.zeros(2))
        >>> turned.round().astype(int).tolist()
        [[0, 0], [0, 2], [-1, 2], [-1, 0]]
    """
    (left, top), (right, bottom) = corners
    square = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (square - pivot) @ np.array([[cosine, sine], [-sine, cosine]]) + pivot


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> Coordinates:
    """Make a polygon of an ellipse.

    Args:
        centre: x, y.
        radii: Half the width and half the height, before turning.
        degrees: Turn, clockwise on the screen.

    Returns:
        (n, 2) corners, n from 16 to 720 by size.
    """
    count = int(np.clip(2 * max(radii), 16, 720))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    around = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return around @ np.array([[cosine, sine], [-sine, cosine]]) + np.array(centre)


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """Read the size that a file says; None where it says none, such as 0 x 0."""
    rows, columns = number(height), number(width)
    if rows is None or columns is None or rows < 1 or columns < 1:
        return None
    return int(rows), int(columns)
