"""Compiled kernels that build a permutohedral lattice: simplex search, hashing, neighbours.

The arithmetic of the simplex search is float64 in the paper's order, in blocks of pixels so that
every loop runs over neighbouring pixels in SIMD lanes. float32 would put a pixel on the border
of a cell into the other simplex now and then, which creates or removes a vertex.

Letters: d dimensions of the feature space, N pixels, M vertices, d + 1 vertices per simplex.
"""

# numba infers the types of these functions.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled

BLOCK = 256
_FIRST_BITS = 14
# Fibonacci hashing: 2^64 divided by the golden ratio, as a signed number.
_GOLDEN = -7046029254386353131


@compiled
def _fill_features(values, width, first, count, sigmas, scales, scaled):
    """Write the scaled features (x, y, values...) of pixels first..first+count, (d, BLOCK)."""
    x = first % width
    y = first // width
    for p in range(count):
        scaled[0, p] = np.float64(x) / sigmas[0] * scales[0]
        scaled[1, p] = np.float64(y) / sigmas[0] * scales[1]
        x += 1
        if x == width:
            x = 0
            y += 1
    for c in range(values.shape[1]):
        sigma = sigmas[1]
        factor = scales[2 + c]
        for p in range(count):
            scaled[2 + c, p] = np.float64(values[first + p, c]) / sigma * factor


@compiled
def _elevate(scaled, count, elevated, total):
    """Lift features to d + 1 coordinates that sum to zero."""
    d = scaled.shape[0]
    for p in range(count):
        total[p] = 0.0
    for j in range(d, 0, -1):
        factor = np.float64(j)
        for p in range(count):
            elevated[j, p] = total[p] - factor * scaled[j - 1, p]
            total[p] += scaled[j - 1, p]
    for p in range(count):
        elevated[0, p] = total[p]


@compiled
def _find_simplex(elevated, count, remainder, rank, total):
    """Find the nearest remainder-0 point and the order of the residuals.

    On return ``elevated`` holds the residuals divided by d + 1.
    """
    corners = elevated.shape[0]
    step = np.float64(corners)
    for p in range(count):
        total[p] = 0.0
    for i in range(corners):
        for p in range(count):
            nearest = np.rint(elevated[i, p] / step)
            remainder[i, p] = nearest * step
            elevated[i, p] -= remainder[i, p]
            total[p] += nearest
            rank[i, p] = 0.0
    for i in range(corners):
        for j in range(i + 1, corners):
            for p in range(count):
                less = 1.0 if elevated[i, p] < elevated[j, p] else 0.0
                rank[i, p] += less
                rank[j, p] += 1.0 - less
    last = step - 1.0
    for i in range(corners):
        for p in range(count):
            moved = rank[i, p] + total[p]
            # Walk back to the hyperplane where the coordinates sum to zero.
            shift = step if moved < 0.0 else (-step if moved > last else 0.0)
            rank[i, p] = moved + shift
            remainder[i, p] += shift
            elevated[i, p] = (elevated[i, p] - shift) / step


@compiled
def _order_by_rank(residual, rank, radix, count, ordered, strides):
    """Sort residuals and key strides by rank."""
    corners = residual.shape[0]
    for i in range(corners):
        # The last coordinate is implied by the others and has no place in the key.
        stride = radix[i] * corners if i < corners - 1 else np.int64(0)
        for p in range(count):
            place = np.int64(rank[i, p])
            ordered[place, p] = residual[i, p]
            strides[place, p] = stride


@compiled
def _weights_and_keys(ordered, strides, remainder, radix, first, count, weights, keys):
    """Write barycentric weights (N, d + 1) and the packed keys (d + 1, BLOCK) of the vertices."""
    corners = ordered.shape[0]
    d = corners - 1
    all_strides = np.int64(0)
    for p in range(count):
        keys[0, p] = radix[d]
    for i in range(d):
        stride = radix[i]
        all_strides += stride
        for p in range(count):
            keys[0, p] += stride * np.int64(np.int32(remainder[i, p]))
    for k in range(1, corners):
        # From vertex k - 1 to k every coordinate grows by 1, and one falls by d + 1.
        for p in range(count):
            keys[k, p] = keys[k - 1, p] + (all_strides - strides[d - k + 1, p])
    for p in range(count):
        weights[first + p, 0] = np.float32(1.0 + ordered[d, p] - ordered[0, p])
    for k in range(1, corners):
        for p in range(count):
            weights[first + p, k] = np.float32(ordered[d - k, p] - ordered[d - k + 1, p])


@compiled
def _find_slot(table, key, bits):
    """Find the slot of a key, or the free slot where it belongs (open addressing)."""
    mask = (np.int64(1) << bits) - 1
    mixed = np.uint64(key * np.int64(_GOLDEN)) >> np.uint64(64 - bits)
    slot = np.int64(mixed) & mask
    while table[slot] >= 0 and table[slot] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def _new_table(bits, known, count):
    """Make a hash table of 2^bits slots that holds the first ``count`` known keys."""
    table = np.full(1 << bits, -1, np.int64)
    numbers = np.empty(1 << bits, np.int32)
    for number in range(count):
        slot = _find_slot(table, known[number], bits)
        table[slot] = known[number]
        numbers[slot] = number
    return table, numbers


@compiled
def number_band(values, width, sigmas, scales, radix, start, stop, weights, index, known):
    """Find the simplices of pixels start..stop and number their vertices by first appearance.

    Args:
        values: (N, C) pixel values behind x and y; C may be 0.
        width: Width of the image.
        sigmas: (2,) float64, of the position and of the values.
        scales: (d,) float64 scale of each feature.
        radix: (d + 1,) int64 strides of the key's coordinates, then the constant to add.
        start: First pixel of the band.
        stop: One past its last pixel.
        weights: (N, d + 1) float32, written.
        index: (N, d + 1) int32, written: vertex numbers inside the band.
        known: (>= (d + 1)(stop - start),) int64, written: the keys in the order of their numbers.

    Returns:
        The number of distinct vertices.
    """
    corners = weights.shape[1]
    scaled = np.empty((corners - 1, BLOCK), np.float64)
    elevated = np.empty((corners, BLOCK), np.float64)
    remainder = np.empty_like(elevated)
    rank = np.empty_like(elevated)
    ordered = np.empty_like(elevated)
    strides = np.empty((corners, BLOCK), np.int64)
    keys = np.empty_like(strides)
    total = np.empty(BLOCK, np.float64)
    count = 0
    bits = _FIRST_BITS
    table, numbers = _new_table(bits, known, count)
    last_key = np.full(corners, -1, np.int64)
    last_number = np.zeros(corners, np.int32)
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        _fill_features(values, width, first, size, sigmas, scales, scaled)
        _elevate(scaled, size, elevated, total)
        _find_simplex(elevated, size, remainder, rank, total)
        _order_by_rank(elevated, rank, radix, size, ordered, strides)
        _weights_and_keys(ordered, strides, remainder, radix, first, size, weights, keys)
        # At most half full, even if every vertex of the next block is new.
        if 2 * (count + BLOCK * corners) > 1 << bits:
            while 2 * (count + BLOCK * corners) > 1 << bits:
                bits += 1
            table, numbers = _new_table(bits, known, count)
        for p in range(size):
            for k in range(corners):
                key = keys[k, p]
                # Neighbouring pixels mostly share their vertices.
                if key != last_key[k]:
                    slot = _find_slot(table, key, bits)
                    if table[slot] < 0:
                        table[slot] = key
                        numbers[slot] = count
                        known[count] = key
                        count += 1
                    last_key[k] = key
                    last_number[k] = numbers[slot]
                index[first + p, k] = last_number[k]
    return count


@compiled
def link_bands(keys, order, vertex_keys, vertex_of_row, first_row):
    """Give equal keys of different bands one vertex number, in the order of the keys.

    Args:
        keys: (R,) int64 keys of all bands, one behind the other.
        order: (R,) order that sorts them.
        vertex_keys: (R,) int64, written up to M: the distinct keys, sorted.
        vertex_of_row: (R,) int32, written: vertex of each key.
        first_row: (R + 1,) int32, written up to M + 1: where a vertex starts in ``order``.

    Returns:
        M, the number of distinct keys.
    """
    count = 0
    last = np.int64(-1)
    for place in range(len(order)):
        row = order[place]
        key = keys[row]
        if key != last:
            vertex_keys[count] = key
            first_row[count] = place
            count += 1
            last = key
        vertex_of_row[row] = count - 1
    first_row[count] = len(order)
    return count


@compiled
def find_neighbours(keys, offset, neighbours):
    """Find the two neighbours of each vertex along one axis.

    A neighbour's key differs by a constant, so that one walk through the sorted keys, side by
    side with the same keys plus that constant, finds all of them without hashing.

    Args:
        keys: (M,) int64 sorted keys.
        offset: Difference to the neighbour's key.
        neighbours: (2, M) int32, written; M where there is no neighbour.
    """
    count = len(keys)
    for v in range(count):
        neighbours[0, v] = count
        neighbours[1, v] = count
    here = 0
    there = 0
    while here < count and there < count:
        a = keys[here] + offset
        b = keys[there]
        is_pair = a == b
        # Written without a branch: the last write before a step forward is the right one.
        neighbours[0, here] = there if is_pair else count
        neighbours[1, there] = here if is_pair else count
        here += 1 if a <= b else 0
        there += 1 if b <= a else 0
