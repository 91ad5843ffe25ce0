"""The stencil of a random walk: which grid points are linked, and the paths between them.

A link joins a source pixel with the target that lies at an offset (dy, dx). Links have no
direction, so only offsets of one half plane are listed: to the right in the same row, and all
columns of the rows below.

References: J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision
for Weakly Supervised Semantic Segmentation", CVPR 2018 (offsets); J. Ahn, S. Cho, S. Kwak,
"Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019
(paths).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def half_plane_offsets(radius: int) -> Ints:
    """List the offsets of a half plane that lie within a radius.

    Row by row, from left to right: (0, 1) ... (0, radius - 1), then for dy = 1 ... radius - 1 all
    dx with dx² + dy² < radius². Radius 5 gives 34 offsets, radius 10 gives 152.

    Args:
        radius: Radius in grid points, >= 1; points at exactly this distance are left out.

    Returns:
        (n, 2) int64 offsets (dy, dx) from source to target; n = 0 for radius 1.

    Raises:
        ValueError: When the radius is below 1.

    Example:
        >>> half_plane_offsets(2).tolist()
        [[0, 1], [1, -1], [1, 0], [1, 1]]
        >>> len(half_plane_offsets(5))
        34
    """
    if radius < 1:
        raise ValueError(f"radius is {radius}; expected a whole number of grid points, at least 1.")
    offsets = [
        (dy, dx)
        for dy in range(radius)
        for dx in range(1 - radius, radius)
        if dx * dx + dy * dy < radius * radius and (dy > 0 or dx > 0)
    ]
    return np.array(offsets, np.int64).reshape(-1, 2)


def path_points(offset: tuple[int, int]) -> Ints:
    """List the grid points on the straight path of a link, both ends included.

    These are the points of the rectangle spanned by source and target whose distance to the
    segment between them is below 1.

    Args:
        offset: (dy, dx) from source to target, with dy >= 0; not (0, 0).

    Returns:
        (m, 2) int64 points (y, x) relative to the source, row by row.

    Example:
        >>> path_points((0, 2)).tolist()
        [[0, 0], [0, 1], [0, 2]]
        >>> path_points((1, -1)).tolist()
        [[0, -1], [0, 0], [1, -1], [1, 0]]
    """
    dy, dx = offset
    columns = range(min(dx, 0), max(dx, 0) + 1)
    # Points of the rectangle project onto the segment, so the distance to the line is enough.
    points = [
        (y, x) for y in range(dy + 1) for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    ]
    return np.array(points, np.int64)


def source_window(offset: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of the sources whose target lies on the grid.

    Args:
        offset: (dy, dx) from source to target, with dy >= 0.
        shape: (h, w) of the grid.

    Returns:
        Two slices, empty where no link of this offset fits on the grid.

    Example:
        >>> source_window((1, -2), (4, 6))
        (slice(0, 3, None), slice(2, 6, None))
    """
    (dy, dx), (height, width) = offset, shape
    left = min(max(0, -dx), width)
    return slice(0, max(height - dy, 0)), slice(left, max(width - max(0, dx), left))


def inner_window(radius: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of the sources whose every target lies on the grid.

    These are rows 0 ... h - radius and columns radius - 1 ... w - radius, both included. PSA
    takes pairs, in training and in the walk, from these sources only.

    Args:
        radius: Radius of the stencil, >= 1.
        shape: (h, w) of the grid.

    Returns:
        Two slices, empty on grids smaller than (radius, 2 * radius - 1).

    Example:
        >>> inner_window(5, (47, 63))
        (slice(0, 43, None), slice(4, 59, None))
    """
    height, width = shape
    left = min(radius - 1, width)
    return slice(0, max(height - radius + 1, 0)), slice(left, max(width - radius + 1, left))


def half_plane_checked(offsets: npt.ArrayLike) -> Ints:
    """Check a list of offsets and return it as an array.

    Args:
        offsets: (n, 2) whole numbers (dy, dx), all of the half plane dy > 0, or dy = 0 and dx > 0.

    Returns:
        (n, 2) int64.

    Raises:
        ValueError: When an offset lies in the other half plane or occurs twice.
    """
    array = np.asarray(offsets)
    if array.ndim != 2 or array.shape[1] != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"offsets have shape {array.shape} and type {array.dtype}; expected (n, 2) whole "
            "numbers (dy, dx)."
        )
    wrong = array[(array[:, 0] < 0) | ((array[:, 0] == 0) & (array[:, 1] <= 0))]
    if len(wrong):
        raise ValueError(
            f"The offset {tuple(wrong[0].tolist())} is not in the half plane dy > 0, or dy = 0 and "
            "dx > 0; list each link once, from its upper or left end."
        )
    if len(np.unique(array, axis=0)) < len(array):
        raise ValueError("An offset occurs twice; list each link once.")
    return array.astype(np.int64)
