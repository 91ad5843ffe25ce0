"""The segmenter: a network with its loss, built from its settings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsseg.errors import DataError, RecipeError
from wsseg.nets.backbones import Backbone
from wsseg.segment.config import Smp
from wsseg.segment.loss_config import DsrgLoss, LossConfig, SecLoss
from wsseg.segment.losses.constrain import constrain
from wsseg.segment.losses.cross_entropy import (
    balanced_cross_entropy,
    cross_entropy,
    inverse_sqrt_weights,
)
from wsseg.segment.losses.dice import dice
from wsseg.segment.losses.dsrg import dsrg
from wsseg.segment.losses.noisy import PixelRule
from wsseg.segment.losses.sec import sec


class SegmenterTask(nn.Module):
    """A segmentation network with its loss, as the training loop wants it.

    Args:
        net: Module from (N, in_channels, H, W) to (N, C + 1, H, W) logits; a method
            ``head_parameters()`` names its new layers.
        loss_config: The loss.
        num_classes: C, number of foreground classes.

    Attributes:
        net: The network.
        class_weights: (C + 1,) float32 weights of the classes in the loss, all 1 until
            :meth:`set_pixel_counts` is called.
    """

    class_weights: Tensor

    def __init__(
        self, net: nn.Module, loss_config: LossConfig | SecLoss | DsrgLoss, num_classes: int
    ) -> None:
        super().__init__()
        self.net = net
        self.loss_config = loss_config
        self.num_classes = num_classes
        # Not part of the checkpoint: it belongs to the training data, not to the model.
        self.register_buffer("class_weights", torch.ones(num_classes + 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, C + 1, H, W) of normalised images (N, in_channels, H, W)."""
        logits: Tensor = self.net(images)
        return logits

    @property
    def needs_pixel_counts(self) -> bool:
        """Whether :meth:`set_pixel_counts` has to be called before training."""
        config = self.loss_config
        return isinstance(config, LossConfig) and config.class_balance == "inverse_sqrt"

    def set_pixel_counts(self, pixel_counts: Tensor) -> None:
        """Weigh the classes by their frequency in the training masks.

        Args:
            pixel_counts: (C + 1,) number of pixels of each class.

        Raises:
            DataError: When no pixel has a class.
        """
        if pixel_counts.sum() == 0:
            raise DataError(
                "No pixel of the training masks has a class: all are 255 (ignored). Lower the "
                "thresholds of the pseudo masks, or look at them in the run's masks folder."
            )
        weights = inverse_sqrt_weights(pixel_counts)
        self.class_weights.copy_(weights.to(self.class_weights.device))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            batch: ``image`` (N, in_channels, H, W) float, ``mask`` (N, H, W) integer with 255
                ignored; for cross-entropy ``weight`` (N, H, W) float >= 0 where pixels count
                differently; for losses that look at them ``valid`` (N, H, W) bool, False at
                padding, and ``tags`` (N, C) integer, see `wsseg.segment.losses.sec.sec`.

        Returns:
            ``loss``, and its parts where there are several.

        Raises:
            RecipeError: When a kernel of the loss's CRF is too narrow to be computed.
        """
        logits = self(batch["image"])
        config = self.loss_config
        if isinstance(config, SecLoss):
            return sec(logits, batch, config)
        if isinstance(config, DsrgLoss):
            return dsrg(logits, batch, config)
        rule = PixelRule(config.bootstrap, config.underfit, batch.get("weight"))
        pixels = self._cross_entropy(logits, batch["mask"], config, rule)
        parts = {"cross_entropy": pixels}
        total = pixels
        if config.dice > 0:
            parts["dice"] = dice(logits, batch["mask"])
            total = total + config.dice * parts["dice"]
        if config.constrain is not None and config.constrain.weight > 0:
            parts["constrain"] = constrain(logits, batch, config.constrain)
            total = total + config.constrain.weight * parts["constrain"]
        if len(parts) == 1:
            return {"loss": total}
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def _cross_entropy(
        self, logits: Tensor, mask: Tensor, config: LossConfig, rule: PixelRule
    ) -> Tensor:
        smoothing = config.label_smoothing
        if config.class_balance == "dsrg":
            return balanced_cross_entropy(logits, mask, label_smoothing=smoothing, rule=rule)
        return cross_entropy(
            logits,
            mask,
            class_weights=self.class_weights if self.needs_pixel_counts else None,
            label_smoothing=smoothing,
            rule=rule,
        )

    def start_from(self, backbone: Backbone) -> None:
        """Start the network's encoder from a trained localizer's backbone.

        Args:
            backbone: Of the same kind as the encoder.

        Raises:
            RecipeError: When the network cannot start from it.
        """
        start = getattr(self.net, "start_from", None)
        if start is None:
            raise RecipeError(
                f"segment.weights is localizer, but a {type(self.net).__name__} cannot start from "
                "a localizer. Set segment.weights to none."
            )
        start(backbone)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the layers that no pre-training has seen."""
        head = getattr(self.net, "head_parameters", None)
        return list(head()) if head is not None else []


def smp(*, config: Smp = Smp(), num_classes: int) -> SegmenterTask:
    """Build a segmenter on a network of segmentation-models-pytorch.

    Args:
        config: Its settings.
        num_classes: C, number of foreground classes.

    Returns:
        The network with its loss; random weights apart from those that the settings name.

    Raises:
        RecipeError: When architecture and encoder do not exist or do not fit.
        MissingWeightsError: When the weights cannot be had.
    """
    from wsseg.nets.segmentation import SegmentationNet

    net = SegmentationNet(
        config.architecture,
        config.encoder,
        num_classes + 1,
        weights=config.weights,
        in_channels=config.in_channels,
        encoder_depth=config.encoder_depth,
        local_contrast_px=config.local_contrast_px,
    )
    return SegmenterTask(net, config.loss, num_classes)
