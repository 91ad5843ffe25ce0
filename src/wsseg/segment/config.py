"""Settings of the segmentation stage: network, training, loss, validation, prediction."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from wsseg.config import Config, MethodConfig
from wsseg.data.transforms import AugmentConfig
from wsseg.nets.architectures import Architecture
from wsseg.outside import WeightsPath
from wsseg.segment.correction_config import Adele
from wsseg.segment.loss_config import LossConfig, SegmenterLoss
from wsseg.segment.rounds_config import RoundsConfig, named
from wsseg.segment.trust import TrustConfig
from wsseg.training.config import TrainingConfig


class PredictCrfConfig(Config):
    """Dense CRF after prediction; the defaults are those used with DeepLab on VOC.

    The kernel settings are those of ``wsseg.kernels.dense_crf.CrfConfig``, repeated here so that
    reading a recipe does not load the compiler behind that kernel.
    """

    iterations: int = Field(10, ge=0, le=1000, description="Mean-field iterations.")
    gauss_sxy_px: float = Field(
        1.0, gt=0, description="Standard deviation of the smoothness kernel, pixels."
    )
    gauss_compat: float = Field(3.0, ge=0, description="Weight of the smoothness kernel.")
    bilateral_sxy_px: float = Field(
        67.0, gt=0, description="Position standard deviation of the appearance kernel, pixels."
    )
    bilateral_srgb: float = Field(
        3.0, gt=0, description="Colour standard deviation of the appearance kernel, grey levels."
    )
    bilateral_compat: float = Field(4.0, ge=0, description="Weight of the appearance kernel.")
    prune_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Classes whose probability stays below this at every pixel are left out: "
        "faster with many classes; 0: none.",
    )


class PredictConfig(Config):
    """How masks of new images are predicted."""

    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        (1.0,),
        min_length=1,
        description="Image sizes, relative to the original, whose probabilities are averaged.",
    )
    flip: bool = Field(True, description="Average with the mirrored image too.")
    tile_px: int | None = Field(
        1024,
        ge=32,
        description="Images with a longer side are cut into square tiles of this many pixels; "
        "null: never.",
    )
    overlap_px: int = Field(
        128, ge=0, description="Least overlap of neighbouring tiles, pixels, blended smoothly."
    )
    batch_size: int = Field(4, ge=1, le=1024, description="Views per forward pass.")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="Number format of the network; auto: bfloat16 where the device has it.",
    )
    crf: PredictCrfConfig | None = Field(
        None, description="Dense CRF on the result; null: not applied."
    )
    restrict_to_tags: bool = Field(
        False,
        description="Allow only classes of the image's tags (oracle tags: not for new images).",
    )

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if self.tile_px is not None and self.overlap_px >= self.tile_px:
            raise ValueError(
                f"overlap_px is {self.overlap_px}; it must be smaller than tile_px {self.tile_px}"
            )
        return self


class SegmenterConfig(MethodConfig):
    """Settings that every segmenter has, whatever its network."""

    in_channels: Literal[1, 3] = Field(3, description="3: colour images, 1: grey images.")
    training: TrainingConfig = Field(TrainingConfig(), description="How it is trained.")
    augment: AugmentConfig = Field(AugmentConfig(), description="Random changes of the images.")
    foreground_crops: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Probability that a training crop must contain a foreground pixel.",
    )
    loss: SegmenterLoss = Field(LossConfig(), description="What the segmenter is trained to lower.")
    validate_on: Literal["pseudo", "val_masks", "none"] = Field(
        "pseudo",
        description="What chooses the best epoch: pseudo = a part of the pseudo masks held out of "
        "training; val_masks = ground truth of the val split, only where masks are allowed; none.",
    )
    validation_frac: float = Field(
        0.1, gt=0, lt=1, description="Part of the pseudo masks held out for validation."
    )
    inference: PredictConfig = Field(PredictConfig(), description="How masks are predicted.")
    rounds: RoundsConfig = Field(
        RoundsConfig(), description="Self-training: more trainings, on cleaned predictions."
    )
    correction: Annotated[Adele | None, BeforeValidator(named)] = Field(
        None, description="Correct the pseudo masks while training; null: not."
    )

    trust: TrustConfig = Field(
        TrustConfig(),
        description="What images count by the kind of label that led, after localizer mixed.",
    )

    @model_validator(mode="after")
    def _loss_takes_weights(self) -> Self:
        if not self.trust.is_even and self.loss.name != "cross_entropy":
            raise ValueError(
                f"trust weighs the pixels of the loss cross_entropy, but loss is {self.loss.name}; "
                "set loss.name=cross_entropy, or all of trust to 1"
            )
        if self.rounds.uncertainty is not None and self.loss.name != "cross_entropy":
            raise ValueError(
                f"rounds.uncertainty weighs the pixels of the loss cross_entropy, but loss is "
                f"{self.loss.name}; set loss.name=cross_entropy, or rounds.uncertainty=null"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave self-training out where there is none, so that older runs are recognised."""
        content: dict[str, Any] = handler(self)
        if self.rounds == RoundsConfig():
            content.pop("rounds", None)
        if self.correction is None:
            content.pop("correction", None)
        if self.trust.is_even:
            content.pop("trust", None)
        return content


class Smp(SegmenterConfig):
    """A network of segmentation-models-pytorch trained on the pseudo masks."""

    name: Literal["smp"] = Field("smp", description="segmentation-models-pytorch network.")
    architecture: Architecture = Field("deeplabv3plus", description="Decoder.")
    encoder: str = Field(
        "resnet34",
        description="Encoder of segmentation-models-pytorch, or tu- and a timm name.",
    )
    encoder_depth: int = Field(
        5,
        ge=3,
        le=5,
        description="Stages of the encoder that are used; 3 is a small, fast network that sees "
        "less around each pixel (unet, unetplusplus, manet, linknet).",
    )
    local_contrast_px: int | None = Field(
        None,
        ge=3,
        le=1001,
        description="Measure every pixel against mean and deviation of the box of this side around "
        "it, pixels: evens out lighting, shading and differences between parts. null: not.",
    )
    weights: WeightsPath = Field(
        "imagenet",
        description="Encoder's first weights: imagenet, none (from scratch), localizer (those that "
        "the run's localizer learned from the weak labels; encoder and localize.backbone must be "
        "the same network) or the path of a file.",
    )
