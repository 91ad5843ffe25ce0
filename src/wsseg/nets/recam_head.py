"""The second classifier of ReCAM, which must tell classes apart from their own cells.

Reference: Chen, Wang, Wu, Hua, Zhang and Sun, "Class Re-Activation Maps for Weakly-Supervised
Semantic Segmentation", CVPR 2022; see `wsseg.localize.tags.recam`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.cam_head import ClassMapNet, Step, valid_cells
from wsseg.nets.pooling import Pooling

# Keeps a map without any evidence at zero, as in the released code.
EPSILON = 1e-5


class RecamNet(ClassMapNet):
    """A `ClassMapNet` with a second classifier on class-wise features.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From maps to logits.
        weight: Weight of the softmax cross entropy.
        first_epoch: Epoch, from 0, from which on it counts.
        dropout: Probability of dropping a feature channel before the first head while training.
        bias: Give the first head a bias.
        focal_gamma: Exponent of the focal loss of the first head.

    Attributes:
        second: The second classifier, a 1x1 convolution without bias.
        is_second_active: Whether its loss counts in this epoch.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = RecamNet(build_backbone("test_resnet", output_stride=8), 3).eval()
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.logits(torch.zeros(1, 3, 64, 48)).shape
        (torch.Size([1, 3, 8, 6]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None = None,
        *,
        weight: float = 1.0,
        first_epoch: int = 0,
        dropout: float = 0.5,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__(
            backbone, num_classes, pooling, dropout=dropout, bias=bias, focal_gamma=focal_gamma
        )
        self.second = nn.Conv2d(backbone.num_features, num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.second.weight)
        self.weight = weight
        self.first_epoch = first_epoch
        self.is_second_active = first_epoch == 0

    def on_epoch_start(self, epoch: int) -> None:
        """Switch the second loss on.

        Args:
            epoch: From 0.
        """
        self.is_second_active = epoch >= self.first_epoch

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Compute the classification loss and the softmax cross entropy.

        Args:
            step: The forward pass.

        Returns:
            ``classification`` and ``recam``; the latter is 0 before its first epoch.
        """
        valid = step.batch.get("valid")
        per_class = class_features(step.maps, step.features, valid)
        entropy = softmax_loss(per_class, self.second.weight[:, :, 0, 0], step.batch["tags"] > 0)
        # Kept as a term of weight 0, so that every parameter has a gradient on every device.
        weight = self.weight if self.is_second_active else 0.0
        return {**super().terms(step), "recam": weight * entropy}

    def maps(self, images: Tensor) -> Tensor:
        """Compute the class maps.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, C, h, w): in evaluation mode with the product of both classifiers' weights, else
            those of the first one.
        """
        return self.maps_and_logits(images)[0]

    def raw_maps(self, images: Tensor) -> Tensor:
        """Compute the class maps of the first classifier, (N, C, h, w)."""
        return self.step({"image": images}).maps

    def maps_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `maps` and `logits` give in one pass: (N, C, h, w) and (N, C)."""
        step = self.step({"image": images})
        if self.training:
            return step.maps, step.logits
        return F.conv2d(step.features, self.head.weight * self.second.weight), step.logits

    def logits(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compute the logits of the first classifier, (N, C); see `ClassMapNet.logits`."""
        batch = {"image": images} if valid is None else {"image": images, "valid": valid}
        return self.step(batch).logits

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        return [*super().head_parameters(), *self.second.parameters()]


def class_features(maps: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average the features under each class's map.

    Args:
        maps: (N, C, h, w), raw class maps.
        features: (N, D, h, w).
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.

    Returns:
        (N, C, D) float32: the mean over valid cells of the features, each weighted by the
        rectified map divided by its maximum. Gradients go through the maps, too.
    """
    positive = maps.float().relu()
    count: Tensor | int = maps.shape[2] * maps.shape[3]
    if valid is not None:
        cells = valid_cells(valid, maps)
        positive = positive * cells
        count = cells.sum(dim=(2, 3))[:, :, None]
    scores = positive / (positive.amax(dim=(2, 3), keepdim=True) + EPSILON)
    return torch.einsum("nchw,ndhw->ncd", scores, features.float()) / count


def softmax_loss(per_class: Tensor, weight: Tensor, present: Tensor) -> Tensor:
    """Let the features of each present class name this class among all.

    Args:
        per_class: (N, C, D), see `class_features`.
        weight: (C, D), of the second classifier.
        present: (N, C) bool.

    Returns:
        A scalar: the softmax cross entropy, averaged over the present classes of each image, then
        over all images; an image without any counts 0.
    """
    log_p = F.linear(per_class, weight.float()).log_softmax(dim=2)
    right = -log_p.diagonal(dim1=1, dim2=2)
    return ((right * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)).mean()
