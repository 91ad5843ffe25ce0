"""The heads of MDC: one dilated convolution and one classifier each.

Reference: Wei, Xiao, Shi, Jie, Feng and Huang, "Revisiting Dilated Convolution: A Simple Approach
for Weakly- and Semi-Supervised Semantic Segmentation", CVPR 2018; see `wsseg.localize.tags.mdc`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.pooling import Pooling
from wsseg.nets.several_heads import SeveralHeadsNet, stretched_and_joined


class DilatedHead(nn.Sequential):
    """A dilated 3x3 convolution, rectification, and a 1x1 classifier.

    Args:
        in_channels: D, of the features.
        width: Channels behind the dilated convolution.
        num_classes: C.
        dilation: Cells between the taps of the convolution.
        dropout: Probability of dropping a channel before the classifier while training.
        bias: Give the classifier a bias.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        num_classes: int,
        *,
        dilation: int,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        spread = nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation)
        classify = nn.Conv2d(width, num_classes, 1, bias=bias)
        nn.init.kaiming_normal_(spread.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(classify.weight)
        for layer in (spread, classify):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        super().__init__(spread, nn.ReLU(), nn.Dropout2d(dropout), classify)


class MdcNet(SeveralHeadsNet):
    """A `ClassMapNet` with one head per dilation.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From the maps of each head to its logits.
        dilations: Of the heads; the first is the one that localizes.
        width: Channels of each head.
        dropout: Probability of dropping a channel before the classifiers while training.
        bias: Give the classifiers a bias.
        focal_gamma: Exponent of the focal loss.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = MdcNet(build_backbone("test_resnet", output_stride=8), 3, width=8).eval()
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.logits(torch.zeros(1, 3, 64, 48)).shape
        (torch.Size([1, 3, 8, 6]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None = None,
        *,
        dilations: Sequence[int] = (1, 3, 6, 9),
        width: int = 256,
        dropout: float = 0.5,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        heads: list[nn.Module] = [
            DilatedHead(
                backbone.num_features,
                width,
                num_classes,
                dilation=dilation,
                dropout=dropout,
                bias=bias,
            )
            for dilation in dilations
        ]
        # The paper drops before the classifiers, not before the dilated convolutions.
        super().__init__(
            backbone, num_classes, pooling, heads, dropout=0.0, focal_gamma=focal_gamma
        )

    def joined(self, maps: list[Tensor]) -> Tensor:
        """Add the mean map of the dilated heads to that of the first, each divided by its maximum.

        Args:
            maps: One (N, C, h, w) per head.

        Returns:
            (N, C, h, w), not negative.
        """
        return stretched_and_joined(maps, mdc_rule, from_minimum=False)


def mdc_rule(maps: list[Tensor]) -> Tensor:
    """Fuse maps by the rule of the paper, ``H = H_0 + 1/n sum_i H_i``.

    Args:
        maps: H_0, then H_1 to H_n of the dilated heads, n > 0.

    Returns:
        H, of the same shape.

    Example:
        >>> ones = torch.ones(1)
        >>> mdc_rule([ones, 0 * ones, 0 * ones, 0.75 * ones]).item()
        1.25
    """
    return maps[0] + torch.stack(maps[1:]).mean(dim=0)
