"""BB-UNet as a segmenter: boxes gate the skip connections of a U-Net.

El Jurdi, Petitjean, Honeine and Abdallah, "BB-UNet: U-Net With Bounding Box Prior", IEEE Journal of
Selected Topics in Signal Processing 2020; see `wsseg.nets.bb_unet`. The paper shows boxes in
prediction, too. It differs in that the gates are bypassed for a part of the training images,
because new images usually come without boxes; those that come with boxes are predicted with them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from wsseg.nets.bb_unet import BbUNet
from wsseg.nets.feature_map import FeatureMap
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.task import SegmenterTask


class BbUnet(SegmenterConfig):
    """A U-Net whose skip connections are gated by boxes while it is trained."""

    uses_boxes: ClassVar[bool] = True

    name: Literal["bb_unet"] = Field("bb_unet", description="U-Net with box-prior gates.")
    weights: Literal["none"] = Field(
        "none", description="First weights; the network is always trained from scratch."
    )
    box_maps: Literal["class", "one"] = Field(
        "class",
        description="class: boxes of each class on a map of their own; one: all on one map, so "
        "that the gates say where, but not what.",
    )
    bypass: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Probability that a training image goes by the gates, as images without boxes "
        "do in prediction; 0 as published, for networks that always get boxes.",
    )
    dropout: float = Field(0.6, ge=0, lt=1, description="Probability of dropping a channel.")


class BbUnetTask(SegmenterTask):
    """A `SegmenterTask` that shows the network the boxes of its batch.

    Args:
        net: The network.
        config: Its settings.
        num_classes: C, number of foreground classes.
    """

    net: BbUNet

    def __init__(self, net: BbUNet, config: BbUnet, num_classes: int) -> None:
        super().__init__(net, config.loss, num_classes)
        self.bypass = config.bypass

    def outputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, FeatureMap | None]:
        """Run the network on a batch with its ``boxes``, by the gates where there are none.

        Args:
            batch: ``image`` (N, in_channels, H, W) float; ``boxes`` (N, M, 5) float and
                ``has_boxes`` (N,) bool, see `wsseg.segment.views.boxes_of_view`.

        Returns:
            Logits (N, C + 1, H, W) and features.
        """
        images = batch["image"]
        size = (images.shape[-2], images.shape[-1])
        maps = self.net.drawn(batch["boxes"], size)
        is_gated = batch["has_boxes"]
        if self.training:
            kept = torch.rand(len(is_gated), device=is_gated.device) >= self.bypass
            is_gated = is_gated & kept
        logits, features = self.net.with_features(images, maps, is_gated)
        return logits, features

    def with_boxes(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Compute logits of images whose boxes are known; see `BbUNet.with_boxes`."""
        return self.net.with_boxes(images, boxes)


def bb_unet(*, config: BbUnet = BbUnet(), num_classes: int) -> BbUnetTask:
    """Build the segmenter.

    Args:
        config: Its settings.
        num_classes: C, number of foreground classes.

    Returns:
        The network with its loss, with random weights.

    Raises:
        RecipeError: When a term of the loss does not fit.
    """
    net = BbUNet(
        num_classes + 1,
        in_channels=config.in_channels,
        box_maps=num_classes if config.box_maps == "class" else 1,
        dropout=config.dropout,
    )
    return BbUnetTask(net, config, num_classes)
