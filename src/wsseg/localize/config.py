"""Settings of localizers: network, training, augmentation, and how maps are extracted."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from wsseg import registry
from wsseg.config import Config, MethodConfig
from wsseg.data.transforms import AugmentConfig
from wsseg.nets.pooling import Gap, Pooling
from wsseg.outside import WeightsPath
from wsseg.training.config import TrainingConfig


class LocalizerConfig(MethodConfig):
    """What all localizers share; each declares ``name`` as a literal."""

    name: str = Field(description="Name of the localizer.")


class CamExtractor(Config):
    """Class activation maps: all classes from one forward pass."""

    name: Literal["cam"] = Field("cam", description="The network's own class maps.")
    rectify: bool = Field(
        True,
        description="Cut evidence against the class to zero, as the papers do. false keeps it, so "
        "that with normalise=median or minmax the whole object stands out from its surroundings, "
        "and not only its peak: wider maps for peaky poolings (lse, topk, max).",
    )


class GradCamExtractor(Config):
    """Grad-CAM: channels weighted by their mean gradient."""

    name: Literal["grad_cam"] = Field(
        "grad_cam", description="Features of the last stage weighted by their mean gradient."
    )


class GradCamPpExtractor(Config):
    """Grad-CAM++: gradients weighted per place."""

    name: Literal["grad_cam_pp"] = Field(
        "grad_cam_pp", description="Features of the last stage weighted by positive gradients."
    )


class LayerCamExtractor(Config):
    """LayerCAM: every place of every channel weighted by its own gradient."""

    name: Literal["layer_cam"] = Field(
        "layer_cam", description="Features weighted place by place; shallow stages give detail."
    )
    stages: tuple[int, ...] | None = Field(
        None,
        description="Stages whose maps are fused; stage k reduces the image 2^(k+1) times, 4 is "
        "the last of a ResNet. null: the last one.",
    )
    gamma: float = Field(
        2.0, gt=0, le=20, description="Strength of the tanh that raises maps of shallow stages."
    )


class AdvCamExtractor(Config):
    """AdvCAM: Grad-CAMs of an image that is changed step by step in favour of the class."""

    name: Literal["adv_cam"] = Field(
        "adv_cam",
        description="Grad-CAMs added up while the image is changed in favour of the class: wider "
        "maps, at iterations times the cost of grad_cam for every class.",
    )
    iterations: int = Field(
        27,
        ge=1,
        le=1000,
        description="Maps that are added up (T); half of it, counted twice, at scales up to 0.5.",
    )
    step_size: float = Field(
        0.08,
        gt=0,
        le=10,
        description="Largest change of a value of the normalised image in one step.",
    )
    mask_weight: float = Field(
        7.0,
        ge=0,
        le=1000,
        description="Weight of the term that keeps salient places from growing further; 0: none.",
    )
    mask_threshold: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Part of a map's maximum above which a place is salient.",
    )


Extractor = Annotated[
    CamExtractor | GradCamExtractor | GradCamPpExtractor | LayerCamExtractor | AdvCamExtractor,
    Field(discriminator="name"),
]


class InferenceConfig(Config):
    """How class maps are extracted from a trained network."""

    extractor: Extractor = Field(CamExtractor(), description="How maps come from the network.")
    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        (0.5, 1.0, 1.5, 2.0),
        min_length=1,
        description="Factors by which the image is resized; maps are averaged over them.",
    )
    flip: bool = Field(True, description="Average with the maps of the mirrored image.")
    normalise: Literal["max", "minmax", "median", "absolute"] = Field(
        "max",
        description="max: divide each map by its maximum. minmax: stretch it from its minimum to "
        "its maximum. median: from its median, which is the level of the surroundings where "
        "objects cover less than half of the image, to its maximum. absolute: 2 sigmoid(map) - 1, "
        "comparable between images: a class that the network hardly sees stays weak instead of "
        "being blown up (for extractor cam).",
    )
    map_stride_px: int = Field(
        4, ge=1, le=32, description="Pixels per cell of the maps that are kept."
    )
    tile_px: int | None = Field(
        None,
        ge=64,
        le=16384,
        description="Side of the tiles, pixels, into which larger images are cut; null: never.",
    )
    tile_overlap_px: int = Field(
        64, ge=0, le=4096, description="Least overlap of neighbouring tiles, pixels."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format of the network; bfloat16 is about twice as fast where the "
        "processor has it and changes maps by up to 0.02.",
    )
    tags: Literal["oracle", "predicted"] = Field(
        "oracle",
        description="Which classes get a map: those of the image's tags, or those that the "
        "classifier finds.",
    )
    min_tag_probability: float = Field(
        0.5, ge=0, le=1, description="Least probability of a predicted tag."
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.normalise == "absolute" and self.extractor.name != "cam":
            raise ValueError(
                f"normalise=absolute needs extractor cam, whose maps are logits, but it is "
                f"{self.extractor.name}. Choose normalise=max."
            )
        if isinstance(self.extractor, AdvCamExtractor) and self.precision != "float32":
            raise ValueError(
                f"extractor adv_cam changes images by less than {self.precision} can tell apart. "
                "Set precision=float32."
            )
        keeps_negatives = isinstance(self.extractor, CamExtractor) and not self.extractor.rectify
        if keeps_negatives and self.normalise not in ("minmax", "median"):
            raise ValueError(
                f"extractor cam with rectify=false has negative maps, which normalise="
                f"{self.normalise} cannot bring to [0, 1]. Set normalise=median or minmax."
            )
        if self.tile_px is not None and self.tile_overlap_px >= self.tile_px:
            raise ValueError(
                f"tile_overlap_px is {self.tile_overlap_px}; it must be smaller than tile_px "
                f"({self.tile_px})."
            )
        return self


def _regulariser(value: Any) -> Any:
    return registry.settings("regularisers", value)


class TagLocalizerConfig(LocalizerConfig):
    """What all localizers from tags share."""

    backbone: str = Field(
        "resnet18", description="A timm network, or resnet38d, or vgg16_largefov."
    )
    weights: WeightsPath = Field(
        "none", description="imagenet, none (from scratch), or the path of a weight file."
    )
    output_stride: Literal[32, 16, 8, 4] = Field(
        8, description="Pixels per feature cell; 4 for small objects, at four times the cost of 8."
    )
    last_stage: int | None = Field(
        None,
        ge=0,
        le=8,
        description="Leave out the stages behind this one (3: end after layer3 of a ResNet). Far "
        "cheaper at a small output stride, and each cell sees less of the image; null: all.",
    )
    local_contrast_px: int | None = Field(
        None,
        ge=3,
        le=1001,
        description="Measure every pixel against mean and deviation of the box of this side around "
        "it, pixels: evens out lighting, shading and differences between parts. null: not.",
    )
    dilate: bool = Field(
        True,
        description="Dilate the layers behind a removed stride; false is IRN's way.",
    )
    grey: bool = Field(False, description="Feed one grey channel instead of three colours.")
    pooling: Pooling = Field(
        Gap(), description="From class map to class score; gap, max, lse, topk or gwrp."
    )
    head_bias: bool = Field(
        False, description="Give the classifier a bias; helps poolings other than gap."
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Probability of dropping a feature channel before the head."
    )
    freeze_batchnorm: bool = Field(
        False,
        description="Keep batch normalisation as the weights bring it; for pre-trained weights.",
    )
    stop_gradient_after_stage: int | None = Field(
        None,
        ge=-1,
        le=8,
        description="Train nothing up to the end of this stage (IRN: 2); for pre-trained "
        "weights. null: train everything.",
    )
    class_weights: bool = Field(
        False, description="Let positives of rare classes count as much as their negatives."
    )
    focal_gamma: float = Field(0.0, ge=0, le=10, description="Exponent of the focal loss; 0: none.")
    regularisers: tuple[
        Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_regulariser)], ...
    ] = Field(
        default=(),
        description="What is added to the training so that maps cover more of the object; each "
        "has a `name`, and they act in this order.",
    )
    training: TrainingConfig = Field(TrainingConfig(), description="How the classifier trains.")
    augment: AugmentConfig = Field(AugmentConfig(), description="Random changes while training.")
    inference: InferenceConfig = Field(InferenceConfig(), description="How maps are extracted.")

    @model_validator(mode="after")
    def _check_frozen_parts(self) -> Self:
        is_frozen = self.freeze_batchnorm or self.stop_gradient_after_stage is not None
        if self.weights == "none" and is_frozen:
            raise ValueError(
                "weights is none, but freeze_batchnorm or stop_gradient_after_stage keeps layers "
                "from being trained: random layers would stay random. Set freeze_batchnorm=false "
                "and stop_gradient_after_stage=null, or give weights."
            )
        return self
