"""The permutohedral lattice: Gaussian filtering of an image in time linear in its pixels.

Pixels are points in feature space, (x, y) or (x, y, r, g, b), divided by their standard
deviations. Values are splat to the corners of each point's simplex, blurred along the axes of
the lattice, and sliced back. The lattice stores the symmetric normalisation of the filter in its
interpolation weights: `Lattice.filter` applies D^-1/2 K D^-1/2 with D the row sums of K.

Reference: A. Adams, J. Baek, M. A. Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice", Computer Graphics Forum (Eurographics), 2010. Differences: the simplex
search is in float64; vertices are numbered per band of the image and joined by sorting, which
makes neighbour search a walk through two lists and threads independent of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wsseg.errors import RecipeError
from wsseg.kernels import _permutohedral_build as build
from wsseg.kernels import _permutohedral_passes as passes
from wsseg.kernels._jit import Team, num_threads
from wsseg.kernels._permutohedral_keys import feature_bounds, key_radix
from wsseg.kernels._permutohedral_work import LatticeWork, blur_all

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]

# A band is what one thread splats; their number depends on the image alone, and so do results.
_PIXELS_PER_BAND = 45_000
_MAX_BANDS = 16


@dataclass(frozen=True, eq=False)
class Lattice:
    """A normalised permutohedral lattice of one image; read-only, shared between threads.

    Args:
        shape: (H, W) of the image; N = H * W.
        num_vertices: M, the number of distinct vertices.
        index: (N, d + 1) int32 local rows of each pixel's simplex.
        weights: (N, d + 1) float32 barycentric weights times 1 / sqrt(row sum of the kernel).
        bands: Pixel ranges (start, stop) with their ranges of local rows (first, last).
        row_sources: (3, R) int32 vertex of each local row, and its neighbours on the last axis.
        rows_by_vertex: (R,) int32 local rows sorted by vertex.
        first_row: (M + 1,) int32 where each vertex starts in ``rows_by_vertex``.
        neighbours: (d, 2, M) int32 neighbours along all axes but the last; M where there is none.
    """

    shape: tuple[int, int]
    num_vertices: int
    index: Indices
    weights: Floats
    bands: tuple[tuple[int, int, int, int], ...]
    row_sources: Indices
    rows_by_vertex: Indices
    first_row: Indices
    neighbours: Indices

    @property
    def dims(self) -> int:
        """Dimensions d of the feature space."""
        return self.index.shape[1] - 1

    @property
    def num_rows(self) -> int:
        """R, the number of local rows: vertices, counted once in each band that has them."""
        return self.row_sources.shape[1]

    @property
    def alpha(self) -> float:
        """Factor of the slice, 1 / (1 + 2^-d) (Adams et al. 2010)."""
        return 1.0 / (1.0 + 2.0**-self.dims)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        arrays = (self.index, self.weights, self.row_sources, self.rows_by_vertex)
        return sum(array.nbytes for array in (*arrays, self.first_row, self.neighbours))

    def filter(self, values: npt.ArrayLike, *, threads: int | None = None) -> Floats:
        """Filter planes with the normalised kernel.

        Args:
            values: (V, H, W) floating point, finite.
            threads: How many threads work; None for all available cores.

        Returns:
            (V, H, W) float32.

        Raises:
            ValueError: When the shape is not that of the lattice.
        """
        planes = np.require(values, np.float32, ["C", "W"])
        if planes.ndim != 3 or planes.shape[1:] != self.shape or not len(planes):
            raise ValueError(
                f"values has shape {planes.shape}; expected (V, {self.shape[0]}, {self.shape[1]})."
            )
        planes = planes.reshape(len(planes), -1)
        work = LatticeWork(self, len(planes))
        size = planes.shape[1]
        rows = np.empty(size * work.stride, np.float32)
        result = np.empty_like(planes)
        lanes, stride, one = work.lanes, work.stride, np.float32(1)
        with Team(min(num_threads(threads), len(self.bands))) as team:
            spans = team.ranges(size)
            team.run(
                passes.rows_from_planes,
                [(planes, one, np.float32(0), rows, stride, *span) for span in spans],
            )
            team.run(
                passes.splat_rows,
                [
                    (lanes, rows, self.index, self.weights, work.local, stride, *band)
                    for band in self.bands
                ],
            )
            blur_all([work], [self.alpha], team)
            team.run(
                passes.slice_rows,
                [
                    (lanes, work.messages, self.index, self.weights, rows, stride, *span)
                    for span in spans
                ],
            )
            team.run(passes.planes_from_rows, [(rows, stride, result, *span) for span in spans])
        return result.reshape(-1, *self.shape)


def build_lattice(
    shape: tuple[int, int],
    position_sigma: float,
    values: npt.NDArray[np.generic] | None = None,
    value_sigma: float = 1.0,
    *,
    threads: int | None = None,
) -> Lattice:
    """Build the lattice of an image for the kernel exp(-‖Δxy‖²/2σp² - ‖Δvalue‖²/2σv²).

    Args:
        shape: (H, W) of the image, both >= 1.
        position_sigma: Standard deviation σp in pixels, > 0.
        values: (H, W, C) numbers, such as an RGB image; None for a kernel of position alone.
        value_sigma: Standard deviation σv in the units of ``values``, > 0.
        threads: How many threads work; None for all available cores. The result is the same.

    Returns:
        The normalised lattice.

    Raises:
        ValueError: When a shape does not fit or values are not finite.
        RecipeError: When a sigma is not positive, or so small that the lattice cannot be numbered
            in 64 bits.
    """
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"The image has shape {shape}; expected at least one pixel.")
    for name, sigma in (("position", position_sigma), ("value", value_sigma)):
        if not (sigma > 0 and math.isfinite(sigma)):
            raise RecipeError(f"The {name} sigma is {sigma}; expected a number above 0.")
    if values is None:
        values = np.empty((height, width, 0), np.uint8)
    if values.ndim != 3 or values.shape[:2] != (height, width):
        raise ValueError(f"values has shape {values.shape}; expected ({height}, {width}, C).")
    kind = np.uint8 if values.dtype == np.uint8 else np.float64
    # Writable, because numba compiles once more for read-only arrays.
    flat = np.require(values, kind, ["C", "W"]).reshape(height * width, values.shape[2])
    if not np.isfinite(flat).all():
        raise ValueError("values contains NaN or infinite numbers.")
    sigmas = np.array([position_sigma, value_sigma], np.float64)
    with Team(num_threads(threads)) as team:
        return _build(shape, flat, sigmas, team)


def _build(
    shape: tuple[int, int],
    values: npt.NDArray[np.generic],
    sigmas: npt.NDArray[np.float64],
    team: Team,
) -> Lattice:
    """Number the vertices of each band, join the bands, find neighbours, normalise."""
    size = len(values)
    dims = 2 + values.shape[1]
    j = np.arange(dims)
    scales = math.sqrt(2 / 3) * (dims + 1) / np.sqrt((j + 1) * (j + 2))
    radix = key_radix(feature_bounds(shape, values, sigmas) * scales[:, None], sigmas)
    count = min(max(1, size // _PIXELS_PER_BAND), _MAX_BANDS)
    cuts = [size * band // count for band in range(count + 1)]
    pixels = list(pairwise(cuts))
    weights = np.empty((size, dims + 1), np.float32)
    index = np.empty((size, dims + 1), np.int32)
    # The system hands out only the pages that are written.
    known = [np.empty((stop - start) * (dims + 1), np.int64) for start, stop in pixels]
    numbers = team.run(
        build.number_band,
        [
            (values, shape[1], sigmas, scales, radix, start, stop, weights, index, keys)
            for (start, stop), keys in zip(pixels, known, strict=True)
        ],
    )
    ends = np.cumsum([0, *numbers]).tolist()
    bands = tuple((*span, *rows) for span, rows in zip(pixels, pairwise(ends), strict=True))
    team.run(_shift, [(index[start:stop], first) for start, stop, first, _ in bands if first > 0])
    keys = np.concatenate([part[:number] for part, number in zip(known, numbers, strict=True)])
    return _join(shape, index, weights, bands, keys, radix, team)


def _join(
    shape: tuple[int, int],
    index: Indices,
    weights: Floats,
    bands: tuple[tuple[int, int, int, int], ...],
    keys: npt.NDArray[np.int64],
    radix: npt.NDArray[np.int64],
    team: Team,
) -> Lattice:
    """Make one lattice of the vertices that the bands numbered."""
    dims = len(radix) - 1
    order = np.argsort(keys)
    vertex_keys = np.empty_like(keys)
    vertex_of_row = np.empty(len(keys), np.int32)
    first_row = np.empty(len(keys) + 1, np.int32)
    count = build.link_bands(keys, order, vertex_keys, vertex_of_row, first_row)
    neighbours = np.empty((dims + 1, 2, count), np.int32)
    offsets = np.full(dims + 1, radix[:dims].sum())
    offsets[:dims] -= (dims + 1) * radix[:dims]
    team.run(
        build.find_neighbours,
        [(vertex_keys[:count], offsets[j], neighbours[j]) for j in range(dims + 1)],
    )
    lattice = Lattice(
        shape=shape,
        num_vertices=count,
        index=index,
        weights=weights,
        bands=bands,
        row_sources=np.concatenate([vertex_of_row[None], neighbours[-1][:, vertex_of_row]]),
        rows_by_vertex=order.astype(np.int32),
        first_row=first_row[: count + 1],
        neighbours=neighbours[:-1],
    )
    _normalise(lattice, team)
    return lattice


def _normalise(lattice: Lattice, team: Team) -> None:
    """Multiply the weights of a new lattice by 1 / sqrt(K 1)."""
    work = LatticeWork(lattice, 1)
    index, weights, stride = lattice.index, lattice.weights, work.stride
    # Lane 0 carries the ones; the others only have to be finite.
    team.run(
        passes.splat_ones,
        [(index, weights, work.local, stride, *band) for band in lattice.bands],
    )
    blur_all([work], [lattice.alpha], team)
    team.run(
        passes.normalise_weights,
        [
            (index, weights, work.messages, stride, start, stop)
            for start, stop, _, _ in lattice.bands
        ],
    )


def _shift(index: Indices, first_row: int) -> None:
    index += first_row
