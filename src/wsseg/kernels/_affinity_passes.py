"""Compiled passes that compute the affinities of all links of a grid.

Grids are flat, (h * w,), so that a link is a shift of the index and a tile of pixels one run of
memory. Links that wrap around a border are computed too; the caller drops them.
"""

# numba infers the types of these functions.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled

# Pixels per tile: loops of a known length become SIMD code without a remainder.
_TILE = 64


@compiled
def path_barriers(edge, width, rows, columns, points, starts, barriers):
    """Write the maximum of the edge (h * w,) along each path into barriers (n, h * w).

    Link o exists for the sources in rows rows[o] and columns columns[o], both half-open; the
    points of its path are points[starts[o] : starts[o + 1]], shifts of the flat index.
    """
    for o in range(len(starts) - 1):
        length = columns[o, 1] - columns[o, 0]
        for y in range(rows[o, 0], rows[o, 1]):
            first = y * width + columns[o, 0]
            target = barriers[o, first : first + length]
            place = first + points[starts[o]]
            target[:] = edge[place : place + length]
            for k in range(starts[o] + 1, starts[o + 1]):
                place = first + points[k]
                values = edge[place : place + length]
                for x in range(length):
                    target[x] = max(target[x], values[x])


@compiled
def feature_distances(features, shifts, distances, start, stop):
    """Add sum over channels of |f_i - f_j| to distances (n, size) for sources start..stop.

    features (c, size); link o joins i with i + shifts[o] where that is below size.
    """
    channels, size = features.shape
    num_links = len(shifts)
    sums = np.empty((num_links, _TILE), np.float32)
    for first in range(start, stop, _TILE):
        sums[:] = np.float32(0)
        for c in range(channels):
            row = features[c]
            for o in range(num_links):
                other = first + shifts[o]
                if other + _TILE <= size:
                    a, b = row[first : first + _TILE], row[other : other + _TILE]
                    for x in range(_TILE):
                        sums[o, x] += abs(a[x] - b[x])
                else:
                    for x in range(size - other):
                        sums[o, x] += abs(row[first + x] - row[other + x])
        last = min(first + _TILE, stop)
        for o in range(num_links):
            for x in range(last - first):
                distances[o, first + x] = sums[o, x]
