"""The compiled passes of PAMR: weights of the neighbours, and one weighted average.

Images and score maps are flat planes with a border of `pad` pixels that repeats the outermost
ones, so that a neighbour is one constant distance away in memory.
"""

# numba infers the types of these functions.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled
from wsseg.kernels._rows import exp_minus, load, store


@compiled
def weigh_rows(lanes, planes, weights, start, stop, grid, steps, colour, position):
    """Write the weights of the neighbours of rows start..stop.

    Args:
        lanes: Width token of `_rows` for 8 values.
        planes: (D, (H + 2 pad) * (W + 2 pad)) padded image, uint8 or float32.
        weights: (H, P, W) float32; written. P is a multiple of 8.
        start: First row.
        stop: One past the last row.
        grid: ``(pad, stride)``, the border and the length of a padded row.
        steps: (P,) int64 distances in memory from a pixel to its neighbours.
        colour: ``(scale, epsilon, power, num_centres)``; see `PamrConfig`.
        position: ((P,) float32 weights on distance, their share).
    """
    num_steps, width = weights.shape[1:]
    pad, stride = grid
    inverse = np.empty((len(planes), width), np.float32)
    scratch = np.empty((2, width), np.float64)
    peak = np.empty(width, np.float32)
    for y in range(start, stop):
        first = (y + pad) * stride + pad
        row = weights[y]
        _inverse_deviations(planes, inverse, scratch, first, steps, colour)
        peak[:] = np.float32(-3e38)
        for p in range(num_steps):
            _affinities(planes, row[p], inverse, first, steps[p], colour[2])
            for x in range(width):
                peak[x] = max(peak[x], row[p, x])
        _softmax(lanes, row, peak)
        for p in range(num_steps):
            share = np.float32(position[1])
            extra = share * position[0][p]
            for x in range(width):
                row[p, x] = (np.float32(1) - share) * row[p, x] + extra


@compiled
def _inverse_deviations(planes, inverse, scratch, first, steps, colour):
    """Write 1 / (scale * deviation + epsilon) of each channel of one row of pixels.

    Sums are of differences from the pixel itself, which do not change the deviation: whole numbers
    for uint8, without any rounding, and without cancellation for colours that are far from zero.
    """
    scale, epsilon, _, num_centres = colour
    width = inverse.shape[1]
    count = len(steps) + num_centres
    sums, squares = scratch[0], scratch[1]
    for c in range(len(planes)):
        here = planes[c, first : first + width]
        # The pixel itself, however often it counts, differs by nothing.
        sums[:] = 0.0
        squares[:] = 0.0
        for p in range(len(steps)):
            there = planes[c, first + steps[p] : first + steps[p] + width]
            for x in range(width):
                value = np.float64(there[x]) - np.float64(here[x])
                sums[x] += value
                squares[x] += value * value
        for x in range(width):
            variance = (count * squares[x] - sums[x] * sums[x]) / (count * (count - 1))
            spread = np.sqrt(max(variance, 0.0))
            inverse[c, x] = np.float32(1 / (scale * spread + epsilon))


@compiled
def _affinities(planes, row, inverse, first, step, power):
    """Write minus the scaled colour difference to one neighbour, averaged over the channels."""
    width = len(row)
    row[:] = np.float32(0)
    for c in range(len(planes)):
        here = planes[c, first : first + width]
        there = planes[c, first + step : first + step + width]
        factor = inverse[c]
        if power == 1:
            for x in range(width):
                row[x] -= abs(np.float32(here[x]) - np.float32(there[x])) * factor[x]
        else:
            for x in range(width):
                part = (np.float32(here[x]) - np.float32(there[x])) * factor[x]
                row[x] -= part * part
    share = np.float32(1 / len(planes))
    for x in range(width):
        row[x] *= share


@compiled
def _softmax(lanes, row, peak):
    """Turn (P, W) logits into weights that sum to one over P; ``peak`` is overwritten."""
    num_steps, width = row.shape
    for p in range(num_steps):
        for x in range(width):
            row[p, x] -= peak[x]
    flat = row.reshape(-1)
    for place in range(0, len(flat), len(lanes)):
        store(flat, place, exp_minus(load(flat, place, lanes), np.float32(0)))
    peak[:] = np.float32(0)
    for p in range(num_steps):
        for x in range(width):
            peak[x] += row[p, x]
    for x in range(width):
        peak[x] = np.float32(1) / peak[x]
    for p in range(num_steps):
        for x in range(width):
            row[p, x] *= peak[x]


@compiled
def average_rows(source, target, weights, start, stop, grid, steps):
    """Average the neighbours' scores in rows start..stop, borders included.

    Args:
        source: (K, (H + 2 pad) * (W + 2 pad)) float32 padded scores.
        target: The same shape; these rows are written.
        weights: (H, P, W) float32.
        start: First row.
        stop: One past the last row.
        grid: ``(pad, stride)``, the border and the length of a padded row.
        steps: (P,) int64 distances in memory from a pixel to its neighbours.
    """
    height, num_steps, width = weights.shape
    pad, stride = grid
    for y in range(start, stop):
        first = (y + pad) * stride + pad
        # All labels of a row in turn: its weights stay in the cache.
        for k in range(len(source)):
            row = target[k, first : first + width]
            row[:] = np.float32(0)
            for p in range(num_steps):
                there = source[k, first + steps[p] : first + steps[p] + width]
                weight = weights[y, p]
                for x in range(width):
                    row[x] += weight[x] * there[x]
            _repeat_border(target[k], first, y, height, width, grid)


@compiled
def _repeat_border(plane, first, y, height, width, grid):
    """Fill the border beside, above and below a finished row."""
    pad, stride = grid
    plane[first - pad : first] = plane[first]
    plane[first + width : first + width + pad] = plane[first + width - 1]
    whole = plane[first - pad : first + width + pad]
    if y == 0:
        for line in range(pad):
            plane[line * stride : (line + 1) * stride] = whole
    if y == height - 1:
        for line in range(height + pad, height + 2 * pad):
            plane[line * stride : (line + 1) * stride] = whole
