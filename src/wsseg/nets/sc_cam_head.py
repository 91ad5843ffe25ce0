"""The second head of SC-CAM, which tells sub-categories apart.

Reference: Chang, Wang, Hung, Piramuthu, Tsai and Yang, "Weakly-Supervised Semantic Segmentation
via Sub-category Exploration", CVPR 2020; see `wsseg.localize.tags.sc_cam`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.cam_head import ClassMapNet, Step
from wsseg.nets.pooling import Pooling


class ScCamNet(ClassMapNet):
    """A `ClassMapNet`, whose maps are those of the parent classes, with a sub-category head.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From maps to logits, of both heads.
        num_subclasses: K, sub-categories of each class.
        weight: Weight of the sub-category loss.
        dropout: Probability of dropping a feature channel before each head while training.
        bias: Give the parent head a bias.
        focal_gamma: Exponent of the focal loss of the parent head.

    Attributes:
        sub_head: A 1x1 convolution to C K outputs without bias; output ``c K + k`` is
            sub-category k of class c, both from 0.

    Example:
        >>> import torch
        >>> from wsseg.nets.build import build_backbone
        >>> net = ScCamNet(build_backbone("test_resnet", output_stride=8), 3, num_subclasses=4)
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.sub_head.weight.shape[0]
        (torch.Size([1, 3, 8, 6]), 12)
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None = None,
        *,
        num_subclasses: int = 10,
        weight: float = 5.0,
        dropout: float = 0.5,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__(
            backbone, num_classes, pooling, dropout=dropout, bias=bias, focal_gamma=focal_gamma
        )
        outputs = num_classes * num_subclasses
        self.sub_head = nn.Conv2d(backbone.num_features, outputs, 1, bias=False)
        nn.init.xavier_uniform_(self.sub_head.weight)
        self.weight = weight

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Compute the losses of parents and sub-categories.

        Args:
            step: The forward pass; its batch holds ``sub_tags`` (N, C K): 1 the image's
                sub-category, 0 another one, -1 one that does not exist or is not known.

        Returns:
            ``classification`` and ``sub_category``.

        Raises:
            ValueError: When the batch has no ``sub_tags``.
        """
        if "sub_tags" not in step.batch:
            raise ValueError("Expected `sub_tags` in the batch of an SC-CAM network; it has none.")
        maps = self.sub_head(self.dropout(step.features))
        logits = self.pooled(maps, step.batch.get("valid"))
        loss = sub_category_loss(logits, step.batch["sub_tags"])
        return {**super().terms(step), "sub_category": self.weight * loss}

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        return [*super().head_parameters(), *self.sub_head.parameters()]


def sub_category_loss(logits: Tensor, sub_tags: Tensor) -> Tensor:
    """Average the multi-label soft margin loss over what is known.

    Args:
        logits: (N, S).
        sub_tags: (N, S): 1, 0, or -1 where it does not count.

    Returns:
        A scalar; 0, with gradient 0, where nothing is known.
    """
    known = (sub_tags >= 0).to(logits.dtype)
    target = sub_tags.clamp(min=0).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
