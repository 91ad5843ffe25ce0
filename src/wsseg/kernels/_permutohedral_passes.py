"""Compiled passes over a permutohedral lattice: splat, merge, blur, hand back, slice.

All values are rows of labels (see `_rows`): row r of a flat array starts at r * stride. A row of
labels belongs to a pixel, to a vertex, or to a *local row*: a vertex as one band of the image
sees it. Bands splat into their own local rows, so that threads never write to the same place
and the result does not depend on their number.
"""

# numba infers the types of these functions.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled
from wsseg.kernels._rows import add, axpy, load, scale, store

_TILE = 64
# Energy of padding lanes: their probability is exactly 0.
PADDING = -1e30


@compiled
def rows_from_planes(planes, sign, padding, rows, stride, start, stop):
    """Write sign * planes (K, N) as pixel rows of ``stride`` labels; return the count of NaN.

    Values are limited to ±1e30, so that infinite energies stay comparable.
    """
    labels = planes.shape[0]
    num_nan = 0
    for first in range(start, stop, _TILE):
        last = min(first + _TILE, stop)
        for c in range(labels):
            for p in range(first, last):
                value = sign * planes[c, p]
                if value != value:  # true for NaN only
                    num_nan += 1
                rows[p * stride + c] = min(max(value, np.float32(-1e30)), np.float32(1e30))
        for p in range(first, last):
            for c in range(labels, stride):
                rows[p * stride + c] = padding
    return num_nan


@compiled
def planes_from_rows(rows, stride, planes, start, stop):
    """Write pixel rows as planes (K, N)."""
    for first in range(start, stop, _TILE):
        last = min(first + _TILE, stop)
        for c in range(planes.shape[0]):
            for p in range(first, last):
                planes[c, p] = rows[p * stride + c]


@compiled
def splat_ones(index, weights, local, stride, start, stop, first_row, last_row):
    """Splat the number one of pixels start..stop into lane 0 of the band's local rows."""
    local[first_row * stride : last_row * stride] = np.float32(0)
    for p in range(start, stop):
        for k in range(index.shape[1]):
            local[index[p, k] * stride] += weights[p, k]


@compiled
def normalise_weights(index, weights, local, stride, start, stop):
    """Multiply the weights of each pixel by 1 / sqrt(n), n sliced from lane 0.

    Both the splat and the slice use the weights, which makes the normalisation symmetric.
    """
    for p in range(start, stop):
        n = np.float32(0)
        for k in range(index.shape[1]):
            n += weights[p, k] * local[index[p, k] * stride]
        factor = np.float32(1) / np.sqrt(n + np.float32(1e-20))
        for k in range(index.shape[1]):
            weights[p, k] *= factor


@compiled
def splat_rows(lanes, rows, index, weights, local, stride, start, stop, first_row, last_row):
    """Add each pixel's row, weighted, to the local rows of its simplex."""
    width = len(lanes)
    local[first_row * stride : last_row * stride] = np.float32(0)
    for p in range(start, stop):
        for c in range(0, stride, width):
            row = load(rows, p * stride + c, lanes)
            for k in range(index.shape[1]):
                place = index[p, k] * stride + c
                store(local, place, axpy(weights[p, k], row, load(local, place, lanes)))


@compiled
def slice_rows(lanes, local, index, weights, rows, stride, start, stop):
    """Gather each pixel's row, weighted, from the local rows of its simplex."""
    width = len(lanes)
    for p in range(start, stop):
        for c in range(0, stride, width):
            row = scale(weights[p, 0], load(local, index[p, 0] * stride + c, lanes))
            for k in range(1, index.shape[1]):
                row = axpy(weights[p, k], load(local, index[p, k] * stride + c, lanes), row)
            store(rows, p * stride + c, row)


@compiled
def merge_rows(lanes, local, rows_by_vertex, first_row, vertices, stride, start, stop):
    """Sum the local rows of vertices start..stop."""
    width = len(lanes)
    for v in range(start, stop):
        for c in range(0, stride, width):
            row = load(local, rows_by_vertex[first_row[v]] * stride + c, lanes)
            for place in range(first_row[v] + 1, first_row[v + 1]):
                row = add(row, load(local, rows_by_vertex[place] * stride + c, lanes))
            store(vertices, v * stride + c, row)


@compiled
def blur_rows(lanes, source, target, neighbours, stride, start, stop):
    """Blur vertices start..stop along one axis with the weights 1/2, 1, 1/2.

    Row M of ``source`` is zero: it stands for missing neighbours.
    """
    width = len(lanes)
    half = np.float32(0.5)
    for v in range(start, stop):
        before = neighbours[0, v] * stride
        after = neighbours[1, v] * stride
        for c in range(0, stride, width):
            both = add(load(source, before + c, lanes), load(source, after + c, lanes))
            row = load(source, v * stride + c, lanes)
            store(target, v * stride + c, axpy(half, both, row))


@compiled
def hand_back_rows(lanes, source, local, sources, factor, stride, start, stop):
    """Blur along the last axis, multiply by a factor and write to local rows start..stop.

    ``sources`` (3, R) holds the vertex of each local row and its neighbours on that axis.
    """
    width = len(lanes)
    half = np.float32(0.5)
    for r in range(start, stop):
        here = sources[0, r] * stride
        before = sources[1, r] * stride
        after = sources[2, r] * stride
        for c in range(0, stride, width):
            both = add(load(source, before + c, lanes), load(source, after + c, lanes))
            row = axpy(half, both, load(source, here + c, lanes))
            store(local, r * stride + c, scale(factor, row))
