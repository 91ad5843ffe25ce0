"""Fully connected CRF with Gaussian edges, by mean field on the permutohedral lattice.

Each pixel is joined with every other one; neighbours in position, and in position and colour,
are rewarded for the same label. With Q the marginals, U the unary energies and K̃ a normalised
Gaussian kernel, ten times: Q = softmax(-U + w_g K̃_g Q + w_b K̃_b Q).

Reference: P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian
Edge Potentials", NIPS 2011; filtering as in A. Adams et al., 2010. Potts compatibility and
symmetric normalisation, as weakly supervised papers use it. As in the authors' code, a pixel
also hears its own message.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsseg.kernels import _dense_crf_passes as updates
from wsseg.kernels import _permutohedral_passes as passes
from wsseg.kernels._jit import Team, num_threads
from wsseg.kernels._permutohedral_work import LatticeWork, blur_all
from wsseg.kernels.dense_crf_config import DEEPLAB, IRN, PRESETS, PSA, CrfConfig
from wsseg.kernels.dense_crf_lattices import (
    CrfLattices,
    build_crf_lattices,
    check_image,
    check_lattices,
    clear_lattice_cache,
)
from wsseg.kernels.dense_crf_unary import likely_labels, unary_from_labels, unary_from_scores

Floats = npt.NDArray[np.float32]

__all__ = [
    "DEEPLAB",
    "IRN",
    "PRESETS",
    "PSA",
    "CrfConfig",
    "CrfLattices",
    "build_crf_lattices",
    "clear_lattice_cache",
    "dense_crf",
    "likely_labels",
    "unary_from_labels",
    "unary_from_scores",
]


def dense_crf(
    image: npt.NDArray[np.uint8],
    unary: npt.ArrayLike,
    *,
    config: CrfConfig = PSA,
    lattice: CrfLattices | None = None,
    prune_below: float = 0.0,
    threads: int | None = None,
) -> Floats:
    """Compute the marginals of a dense CRF.

    Against the same steps in float64 the marginals differ by about 1e-7 in the mean. The result
    does not depend on the number of threads.

    With ``prune_below`` > 0, labels whose probability in softmax(-U) stays below it at every
    pixel are left out and get marginal 0. Their mass goes to the labels that are kept: where the
    17 labels left out had a total score of at most 1e-3 per pixel, the marginals changed by at
    most 1.2e-3 and the argmax on 5 pixels in a million (three photographs, synthetic scores;
    ``benchmarks/dense_crf.py``). The error grows with the mass left out.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        unary: (K, H, W) energies, negative log-probabilities up to a constant per pixel;
            infinite ones forbid a label. Not changed.
        config: Kernels and iterations.
        lattice: What `build_crf_lattices` returned for this image and these sigmas; None builds
            it.
        prune_below: Probability in [0, 1) below which labels are left out; 0 keeps all.
        threads: How many threads work; None for all available cores.

    Returns:
        (K, H, W) float32 marginals, which sum to one; all 1 when K = 1.

    Raises:
        ValueError: When shapes do not fit, an energy is NaN, or ``lattice`` belongs to another
            image size or to other sigmas.
        RecipeError: When a sigma is too small to number the lattice.

    Example:
        >>> image = np.zeros((2, 3, 3), np.uint8)
        >>> scores = np.full((2, 2, 3), 0.5)
        >>> scores[1, 0, 0] = 0.6
        >>> dense_crf(image, unary_from_scores(scores)).argmax(axis=0).tolist()
        [[1, 1, 1], [1, 1, 1]]
    """
    check_image(image)
    energies = np.asarray(unary)
    if energies.ndim != 3 or energies.shape[1:] != image.shape[:2] or not len(energies):
        raise ValueError(
            f"unary has shape {energies.shape}; expected (K, {image.shape[0]}, {image.shape[1]})."
        )
    if not 0 <= prune_below < 1:
        raise ValueError(f"prune_below is {prune_below}; expected a number in [0, 1).")
    if len(energies) == 1:
        return np.ones(energies.shape, np.float32)
    kept = likely_labels(energies, prune_below)
    if len(kept) < len(energies):
        marginals = np.zeros(energies.shape, np.float32)
        marginals[kept] = dense_crf(
            image, energies[kept], config=config, lattice=lattice, threads=threads
        )
        return marginals
    if lattice is None:
        lattice = build_crf_lattices(image, config, threads=threads)
    check_lattices(lattice, image, config)
    return _mean_field(np.require(energies, np.float32, ["C", "W"]), config, lattice, threads)


def _mean_field(
    unary: Floats, config: CrfConfig, lattices: CrfLattices, threads: int | None
) -> Floats:
    """Iterate the mean field; rows of labels stay in the lattices between the passes."""
    num_labels, size = len(unary), unary[0].size
    works = [
        LatticeWork(lattices.gaussian, num_labels),
        LatticeWork(lattices.bilateral, num_labels),
    ]
    stride = works[0].stride
    factors = [
        config.gauss_compat * lattices.gaussian.alpha,
        config.bilateral_compat * lattices.bilateral.alpha,
    ]
    rows = np.empty(size * stride, np.float32)
    planes = unary.reshape(num_labels, size)
    bands = len(lattices.bilateral.bands)
    with Team(min(num_threads(threads), bands)) as team:
        spans = team.ranges(size)
        padding = np.float32(passes.PADDING)
        num_nan = team.run(
            passes.rows_from_planes,
            [(planes, np.float32(-1), padding, rows, stride, *span) for span in spans],
        )
        if any(num_nan):
            raise ValueError(f"unary has {sum(num_nan)} NaN values; expected energies.")
        for iteration in range(config.iterations + 1):
            if iteration > 0:
                blur_all(works, factors, team)
            _update(works, rows, team, iteration == 0, iteration == config.iterations)
        result = np.empty_like(planes)
        team.run(passes.planes_from_rows, [(rows, stride, result, *span) for span in spans])
    return result.reshape(unary.shape)


def _update(
    works: list[LatticeWork], rows: Floats, team: Team, is_first: bool, is_last: bool
) -> None:
    """Slice, softmax and splat all bands."""
    lanes, stride = works[0].lanes, works[0].stride
    corners = tuple((0,) * (work.lattice.dims + 1) for work in works)
    tasks = []
    for band, (start, stop, _, _) in enumerate(works[0].lattice.bands):
        # Each lattice has its own local rows for the band.
        gaussian, bilateral = ((*work.side, *work.lattice.bands[band][2:]) for work in works)
        scratch = np.empty(stride, np.float32)
        flags = (is_first, is_last)
        pixels = (lanes, corners, rows, start, stop, stride)
        tasks.append((*pixels, *flags, scratch, gaussian, bilateral))
    kernel = updates.update_band if stride == len(lanes) else updates.update_wide_band
    team.run(kernel, tasks)
