"""Compiled passes of the random walk on a stencil.

Grids are flat with a margin on both sides: pixel p of row k lies at [k, margin + p]. Link o joins
p with p + shifts[o]; its weight lies at weights[o, margin + p] and is 0 where the link leaves the
grid, so that no pass has to look at borders. One weight serves both directions.
"""

# numba infers the types of these functions.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled
from wsseg.kernels._rows import add, axpy, load, multiply_add, scale, store

# Pixels per tile, which stay in vector registers while all links are summed.
TILE = 64
LANES = (0,) * TILE
# Scaled links below this count as 0: they could not change a float32 result in any sensible number
# of steps, and numbers near the end of the range slow some processors down.
FAINT = 1e-20


@compiled
def raise_to(values, exponent):
    """Raise float64 values (n, m) to a whole power >= 1 in place, by squaring."""
    for o in range(values.shape[0]):
        row = values[o]
        for p in range(len(row)):
            base, result, rest = row[p], 1.0, exponent
            while rest > 0:
                if rest & 1:
                    result *= base
                base *= base
                rest >>= 1
            row[p] = result


@compiled
def add_degrees(links, shifts, degrees):
    """Add the links (n, size) of both ends to degrees (size,)."""
    size = len(degrees)
    for o in range(len(shifts)):
        row, shift = links[o], shifts[o]
        for p in range(size - shift):
            degrees[p] += row[p]
        target = degrees[shift:]
        for p in range(size - shift):
            target[p] += row[p]


@compiled
def scale_links(links, shifts, roots, margin, weights):
    """Write links[o, p] * roots[p] * roots[p + shift] into weights, rounded once, or 0 if faint."""
    size = len(roots)
    for o in range(len(shifts)):
        row, source, target = links[o], weights[o, margin:], roots[shifts[o] :]
        for p in range(size - shifts[o]):
            value = row[p] * roots[p] * target[p]
            source[p] = value if value >= FAINT else 0.0


@compiled
def step(weights, shifts, selves, margin, current, previous, factors):
    """Write factors[0] * S current - factors[1] * previous into previous, rows (k, ...).

    The pixel's own value comes last: next to it, a sum of weak links would be lost bit by bit.
    """
    flat, num_columns = weights.reshape(-1), weights.shape[1]
    for place in range(margin, margin + len(selves), TILE):
        for k in range(current.shape[0]):
            row = current[k]
            nothing = scale(np.float32(0), load(row, place, LANES))
            after, before = nothing, nothing
            for o in range(len(shifts)):
                link, shift = o * num_columns + place, shifts[o]
                after = multiply_add(
                    load(flat, link, LANES), load(row, place + shift, LANES), after
                )
                before = multiply_add(
                    load(flat, link - shift, LANES), load(row, place - shift, LANES), before
                )
            total = multiply_add(
                load(selves, place - margin, LANES), load(row, place, LANES), add(after, before)
            )
            target = previous[k]
            old = scale(-factors[1], load(target, place, LANES))
            store(target, place, axpy(factors[0], total, old))


@compiled
def chebyshev_sum(weights, shifts, selves, margin, rows, coefficients):
    """Replace rows y by the sum over k of coefficients[k] * T_k(S) y.

    T_0 = 1, T_1 = S, T_k+1 = 2 S T_k - T_k-1 (Chebyshev polynomials of the first kind).
    """
    current, previous = rows.copy(), np.zeros_like(rows)
    rows *= coefficients[0]
    for k in range(1, len(coefficients)):
        factors = (np.float32(min(k, 2)), np.float32(min(k - 1, 1)))
        step(weights, shifts, selves, margin, current, previous, factors)
        current, previous = previous, current
        if coefficients[k] != 0:
            for c in range(len(rows)):
                total, term = rows[c], current[c]
                for p in range(len(total)):
                    total[p] += coefficients[k] * term[p]


@compiled
def power(weights, shifts, selves, margin, rows, steps):
    """Replace rows y by S^steps y, step by step."""
    other = np.zeros_like(rows)
    factors = (np.float32(1), np.float32(0))
    current, following = rows, other
    for _ in range(steps):
        step(weights, shifts, selves, margin, current, following, factors)
        current, following = following, current
    if steps % 2:
        rows[:] = other
