"""A random walk on a stencil of offsets, without ever forming its matrix.

With A the symmetric affinities of a grid (1 on the diagonal, 0 beyond the stencil) and D the
column sums of A^β (element-wise power), the walk is values · T^steps with T = A^β D^-1: every
step replaces a pixel's values by a weighted mean over its stencil. A constant map stays as it is.

T^n = D^1/2 S^n D^-1/2 with the symmetric S = D^-1/2 A^β D^-1/2, whose eigenvalues lie in
[-1, 1]. There x^n = 2^(1-n) Σ_k C(n, (n-k)/2) T_k(x) over k = n, n-2, ... ≥ 0 (Chebyshev
polynomials, the term k = 0 halved). The weights fall like exp(-k² / 2n), so that about 80
products with S do the work of 256.

References: J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision
for Weakly Supervised Semantic Segmentation", CVPR 2018; J. Ahn, S. Cho, S. Kwak, "Weakly
Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019. They form T
as a dense (hw)² matrix and square it log2(steps) times; time and memory here are linear in hw.
The expansion is classical: T. Rivlin, "The Chebyshev Polynomials", 1974 (from memory).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsseg.kernels._jit import Team, num_threads
from wsseg.kernels._random_walk_graph import build_graph, chebyshev_coefficients, walk
from wsseg.kernels.path_affinity import feature_affinity, path_affinity
from wsseg.kernels.stencil import (
    half_plane_checked,
    half_plane_offsets,
    inner_window,
)

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Method = Literal["chebyshev", "exact"]

METHODS = ("chebyshev", "exact")
TOLERANCE = 1e-6
# Rows walked at the same time by one thread: each needs two more copies.
_BLOCK = 8


def random_walk(
    values: npt.ArrayLike,
    affinity: npt.ArrayLike,
    offsets: npt.ArrayLike,
    *,
    beta: float,
    steps: int,
    method: Method = "chebyshev",
    tolerance: float = TOLERANCE,
    threads: int | None = None,
    device: str = "cpu",
) -> Floats:
    """Walk on a stencil: values · T^steps with T = A^beta / column sums.

    Args:
        values: (K, h, w) finite numbers, one row per class.
        affinity: (n, h, w) numbers in [0, 1]: element [o, y, x] links (y, x) and
            (y, x) + offsets[o], both ways. Links off the grid are ignored; every pixel is linked
            with itself by 1.
        offsets: (n, 2) whole numbers (dy, dx) of the half plane dy > 0, or dy = 0 and dx > 0.
        beta: Exponent of the affinities, > 0; larger ones sharpen. Whole ones are faster.
        steps: Number of steps, >= 0.
        method: ``"exact"`` takes every step; ``"chebyshev"`` sums polynomials.
        tolerance: For ``"chebyshev"``, a bound on the error relative to the values, both in the
            2-norm weighted by the column sums of A^beta; in (0, 1).
        threads: How many threads work; None for all available cores. The result does not depend
            on it.
        device: ``"cpu"`` for the compiled form, else the torch device that does the work.

    Returns:
        (K, h, w) float32.

    Raises:
        ValueError: When shapes do not fit or a number is outside its range.

    Example:
        >>> values = np.array([[[1.0, 0.0, 0.0]]])
        >>> affinity = np.array([[[1.0, 0.0, 0.0]]])
        >>> random_walk(values, affinity, [(0, 1)], beta=8, steps=1).tolist()
        [[[0.5, 0.5, 0.0]]]
    """
    rows, links, stencil = _checked(values, affinity, offsets)
    _check_settings(beta, steps, method, tolerance)
    plan = chebyshev_coefficients(steps, tolerance) if method == "chebyshev" else int(steps)
    if device != "cpu":
        return _walk_on_torch(device, rows, links, stencil, beta=beta, plan=plan)
    graph = build_graph(links, stencil, beta)
    count = num_threads(threads)
    block = max(1, min(_BLOCK, -(-len(rows) // count)))
    result = np.empty_like(rows)
    tasks = [
        (graph, rows[first : first + block], result[first : first + block], plan)
        for first in range(0, len(rows), block)
    ]
    with Team(min(count, len(tasks))) as team:
        team.run(walk, tasks)
    return result


def irn_propagate(
    values: npt.ArrayLike,
    edge: npt.ArrayLike,
    *,
    radius: int = 5,
    beta: float = 10.0,
    steps: int = 256,
    method: Method = "chebyshev",
    tolerance: float = TOLERANCE,
    device: str = "cpu",
) -> Floats:
    """Spread class maps inside the regions that a boundary map encloses, as IRN does.

    The maps are multiplied by 1 - edge and walk with the path affinities of the edge map. Links
    off the image do not exist (IRN pads the map with edge = 1, which has the same effect).
    Nothing is normalised: IRN divides by the largest value over all classes afterwards.

    Args:
        values: (K, h, w) class maps, without background.
        edge: (h, w) boundary probabilities in [0, 1] (after the sigmoid) on the same grid.
        radius: Radius of the stencil in grid points, >= 1.
        beta: Exponent of the affinities, > 0.
        steps: Number of steps, >= 0.
        method: See `random_walk`.
        tolerance: See `random_walk`.
        device: ``"cpu"`` for the compiled form, else the torch device that does the work.

    Returns:
        (K, h, w) float32.

    Raises:
        ValueError: When shapes do not fit or a number is outside its range.

    Example:
        >>> maps = np.array([[[1.0, 0.0, 0.0, 0.0]]])
        >>> edge = np.array([[0.0, 0.0, 1.0, 0.0]])
        >>> irn_propagate(maps, edge).round(3).tolist()
        [[[0.5, 0.5, 0.0, 0.0]]]
    """
    maps, grid = np.asarray(values, np.float32), np.asarray(edge, np.float32)
    if maps.ndim != 3 or maps.shape[1:] != grid.shape:
        raise ValueError(
            f"values have shape {maps.shape} and edge {grid.shape}; expected (K, h, w) and (h, w)."
        )
    affinity = path_affinity(grid, radius)
    return random_walk(
        maps * (1 - grid),
        affinity,
        half_plane_offsets(radius),
        beta=beta,
        steps=steps,
        method=method,
        tolerance=tolerance,
        device=device,
    )


def psa_propagate(
    values: npt.ArrayLike,
    features: npt.ArrayLike,
    *,
    radius: int = 5,
    beta: float = 8.0,
    steps: int = 256,
    method: Method = "chebyshev",
    tolerance: float = TOLERANCE,
    device: str = "cpu",
) -> Floats:
    """Spread class maps over pixels of similar features, as PSA (AffinityNet) does.

    Only pixels whose every target within the radius lies on the grid are sources of links: rows
    0 ... h - radius, columns radius - 1 ... w - radius. So pixels near the border have fewer links,
    and on a grid below (radius, 2 * radius - 1) nothing moves.

    Args:
        values: (K, h, w) class maps, background included.
        features: (c, h, w) features on the same grid.
        radius: Radius of the stencil in grid points, >= 1.
        beta: Exponent of the affinities, > 0.
        steps: Number of steps, >= 0.
        method: See `random_walk`.
        tolerance: See `random_walk`.
        device: ``"cpu"`` for the compiled form, else the torch device that does the work.

    Returns:
        (K, h, w) float32.

    Raises:
        ValueError: When shapes do not fit or a number is outside its range.

    Example:
        >>> maps, features = np.eye(3)[None], np.zeros((4, 3, 3))
        >>> psa_propagate(maps, features, radius=2, steps=1)[0].astype(float).round(2).tolist()
        [[1.0, 0.2, 0.0], [0.0, 0.33, 0.33], [0.5, 0.5, 1.0]]
    """
    maps, grid = np.asarray(values, np.float32), np.asarray(features, np.float32)
    if maps.ndim != 3 or grid.ndim != 3 or maps.shape[1:] != grid.shape[1:]:
        raise ValueError(
            f"values have shape {maps.shape} and features {grid.shape}; expected (K, h, w) and "
            "(c, h, w)."
        )
    return random_walk(
        maps,
        _inner_links(grid, radius, device),
        half_plane_offsets(radius),
        beta=beta,
        steps=steps,
        method=method,
        tolerance=tolerance,
        device=device,
    )


def _inner_links(features: Floats, radius: int, device: str) -> Floats:
    """Compute feature affinities, 0 for all sources that PSA leaves out."""
    if device != "cpu":
        import torch

        from wsseg.kernels.random_walk_torch import inner_feature_links

        return inner_feature_links(torch.from_numpy(features).to(device), radius).cpu().numpy()
    every = feature_affinity(features, radius)
    affinity = np.zeros_like(every)
    window = inner_window(radius, (features.shape[1], features.shape[2]))
    affinity[:, *window] = every[:, *window]
    return affinity


def _walk_on_torch(
    device: str,
    values: Floats,
    affinity: Floats,
    offsets: npt.NDArray[np.int64],
    *,
    beta: float,
    plan: Doubles | int,
) -> Floats:
    """Walk on a torch device; plan is the number of steps, or the coefficients."""
    import torch

    from wsseg.kernels import random_walk_torch as on_torch

    rows, links = (torch.from_numpy(array).to(device) for array in (values, affinity))
    if isinstance(plan, int):
        walked = on_torch.torch_exact_walk(rows, links, offsets, beta=beta, steps=plan)
    else:
        walked = on_torch.torch_random_walk(
            rows, links, offsets, beta=beta, coefficients=plan.tolist()
        )
    result: Floats = walked.cpu().numpy()
    return result


def _checked(
    values: npt.ArrayLike, affinity: npt.ArrayLike, offsets: npt.ArrayLike
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Check the arrays of a walk; see `random_walk`.

    Raises:
        ValueError: When shapes do not fit or a number is outside its range.
    """
    rows = np.require(values, np.float32, ["C"])
    links = np.require(affinity, np.float32, ["C"])
    stencil = half_plane_checked(offsets)
    if rows.ndim != 3 or not rows.size or links.shape != (len(stencil), *rows.shape[1:]):
        raise ValueError(
            f"values have shape {rows.shape}, affinity {links.shape}, offsets {stencil.shape}; "
            "expected (K, h, w), (n, h, w) and (n, 2), none of K, h, w being 0."
        )
    if not np.isfinite(rows.sum(dtype=np.float64)):
        raise ValueError("values are infinite or NaN somewhere; expected finite numbers.")
    lowest, highest = links.min(initial=1), links.max(initial=0)
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(f"affinity runs from {lowest} to {highest}; expected numbers in [0, 1].")
    return rows, links, stencil


def _check_settings(beta: float, steps: int, method: str, tolerance: float) -> None:
    """Check the settings of a walk; see `random_walk`.

    Raises:
        ValueError: When a setting is outside its range.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta is {beta}; expected a finite number above 0.")
    if steps < 0:
        raise ValueError(f"steps is {steps}; expected 0 or more.")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}.")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; expected a number in (0, 1).")
