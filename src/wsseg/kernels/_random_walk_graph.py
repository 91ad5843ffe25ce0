"""The symmetric matrix S of a random walk, laid out for the compiled passes.

See `wsseg.kernels.random_walk` for the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsseg.kernels import _random_walk_passes as passes
from wsseg.kernels.stencil import source_window

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def chebyshev_coefficients(steps: int, tolerance: float) -> Doubles:
    """Expand x^steps on [-1, 1] in Chebyshev polynomials, to a tolerance.

    Coefficients are positive and sum to 1. The last ones, whose sum is below half the tolerance,
    are left out, and the rest is divided by its sum: constant maps are kept exactly, and the
    error of the polynomial on [-1, 1] stays below the tolerance.

    Args:
        steps: The power, >= 0.
        tolerance: Largest error, in (0, 1).

    Returns:
        (degree + 1,) float64 coefficients of T_0, T_1, ...; every second one is 0.

    Example:
        >>> chebyshev_coefficients(2, 1e-6).round(6).tolist()
        [0.5, 0.0, 0.5]
        >>> len(chebyshev_coefficients(256, 1e-5)) - 1
        72
    """
    orders = np.arange(steps % 2, steps + 1, 2)
    logarithms = [
        math.lgamma(steps + 1)
        - math.lgamma((steps - k) // 2 + 1)
        - math.lgamma((steps + k) // 2 + 1)
        - (steps - (k > 0)) * math.log(2)
        for k in orders.tolist()
    ]
    terms = np.exp(logarithms)
    tails = np.append(terms[::-1].cumsum()[::-1][1:], 0.0)
    kept = int(np.argmax(tails <= tolerance / 2)) + 1
    coefficients = np.zeros(orders[kept - 1] + 1)
    coefficients[orders[:kept]] = terms[:kept] / terms[:kept].sum()
    return coefficients


@dataclass(frozen=True, eq=False)
class Graph:
    """The symmetric S of a grid, laid out for `_random_walk_passes`.

    Args:
        shifts: (n,) int64 shifts of the flat index, one per offset that fits on the grid.
        weights: (n, margin + size + margin) float32 scaled links.
        selves: (size,) float32 diagonal of S, 0 beyond the grid; size is whole tiles.
        roots: (h, w) float64 square roots of the column sums.
    """

    shifts: npt.NDArray[np.int64]
    weights: Floats
    selves: Floats
    roots: Doubles

    @property
    def margin(self) -> int:
        return (self.weights.shape[1] - len(self.selves)) // 2


def build_graph(affinity: Floats, offsets: npt.NDArray[np.int64], beta: float) -> Graph:
    """Form powers, column sums and scaled links in float64 and round the result once."""
    height, width = affinity.shape[1:]
    fits = (offsets[:, 0] < height) & (abs(offsets[:, 1]) < width)
    shifts = offsets[fits] @ np.array([width, 1])
    links = np.zeros((len(shifts), height, width))
    for place, link in enumerate(np.flatnonzero(fits)):
        dy, dx = offsets[link].tolist()
        window = source_window((dy, dx), (height, width))
        links[place][window] = affinity[link][window]
    flat = links.reshape(len(shifts), height * width)
    if float(beta).is_integer():
        passes.raise_to(flat, int(beta))
    else:
        np.power(flat, beta, out=flat)
    degrees = np.ones(height * width)
    passes.add_degrees(flat, shifts, degrees)
    margin = int(shifts.max(initial=0))
    size = -(-degrees.size // passes.TILE) * passes.TILE
    weights = np.zeros((len(shifts), size + 2 * margin), np.float32)
    passes.scale_links(flat, shifts, 1 / np.sqrt(degrees), margin, weights)
    selves = np.zeros(size, np.float32)
    selves[: degrees.size] = 1 / degrees
    return Graph(shifts, weights, selves, np.sqrt(degrees).reshape(height, width))


def walk(graph: Graph, values: Floats, result: Floats, plan: Doubles | int) -> None:
    """Walk a few rows; plan is the number of steps, or the coefficients."""
    size, margin = graph.roots.size, graph.margin
    rows = np.zeros((len(values), graph.weights.shape[1]), np.float32)
    grid = rows[:, margin : margin + size]
    grid[:] = (values * graph.roots).reshape(len(values), size)
    matrix = (graph.weights, graph.shifts, graph.selves, margin)
    if isinstance(plan, int):
        passes.power(*matrix, rows, plan)
    else:
        passes.chebyshev_sum(*matrix, rows, plan.astype(np.float32))
    np.divide(grid.reshape(values.shape), graph.roots, out=result, casting="same_kind")
