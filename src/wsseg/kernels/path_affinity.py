"""Affinities of neighbouring pixels: of a boundary map along paths (IRN), of features (PSA).

IRN: 1 - max of the boundary probability on the straight path between two pixels.
PSA: exp(-mean over channels of |f_i - f_j|).

`path_affinity` and `feature_affinity` are compiled forms for a whole image on the CPU, with all
links of the grid. `torch_path_affinity` and `torch_feature_affinity` have gradients, run on any
device and return the links of inner sources only.

References: J. Ahn, S. Cho, S. Kwak, "Weakly Supervised Learning of Instance Segmentation with
Inter-pixel Relations", CVPR 2019; J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with
Image-level Supervision for Weakly Supervised Semantic Segmentation", CVPR 2018.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsseg.kernels import _affinity_passes as passes
from wsseg.kernels._jit import Team, num_threads
from wsseg.kernels.path_affinity_torch import torch_feature_affinity, torch_path_affinity
from wsseg.kernels.stencil import half_plane_offsets, inner_window, path_points, source_window

Floats = npt.NDArray[np.float32]

__all__ = [
    "feature_affinity",
    "half_plane_offsets",
    "inner_window",
    "path_affinity",
    "path_points",
    "torch_feature_affinity",
    "torch_path_affinity",
]

# Below this many differences per thread, starting the thread takes longer than the work.
_MIN_WORK = 1_000_000


def path_affinity(edge: npt.ArrayLike, radius: int) -> Floats:
    """Compute 1 - max of the edge along the path for all links of a grid.

    A path never leaves the rectangle of its ends, so padding the map with edge = 1, as IRN does,
    changes nothing but the links to the padding, which vanish.

    Args:
        edge: (h, w) boundary probabilities in [0, 1] (after the sigmoid).
        radius: Radius of the stencil in grid points, >= 1; IRN uses 5 in the walk.

    Returns:
        (n, h, w) float32 in [0, 1]: element [o, y, x] belongs to the pixels (y, x) and
        (y, x) + half_plane_offsets(radius)[o]; 0 where the second one is off the grid.

    Raises:
        ValueError: When the shape is not (h, w), or a value is outside [0, 1] or NaN.

    Example:
        >>> path_affinity([[0.0, 0.75, 0.25, 0.0]], 3)[:2].tolist()
        [[[0.25, 0.25, 0.75, 0.0]], [[0.25, 0.25, 0.0, 0.0]]]
    """
    grid = np.require(edge, np.float32, ["C"])
    if grid.ndim != 2 or not grid.size:
        raise ValueError(f"edge has shape {grid.shape}; expected (h, w).")
    lowest, highest = grid.min(), grid.max()
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(
            f"edge has values from {lowest} to {highest}; expected probabilities in [0, 1]: "
            "apply the sigmoid first."
        )
    offsets = half_plane_offsets(radius)
    windows = [source_window((int(dy), int(dx)), grid.shape) for dy, dx in offsets]
    rows, columns = (
        np.array([(pair[axis].start, pair[axis].stop) for pair in windows]).reshape(-1, 2)
        for axis in (0, 1)
    )
    width = grid.shape[1]
    paths = [path_points((int(dy), int(dx))) @ np.array([width, 1]) for dy, dx in offsets]
    starts = np.cumsum([0, *map(len, paths)])
    points = np.concatenate([np.zeros(0, np.int64), *paths])
    # A barrier of 1 is an affinity of 0.
    barriers = np.ones((len(offsets), grid.size), np.float32)
    passes.path_barriers(grid.reshape(-1), width, rows, columns, points, starts, barriers)
    np.subtract(1, barriers, out=barriers)
    return barriers.reshape(-1, *grid.shape)


def feature_affinity(features: npt.ArrayLike, radius: int, *, threads: int | None = None) -> Floats:
    """Compute exp(-mean over channels of |f_i - f_j|) for all links of a grid.

    Args:
        features: (c, h, w) finite numbers.
        radius: Radius of the stencil in grid points, >= 1; PSA uses 5.
        threads: How many threads work; None for all available cores. The result does not depend
            on it.

    Returns:
        (n, h, w) float32 in [0, 1]: element [o, y, x] belongs to the pixels (y, x) and
        (y, x) + half_plane_offsets(radius)[o]; 0 where the second one is off the grid.

    Raises:
        ValueError: When the shape is not (c, h, w), or a value is infinite or NaN.

    Example:
        >>> affinity = feature_affinity([[[0.0, 1.0, 1.0]]], 2)
        >>> affinity[0].round(3).tolist()
        [[0.36800000071525574, 1.0, 0.0]]
    """
    maps = np.require(features, np.float32, ["C"])
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"features have shape {maps.shape}; expected (c, h, w).")
    if not np.isfinite(maps).all():
        raise ValueError("features have infinite or NaN values; expected finite numbers.")
    channels, height, width = maps.shape
    offsets = half_plane_offsets(radius)
    links = [place for place, (dy, dx) in enumerate(offsets) if dy < height and abs(dx) < width]
    shifts = offsets[links] @ np.array([width, 1])
    distances = _distances(maps.reshape(channels, -1), shifts, threads)
    values = np.exp(distances * np.float32(-1 / channels)).reshape(-1, height, width)
    affinity = np.zeros((len(offsets), height, width), np.float32)
    for place, link in enumerate(links):
        window = source_window((int(offsets[link, 0]), int(offsets[link, 1])), (height, width))
        affinity[link][window] = values[place][window]
    return affinity


def _distances(features: Floats, shifts: npt.NDArray[np.int64], threads: int | None) -> Floats:
    """Sum |f_i - f_j| over the channels of (c, size); (n, size), also for links that wrap."""
    channels, size = features.shape
    tiles = -(-size // passes.TILE)
    padded = np.zeros((channels, tiles * passes.TILE + int(shifts.max(initial=0))), np.float32)
    padded[:, :size] = features
    distances = np.empty((len(shifts), tiles * passes.TILE), np.float32)
    work = distances.size * channels // _MIN_WORK
    with Team(max(1, min(num_threads(threads), work))) as team:
        spans = team.ranges(tiles)
        team.run(passes.feature_distances, [(padded, shifts, distances, *span) for span in spans])
    return distances[:, :size]
