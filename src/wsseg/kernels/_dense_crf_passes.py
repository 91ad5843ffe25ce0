"""The compiled mean-field step over pixels: slice, add the energies, softmax, splat, in one pass.

The probabilities of the labels exist only in registers; between two passes the lattices hold
them. Rows and local rows are explained in `_permutohedral_passes`.
"""

# numba infers the types of these functions.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled
from wsseg.kernels._rows import axpy, exp_minus, largest, load, scale, store, total


@compiled
def update_band(
    lanes,
    corners,
    energy,
    start,
    stop,
    stride,
    is_first,
    is_last,
    scratch,  # noqa: ARG001 - both kernels are called the same way
    gaussian,
    bilateral,
):
    """Update pixels start..stop, whose rows are as wide as ``lanes``.

    Args:
        lanes: Width token of `_rows`.
        corners: Tokens of length 3 and 6, the corners of a simplex in both lattices: constants
            for the compiler, which unrolls the loops over them.
        energy: (N * stride,) float32 log-probabilities; the last update replaces them by the
            marginals.
        start: First pixel.
        stop: One past the last pixel.
        stride: Labels per row, the length of ``lanes``.
        is_first: Whether there are no messages yet.
        is_last: Whether to write marginals instead of splatting them.
        scratch: (stride,) float32; not used here.
        gaussian: ``(index, weights, messages, local, first_row, last_row)`` of the lattice.
        bilateral: The same of the other lattice.
    """
    index_g, weights_g, messages_g, local_g, first_g, last_g = gaussian
    index_b, weights_b, messages_b, local_b, first_b, last_b = bilateral
    if not is_last:
        local_g[first_g * stride : last_g * stride] = np.float32(0)
        local_b[first_b * stride : last_b * stride] = np.float32(0)
    for p in range(start, stop):
        row = load(energy, p * stride, lanes)
        if not is_first:
            for k in range(len(corners[0])):
                row = axpy(weights_g[p, k], load(messages_g, index_g[p, k] * stride, lanes), row)
            for k in range(len(corners[1])):
                row = axpy(weights_b[p, k], load(messages_b, index_b[p, k] * stride, lanes), row)
        row = exp_minus(row, largest(row))
        row = scale(np.float32(1) / total(row), row)
        if is_last:
            store(energy, p * stride, row)
        else:
            for k in range(len(corners[0])):
                place = index_g[p, k] * stride
                store(local_g, place, axpy(weights_g[p, k], row, load(local_g, place, lanes)))
            for k in range(len(corners[1])):
                place = index_b[p, k] * stride
                store(local_b, place, axpy(weights_b[p, k], row, load(local_b, place, lanes)))


@compiled
def update_wide_band(
    lanes, corners, energy, start, stop, stride, is_first, is_last, scratch, gaussian, bilateral
):
    """Update pixels start..stop whose rows are several times as wide as ``lanes``.

    The arguments are those of `update_band`; ``scratch`` holds the row between its passes.
    """
    index_g, weights_g, messages_g, local_g, first_g, last_g = gaussian
    index_b, weights_b, messages_b, local_b, first_b, last_b = bilateral
    width = len(lanes)
    if not is_last:
        local_g[first_g * stride : last_g * stride] = np.float32(0)
        local_b[first_b * stride : last_b * stride] = np.float32(0)
    for p in range(start, stop):
        peak = np.float32(-3e38)
        for c in range(0, stride, width):
            row = load(energy, p * stride + c, lanes)
            if not is_first:
                for k in range(len(corners[0])):
                    place = index_g[p, k] * stride + c
                    row = axpy(weights_g[p, k], load(messages_g, place, lanes), row)
                for k in range(len(corners[1])):
                    place = index_b[p, k] * stride + c
                    row = axpy(weights_b[p, k], load(messages_b, place, lanes), row)
            store(scratch, c, row)
            peak = max(peak, largest(row))
        mass = np.float32(0)
        for c in range(0, stride, width):
            row = exp_minus(load(scratch, c, lanes), peak)
            mass += total(row)
            store(scratch, c, row)
        for c in range(0, stride, width):
            row = scale(np.float32(1) / mass, load(scratch, c, lanes))
            if is_last:
                store(energy, p * stride + c, row)
            else:
                for k in range(len(corners[0])):
                    place = index_g[p, k] * stride + c
                    old = load(local_g, place, lanes)
                    store(local_g, place, axpy(weights_g[p, k], row, old))
                for k in range(len(corners[1])):
                    place = index_b[p, k] * stride + c
                    old = load(local_b, place, lanes)
                    store(local_b, place, axpy(weights_b[p, k], row, old))
