"""Settings of AffinityNet: what is confident, how the network trains, how the maps walk.

Reference for the numbers: J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with
Image-level Supervision for Weakly Supervised Semantic Segmentation", CVPR 2018. The published
code trains VGG16 with a learning rate of 0.1; with ResNet-38 0.01 works, which is the default.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from wsseg.config import MethodConfig
from wsseg.data.transforms import AugmentConfig
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.outside import WeightsPath
from wsseg.training.config import TrainingConfig

TRAINING = TrainingConfig(
    epochs=8,
    batch_size=8,
    optimiser="psa_poly",
    lr=0.01,
    head_lr_factor=10,
    weight_decay=5e-4,
    keep="last",
)


class AffinityNet(MethodConfig):
    """Settings of `affinity_net`."""

    writes_background: ClassVar[bool] = True
    fills_unknown: ClassVar[bool] = True

    name: Literal["affinity_net"] = Field(
        "affinity_net", description="Which refiner: a random walk with learned affinities (PSA)."
    )
    init: WeightsPath = Field(
        "localizer",
        description="What the network starts from: localizer (the run's own classifier), none "
        "(from scratch), or the path of a weight file; the last two need `backbone`.",
    )
    backbone: str | None = Field(
        None,
        description="A timm network, or resnet38d, or vgg16_largefov; null: the localizer's.",
    )
    output_stride: Literal[32, 16, 8, 4] = Field(
        8, description="Pixels per feature cell of `backbone`; not used with the localizer's."
    )
    freeze_batchnorm: bool | None = Field(
        None,
        description="Keep batch normalisation as the weights bring it; null: where there are "
        "weights, so not with init=none.",
    )
    stop_gradient_after_stage: int | None = Field(
        None,
        ge=-1,
        le=8,
        description="Train nothing up to the end of this stage (PSA: 0 for resnet38d); null: "
        "everything that the localizer trained.",
    )
    stride_px: Literal[32, 16, 8, 4] = Field(
        8, description="Pixels per cell of the grid that the maps walk on."
    )
    radius: int = Field(
        5, ge=2, le=32, description="Cells closer than this are linked, in cells of the grid."
    )
    align_cells: bool = Field(
        True,
        description="Draw the features of each stage where its cells look; a ResNet's are half a "
        "cell left and above of where plain enlarging puts them. false: as the paper's code.",
    )
    alpha_low: float = Field(
        4.0,
        gt=0,
        le=100,
        description="Exponent of the background for confident foreground; with 4 a class must "
        "beat a score of about 0.28.",
    )
    alpha_high: float = Field(
        32.0,
        gt=0,
        le=1000,
        description="Exponent of the background for confident background; with 32 that is what "
        "stays below a score of about 0.08.",
    )
    alpha_walk: float = Field(
        16.0,
        gt=0,
        le=1000,
        description="Exponent of the background that walks; with 16 it wins below a score of "
        "about 0.12. Higher gives larger objects.",
    )
    beta: float = Field(
        8.0, gt=0, le=100, description="Exponent of the affinities; a higher one spreads less."
    )
    log2_steps: int = Field(
        8, ge=0, le=16, description="The walk takes 2 to the power of this many steps; SEAM: 6."
    )
    links: Literal["inner", "all"] = Field(
        "inner",
        description="inner: only cells whose whole neighbourhood lies on the grid give links, as "
        "in PSA, so that little spreads along the border. all: every pair of cells, for images of "
        "few cells.",
    )
    walk: Literal["chebyshev", "exact"] = Field(
        "chebyshev", description="Sum of polynomials (fast, error below 1e-4), or every step."
    )
    crf: CrfConfig = Field(CrfConfig(), description="Dense CRF that tells confident pixels.")
    training: TrainingConfig = Field(TRAINING, description="How the network trains.")
    augment: AugmentConfig = Field(
        AugmentConfig(scale=None), description="Random changes of image and maps while training."
    )

    @property
    def needs_localizer(self) -> bool:
        """Whether the network is that of the run's trained localizer."""
        return self.init == "localizer"

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if self.init == "localizer" and self.backbone is not None:
            raise ValueError(
                f"init is localizer, whose backbone is used, but backbone is {self.backbone}. Set "
                "backbone=null, or init=none or a weight file."
            )
        if self.init != "localizer" and self.backbone is None:
            raise ValueError(
                f"init is {self.init}, so backbone must name a network. Set init=localizer to go "
                "on with the run's own."
            )
        is_frozen = bool(self.freeze_batchnorm) or self.stop_gradient_after_stage is not None
        if self.init == "none" and is_frozen:
            raise ValueError(
                "init is none, but freeze_batchnorm or stop_gradient_after_stage keeps random "
                "layers from being trained. Set both to null."
            )
        return self

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if not self.alpha_low < self.alpha_high:
            raise ValueError(
                f"alpha_low is {self.alpha_low} and alpha_high {self.alpha_high}; expected "
                "alpha_low < alpha_high"
            )
        crop = self.augment.crop_px
        if crop is None or crop % self.stride_px:
            raise ValueError(
                f"augment.crop_px is {crop}; expected a multiple of stride_px ({self.stride_px})"
            )
        if crop // self.stride_px < 2 * self.radius - 1:
            raise ValueError(
                f"augment.crop_px is {crop}, {crop // self.stride_px} cells; radius {self.radius} "
                f"needs at least {2 * self.radius - 1}. Set augment.crop_px to "
                f"{(2 * self.radius - 1) * self.stride_px} or more, or a smaller radius"
            )
        return self
