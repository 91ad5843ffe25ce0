"""The walk of AffinityNet: background and class maps spread over cells of similar features.

Reference: J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision
for Weakly Supervised Semantic Segmentation", CVPR 2018. The maps [(1 - max_c s_c)^16, s_1 .. s_C]
are averaged over the cells of the grid, take 256 steps with the transition matrix A^8 whose
columns sum to one, and are interpolated to the pixels. The image is filled up to whole cells with
0 on the right and below. Difference: the matrix is never formed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wsseg import console
from wsseg.data.scores import Scores
from wsseg.refine.affinity_config import AffinityNet
from wsseg.refine.affinity_data import pool_cells
from wsseg.refine.confident import with_power_background
from wsseg.refine.known_labels import ROUNDS, filled, with_known


def propagated(
    scores: Scores,
    features: npt.NDArray[np.float32],
    *,
    config: AffinityNet = AffinityNet(),
    device: str = "cpu",
) -> Scores:
    """Let background and class maps walk over cells with similar features.

    Args:
        scores: Scores with at least one class; row 0 is not used. Not changed.
        features: (c, ceil(H / stride_px), ceil(W / stride_px)) float32.
        config: Exponents, radius, stride and steps.
        device: Where the walk is computed.

    Returns:
        Scores of the same classes at full size (K, H, W), with a new background row.

    Raises:
        ValueError: When the features have another grid.

    Example:
        >>> values = np.full((2, 16, 160), 0.9, np.float32)
        >>> values[1, :, 80:] = 0.0
        >>> scores = Scores(values, np.array([0, 7], np.uint8), (16, 160))
        >>> features = np.zeros((4, 2, 20), np.float32)
        >>> features[:, :, 15:] = 9.0
        >>> walked = propagated(scores, features, config=AffinityNet(links="all"))
        >>> walked.values.argmax(axis=0)[0, [0, 100, 140]].tolist()
        [1, 1, 0]
    """
    full = with_power_background(replace(scores, values=scores.resized()), config.alpha_walk)
    cells = pool_cells(full.values, config.stride_px)
    walked = _walked(cells, features, 2**config.log2_steps, config, device)
    return replace(scores, values=_at_full_size(walked, scores.size, config.stride_px))


def propagated_known(
    scores: Scores,
    features: npt.NDArray[np.float32],
    *,
    config: AffinityNet = AffinityNet(),
    device: str = "cpu",
) -> Scores:
    """Fill the pixels of which nothing is known by walks from those that are.

    Args:
        scores: Scores whose row 0 is the background; 0 in all rows where nothing is known. Not
            changed.
        features: (c, ceil(H / stride_px), ceil(W / stride_px)) float32.
        config: Radius, stride and steps.
        device: Where the walk is computed.

    Returns:
        Scores of the same classes at full size (K, H, W); known pixels have the scores they had.

    Raises:
        ValueError: When the features have another grid.

    Example:
        >>> values = np.zeros((2, 16, 160), np.float32)
        >>> values[1, :, :16] = values[0, :, 144:] = 1
        >>> scores = Scores(values, np.array([0, 7], np.uint8), (16, 160))
        >>> features = np.zeros((4, 2, 20), np.float32)
        >>> features[:, :, 10:] = 9.0
        >>> walked = propagated_known(scores, features, config=AffinityNet(links="all"))
        >>> walked.values.argmax(axis=0)[0, [0, 70, 90]].tolist()
        [1, 1, 0]
    """
    steps = math.ceil(2**config.log2_steps / ROUNDS)
    cells = filled(
        pool_cells(scores.resized(), config.stride_px),
        lambda maps: _walked(maps, features, steps, config, device),
    )
    values = _at_full_size(cells, scores.size, config.stride_px)
    return with_known(replace(scores, values=values), scores)


def _walked(
    cells: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    steps: int,
    config: AffinityNet,
    device: str,
) -> npt.NDArray[np.float32]:
    """Let (K, h, w) maps take some steps."""
    from wsseg.kernels.path_affinity import feature_affinity
    from wsseg.kernels.random_walk import psa_propagate, random_walk
    from wsseg.kernels.stencil import half_plane_offsets

    if config.links == "inner":
        _tell_if_nothing_moves(cells.shape[1:], config)
        return psa_propagate(
            cells,
            features,
            radius=config.radius,
            beta=config.beta,
            steps=steps,
            method=config.walk,
            device=device,
        )
    return random_walk(
        cells,
        feature_affinity(features, config.radius),
        half_plane_offsets(config.radius),
        beta=config.beta,
        steps=steps,
        method=config.walk,
        device=device,
    )


def _tell_if_nothing_moves(grid: tuple[int, ...], config: AffinityNet) -> None:
    if grid[0] < config.radius or grid[1] < 2 * config.radius - 1:
        console.once(
            f"affinity_net: images below {config.radius * config.stride_px} px in height or "
            f"{(2 * config.radius - 1) * config.stride_px} px in width have no cell whose whole "
            "neighbourhood lies on the grid, and their maps do not walk; set links=all, or a "
            "smaller stride_px or radius"
        )


def _at_full_size(
    values: npt.NDArray[np.float32], size: tuple[int, int], stride: int
) -> npt.NDArray[np.float32]:
    """Interpolate cells to pixels (K, H, W), which the cells may stick out of."""
    import cv2

    rows, columns = (math.ceil(side / stride) * stride for side in size)
    result = np.empty((len(values), *size), np.float32)
    for row, cells in zip(result, values, strict=True):
        pixels = cv2.resize(cells, (columns, rows), interpolation=cv2.INTER_LINEAR)
        row[:] = pixels[: size[0], : size[1]]
    # The sum of polynomials may leave [0, 1] by its tolerance.
    return np.clip(result, 0.0, 1.0, out=result)
