"""Settings of `wsseg.cues.anomaly`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from wsseg.cues.protocol import CueConfig
from wsseg.outside import WeightsPath


class Anomaly(CueConfig):
    """Settings of the cue `anomaly`."""

    name: Literal["anomaly"] = Field(
        "anomaly", description="Which cue: distance from images tagged ok."
    )
    method: Literal["padim", "patchcore"] = Field(
        "patchcore",
        description="padim: a Gaussian per position, for parts that always lie alike; patchcore: "
        "distance to the nearest normal patch, wherever it was.",
    )
    init: WeightsPath = Field(
        "localizer",
        description="Weights of the features: localizer (the run's trained classifier), none "
        "(random), imagenet, or the path of a weight file; the last three need `backbone`.",
    )
    backbone: str | None = Field(
        None, description="A timm network, resnet38d or vgg16_largefov; null: the localizer's."
    )
    output_stride: Literal[32, 16, 8, 4] = Field(
        16, description="Pixels per cell of `backbone`; not used with the localizer's."
    )
    stages: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="Stages of the network that are compared; 2 is layer2 of a ResNet. null: 1 to "
        "3 for padim, 2 and 3 for patchcore, of those that there are.",
    )
    side_px: int = Field(
        256,
        ge=32,
        le=2048,
        description="patchcore: images are resized to this longer side; padim: to this square.",
    )
    num_features: int = Field(
        64, ge=1, le=2048, description="Features per cell, drawn at random from all."
    )
    max_images: int = Field(
        1000, ge=2, le=100_000, description="Normal images used; more are drawn from."
    )
    held_out_frac: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the normal images that is not learned from but says how far normal "
        "patches are; at least one.",
    )
    normal_quantile: float = Field(
        0.995,
        ge=0.5,
        lt=1,
        description="The distance that this share of the held-out normal pixels stays below "
        "becomes 0.5.",
    )
    max_patches: int = Field(
        20_000,
        ge=10,
        le=1_000_000,
        description="patchcore: normal patches gathered from all images.",
    )
    coreset_frac: float = Field(
        0.1, gt=0, le=1, description="patchcore: share of them that is kept to compare with."
    )
    sigma_px: float = Field(
        4.0, ge=0, le=100, description="Gaussian blur of the map, in pixels at `side_px`."
    )

    @property
    def needs_localizer(self) -> bool:
        """Whether the features are those of the run's trained localizer."""
        return self.init == "localizer"

    @property
    def origin(self) -> str:
        """Where the maps come from."""
        weights = {"localizer": "the run's localizer", "none": "an untrained network"}.get(
            self.init, f"{self.backbone} with weights {Path(self.init).name}"
        )
        return f"distance from the images tagged ok, by features of {weights}"

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if self.init == "localizer" and self.backbone is not None:
            raise ValueError(
                f"init is localizer, whose backbone is used, but backbone is {self.backbone}. Set "
                "backbone=null, or init=none, imagenet or a weight file."
            )
        if self.init != "localizer" and self.backbone is None:
            raise ValueError(
                f"init is {self.init}, so backbone must name a network. Set init=localizer to "
                "compare features of the run's own."
            )
        return self
