"""Segmentation networks of segmentation-models-pytorch behind one small interface.

The wrapper takes images of any size (it pads inside and cuts back), survives a batch of one, and
loads encoder weights by the rules that hold everywhere in wsseg.

Networks: U-Net (Ronneberger et al., MICCAI 2015), U-Net++ (Zhou et al., 2018), DeepLabV3 and
DeepLabV3+ (Chen et al., 2017 and ECCV 2018), FPN (Kirillov et al., CVPR 2019), PAN (Li et al.,
BMVC 2018), SegFormer (Xie et al., NeurIPS 2021), UPerNet (Xiao et al., ECCV 2018), PSPNet (Zhao
et al., CVPR 2017), LinkNet (Chaurasia and Culurciello, 2017), MA-Net (Fan et al., 2020).
"""

from __future__ import annotations

from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg import console
from wsseg.errors import RecipeError, unknown_name
from wsseg.nets.architectures import Architecture
from wsseg.nets.backbones import Backbone
from wsseg.nets.encoder_weights import load_encoder_weights, start_from_backbone
from wsseg.nets.feature_map import FeatureMap
from wsseg.nets.local_contrast import LocalContrast

_CLASSES: dict[str, str] = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3Plus",
    "fpn": "FPN",
    "pan": "PAN",
    "segformer": "Segformer",
    "upernet": "UPerNet",
    "pspnet": "PSPNet",
    "linknet": "Linknet",
    "manet": "MAnet",
}

# PAN's pyramid halves the coarsest map three times; below this nothing is left of it.
_LEAST_SIDE_PX = {"pan": 128}


_FULL_DEPTH = 5
_SHALLOW = frozenset({"linknet", "manet", "unet", "unetplusplus"})
# The defaults of segmentation-models-pytorch, coarsest first.
_DECODER_CHANNELS = (256, 128, 64, 32, 16)


class SegmentationNet(nn.Module):
    """Encoder and decoder from images to class logits at full size.

    Args:
        architecture: One of :data:`wsseg.nets.architectures.Architecture`.
        encoder: Encoder name of segmentation-models-pytorch, or ``tu-`` and a timm name.
        num_outputs: Number of logits per pixel: background and the C classes.
        weights: ``"imagenet"``, ``"none"`` or the path of a weight file for the encoder;
            ``"localizer"`` is ``"none"`` until `start_from` is called.
        in_channels: 3 for colour, 1 for grey images.
        encoder_depth: Stages of the encoder that are used, 3 to 5; fewer make a small, fast
            network that sees less around each pixel. Other than 5 for ``unet``,
            ``unetplusplus``, ``manet`` and ``linknet``.
        local_contrast_px: Side of the box that `LocalContrast` measures images against; None:
            images go in as they are.

    Raises:
        RecipeError: When the architecture or encoder is unknown, or they do not fit.
        MissingWeightsError: When the weights cannot be had.
    """

    def __init__(
        self,
        architecture: str,
        encoder: str,
        num_outputs: int,
        *,
        weights: str = "imagenet",
        in_channels: int = 3,
        encoder_depth: int = 5,
        local_contrast_px: int | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder_name = encoder
        self.num_outputs = num_outputs
        self.in_channels = in_channels
        self.net = _build(
            architecture,
            encoder,
            encoder_depth,
            in_channels=in_channels,
            classes=num_outputs,
        )
        load_encoder_weights(self.net.encoder, encoder, weights)
        self.net = _with_safe_batch_norm(self.net)
        self.local_contrast = (
            None if local_contrast_px is None else LocalContrast(local_contrast_px)
        )
        self.multiple_px = int(self.net.encoder.output_stride)
        self.least_side_px = _LEAST_SIDE_PX.get(architecture, self.multiple_px)

    def forward(self, images: Tensor) -> Tensor:
        """Compute class logits.

        Args:
            images: (N, in_channels, H, W) float, normalised; any H, W >= 1.

        Returns:
            (N, num_outputs, H, W) logits.
        """
        height, width = images.shape[-2:]
        if self.local_contrast is not None:
            images = self.local_contrast(images)
        # Zero is the mean colour, the same padding as in training.
        padded = F.pad(images, (0, self._missing(width), 0, self._missing(height)))
        logits: Tensor = self.net(padded)
        return logits[..., :height, :width]

    @property
    def feature_channels(self) -> int:
        """Channels of the features that `with_features` returns."""
        layers = (m for m in self.net.segmentation_head.modules() if isinstance(m, nn.Conv2d))
        return next(layers).in_channels

    def with_features(self, images: Tensor) -> tuple[Tensor, FeatureMap]:
        """Compute class logits, and the decoder's features from which they are made.

        Args:
            images: (N, in_channels, H, W) float, normalised.

        Returns:
            (N, num_outputs, H, W) logits and the features.
        """
        seen: list[Tensor] = []

        def keep(_head: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.append(given[0])

        handle = self.net.segmentation_head.register_forward_pre_hook(keep)
        try:
            logits: Tensor = self(images)
        finally:
            handle.remove()
        height, width = images.shape[-2:]
        covered = (height + self._missing(height), width + self._missing(width))
        return logits, FeatureMap(seen[0], covered)

    def _missing(self, length: int) -> int:
        """Say how many pixels to add so that the network takes the length."""
        if self.least_side_px > self.multiple_px:
            # sym_max keeps the exported graph open to all sizes.
            length_wanted = torch.sym_max(length, self.least_side_px)
        else:
            length_wanted = length
        wanted = (length_wanted + self.multiple_px - 1) // self.multiple_px * self.multiple_px
        return int(wanted - length) if isinstance(length, int) else wanted - length

    def start_from(self, backbone: Backbone) -> None:
        """Start the encoder from a trained localizer's backbone.

        Args:
            backbone: Of the same network as the encoder.

        Raises:
            RecipeError: When it is another network.
        """
        copied = start_from_backbone(self.net.encoder, self.encoder_name, backbone)
        console.once(f"encoder {self.encoder_name}: {copied} tensors from the localizer")

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are always new: decoder and segmentation head."""
        modules = (self.net.decoder, self.net.segmentation_head)
        return [parameter for module in modules for parameter in module.parameters()]


def _build(architecture: str, encoder: str, encoder_depth: int, **sizes: int) -> Any:
    """Construct the network with random weights."""
    import segmentation_models_pytorch as smp

    if architecture not in _CLASSES:
        raise RecipeError(unknown_name("architecture", architecture, get_args(Architecture)))
    if sizes["in_channels"] not in (1, 3):
        raise RecipeError(
            f"in_channels is {sizes['in_channels']}; allowed are 3 (colour) and 1 (grey)."
        )
    options: dict[str, Any] = {}
    if encoder_depth != _FULL_DEPTH:
        if architecture not in _SHALLOW:
            raise RecipeError(
                f"encoder_depth is {encoder_depth}, but {architecture} always uses "
                f"{_FULL_DEPTH} stages. Choose one of {', '.join(sorted(_SHALLOW))}."
            )
        options["encoder_depth"] = encoder_depth
        if architecture != "linknet":
            options["decoder_channels"] = _DECODER_CHANNELS[-encoder_depth:]
    if not encoder.startswith("tu-") and encoder not in smp.encoders.encoders:
        raise RecipeError(
            unknown_name("encoder", encoder, smp.encoders.encoders)
            + ' Any timm network with feature maps works as "tu-NAME".'
        )
    try:
        return getattr(smp, _CLASSES[architecture])(
            encoder_name=encoder, encoder_weights=None, **sizes, **options
        )
    except (ValueError, KeyError, RuntimeError, TypeError, NotImplementedError) as error:
        raise RecipeError(
            f"The architecture {architecture} cannot be built on the encoder {encoder}: {error} "
            "Choose another encoder, such as resnet34, or another architecture, such as unet."
        ) from error


class _SafeBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a batch gives one value per channel.

    This happens after global pooling with a batch of one, which the last batch of an epoch can
    be; the statistics of a single value do not exist.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        if self.training and input.numel() == input.shape[1]:
            console.once(
                "A batch of one: batch norm after global pooling uses its running statistics."
            )
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def _with_safe_batch_norm(module: nn.Module) -> Any:
    """Replace plain batch norms all the way down; parameters and their names stay."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            safe = _SafeBatchNorm2d(
                child.num_features,
                child.eps,
                child.momentum,
                child.affine,
                child.track_running_stats,
            )
            safe.load_state_dict(child.state_dict())
            setattr(module, name, safe)
        else:
            _with_safe_batch_norm(child)
    return module
