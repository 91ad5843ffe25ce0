"""SEC: train a segmenter from seeds, the sizes of what is tagged, and edges of the image.

On a coarse grid with probabilities p (softmax + 1e-4, normalised), ``L = seed + expand +
constrain``:

* seed: cross-entropy at the seeds, averaged per image;
* expand: ``-log G(p_c)`` of tagged classes, ``-log(1 - max p_c)`` of the others, and
  ``-log G(p_background)``, with G the global weighted rank pooling
  ``sum_j d^(j-1) p_(j) / sum_j d^(j-1)`` of the cells in descending order;
* constrain: `wsseg.segment.losses.constrain`.

Kolesnikov and Lampert, "Seed, Expand and Constrain: Three Principles for Weakly-Supervised Image
Segmentation", ECCV 2016. It differs in that the decay d is adapted to the number of cells, in that
padding counts nowhere, and in that a class counts in a crop only where the crop says anything
about it (see ``batch["tags"]`` of :func:`sec`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsseg.data.labels import IGNORE
from wsseg.segment.loss_config import SecLoss
from wsseg.segment.losses.constrain import crf_marginals, divergence
from wsseg.segment.losses.grid import at_centres, probabilities, to_grid

# Cells of the paper's grid, for which its decays were chosen.
_PAPER_CELLS = 41 * 41


def sec(logits: Tensor, batch: dict[str, Tensor], config: SecLoss) -> dict[str, Tensor]:
    """Compute the loss of a batch and its parts.

    Args:
        logits: (N, C + 1, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float normalised; ``mask`` (N, H, W) integer seeds, 255
            unknown; ``tags`` (N, C) integer, 1: the view shows the class, 0: it does not, -1:
            not known; ``valid`` (N, H, W) bool where there is padding.
        config: Weights, decays and the CRF.

    Returns:
        ``loss`` with gradient; ``seed``, ``expand``, ``constrain`` without, the last two only
        where their weight is not 0.

    Raises:
        RecipeError: When a kernel of the CRF is too narrow to be computed.
    """
    grid_px = config.constrain.grid_px
    grid = to_grid(logits, batch, grid_px)
    predicted = probabilities(grid.logits)
    parts = {"seed": seed_loss(predicted, at_centres(batch["mask"], grid_px))}
    total = config.seed_weight * parts["seed"]
    if config.expand_weight > 0:
        parts["expand"] = expand_loss(predicted, batch["tags"], grid.valid, config)
        total = total + config.expand_weight * parts["expand"]
    if config.constrain.weight > 0:
        marginals = crf_marginals(grid, config.constrain)
        parts["constrain"] = divergence(predicted, marginals, grid.valid)
        total = total + config.constrain.weight * parts["constrain"]
    return {"loss": total, **{name: part.detach() for name, part in parts.items()}}


def seed_loss(predicted: Tensor, seeds: Tensor) -> Tensor:
    """Average ``-log p`` of the seeds over each image, and then over images.

    Args:
        predicted: (N, K, h, w) probabilities > 0.
        seeds: (N, h, w) integer class ids, 255 unknown.

    Returns:
        Scalar; an image without seeds contributes 0.
    """
    labels = seeds.long()
    counted = labels != IGNORE
    index = labels.clamp(max=predicted.shape[1] - 1).unsqueeze(1)
    losses = -predicted.gather(1, index).squeeze(1).log() * counted
    return (losses.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)).mean()


def expand_loss(predicted: Tensor, tags: Tensor, valid: Tensor, config: SecLoss) -> Tensor:
    """Ask tagged classes and the background for area, and all others for none.

    Args:
        predicted: (N, C + 1, h, w) probabilities in (0, 1).
        tags: (N, C) integer, 1 shown, 0 not shown, -1 not known.
        valid: (N, h, w) bool, the cells that count.
        config: The decays.

    Returns:
        Scalar: the mean over tagged classes, the mean over absent ones and the background's term,
        averaged over images. An image without tagged (absent) classes lacks that mean.
    """
    values, shown = predicted.flatten(2), valid.flatten(1)
    # An image of padding alone says nothing: 1, whose logarithm is 0.
    is_seen = shown.any(dim=1)[:, None]
    area = rank_pooling(values[:, 1:], shown, config.foreground_decay)
    area = torch.where(is_seen, area, 1.0)
    background = rank_pooling(values[:, :1], shown, config.background_decay)
    background = torch.where(is_seen, background, 1.0)
    highest = values[:, 1:].masked_fill(~shown[:, None], 0).amax(dim=2)
    present = _mean_where(-area.log(), tags == 1)
    absent = _mean_where(-torch.log1p(-highest), tags == 0)
    return (present + absent - background.log().squeeze(1)).mean()


def rank_pooling(values: Tensor, shown: Tensor, decay: float) -> Tensor:
    """Pool by global weighted ranks: the j-th best cell has weight d^(j - 1).

    The decay holds for 41 x 41 cells; for n cells d becomes d^(1681 / n), so that the same
    fraction of the image has weight.

    Args:
        values: (N, K, n) in [0, 1].
        shown: (N, n) bool, the cells that count.
        decay: d in [0, 1]; 0 is the maximum and 1 the mean.

    Returns:
        (N, K); 0 where no cell counts.

    Example:
        >>> values = torch.tensor([[[0.2, 0.8, 0.5]]])
        >>> rank_pooling(values, torch.tensor([[True, True, True]]), 0.0).tolist()
        [[0.800000011920929]]
    """
    num_cells = shown.sum(dim=1, keepdim=True)
    ordered = values.masked_fill(~shown[:, None], -1).sort(dim=2, descending=True).values
    ranks = torch.arange(values.shape[2], device=values.device)
    powers = ranks * _PAPER_CELLS / num_cells.clamp(min=1)
    weights = torch.full_like(powers, decay) ** powers
    weights = (weights * (ranks < num_cells)).to(values.dtype)[:, None]
    total = weights.sum(dim=2).clamp(min=torch.finfo(values.dtype).tiny)
    return (ordered * weights).sum(dim=2) / total


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Average the chosen values (N, C) of each row; 0 where none is."""
    return (values * chosen).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
