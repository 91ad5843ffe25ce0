"""Soft Dice loss over the classes that a batch shows.

Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical
Image Segmentation", 3DV 2016: ``1 - 2 sum(p g) / (sum(p^2) + sum(g^2))``. It differs in that it is
averaged over the classes present in the batch and that ignored pixels count in no sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.data.labels import IGNORE


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the soft Dice loss of a batch.

    Args:
        logits: (N, K, H, W) float.
        target: (N, H, W) integer class ids 0..K-1; 255 is ignored.

    Returns:
        Scalar in [0, 1]: mean over the classes present in ``target``; 0 (with gradient 0) where
        no pixel counts.
    """
    labels = target.long()
    counted = (labels != IGNORE).unsqueeze(1)
    num_classes = logits.shape[1]
    truth = F.one_hot(labels.clamp(max=num_classes - 1), num_classes).movedim(-1, 1) * counted
    probabilities = logits.float().softmax(dim=1) * counted
    over_pixels = (0, 2, 3)
    overlap = (probabilities * truth).sum(over_pixels)
    sizes = probabilities.square().sum(over_pixels) + truth.sum(over_pixels)
    present = truth.sum(over_pixels) > 0
    losses = 1 - 2 * overlap / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)
    return torch.where(present, losses, 0).sum() / present.sum().clamp(min=1)
