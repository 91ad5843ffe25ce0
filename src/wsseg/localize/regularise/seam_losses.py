"""The losses of SEAM, and the views that they compare.

Reference: Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised
Semantic Segmentation", CVPR 2020, as the released code computes them. With y the tags (1 for the
background), M1, R1 the raw and refined maps of the image, M2, R2 those of the image made smaller,

    N(t) = ReLU(ReLU(t) - min - e) / (max - min + e)    per map, e = 1e-5
    c1 = y down(N(M1)),  r1 = y down(N(R1)),  c2 = y N(M2),  r2 = y N(R2)
    L_ER  = mean |c1 - c2|                               foreground only
    L_ECR = mean top |best(c2) - r1| + mean top |best(c1) - r2|

where ``best`` puts ``1 - max_c`` into the background row, keeps the largest foreground score of
each pixel, and lets no gradient through; ``top`` takes the largest 20 % of each image's errors.
The auxiliary term of the code is the mean of the lowest quarter of ``max_c y R``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.nets.cam_head import Step

EPSILON = 1e-5
LOWEST_FRACTION = 0.25


@dataclass(frozen=True)
class View:
    """What the network made of one size of the images.

    Args:
        features: (N, D, h, w).
        cells: (N, C, h, w), raw class maps.
        refined: (N, C + 1, h, w), scores spread by the pixel correlation, background first.
        maps: (N, C, H, W), raw class maps at the size of the view.
        logits: (N, C) float32.
    """

    features: Tensor
    cells: Tensor
    refined: Tensor
    maps: Tensor
    logits: Tensor

    def refined_maps(self) -> Tensor:
        """Enlarge the refined scores to the size of the view, (N, C + 1, H, W)."""
        return enlarged(self.refined, self.maps)


@dataclass(frozen=True)
class SeamStep(Step):
    """A forward pass of SEAM.

    Args:
        views: The image and, while training, the smaller image.
    """

    views: tuple[View, ...]


def enlarged(cells: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly with corners on corners, to the last two sizes of another tensor."""
    size = (like.shape[-2], like.shape[-1])
    return F.interpolate(cells.float(), size=size, mode="bilinear", align_corners=True)


@torch.no_grad()
def evidence(maps: Tensor) -> Tensor:
    """Turn raw class maps into the scores that the pixel correlation spreads.

    Args:
        maps: (N, C, h, w) raw class maps.

    Returns:
        (N, C + 1, h, w) float32 in [0, 1] without gradient: the background ``1 - max_c``, then
        each map divided by its maximum, where it is the largest of the cell, else 0.

    Example:
        >>> evidence(torch.tensor([[[[4.0, -1.0]], [[1.0, 2.0]]]])).round(decimals=3).tolist()
        [[[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]]
    """
    positive = maps.float().relu()
    highest = positive.amax(dim=(2, 3), keepdim=True)
    return best((positive - EPSILON).relu() / (highest + EPSILON))


def best(foreground: Tensor) -> Tensor:
    """Put the background in front and keep only the largest foreground score of each pixel.

    Args:
        foreground: (N, C, h, w) in [0, 1].

    Returns:
        (N, C + 1, h, w): ``1 - max_c``, then the scores, 0 where another one is larger.
    """
    highest = foreground.amax(dim=1, keepdim=True)
    kept = torch.where(foreground == highest, foreground, 0)
    return torch.cat([1 - highest, kept], dim=1)


def stretched(maps: Tensor) -> Tensor:
    """Rectify maps and stretch each to [0, 1].

    Args:
        maps: (N, C, h, w) float.

    Returns:
        (N, C, h, w) in [0, 1); gradients also flow through minimum and maximum.
    """
    positive = maps.relu()
    lowest = positive.amin(dim=(2, 3), keepdim=True)
    highest = positive.amax(dim=(2, 3), keepdim=True)
    return (positive - lowest - EPSILON).relu() / (highest - lowest + EPSILON)


def equivariance(first: Tensor, second: Tensor) -> Tensor:
    """Compare the maps of both views: the mean absolute difference.

    Args:
        first: (N, C, h, w), stretched, of present classes only.
        second: (N, C, h, w), likewise.

    Returns:
        A scalar.
    """
    return (first - second).abs().mean()


def cross_regularisation(raw: Tensor, refined: Tensor, hard_fraction: float) -> Tensor:
    """Let one view's raw maps teach the other view's refined ones.

    Args:
        raw: (N, C, h, w), stretched, of present classes only; the teacher, without gradient.
        refined: (N, C + 1, h, w), stretched, background first.
        hard_fraction: Part of each image's errors that counts, the largest ones.

    Returns:
        A scalar.
    """
    errors = (best(raw.detach()) - refined).abs().flatten(1)
    count = max(1, int(errors.shape[1] * hard_fraction))
    return errors.topk(count, dim=1).values.mean()


def lowest_quarter(refined: Tensor, present: Tensor) -> Tensor:
    """Ask for background: the mean of the lowest quarter of the strongest refined scores.

    Args:
        refined: (N, C, H, W), not stretched, foreground only.
        present: (N, C) 0 or 1.

    Returns:
        A scalar.
    """
    strongest = (refined * present[:, :, None, None]).amax(dim=1).flatten(1)
    count = max(1, int(strongest.shape[1] * LOWEST_FRACTION))
    return strongest.topk(count, dim=1, largest=False).values.relu().mean()
