"""Constrain-to-boundary loss: predictions must agree with their own dense CRF.

With p the probabilities and q the marginals of a dense CRF whose unary energies are the negative
logits, floored at 1e-4: ``mean over cells of sum_c q_c log(q_c / p_c)``. The CRF passes no gradient
on: q is a constant, and only p is pulled towards it.

Kolesnikov and Lampert, "Seed, Expand and Constrain: Three Principles for Weakly-Supervised Image
Segmentation", ECCV 2016, with the numbers of its code. It differs in that padding is cut off, and
in that cells are means of the finer output of today's networks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsseg.segment.loss_config import ConstrainConfig
from wsseg.segment.losses.grid import MIN_PROBABILITY, Grid, probabilities, to_grid


def constrain(logits: Tensor, batch: dict[str, Tensor], config: ConstrainConfig) -> Tensor:
    """Compute the loss of a batch.

    Args:
        logits: (N, K, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float normalised; ``valid`` (N, H, W) bool where there
            is padding.
        config: Grid and kernels; its weight is left to the caller.

    Returns:
        Scalar >= 0; 0 where nothing but padding is seen.

    Raises:
        RecipeError: When a kernel is too narrow to be computed.
    """
    grid = to_grid(logits, batch, config.grid_px)
    return divergence(probabilities(grid.logits), crf_marginals(grid, config), grid.valid)


def crf_marginals(grid: Grid, config: ConstrainConfig) -> Tensor:
    """Run the dense CRF on the predictions of each image, outside of the gradient.

    Args:
        grid: The batch on the grid.
        config: Kernels.

    Returns:
        (N, K, h, w) float32 without gradient, at least about 1e-4 and summing to one; uniform at
        padding.

    Raises:
        RecipeError: When a kernel is too narrow to be computed.
    """
    from wsseg.kernels.dense_crf import CrfConfig, dense_crf

    kernels = CrfConfig(
        iterations=config.iterations,
        gauss_sxy_px=config.gauss_sxy_cells,
        gauss_compat=config.gauss_compat,
        bilateral_sxy_px=config.bilateral_sxy_cells,
        bilateral_srgb=config.bilateral_srgb,
        bilateral_compat=config.bilateral_compat,
    )
    energies = -grid.logits.detach().cpu().numpy()
    images, shown = grid.images.cpu().numpy(), grid.valid.cpu().numpy()
    marginals = np.full(energies.shape, 1 / energies.shape[1], np.float32)
    for energy, image, valid, result in zip(energies, images, shown, marginals, strict=True):
        if not valid.any():
            continue
        # The image is a rectangle: its padding must neither vote nor be voted on.
        rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
        y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        # The grid is small: starting threads would take longer than the work.
        result[:, y, x] = dense_crf(
            np.ascontiguousarray(image[y, x]), energy[:, y, x], config=kernels, threads=1
        )
    floored = torch.from_numpy(marginals).to(grid.logits.device).clamp(min=MIN_PROBABILITY)
    return floored / floored.sum(dim=1, keepdim=True)


def divergence(
    predicted: Tensor, target: Tensor, valid: Tensor, *, max_ratio: float | None = None
) -> Tensor:
    """Average the Kullback-Leibler divergence of the predictions from a target over cells.

    Args:
        predicted: (N, K, h, w) probabilities > 0.
        target: (N, K, h, w) probabilities > 0, taken as constant.
        valid: (N, h, w) bool, the cells that count.
        max_ratio: target / predicted is clipped to [1 / max_ratio, max_ratio] (DSRG: 20); clipped
            entries have no gradient. None: not clipped.

    Returns:
        Scalar; 0 where no cell counts.
    """
    target = target.detach()
    ratio = target / predicted
    if max_ratio is not None:
        ratio = ratio.clamp(1 / max_ratio, max_ratio)
    cells = (target * ratio.log()).sum(dim=1)
    return (cells * valid).sum() / valid.sum().clamp(min=1)
