"""Normalised cut loss: little affinity should leave a class, measured by what the class has.

With S the probabilities, padding left out, W the bilateral affinity of all pairs of cells and
d = W 1: ``L = (1 / B) sum_k S_k^T W (1 - S_k) / (d^T S_k)``, each summand being the share of class
k's affinity that goes to other classes. Because it is a share, small and large classes count alike
and the loss has the same scale at every size.

Tang, Djelouah, Perazzi, Boykov and Schroers, "Normalized Cut Loss for Weakly-supervised CNN
Segmentation", CVPR 2018. It differs in that padding counts on neither side, and in that cells are
means of the finer output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsseg.segment.losses.grid import to_grid
from wsseg.segment.losses.quadratic import BilateralAffinity, Filter, quadratic_form
from wsseg.segment.term_config import NormalisedCutConfig


def normalised_cut(logits: Tensor, batch: dict[str, Tensor], config: NormalisedCutConfig) -> Tensor:
    """Compute the loss of a batch.

    Args:
        logits: (N, K, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float normalised; ``valid`` (N, H, W) bool where there
            is padding.
        config: Grid and affinity; its weight is left to the caller.

    Returns:
        Scalar in [0, K], but for the lattice's rounding.

    Raises:
        RecipeError: When a standard deviation is too small to be computed.
    """
    grid = to_grid(logits, batch, config.grid_px)
    affinity = BilateralAffinity(grid, config.sxy_cells, config.srgb)
    segments = grid.logits.softmax(dim=1) * grid.valid[:, None]
    return cut(segments, affinity, affinity.row_sums)


def cut(segments: Tensor, apply: Filter, degrees: Tensor) -> Tensor:
    """Add up the shares of affinity that leave each class, and average over images.

    Args:
        segments: (N, K, h, w) in [0, 1].
        apply: W.
        degrees: (N, 1, h, w), the row sums of W.

    Returns:
        Scalar; a class that has no affinity at all contributes 0.
    """
    total = (degrees * segments).sum(dim=(2, 3))
    leaving = total - quadratic_form(segments, apply)
    shares = leaving / torch.where(total > 0, total, torch.ones_like(total))
    return shares.sum(dim=1).mean()
