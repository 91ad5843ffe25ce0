"""The segmenter: a network with its loss, built from its settings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsseg.errors import DataError, RecipeError
from wsseg.nets.backbones import Backbone
from wsseg.nets.feature_map import FeatureMap
from wsseg.segment.config import Smp
from wsseg.segment.loss_config import (
    AddedTermsConfig,
    DsrgLoss,
    FillingRateLoss,
    LossConfig,
    PointLoss,
    PslLoss,
    SecLoss,
)
from wsseg.segment.losses.added import AddedTerms
from wsseg.segment.losses.cross_entropy import (
    balanced_cross_entropy,
    cross_entropy,
    inverse_sqrt_weights,
)
from wsseg.segment.losses.dice import dice
from wsseg.segment.losses.dsrg import dsrg
from wsseg.segment.losses.filling_rate import filling_targets
from wsseg.segment.losses.noisy import PixelRule
from wsseg.segment.losses.prohibitive import mean_features, psl
from wsseg.segment.losses.sec import sec
from wsseg.segment.losses.whats_the_point import whats_the_point

AnyLoss = LossConfig | SecLoss | DsrgLoss | FillingRateLoss | PointLoss | PslLoss


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
        filling_rates: (C + 1,) float32 parts of boxes that objects fill, entry 0 being 1; see
            :meth:`set_filling_rates`.
        terms: What is added to the loss; None where nothing can be.
        branch: Classifies the image by the network's features, for losses that ask for it.
        progress: Fraction of the training that is over, in [0, 1]; 1 outside of a training, so
            that all terms are on.

    Raises:
        RecipeError: When a term of the loss does not fit the network.
    """

    class_weights: Tensor
    filling_rates: Tensor

    def __init__(self, net: nn.Module, loss_config: AnyLoss, num_classes: int) -> None:
        super().__init__()
        self.net = net
        self.loss_config = loss_config
        self.num_classes = num_classes
        # Not part of the checkpoint: it belongs to the training data, not to the model.
        self.register_buffer("class_weights", torch.ones(num_classes + 1), persistent=False)
        self.register_buffer("filling_rates", torch.ones(num_classes + 1), persistent=False)
        self.progress = 1.0
        self.terms: AddedTerms | None = None
        if isinstance(loss_config, AddedTermsConfig):
            self.terms = AddedTerms(loss_config, net)
        self.branch = _branch(net, num_classes) if isinstance(loss_config, PslLoss) else None
        if isinstance(loss_config, FillingRateLoss) and loss_config.rates is not None:
            self.set_filling_rates(_given_rates(loss_config.rates, num_classes))

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

    @property
    def needs_filling_rates(self) -> bool:
        """Whether :meth:`set_filling_rates` has to be called before training."""
        return isinstance(self.loss_config, FillingRateLoss) and self.loss_config.rates is None

    def set_filling_rates(self, rates: Tensor) -> None:
        """Say which part of their boxes objects fill.

        Args:
            rates: (C + 1,) in [0, 1], entry 0 being 1.
        """
        self.filling_rates.copy_(rates.to(self.filling_rates))

    def on_progress(self, fraction: float) -> None:
        """Learn which fraction of the training is over; the training loop calls it."""
        self.progress = fraction

    def outputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, FeatureMap | None]:
        """Run the network on a batch.

        Args:
            batch: ``image`` (N, in_channels, H, W) float, and what else the network looks at.

        Returns:
            Logits (N, C + 1, H, W), and features where a term of the loss looks at them.
        """
        asked = self.terms is not None and self.terms.needs_features
        if not asked and self.branch is None:
            return self(batch["image"]), None
        logits, features = self.net.with_features(batch["image"])  # type: ignore[operator]
        return logits, features

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            batch: ``image`` (N, in_channels, H, W) float, ``mask`` (N, H, W) integer with 255
                ignored; for cross-entropy ``weight`` (N, H, W) float >= 0 where pixels count
                differently; for losses that look at them ``valid`` (N, H, W) bool, False at
                padding, ``tags`` (N, C) integer, see `wsseg.segment.losses.sec.sec`, ``boxes`` and
                ``has_boxes``, see `wsseg.segment.losses.filling_rate.filling_targets`, ``cue``
                (N, H, W) float, and ``guide``, the image without random changes of colour.

        Returns:
            ``loss``, and its parts where there are several.

        Raises:
            RecipeError: When a kernel of the loss's CRF is too narrow to be computed.
        """
        logits, features = self.outputs(batch)
        config = self.loss_config
        if isinstance(config, SecLoss):
            return sec(logits, batch, config)
        if isinstance(config, DsrgLoss):
            return dsrg(logits, batch, config)
        parts = self._main_parts(logits, batch, features)
        total = parts.pop("loss")
        if self.terms is not None:
            added = self.terms(logits, batch, features, self.progress)
            for name, (weight, value) in added.items():
                parts[name] = value
                total = total + weight * value
        if len(parts) == 1:
            return {"loss": total}
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def _main_parts(
        self, logits: Tensor, batch: dict[str, Tensor], features: FeatureMap | None
    ) -> dict[str, Tensor]:
        """Compute the loss without added terms, and its parts."""
        config = self.loss_config
        if isinstance(config, PointLoss):
            return whats_the_point(logits, batch, config)
        if isinstance(config, PslLoss) and self.branch is not None and features is not None:
            seen = mean_features(features, logits, batch.get("valid"))
            return psl(logits, self.branch(seen), batch, config, self.progress)
        if isinstance(config, FillingRateLoss):
            pixels = cross_entropy(logits, filling_targets(logits, batch, self.filling_rates))
            return {"loss": pixels, "cross_entropy": pixels}
        if not isinstance(config, LossConfig):
            raise TypeError(f"{type(config).__name__} is not a loss of the segmenter.")
        rule = PixelRule(config.bootstrap, config.underfit, batch.get("weight"))
        pixels = self._cross_entropy(logits, batch["mask"], config, rule)
        parts = {"loss": pixels, "cross_entropy": pixels}
        if config.dice > 0:
            parts["dice"] = dice(logits, batch["mask"])
            parts["loss"] = pixels + config.dice * parts["dice"]
        return parts

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
        added = (module for module in (self.terms, self.branch) if module is not None)
        own = [parameter for module in added for parameter in module.parameters()]
        return [*(head() if head is not None else ()), *own]


def _branch(net: nn.Module, num_classes: int) -> nn.Linear:
    """Make the layer that classifies the image by the network's features."""
    if not hasattr(net, "with_features"):
        raise RecipeError(
            f"segment.loss.name is psl, but a {type(net).__name__} does not give its features. "
            "Set segment.loss.name to cross_entropy, or use segmenter smp."
        )
    channels: int = net.feature_channels  # type: ignore[assignment]
    return nn.Linear(channels, num_classes)


def _given_rates(rates: float | tuple[float, ...], num_classes: int) -> Tensor:
    """Write filling rates as (C + 1,)."""
    given = (rates,) * num_classes if isinstance(rates, float) else rates
    if len(given) != num_classes:
        raise RecipeError(
            f"segment.loss.rates has {len(given)} numbers, but there are {num_classes} classes. "
            "Give one per class, in the order of the class list, or a single number."
        )
    return torch.tensor((1.0, *given))


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
