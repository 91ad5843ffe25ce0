"""Dense CRF loss: all pairs of pixels that look alike should get the same class.

With S the probabilities, padding left out, and A the bilateral affinity of all pairs of cells:
``L = (1 / B) sum_k S_k^T A (1 - S_k)``, which is ``-(1 / B) sum_k S_k^T A S_k`` and a constant, so
that it is 0 where all is of one class. The gradient of S_k that is passed on is ``-(2 / B) A S_k``.

Scale: the sum runs over all pairs. With cells n and a mean row sum a of A it is of the size n a, so
the published weight of 2e-9 belongs to grids of about 256 x 256 cells. ``scale: share`` divides
each image's part by the sum of its affinity: it is then the share of affinity that lies between
different classes, in [0, 1], whatever the size, and a weight near 1 compares with cross-entropy.

Tang, Perazzi, Djelouah, Ben Ayed, Schroers and Boykov, "On Regularized Losses for
Weakly-supervised CNN Segmentation", ECCV 2018. It differs in the share, in padding, which counts on
neither side, and in that cells are means of the finer output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsseg.segment.losses.grid import to_grid
from wsseg.segment.losses.quadratic import BilateralAffinity, quadratic_form
from wsseg.segment.term_config import DenseCrfLossConfig


def dense_crf_loss(logits: Tensor, batch: dict[str, Tensor], config: DenseCrfLossConfig) -> Tensor:
    """Compute the loss of a batch.

    Args:
        logits: (N, K, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float normalised; ``valid`` (N, H, W) bool where there
            is padding.
        config: Grid, affinity and scale; its weight is left to the caller.

    Returns:
        Scalar >= 0 (but for the lattice's rounding): in [0, 1] with ``scale: share``.

    Raises:
        RecipeError: When a standard deviation is too small to be computed.
    """
    grid = to_grid(logits, batch, config.grid_px)
    affinity = BilateralAffinity(grid, config.sxy_cells, config.srgb)
    segments = grid.logits.softmax(dim=1) * grid.valid[:, None]
    within = quadratic_form(segments, affinity).sum(dim=1)
    everything = affinity.row_sums.sum(dim=(1, 2, 3))
    between = everything - within
    if config.scale == "share":
        between = between / torch.where(everything > 0, everything, 1.0)
    return between.mean()
