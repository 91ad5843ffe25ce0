"""Settings of ADELE, which corrects pseudo masks while a segmenter is trained on them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wsseg.config import Config
from wsseg.kernels.dense_crf_config import CrfConfig

Scale = Annotated[float, Field(gt=0, le=8)]


class Adele(Config):
    """Early-learning correction: masks change when a class begins to be learned by heart."""

    name: Literal["adele"] = Field("adele", description="Adaptive early-learning correction.")
    max_slowdown: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="A class is corrected from the epoch on in which its IoU on the training "
        "masks rises slower than in the first epoch by more than this share.",
    )
    min_epochs: int = Field(
        3, ge=3, le=100_000, description="Epochs before which no class is corrected."
    )
    min_confidence: float = Field(
        0.8, ge=0, le=1, description="Probability above which a prediction replaces a label."
    )
    scales: tuple[Scale, ...] = Field(
        (0.7, 1.0, 1.5),
        min_length=1,
        description="Image sizes, relative to the working size, whose predictions are averaged "
        "for corrections and must agree in the consistency term.",
    )
    flip: bool = Field(False, description="Average with the mirrored image too, for corrections.")
    crf: CrfConfig | None = Field(
        None, description="Dense CRF on predictions before they correct; null: not applied."
    )
    consistency: float = Field(
        1.0, ge=0, le=100, description="Weight of the consistency term; 0: none (3x faster)."
    )
    consistency_min_confidence: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Views whose best mixed probability is below take no part in that term.",
    )

    @model_validator(mode="after")
    def _scales_can_disagree(self) -> Self:
        if self.consistency > 0 and len(self.scales) < 2:
            raise ValueError(
                f"scales is {list(self.scales)}: consistency compares several; give two or more, "
                "or set consistency=0"
            )
        return self
