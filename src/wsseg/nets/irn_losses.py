"""What IRN learns from: pairs of confident pixels, and the losses on them.

Reference: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations", CVPR 2019. For pixels i and j within a radius, with the affinity a and the displacement
field D, whose vectors point from a pixel to the centroid of its object,

    a_ij  = 1 - max over the cells on the straight path from i to j of sigmoid(edge)
    L_pos = -1/2 mean_{bg pairs} log a_ij - 1/2 mean_{fg pairs} log a_ij
    L_neg = -mean_{other pairs} log(1 - a_ij)
    L_aff = (L_pos + L_neg) / 2
    L_dp  = 1/2 mean_{fg pairs} |D_i - D_j - (j - i)| + 1/2 mean_{bg pairs} |D_i - D_j|

where bg pairs are both background, fg pairs are of one foreground class, and other pairs are of
two different labels. A mean over no pair is zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.kernels.path_affinity_torch import torch_path_affinity
from wsseg.kernels.stencil import half_plane_offsets

# Keeps logarithms finite and empty means at zero (as in the published code).
EPSILON = 1e-5


class Pairs(NamedTuple):
    """Which pairs teach what; n offsets by the source pixels whose targets all exist.

    Attributes:
        background: (N, n, h - r + 1, w - 2 r + 2) bool, both pixels are background.
        foreground: As above, both pixels are of one foreground class.
        different: As above, the pixels have different labels.
    """

    background: Tensor
    foreground: Tensor
    different: Tensor


def smallest_grid(radius: int) -> tuple[int, int]:
    """Tell the least (h, w) of a grid on which a pixel has all its neighbours.

    Args:
        radius: Longest distance of a pair in cells, exclusive.

    Example:
        >>> smallest_grid(5)
        (5, 9)
    """
    return radius, 2 * radius - 1


def label_pairs(labels: Tensor, radius: int) -> Pairs:
    """Compare every pixel with its neighbours in the half-plane below it.

    Args:
        labels: (N, h, w) uint8 or whole numbers: 0 background, class ids, 255 unknown.
        radius: Longest distance of a pair in cells, exclusive.

    Returns:
        The pairs, offsets in the order of `half_plane_offsets`.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1], [1, 255, 1]]], dtype=torch.uint8)
        >>> pairs = label_pairs(labels, radius=2)
        >>> half_plane_offsets(2).tolist()
        [[0, 1], [1, -1], [1, 0], [1, 1]]
        >>> pairs.different[0, :, 0, 0].tolist(), pairs.foreground.any().item()
        ([True, True, False, True], False)
    """
    sources, targets = _sources(labels, radius).unsqueeze(1), _targets(labels, radius)
    is_known = (sources != IGNORE) & (targets != IGNORE)
    is_same = (sources == targets) & is_known
    is_background = sources == BACKGROUND
    return Pairs(is_same & is_background, is_same & ~is_background, is_known & ~is_same)


def affinity_loss(edge: Tensor, pairs: Pairs, radius: int) -> tuple[Tensor, Tensor]:
    """Compute the losses of the boundary map.

    Args:
        edge: (N, 1, h, w) float in [0, 1], boundary probability.
        pairs: What the pairs teach.
        radius: Longest distance of a pair in cells, exclusive.

    Returns:
        Two scalars: L_pos of pairs that belong together, L_neg of pairs that do not.
    """
    affinity = torch_path_affinity(edge, radius)
    together = -torch.log(affinity + EPSILON)
    apart = -torch.log(1 + EPSILON - affinity)
    positive = (_mean(together, pairs.background) + _mean(together, pairs.foreground)) / 2
    return positive, _mean(apart, pairs.different)


def displacement_loss(displacement: Tensor, pairs: Pairs, radius: int) -> Tensor:
    """Compute the loss of the displacement field.

    Args:
        displacement: (N, 2, h, w) float, rows and columns from the cell to its centroid, in cells.
        pairs: What the pairs teach.
        radius: Longest distance of a pair in cells, exclusive.

    Returns:
        L_dp, a scalar.
    """
    # (N, 2, n, h', w')
    difference = _sources(displacement, radius).unsqueeze(2) - _targets(displacement, radius)
    offsets = torch.as_tensor(half_plane_offsets(radius)).to(difference)
    missed = (difference - offsets.T[None, :, :, None, None]).abs()
    foreground = _mean(missed.mean(dim=1), pairs.foreground)
    background = _mean(difference.abs().mean(dim=1), pairs.background)
    return (foreground + background) / 2


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Average (N, n, h', w') values over the chosen pairs; zero where there is none."""
    weights = chosen.to(values.dtype)
    return (values * weights).sum() / (weights.sum() + EPSILON)


def _sources(field: Tensor, radius: int) -> Tensor:
    """Cut (..., h, w) to the pixels all of whose targets exist."""
    height, width = field.shape[-2:]
    return field[..., : height - radius + 1, radius - 1 : width - radius + 1]


def _targets(field: Tensor, radius: int) -> Tensor:
    """Shift (..., h, w) by every offset: (..., n, h', w')."""
    height, width = field.shape[-2] - radius + 1, field.shape[-1] - 2 * radius + 2
    shifted = [
        field[..., dy : dy + height, radius - 1 + dx : radius - 1 + dx + width]
        for dy, dx in half_plane_offsets(radius).tolist()
    ]
    return torch.stack(shifted, dim=-3)
