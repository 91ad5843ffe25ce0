"""SEAM's pixel correlation module: cells that look alike share their class scores.

Reference: Wang, Zhang, Kan, Shan and Chen, "Self-supervised Equivariant Attention Mechanism for
Weakly Supervised Semantic Segmentation", CVPR 2020. From the image and two inner stages it learns
a vector f_i per cell of length one, and spreads scores s over all cells of the image:

    K_ij = ReLU(f_i . f_j),    s'_j = sum_i s_i K_ij / sum_i K_ij

Neither the scores nor the stages receive a gradient through it, so that it learns from what is
asked of s' alone.

Differences: any backbone; on the networks of `Backbone` the inner stages are their own, on
`resnet38d` those of the published code (the rectified inputs of its fifth and sixth block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.nets.backbones import Backbone, captured
from wsseg.nets.resnet38d import ResNet38d

EPSILON = 1e-5
# Channels learned from the earlier stage, from the later one, and of the vectors.
_EARLY, _LATE, _VECTOR = 64, 128, 192
_CHECK_PX = 64
# Largest number of correlations per image that are held at once when maps are extracted.
_MAX_CORRELATIONS = 1 << 26


@dataclass(frozen=True)
class Lateral:
    """A module whose output the correlation looks at.

    Args:
        module: Part of the backbone.
        is_grid: Whether its output is (N, D, h, w) and to be rectified; otherwise it is the end
            of a stage.
    """

    module: nn.Module
    is_grid: bool


def lateral_modules(backbone: Backbone, stages: tuple[int, ...] | None = None) -> list[Lateral]:
    """Choose the inner layers that the correlation looks at.

    Args:
        backbone: The network.
        stages: Numbers of stages; None: those of the published code on `ResNet38d`, elsewhere the
            two before the last.

    Returns:
        The layers in the order in which they run.

    Raises:
        RecipeError: When there is no such stage.
    """
    trunk = backbone.trunk
    if stages is None and isinstance(trunk, ResNet38d):
        names = ("b5.bn_branch2a", "b6.bn_branch2a")
        return [Lateral(trunk.get_submodule(name), True) for name in names]
    found = backbone.stage_modules()
    chosen = tuple(sorted(found)[-3:-1]) if stages is None else tuple(sorted(set(stages)))
    if not chosen or not set(chosen) <= set(found):
        wanted = "two before the last" if stages is None else f"stages {list(stages)}"
        raise RecipeError(
            f'Backbone "{backbone.name}" has the stages {sorted(found)}; seam cannot look at '
            f"{wanted}. Set localize.regularisers.seam.stages to some of them."
        )
    return [Lateral(found[stage], False) for stage in chosen]


def run_with_laterals(
    backbone: Backbone, images: Tensor, laterals: Sequence[Lateral]
) -> tuple[Tensor, list[Tensor]]:
    """Compute a backbone's features and the outputs of some inner layers in one pass.

    Args:
        backbone: The network.
        images: (N, in_channels, H, W) float, normalised.
        laterals: Layers from `lateral_modules`.

    Returns:
        The features (N, D, h, w), and per layer (N, D_i, h_i, w_i) without gradient.
    """
    with captured([lateral.module for lateral in laterals]) as outputs:
        features: Tensor = backbone(images)
    size = (images.shape[-2], images.shape[-1])
    grids = []
    for lateral in laterals:
        output = outputs[lateral.module].detach()
        grids.append(output.relu() if lateral.is_grid else backbone.as_grid(output, size))
    return features, grids


class PixelCorrelation(nn.Module):
    """Spreads scores between cells that look alike.

    Args:
        backbone: The network whose inner layers it looks at, run once to measure them.
        stages: As for `lateral_modules`.
    """

    def __init__(self, backbone: Backbone, stages: tuple[int, ...] | None = None) -> None:
        super().__init__()
        widths = _measured(backbone, stages)
        learned = [_EARLY] * (len(widths) - 1) + [_LATE]
        layers = [
            nn.Conv2d(width, channels, 1, bias=False)
            for width, channels in zip(widths, learned, strict=True)
        ]
        self.laterals = nn.ModuleList(layers)
        self.vectors = nn.Conv2d(backbone.in_channels + sum(learned), _VECTOR, 1, bias=False)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
        nn.init.xavier_uniform_(self.vectors.weight, gain=4)

    def forward(self, scores: Tensor, images: Tensor, laterals: Sequence[Tensor]) -> Tensor:
        """Spread scores.

        Args:
            scores: (N, K, h, w) float; no gradient goes back to them.
            images: (N, in_channels, H, W) float, normalised.
            laterals: Outputs of the inner layers, (N, D_i, h_i, w_i).

        Returns:
            (N, K, h, w) float32.
        """
        size = scores.shape[2:]
        parts = [_resized(images, size).to(self.vectors.weight.dtype)]
        for layer, lateral in zip(self.laterals, laterals, strict=True):
            parts.append(_resized(layer(lateral).relu(), size))
        vectors = self.vectors(torch.cat(parts, dim=1))
        return spread(scores.detach(), vectors)


def spread(scores: Tensor, vectors: Tensor) -> Tensor:
    """Average scores over all cells, weighted by the rectified cosine of their vectors.

    Args:
        scores: (N, K, h, w).
        vectors: (N, D, h, w) of any length.

    Returns:
        (N, K, h, w) float32.

    Example:
        >>> vectors = torch.tensor([[[[1.0, 2.0, 0.0]], [[0.0, 0.0, 1.0]]]])
        >>> spread(torch.tensor([[[[1.0, 0.0, 0.5]]]]), vectors).round(decimals=2).tolist()
        [[[[0.5, 0.5, 0.5]]]]
    """
    # Sums over thousands of cells lose too much in half precision.
    with torch.autocast(scores.device.type, enabled=False):
        flat = vectors.float().flatten(2)
        flat = flat / (flat.norm(dim=1, keepdim=True) + EPSILON)
        values = scores.float().flatten(2)
        cells = flat.shape[2]
        block = cells if torch.is_grad_enabled() else max(1, _MAX_CORRELATIONS // cells)
        columns = [_spread_to(part, flat, values) for part in flat.split(block, dim=2)]
        return torch.cat(columns, dim=2).view(scores.shape)


def _spread_to(receivers: Tensor, senders: Tensor, values: Tensor) -> Tensor:
    weights = (senders.transpose(1, 2) @ receivers).relu()
    weights = weights / (weights.sum(dim=1, keepdim=True) + EPSILON)
    return values @ weights


def _resized(grid: Tensor, size: torch.Size) -> Tensor:
    if grid.shape[2:] == size:
        return grid
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=True)


def _measured(backbone: Backbone, stages: tuple[int, ...] | None) -> list[int]:
    """Count the channels of the inner layers by one run in evaluation mode."""
    side = max(_CHECK_PX, 2 * backbone.size_multiple)
    images = torch.zeros(1, backbone.in_channels, side, side)
    images = images.to(next(backbone.parameters()).device)
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            _, grids = run_with_laterals(backbone, images, lateral_modules(backbone, stages))
    finally:
        backbone.train(was_training)
    return [grid.shape[1] for grid in grids]
