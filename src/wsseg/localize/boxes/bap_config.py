"""Settings of `wsseg.localize.boxes.bap`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from wsseg.data.transforms import AugmentConfig
from wsseg.localize.direct import DirectLocalizerConfig
from wsseg.outside import WeightsPath
from wsseg.training.config import TrainingConfig

if TYPE_CHECKING:
    from wsseg.data.dataset import Dataset


class Bap(DirectLocalizerConfig):
    """Settings of `bap`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    name: Literal["bap"] = Field(
        "bap", description="A network pools boxes where they look unlike their outside."
    )
    backbone: str = Field(
        "resnet18", description="A timm network, or resnet38d, or vgg16_largefov."
    )
    weights: WeightsPath = Field(
        "none", description="imagenet, none (from scratch), or the path of a weight file."
    )
    output_stride: Literal[32, 16, 8, 4] = Field(
        8, description="Pixels per feature cell; 4 for small objects."
    )
    freeze_batchnorm: bool = Field(
        False, description="Keep batch normalisation as the weights bring it."
    )
    grey: bool = Field(False, description="Feed one grey channel instead of three colours.")
    grid: int = Field(
        4, ge=1, le=64, description="Parts of the image per side that give background queries."
    )
    threshold: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="Unlikeness to the background, as part of the largest in the box, above which "
        "a pixel is object; lower for larger objects.",
    )
    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        (1.0, 2.0),
        min_length=1,
        description="Factors by which the image is resized; maps are averaged over them.",
    )
    flip: bool = Field(True, description="Average with the maps of the mirrored image.")
    training: TrainingConfig = Field(TrainingConfig(), description="How the network trains.")
    augment: AugmentConfig = Field(AugmentConfig(), description="Random changes while training.")

    @model_validator(mode="after")
    def _check_frozen_parts(self) -> Self:
        if self.weights == "none" and self.freeze_batchnorm:
            raise ValueError(
                "weights is none, but freeze_batchnorm keeps layers from being trained: random "
                "layers would stay random. Set freeze_batchnorm=false, or give weights."
            )
        return self

    def check(self, dataset: Dataset, *, allow_masks: bool) -> None:
        """Refuse data without boxes, and make the network once to know of missing weights.

        Args:
            dataset: The data set.
            allow_masks: Not used.

        Raises:
            DataError: When no image of the train split has boxes.
            RecipeError: When the backbone does not exist or cannot do what is asked.
            MissingWeightsError: When its weights cannot be had or do not fit.
        """
        super().check(dataset, allow_masks=allow_masks)
        from wsseg.localize.boxes.bap import make_net

        make_net(self, dataset.classes.num_classes)
