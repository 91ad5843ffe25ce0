"""Settings of `wsseg.refine.irn`; the defaults are those of the paper's code, but for the training.

IRN trains 3 epochs of 10 582 images in batches of 32, about 1000 updates. The default here is
1000 updates in batches of 8, or 40 epochs where the data is small. The recipe ``irn`` has the
published numbers.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from wsseg.config import Config, MethodConfig
from wsseg.data.transforms import AugmentConfig
from wsseg.kernels.dense_crf_config import IRN, CrfConfig
from wsseg.outside import WeightsPath
from wsseg.training.config import TrainingConfig

# Pixels per cell of boundary map and displacement field, as in `wsseg.nets.irn_net`.
STRIDE = 4

TRAINING = TrainingConfig(
    epochs=40,
    max_steps=1000,
    batch_size=8,
    optimiser="psa_poly",
    lr=0.1,
    head_lr_factor=10,
    weight_decay=1e-4,
    bias_rule="same",
    keep="last",
)
AUGMENT = AugmentConfig(
    scale=(0.5, 1.5), crop_px=512, hflip=0.5, brightness=0, contrast=0, saturation=0
)


class InstancesConfig(Config):
    """How instances are told apart."""

    iterations: int = Field(
        300,
        ge=0,
        le=10_000,
        description="Steps in which every cell follows the displacements to its centroid.",
    )
    max_displacement_cells: float = Field(
        2.5,
        gt=0,
        le=100,
        description="Connected cells with shorter displacements, in cells of 4 pixels, are one "
        "centroid. About 1 for objects below 40 pixels.",
    )
    cut: Literal["before_walk", "after_walk"] = Field(
        "before_walk",
        description="When class maps are cut to the clusters. before_walk: as IRN does; every "
        "part walks on its own, and parts may grow into each other. after_walk: an instance never "
        "leaves its cluster, which is better for small objects that touch.",
    )
    min_fragment_frac: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Connected parts that cover less of the image are fragments: they get score "
        "0 and are not exported. Lower it for small objects.",
    )


class Irn(MethodConfig):
    """Settings of `irn`."""

    writes_background: ClassVar[bool] = True
    fills_unknown: ClassVar[bool] = True

    name: Literal["irn"] = Field(
        "irn", description="Which refiner: random walk inside learned boundaries."
    )
    init: WeightsPath = Field(
        "localizer",
        description="First features of the network: localizer (those of the trained classifier), "
        "imagenet, the path of a weight file, or, with train_backbone, none (random); the last "
        "three for `backbone`.",
    )
    backbone: str = Field(
        "resnet50.tv_in1k",
        description="Which network, where init is not localizer; that has its own.",
    )
    output_stride: Literal[32, 16, 8, 4] = Field(
        16, description="Pixels per cell of its features, where init is not localizer."
    )
    train_backbone: bool = Field(
        False,
        description="Train those features too, but for their normalisation, which is trained "
        "where init is none. false: the paper's way, for features learned from many images; true "
        "for a small localizer from scratch.",
    )
    align_cells: bool = Field(
        True,
        description="Draw the features of each stage where its cells look; a ResNet's are half a "
        "cell left and above of where plain enlarging puts them. false: as the paper's code.",
    )
    min_foreground: float = Field(
        0.30,
        ge=0,
        le=1,
        description="What a class map must reach to be confident foreground (before the CRF); "
        "0.35 to 0.45 for broader maps.",
    )
    max_background: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Where all class maps stay below is confident background (before the CRF); "
        "0.1 to 0.2 for broader maps.",
    )
    crf: CrfConfig = Field(IRN, description="The CRF that sharpens the confident areas.")
    gt_prob: float = Field(
        0.7, gt=0, lt=1, description="How sure that CRF takes its input labels to be."
    )
    pair_radius: int = Field(
        10, ge=2, le=32, description="Pairs of cells closer than this train, cells of 4 pixels."
    )
    training: TrainingConfig = Field(
        TRAINING,
        description="How the heads train: `lr` for the boundaries, `head_lr_factor` times as much "
        "for the displacements.",
    )
    augment: AugmentConfig = Field(AUGMENT, description="Random changes while training.")
    walk_radius: int = Field(
        5, ge=2, le=32, description="Farthest step of the walk, exclusive, cells of 4 pixels."
    )
    beta: float = Field(
        10.0, gt=0, le=100, description="Exponent of the affinities; higher stops at weaker edges."
    )
    steps: int = Field(256, ge=0, le=100_000, description="Steps of the random walk.")
    method: Literal["chebyshev", "exact"] = Field(
        "chebyshev",
        description="chebyshev: a polynomial of the walk, fast; exact: step by step.",
    )
    background: float = Field(
        0.25, ge=0, le=1, description="Background score; the strongest class anywhere has 1."
    )
    instances: bool = Field(
        False,
        description="Also write the instances of every image, instances/ID.json in the step's "
        "folder, for `wsseg export RUN --to coco-instances`.",
    )
    instance: InstancesConfig = Field(
        InstancesConfig(), description="How instances are told apart, where `instances` is true."
    )

    @property
    def needs_localizer(self) -> bool:
        """Whether the network is that of the run's trained localizer."""
        return self.init == "localizer"

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.init == "none" and not self.train_backbone:
            raise ValueError(
                "init is none, but train_backbone is false: random features would stay random. Set "
                "train_backbone to true, or init to localizer, imagenet, or the path of a weight "
                "file."
            )
        if self.max_background > self.min_foreground:
            raise ValueError(
                f"max_background is {self.max_background}; it must not be above min_foreground "
                f"({self.min_foreground})."
            )
        smallest = STRIDE * (2 * self.pair_radius - 1)
        crop = self.augment.crop_px
        if crop is None or crop < smallest:
            raise ValueError(
                f"augment.crop_px is {crop}; pair_radius {self.pair_radius} needs crops of at "
                f"least {smallest} pixels. Set a larger crop or a smaller radius."
            )
        return self
