"""Gated CRF loss: neighbours that look alike should get the same class.

With p the probabilities and k the kernel of each pair of cells within a window, 0 for a cell with
itself: ``L = (1 / M) sum_ij k_ij m_i m_j (1 - p_i . p_j)``, where m is 1 for the M cells of the
batch without padding, and ``k_ij = exp(-|dxy|^2 / 2 sxy^2 - |drgb|^2 / 2 srgb^2)``.

Obukhov, Georgoulis, Dai and Van Gool, "Gated CRF Loss for Weakly Supervised Semantic Image
Segmentation", 2019, with the kernel of its code. It differs in that padding counts on neither side
of a pair, and in that cells are means of the finer output of today's networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsseg.segment.losses.grid import covered, to_grid
from wsseg.segment.losses.quadratic import Filter, quadratic_form
from wsseg.segment.term_config import GatedCrfConfig


def gated_crf(logits: Tensor, batch: dict[str, Tensor], config: GatedCrfConfig) -> Tensor:
    """Compute the loss of a batch.

    Args:
        logits: (N, K, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float normalised; ``valid`` (N, H, W) bool where there
            is padding.
        config: Grid, window and kernel; its weight is left to the caller.

    Returns:
        Scalar >= 0; 0 where every cell has some padding.
    """
    grid = to_grid(logits, batch, config.grid_px)
    gate = covered(batch.get("valid"), grid, config.grid_px).to(grid.logits.dtype)[:, None]
    kernels = window_kernels(grid.images.movedim(-1, 1), gate, config)
    return disagreement(grid.logits.softmax(dim=1), kernels) / gate.sum().clamp(min=1)


def disagreement(probabilities: Tensor, kernels: dict[tuple[int, int], Tensor]) -> Tensor:
    """Add up ``k_ij (1 - p_i . p_j)`` over all pairs of cells, each pair in both orders.

    Args:
        probabilities: (N, K, h, w), summing to 1 over K.
        kernels: Of `window_kernels`.

    Returns:
        Scalar.
    """
    total = sum((2 * kernel.sum() for kernel in kernels.values()), probabilities.new_zeros(()))
    return total - quadratic_form(probabilities, _messages(kernels)).sum()


def window_kernels(
    colours: Tensor, gate: Tensor, config: GatedCrfConfig
) -> dict[tuple[int, int], Tensor]:
    """Compute the kernel of each cell with its neighbours, for half of the window.

    The other half has the same numbers, because the kernel is symmetric.

    Args:
        colours: (N, 3, h, w) grey levels 0..255.
        gate: (N, 1, h, w) float, 1 for cells that count and 0 for others.
        config: Window and kernel.

    Returns:
        By offset (dy, dx), dy >= 0: (N, 1, h - dy, w - abs(dx)), the kernel of each cell that has
        that neighbour; offsets beyond the view are left out.
    """
    height, width = colours.shape[-2:]
    radius = config.radius_cells
    values = colours.to(gate.dtype) / config.srgb
    kernels = {}
    for dy in range(min(radius, height - 1) + 1):
        for dx in range(-min(radius, width - 1), min(radius, width - 1) + 1):
            if (dy, dx) <= (0, 0):
                continue
            here, there = _overlap(dy, dx)
            apart = (values[here] - values[there]).square().sum(dim=1, keepdim=True)
            place = (dy * dy + dx * dx) / config.sxy_cells**2
            kernels[dy, dx] = torch.exp(-0.5 * (apart + place)) * gate[here] * gate[there]
    return kernels


def _messages(kernels: dict[tuple[int, int], Tensor]) -> Filter:
    """Make the filter that sums each cell's neighbours by their kernels."""

    def apply(values: Tensor) -> Tensor:
        received = torch.zeros_like(values)
        for (dy, dx), kernel in kernels.items():
            here, there = _overlap(dy, dx)
            received[here] += kernel * values[there]
            received[there] += kernel * values[here]
        return received

    return apply


def _overlap(dy: int, dx: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Cut out the cells that have a neighbour at (dy, dx), and these neighbours; dy >= 0."""
    everything = slice(None)
    above, below = slice(0, -dy if dy else None), slice(dy, None)
    left, right = slice(0, -abs(dx) if dx else None), slice(abs(dx), None)
    if dx < 0:
        left, right = right, left
    return (everything, everything, above, left), (everything, everything, below, right)
