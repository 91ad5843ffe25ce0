"""The two branches of ACoL: the second one sees the features without what the first one found.

Reference: Zhang, Wei, Feng, Yang and Huang, "Adversarial Complementary Learning for Weakly
Supervised Object Localization", CVPR 2018; see `wsseg.localize.tags.acol`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.cam_head import valid_cells
from wsseg.nets.pooling import Pooling
from wsseg.nets.several_heads import EPSILON, SeveralHeadsNet, stretched_and_joined

# From this probability on a class counts as present where there are no tags.
PRESENT = 0.5


class Branch(nn.Sequential):
    """Two rectified 3x3 convolutions and a 1x1 classifier.

    Args:
        in_channels: D, of the features.
        width: Channels of the convolutions.
        num_classes: C.
        dropout: Probability of dropping a channel before the classifier while training.
        bias: Give the classifier a bias.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        first = nn.Conv2d(in_channels, width, 3, padding=1)
        second = nn.Conv2d(width, width, 3, padding=1)
        classify = nn.Conv2d(width, num_classes, 1, bias=bias)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(classify.weight)
        for layer in (first, second, classify):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), nn.Dropout2d(dropout), classify)


class AcolNet(SeveralHeadsNet):
    """A `ClassMapNet` with a branch, and a second one on what the first did not find.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From the maps of each branch to its logits.
        threshold: Cells whose stretched score in the first branch reaches it are erased.
        width: Channels of the branches.
        dropout: Probability of dropping a channel before the classifiers while training.
        bias: Give the classifiers a bias.
        focal_gamma: Exponent of the focal loss.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = AcolNet(build_backbone("test_resnet", output_stride=8), 3, width=8).eval()
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.logits(torch.zeros(1, 3, 64, 48)).shape
        (torch.Size([1, 3, 8, 6]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None = None,
        *,
        threshold: float = 0.6,
        width: int = 256,
        dropout: float = 0.5,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        heads: list[nn.Module] = [
            Branch(backbone.num_features, width, num_classes, dropout=dropout, bias=bias)
            for _ in range(2)
        ]
        super().__init__(
            backbone, num_classes, pooling, heads, dropout=0.0, focal_gamma=focal_gamma
        )
        self.threshold = threshold

    def head_maps(self, batch: dict[str, Tensor], features: Tensor) -> list[Tensor]:
        """Compute the maps of both branches.

        Args:
            batch: ``tags`` say which classes are erased; without them the classes that the first
                branch finds, and in any case the most probable one.
            features: (N, D, h, w).

        Returns:
            Two (N, C, h, w).
        """
        first = self.heads[0](features)
        valid = batch.get("valid")
        tags = batch.get("tags")
        present = found_classes(self.pooled(first, valid)) if tags is None else tags > 0
        cells = None if valid is None else valid_cells(valid, first)
        kept = ~erased_cells(first, present, self.threshold, cells)
        return [first, self.heads[1](features * kept)]

    def raw_maps(self, images: Tensor) -> Tensor:
        """Compute the class maps of the first branch, on which no threshold acts, (N, C, h, w)."""
        maps: Tensor = self.heads[0](self.features(images))
        return maps

    def joined(self, maps: list[Tensor]) -> Tensor:
        """Take the larger of both maps, each stretched to [0, 1].

        Args:
            maps: Two (N, C, h, w).

        Returns:
            (N, C, h, w), not negative.
        """
        return stretched_and_joined(maps, acol_rule, from_minimum=True)

    def image_logits(self, logits: list[Tensor]) -> Tensor:
        """Choose the logits of the first branch, which sees everything, (N, C)."""
        return logits[0]


def acol_rule(maps: list[Tensor]) -> Tensor:
    """Join the stretched maps of both branches: the larger score of each cell."""
    return torch.maximum(maps[0], maps[1])


@torch.no_grad()
def erased_cells(
    maps: Tensor, present: Tensor, threshold: float, valid: Tensor | None = None
) -> Tensor:
    """Find the cells that the second branch shall not see; no gradient goes through this.

    Args:
        maps: (N, C, h, w), raw, of the first branch.
        present: (N, C) bool, the classes that are erased.
        threshold: Least score of an erased cell, of a map stretched from its minimum to its
            maximum.
        valid: (N, 1, h, w) bool, the cells that belong to the image; None: all.

    Returns:
        (N, 1, h, w) bool: the union over the present classes.

    Example:
        >>> maps = torch.tensor([[[[-4.0, 0.0, 6.0]], [[9.0, 0.0, 0.0]]]])
        >>> erased_cells(maps, torch.tensor([[True, False]]), 0.6).int().tolist()
        [[[[0, 0, 1]]]]
    """
    maps = maps.float()
    inside = torch.ones_like(maps[:, :1], dtype=torch.bool) if valid is None else valid
    low = maps.masked_fill(~inside, torch.inf).amin(dim=(2, 3), keepdim=True)
    high = maps.masked_fill(~inside, -torch.inf).amax(dim=(2, 3), keepdim=True)
    reached = (maps - low) / (high - low + EPSILON) >= threshold
    return (reached & present[:, :, None, None] & inside).any(dim=1, keepdim=True)


@torch.no_grad()
def found_classes(logits: Tensor) -> Tensor:
    """Tell which classes count as present where there are no tags.

    Args:
        logits: (N, C), of the first branch.

    Returns:
        (N, C) bool: those with a probability of at least 0.5, and the most probable one.

    Example:
        >>> found_classes(torch.tensor([[1.0, 2.0, -1.0], [-3.0, -1.0, -2.0]])).int().tolist()
        [[1, 1, 0], [0, 1, 0]]
    """
    return (logits.sigmoid() >= PRESENT) | (logits == logits.amax(dim=1, keepdim=True))
