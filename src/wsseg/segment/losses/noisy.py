"""What can be done to the loss of each pixel where masks have errors.

* Bootstrapping: the target is partly what the network believes. Soft, with p the softmax,
  ``- sum_k (beta y_k + (1 - beta) p_k) log p_k``; hard, with the network's best class instead of p.
  Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", ICLR workshop
  2015 (from memory; beta 0.95 soft, 0.8 hard). As there, the gradient of the soft form goes through
  both p: it also lowers the entropy of the prediction.
* Pretended under-fitting: once the mean loss of a batch is below ``start_below``, pixels of large
  loss are probably errors of the mask. Their loss is raised to a power below one (power), cut
  (clamp), or left out (drop). Li et al., "Pseudo-mask Matters in Weakly-supervised Semantic
  Segmentation", ICCV 2021 (PMM, from memory).
* Weights per pixel, such as those of URN: they multiply the loss and not the divisor, so that an
  image of doubtful pixels counts less than one without.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsseg.segment.noise_config import Bootstrap, Underfit

# Keeps the gradient of a root finite where a loss is 0.
_LEAST_LOSS = 1e-6


class PixelRule(NamedTuple):
    """What is done to the loss of each pixel, in this order; nothing by default.

    Attributes:
        bootstrap: Mixes the target with the prediction.
        underfit: Weakens large losses.
        weights: (N, H, W) float >= 0 that losses are multiplied by.
    """

    bootstrap: Bootstrap | None = None
    underfit: Underfit | None = None
    weights: Tensor | None = None

    def __call__(self, losses: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
        """Change the losses of a batch.

        Args:
            losses: (N, H, W) float, 0 where ignored.
            logits: (N, K, H, W) float.
            counted: (N, H, W) float, what each pixel counts in the mean; 0 where ignored.

        Returns:
            (N, H, W) float; pixels that are not counted hold any finite number.
        """
        if self.bootstrap is not None:
            losses = bootstrapped(losses, logits, self.bootstrap)
        if self.underfit is not None:
            losses = underfitted(losses, counted, self.underfit)
        if self.weights is not None:
            losses = losses * self.weights
        return losses


def bootstrapped(losses: Tensor, logits: Tensor, config: Bootstrap) -> Tensor:
    """Mix the cross-entropy with the labels with that with the network's own prediction.

    Args:
        losses: (N, H, W) cross-entropy with the labels.
        logits: (N, K, H, W) float.
        config: Form and share of the labels.

    Returns:
        (N, H, W) float.
    """
    log_p = logits.float().log_softmax(dim=1)
    own = -log_p.amax(dim=1) if config.form == "hard" else -(log_p.exp() * log_p).sum(dim=1)
    return config.share * losses + (1 - config.share) * own


def underfitted(losses: Tensor, counted: Tensor, config: Underfit) -> Tensor:
    """Weaken large losses once the mean loss is small.

    Args:
        losses: (N, H, W) float >= 0.
        counted: (N, H, W) float, what each pixel counts in the mean.
        config: The rule.

    Returns:
        (N, H, W) float; the input where the mean is not below ``config.start_below``.

    Example:
        >>> losses = torch.tensor([[[0.0, 0.1, 0.9]]])
        >>> underfitted(losses, torch.ones_like(losses), Underfit(form="drop")).tolist()
        [[[0.0, 0.10000000149011612, 0.0]]]
    """
    total = counted.sum()
    mean = (losses.detach() * counted).sum() / total.clamp(min=1e-12)
    if config.form == "power":
        weakened = losses.clamp(min=_LEAST_LOSS) ** config.k
    elif config.form == "clamp":
        weakened = losses.clamp(max=config.k)
    else:
        weakened = torch.where(losses > config.k, torch.zeros_like(losses), losses)
    return torch.where(mean < config.start_below, weakened, losses)
