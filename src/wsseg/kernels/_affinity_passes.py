"""Compiled passes that compute the affinities of all links of a grid.

Grids are flat, (h * w,), so that a link is a shift of the index and a tile of pixels one run of
memory. Links that wrap around a border are computed too; the caller drops them.
"""

# numba infers the types of these functions.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled
from wsseg.kernels._rows import add_distance, load, scale, store

# Pixels per tile, which stay in vector registers while all channels are summed.
TILE = 64
LANES = (0,) * TILE


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
def feature_distances(features, shifts, distances, first_tile, last_tile):
    """Write sum over channels of |f_i - f_j| into distances (n, tiles * TILE), tile by tile.

    features (c, tiles * TILE + margin); link o joins i with i + shifts[o].
    """
    channels, width = features.shape
    flat = features.reshape(-1)
    for first in range(first_tile * TILE, last_tile * TILE, TILE):
        for o in range(0, len(shifts), 2):
            # Two links at a time, which share what is loaded of the sources.
            one, two = shifts[o], shifts[min(o + 1, len(shifts) - 1)]
            nothing = scale(np.float32(0), load(flat, first, LANES))
            a, b = nothing, nothing
            for c in range(channels):
                place = c * width + first
                source = load(flat, place, LANES)
                a = add_distance(source, load(flat, place + one, LANES), a)
                b = add_distance(source, load(flat, place + two, LANES), b)
            store(distances[o], first, a)
            store(distances[min(o + 1, len(shifts) - 1)], first, b)
