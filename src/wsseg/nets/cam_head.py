"""A multi-label classifier whose class maps are its own: backbone, 1x1 convolution, pooling.

Reference: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, in
the form that the image-label literature uses since Ahn and Kwak, CVPR 2018: the classifier is a
1x1 convolution without bias, so that its output before pooling is the class activation map

    M_c(u) = sum_k W_ck F_k(u),      logit_c = pool_u M_c(u).

Differences: any pooling, not only the average; cells that show padding do not count.

Loss: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, for the focal option.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.pooling import Gap, Pooling, pool

# Positives of a very rare class weigh at most this much: beyond it single images decide.
MAX_POSITIVE_WEIGHT = 20.0


class ClassMapNet(nn.Module):
    """Backbone, 1x1 convolution and pooling.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From maps to logits.
        dropout: Probability of dropping a feature channel before the head while training.
        bias: Give the head a bias. It helps poolings that look at few cells; a CAM has none.
        focal_gamma: Exponent of the focal loss; 0 is the multi-label soft margin loss.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = ClassMapNet(build_backbone("test_resnet", output_stride=8), num_classes=3)
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.logits(torch.zeros(1, 3, 64, 48)).shape
        (torch.Size([1, 3, 8, 6]), torch.Size([1, 3]))
    """

    positive_weights: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None = None,
        *,
        dropout: float = 0.5,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.pooling: Pooling = Gap() if pooling is None else pooling
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(backbone.num_features, num_classes, 1, bias=bias)
        nn.init.xavier_uniform_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        self.focal_gamma = focal_gamma
        self.register_buffer("positive_weights", torch.ones(num_classes))

    def features(self, images: Tensor) -> Tensor:
        """Compute the backbone's features.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, D, h, w) float.
        """
        features: Tensor = self.backbone(images)
        return features

    def maps(self, images: Tensor) -> Tensor:
        """Compute the class maps, negative evidence included.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, C, h, w) float.
        """
        maps: Tensor = self.head(self.dropout(self.features(images)))
        return maps

    def logits(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compute the class logits.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.
            valid: (N, 1, H, W), non-zero where a pixel belongs to the image, zero where it is
                padding; None: everywhere.

        Returns:
            (N, C) float32.
        """
        maps = self.maps(images)
        return pool(maps, self.pooling, None if valid is None else valid_cells(valid, maps))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the class logits, (N, C) float32."""
        return self.logits(images)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the classification loss.

        With weights of one and no focal exponent it is
        ``-mean_{n,c} [ y log sigma(x) + (1 - y) log sigma(-x) ]``.

        Args:
            batch: ``image`` (N, 3 or 1, H, W) normalised, ``tags`` (N, C) of 0 and 1, and
                optionally ``valid`` (N, 1, H, W).

        Returns:
            ``loss``, a scalar.
        """
        logits = self.logits(batch["image"], batch.get("valid"))
        tags = batch["tags"].to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(
            logits, tags, pos_weight=self.positive_weights, reduction="none"
        )
        if self.focal_gamma > 0:
            probability = logits.sigmoid()
            missed = tags * (1 - probability) + (1 - tags) * probability
            loss = loss * missed**self.focal_gamma
        return {"loss": loss.mean()}

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        return list(self.head.parameters())

    def set_class_weights(self, tags: NDArray[np.floating]) -> None:
        """Let positives of rare classes weigh more (see `positive_weights`).

        Args:
            tags: (n, C) 0 or 1, the training tags.
        """
        weights = torch.from_numpy(positive_weights(tags))
        self.positive_weights.copy_(weights.to(self.positive_weights))


def positive_weights(tags: NDArray[np.floating]) -> NDArray[np.float32]:
    """Weigh the positives of each class so that they count as much as its negatives.

    Args:
        tags: (n, C) 0 or 1.

    Returns:
        (C,) float32, negatives per positive, between 1/20 and 20; 1 for a class without any
        positive.

    Example:
        >>> positive_weights(np.array([[1, 0], [0, 0], [0, 0], [0, 0]])).tolist()
        [3.0, 1.0]
    """
    positives = np.asarray(tags).sum(axis=0).astype(np.float64)
    negatives = len(tags) - positives
    ratio = np.divide(negatives, positives, out=np.ones_like(positives), where=positives > 0)
    return np.clip(ratio, 1 / MAX_POSITIVE_WEIGHT, MAX_POSITIVE_WEIGHT).astype(np.float32)


def valid_cells(valid: Tensor, maps: Tensor) -> Tensor:
    """Bring a map of valid pixels to the cells of class maps.

    Args:
        valid: (N, 1, H, W) or (N, H, W), non-zero where a pixel belongs to the image.
        maps: (N, C, h, w), for the size.

    Returns:
        (N, 1, h, w) bool: cells of which at least half is valid; the most valid cells of an image
        that has no such cell.
    """
    if valid.ndim == 3:
        valid = valid.unsqueeze(1)
    share = F.interpolate((valid > 0).float(), size=maps.shape[2:], mode="area")
    enough = share.amax(dim=(2, 3), keepdim=True).clamp(max=0.5)
    return share >= enough
