"""Pixel cross-entropy with ignored pixels, class weights and the balance of DSRG.

The balanced form is ``1/2 mean over background + 1/2 mean over foreground`` of the pixel losses,
taken over the whole batch: Huang et al., "Weakly-Supervised Semantic Segmentation Network with
Deep Seeded Region Growing", CVPR 2018, as used on pseudo masks by later work (exact normalisation
from memory). An empty set contributes 0 instead of NaN, so a crop without any label is harmless.

`PixelRule` holds what masks with errors ask for: bootstrapping (Reed et al., "Training Deep Neural
Networks on Noisy Labels with Bootstrapping", ICLR workshop 2015) and pretended under-fitting (Li et
al., "Pseudo-mask Matters in Weakly-supervised Semantic Segmentation", ICCV 2021), both in
`wsseg.segment.losses.noisy`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.segment.losses.noisy import PixelRule


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    rule: PixelRule = PixelRule(),
) -> Tensor:
    """Average the pixel losses, weighted by class.

    Args:
        logits: (N, K, H, W) float.
        target: (N, H, W) integer class ids 0..K-1; 255 is ignored.
        class_weights: (K,) float >= 0, or None for equal weights.
        label_smoothing: Share of the target spread over all classes, [0, 1).
        rule: What is done to the loss of each pixel.

    Returns:
        Scalar: sum of w * loss over sum of w; 0 (with gradient 0) where no pixel counts.
    """
    losses, labels = _pixel_losses(logits, target, label_smoothing)
    counted = (labels != IGNORE).float()
    if class_weights is not None:
        counted = counted * class_weights[labels.clamp(max=logits.shape[1] - 1)]
    return _weighted_mean(rule(losses, logits, counted), counted)


def balanced_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    rule: PixelRule = PixelRule(),
) -> Tensor:
    """Give background and foreground half of the loss each, whatever their sizes.

    Args:
        logits: (N, K, H, W) float.
        target: (N, H, W) integer class ids 0..K-1; 255 is ignored.
        label_smoothing: Share of the target spread over all classes, [0, 1).
        rule: What is done to the loss of each pixel.

    Returns:
        Scalar: half the mean loss over background pixels and half the mean over foreground
        pixels of the batch; the half of an empty set is 0.
    """
    losses, labels = _pixel_losses(logits, target, label_smoothing)
    background = (labels == BACKGROUND).float()
    foreground = ((labels != BACKGROUND) & (labels != IGNORE)).float()
    losses = rule(losses, logits, background + foreground)
    return 0.5 * (_weighted_mean(losses, background) + _weighted_mean(losses, foreground))


def inverse_sqrt_weights(pixel_counts: Tensor) -> Tensor:
    """Weigh classes by one over the square root of their frequency.

    Args:
        pixel_counts: (K,) number of pixels of each class.

    Returns:
        (K,) float32, scaled so that the mean weight over all pixels is 1; 0 for absent classes.

    Example:
        >>> inverse_sqrt_weights(torch.tensor([900, 100, 0])).mul(6).round().tolist()
        [5.0, 15.0, 0.0]
    """
    counts = pixel_counts.double()
    present = counts > 0
    weights = torch.where(present, counts.clamp(min=1).rsqrt(), 0.0)
    total = (weights * counts).sum()
    if total > 0:
        weights = weights * counts.sum() / total
    return weights.float()


def _pixel_losses(logits: Tensor, target: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the loss of each pixel (0 where ignored) and the labels as int64."""
    labels = target.long()
    # float32: sums over many pixels lose digits in half precision.
    losses = F.cross_entropy(
        logits.float(),
        labels,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses, labels


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    # Where the sum of weights is 0 so is the sum above it: 0 / 1.
    return (values * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))
