"""The head in the style of ACFN: a pyramid of dilated convolutions, joined by attention.

Reference: Xu, Xue, Bennamoun, Boussaid and Sohel, "Atrous convolutional feature network for weakly
supervised semantic segmentation", Neurocomputing 421, 2021. An interpretation; see
`wsseg.localize.tags.acfn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.cam_head import ClassMapNet, Step
from wsseg.nets.pooling import Pooling

Attention = Literal["cell", "image"]


class AttentivePyramid(nn.Module):
    """Parallel dilated convolutions and a weighted mean of their results.

    Args:
        in_channels: D, of the features.
        width: Channels of each branch.
        dilations: One branch each.
        attention: Weights of their own for every cell, or one set for the image.

    Attributes:
        branches: 3x3 convolution, batch normalisation and rectification each.
        attend: From all branches to one number per branch.
    """

    def __init__(
        self, in_channels: int, width: int, dilations: Sequence[int], attention: Attention
    ) -> None:
        super().__init__()
        self.attention = attention
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, width, 3, padding=d, dilation=d, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            for d in dilations
        )
        self.attend = nn.Conv2d(width * len(dilations), len(dilations), 1)
        # All branches count alike at first.
        for parameter in self.attend.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Join the branches.

        Args:
            features: (N, D, h, w).

        Returns:
            The joined features (N, width, h, w), and those of each branch.
        """
        found = [branch(features) for branch in self.branches]
        weights = self.weights(found)
        joined = torch.stack(
            [weights[:, index, None] * one for index, one in enumerate(found)]
        ).sum(dim=0)
        return joined, found

    def weights(self, branches: list[Tensor]) -> Tensor:
        """Compute how much each branch counts.

        Args:
            branches: M of (N, width, h, w).

        Returns:
            (N, M, h, w), or (N, M, 1, 1) with one set per image; the sum over M is 1.
        """
        together = torch.cat(branches, dim=1)
        if self.attention == "image":
            together = together.mean(dim=(2, 3), keepdim=True)
        weights: Tensor = self.attend(together).softmax(dim=1)
        return weights


@dataclass(frozen=True)
class AcfnStep(Step):
    """A forward pass of an `AcfnNet`.

    Args:
        branches: (N, width, h, w) features of each branch; empty where nothing reads them.
    """

    branches: tuple[Tensor, ...] = ()


class AcfnNet(ClassMapNet):
    """A `ClassMapNet` whose classifier reads an `AttentivePyramid`.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From maps to logits.
        dilations: Of the branches.
        width: Channels of each branch.
        attention: See `AttentivePyramid`.
        branch_weight: Weight of the classification loss of each branch alone; 0: none.
        dropout: Probability of dropping a joined channel before the classifier while training.
        bias: Give the classifiers a bias.
        focal_gamma: Exponent of the focal loss.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = AcfnNet(build_backbone("test_resnet", output_stride=8), 3, width=8).eval()
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
        attention: Attention = "cell",
        branch_weight: float = 0.0,
        dropout: float = 0.5,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__(backbone, num_classes, pooling, dropout=dropout, focal_gamma=focal_gamma)
        self.pyramid = AttentivePyramid(backbone.num_features, width, dilations, attention)
        self.head = _classifier(width, num_classes, bias)
        self.branch_weight = branch_weight
        self.branch_heads = nn.ModuleList(
            _classifier(width, num_classes, bias) for _ in (dilations if branch_weight > 0 else ())
        )

    def features(self, images: Tensor) -> Tensor:
        """Compute the joined features of the pyramid, which the classifier reads.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, width, h, w) float.
        """
        joined: Tensor = self.pyramid(self.backbone(images))[0]
        return joined

    def step(self, batch: dict[str, Tensor]) -> Step:
        """Run one forward pass; see `ClassMapNet.step`."""
        runner = self._forward_runner()
        if runner is not None:
            return runner.step(self, batch)
        joined, branches = self.pyramid(self.backbone(batch["image"]))
        maps = self.head(self.dropout(joined))
        logits = self.pooled(maps, batch.get("valid"))
        return AcfnStep(batch, joined, maps, logits, tuple(branches))

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Compute the classification loss, and the mean of that of the branches if it counts.

        Args:
            step: The forward pass.

        Returns:
            ``classification``, and with a weight for it ``acfn_branches``.
        """
        terms = super().terms(step)
        if self.branch_weight == 0:
            return terms
        if not isinstance(step, AcfnStep):
            raise TypeError(f"Expected an AcfnStep, but got {type(step).__name__}.")
        valid = step.batch.get("valid")
        logits = [
            self.pooled(head(self.dropout(one)), valid)
            for head, one in zip(self.branch_heads, step.branches, strict=True)
        ]
        views = Step(step.batch, step.features, step.maps, torch.cat(logits))
        return {**terms, "acfn_branches": self.branch_weight * self.classification(views)}

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        own = [*self.pyramid.parameters(), *self.branch_heads.parameters()]
        return [*super().head_parameters(), *own]


def _classifier(width: int, num_classes: int, bias: bool) -> nn.Conv2d:
    head = nn.Conv2d(width, num_classes, 1, bias=bias)
    nn.init.xavier_uniform_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head
