"""Agreement of predictions at several scales, the consistency term of ADELE.

With p_i the softmax at scale i, w the softmax of learned weights and q = sum_i w_i p_i:

    L = mean over pixels of  sum_i KL(p_i || q)

counted for images whose largest q is at least ``min_confidence``; all others contribute 0.

Reference: Liu, Liu, Zhu, Shen and Fernandez-Granda, "Adaptive Early-Learning Correction for
Segmentation from Noisy Annotations", CVPR 2022. Gradients go through p_i, q and w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12


def resized_images(images: Tensor, scale: float) -> Tensor:
    """Resize images (N, C, H, W) by a factor, each side at least one pixel."""
    if scale == 1:
        return images
    height, width = images.shape[-2:]
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def scale_consistency(
    logits: Sequence[Tensor], scale_weights: Tensor, min_confidence: float = 0.8
) -> Tensor:
    """Measure how far predictions at several scales lie from their mixture.

    Args:
        logits: One (N, K, h, w) float per scale; brought to the size of the largest.
        scale_weights: (S,) float, before their softmax.
        min_confidence: Least largest probability of the mixture in an image that counts.

    Returns:
        Scalar >= 0, the mean over images and pixels.

    Example:
        >>> same = torch.tensor([4.0, 0.0]).view(1, 2, 1, 1)
        >>> abs(scale_consistency([same, same], torch.zeros(2)).item()) < 1e-6
        True
    """
    height = max(map_.shape[-2] for map_ in logits)
    width = max(map_.shape[-1] for map_ in logits)
    log_p = torch.stack(
        [
            F.interpolate(
                map_.float(), (height, width), mode="bilinear", align_corners=False
            ).log_softmax(dim=1)
            for map_ in logits
        ]
    )
    p = log_p.exp()
    q = (scale_weights.float().softmax(dim=0).view(-1, 1, 1, 1, 1) * p).sum(dim=0)
    divergence = (p * (log_p - q.clamp(min=_TINY).log())).sum(dim=2).sum(dim=0)
    sure = (q.detach().amax(dim=(1, 2, 3)) >= min_confidence).to(divergence.dtype)
    return (divergence * sure.view(-1, 1, 1)).mean()
