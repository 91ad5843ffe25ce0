"""DSRG: seeds that grow while the segmenter trains, by its own confident predictions.

On a coarse grid, at each step: the network's predictions go through a dense CRF; confident cells
that are joined to a seed of their class become seeds (:func:`grow_seeds`); background and
foreground seeds get the same weight (:func:`balanced_seed_loss`); the constrain-to-boundary loss
of SEC is added. Growing gives targets, no gradient.

Huang, Wang, Wang, Liu and Wang, "Weakly-Supervised Semantic Segmentation Network with Deep Seeded
Region Growing", CVPR 2018, with the thresholds of its code. It differs in that padding counts
nowhere; the second training, on the masks of the first, is left to the recipe.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.segment.loss_config import DsrgLoss
from wsseg.segment.losses.constrain import crf_marginals, divergence
from wsseg.segment.losses.grid import at_centres, probabilities, to_grid


def dsrg(logits: Tensor, batch: dict[str, Tensor], config: DsrgLoss) -> dict[str, Tensor]:
    """Compute the loss of a batch and its parts.

    Args:
        logits: (N, C + 1, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float normalised; ``mask`` (N, H, W) integer seeds, 255
            unknown; ``tags`` (N, C) integer, 0: the view does not show the class; ``valid``
            (N, H, W) bool where there is padding.
        config: Thresholds, weights and the CRF.

    Returns:
        ``loss`` with gradient; without: ``seed``, ``grown``, the fraction of cells that are seeds
        after growing, and ``constrain`` where its weight is not 0.

    Raises:
        RecipeError: When a kernel of the CRF is too narrow to be computed.
    """
    grid_px = config.constrain.grid_px
    grid = to_grid(logits, batch, grid_px)
    predicted, marginals = probabilities(grid.logits), crf_marginals(grid, config.constrain)
    seeds = _grown(marginals, at_centres(batch["mask"], grid_px), batch["tags"], grid.valid, config)
    parts = {"seed": balanced_seed_loss(predicted, seeds)}
    total = config.seed_weight * parts["seed"]
    if config.constrain.weight > 0:
        parts["constrain"] = divergence(
            predicted, marginals, grid.valid, max_ratio=config.max_ratio
        )
        total = total + config.constrain.weight * parts["constrain"]
    parts["grown"] = (seeds != IGNORE).sum() / grid.valid.sum().clamp(min=1)
    return {"loss": total, **{name: part.detach() for name, part in parts.items()}}


def balanced_seed_loss(predicted: Tensor, seeds: Tensor) -> Tensor:
    """Average ``-log p`` over background seeds and over foreground seeds of each image, and add.

    Args:
        predicted: (N, K, h, w) probabilities > 0.
        seeds: (N, h, w) integer class ids, 255 unknown.

    Returns:
        Scalar, averaged over images; a kind of seeds that an image lacks contributes 0.
    """
    labels = seeds.long()
    index = labels.clamp(max=predicted.shape[1] - 1).unsqueeze(1)
    losses = -predicted.gather(1, index).squeeze(1).log()
    total = losses.new_zeros(len(losses))
    background = labels == BACKGROUND
    for chosen in (background, ~background & (labels != IGNORE)):
        total = total + (losses * chosen).sum((1, 2)) / chosen.sum((1, 2)).clamp(min=1)
    return total.mean()


def grow_seeds(
    values: NDArray[np.float32],
    seeds: NDArray[np.uint8],
    allowed: NDArray[np.bool_],
    *,
    min_foreground: float,
    min_background: float,
) -> NDArray[np.uint8]:
    """Grow the seeds of one image over confident cells that are joined to them.

    A cell is confident in its most probable allowed class above that class's threshold; other
    cells are what their seed says. Of the 8-connected regions of each class, those with a seed of
    it become seeds of it, except where there is a seed of another class already.

    Args:
        values: (K, h, w) probabilities.
        seeds: (h, w) uint8 class ids, 255 unknown; not changed.
        allowed: (K,) bool, the classes that may grow.
        min_foreground: Probability above which a cell is sure of a class other than 0.
        min_background: The same for class 0.

    Returns:
        (h, w) uint8 seeds; all given ones are kept.

    Example:
        >>> values = np.array([[[0.1, 0.1, 0.5, 0.1]], [[0.9, 0.9, 0.5, 0.9]]], np.float32)
        >>> seeds = np.array([[1, 255, 255, 255]], np.uint8)
        >>> allowed = np.array([True, True])
        >>> grow_seeds(values, seeds, allowed, min_foreground=0.85, min_background=0.99).tolist()
        [[1, 1, 255, 255]]
    """
    from scipy import ndimage

    choices = np.flatnonzero(allowed)
    best = choices[values[choices].argmax(axis=0)]
    limit = np.where(best == BACKGROUND, min_background, min_foreground)
    labels = np.where(values[choices].max(axis=0) > limit, best, seeds)
    grown = seeds.copy()
    for class_id in choices:
        regions, num_regions = ndimage.label(labels == class_id, structure=np.ones((3, 3)))
        has_seed = np.zeros(num_regions + 1, np.bool_)
        has_seed[regions[seeds == class_id]] = True
        has_seed[0] = False
        grown[has_seed[regions] & (seeds == IGNORE)] = class_id
    return grown


def _grown(
    marginals: Tensor, seeds: Tensor, tags: Tensor, valid: Tensor, config: DsrgLoss
) -> Tensor:
    """Grow the seeds (N, h, w) of a batch; the background may always grow, padding never."""
    values, given = marginals.cpu().numpy(), seeds.cpu().numpy().astype(np.uint8)
    allowed = np.pad(tags.cpu().numpy() != 0, ((0, 0), (1, 0)), constant_values=True)
    grown = np.stack(
        [
            grow_seeds(
                *image, min_foreground=config.min_foreground, min_background=config.min_background
            )
            for image in zip(values, given, allowed, strict=True)
        ]
    )
    result = torch.from_numpy(grown).to(seeds.device)
    return torch.where(valid, result, IGNORE)
