"""Settings of self-training rounds: how a segmenter's predictions become the next pseudo masks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from wsseg.config import Config
from wsseg.cues.segments import SegmentsField
from wsseg.cues.segments_config import Superpixels
from wsseg.cues.superpixels import SuperpixelConfig
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.localize.scribbles.scribblesup import CutConfig


class TagsCleanup(Config):
    """Classes that the image does not carry lose their probability."""

    name: Literal["tags"] = Field("tags", description="tags: only classes the image carries.")


class CrfCleanup(CrfConfig):
    """The prediction follows the edges of the image."""

    name: Literal["crf"] = Field("crf", description="crf: dense CRF.")
    prune_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Classes whose probability stays below this at every pixel are left out: "
        "faster with many classes; 0: none.",
    )


class BoxesCleanup(Config):
    """The prediction stays inside of its boxes, and boxes that it leaves empty start over."""

    name: Literal["boxes"] = Field(
        "boxes", description="boxes: nothing outside, and no box nearly empty (SDI)."
    )
    min_iou: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A box of which the prediction fills less than this share is reset to its "
        "first label; 0: never.",
    )


class ConfidenceCleanup(Config):
    """Pixels that the network is not sure of are ignored."""

    name: Literal["confidence"] = Field(
        "confidence", description="confidence: ignore pixels that are not sure."
    )
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="Pixels whose best probability is below are ignored."
    )
    min_margin: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Pixels whose best probability leads the second best by less are ignored.",
    )
    band_low: float | None = Field(
        None,
        ge=0,
        le=1,
        description="With `band_high`: pixels whose strongest class probability lies between the "
        "two, ends included, are ignored. null: no band.",
    )
    band_high: float | None = Field(
        None, ge=0, le=1, description="Upper end of the ignored band; null: no band."
    )

    @model_validator(mode="after")
    def _band_is_a_range(self) -> Self:
        if (self.band_low is None) != (self.band_high is None):
            raise ValueError("band_low and band_high must be given together")
        if (self.band_low or 0.0) > (1.0 if self.band_high is None else self.band_high):
            raise ValueError(
                f"band_low must not exceed band_high, got {self.band_low} > {self.band_high}"
            )
        return self


class KeepFirstCleanup(Config):
    """A class that vanished gets its first mask back."""

    name: Literal["keep_first"] = Field(
        "keep_first", description="keep_first: what vanished comes back from the first masks."
    )
    min_frac: float = Field(
        0.0,
        ge=0,
        le=1,
        description="A class has vanished when it fills at most this share of its first area; "
        "0: when it has no pixel.",
    )


class ProposalsCleanup(Config):
    """Each box takes a segment of the image that fits both the box and the prediction."""

    name: Literal["proposals"] = Field(
        "proposals", description="proposals: the best segment of each box (BoxSup)."
    )
    segments: SegmentsField = Field(
        Superpixels(), description="Where segments come from: a backend of the cue segments."
    )
    network_weight: float = Field(
        3.0,
        ge=0,
        le=1000,
        description="Weight of the network's mean cross-entropy in the box beside the overlap "
        "term; 0: overlap alone.",
    )
    top: int = Field(
        5, ge=1, le=1000, description="The segment is drawn among this many of the lowest cost."
    )
    min_overlap: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Segments whose own box overlaps the person's box by less (IoU) are left out; "
        "a box without any keeps its first label.",
    )


class GraphCutCleanup(Config):
    """Scribbles and the prediction decide together, superpixel by superpixel."""

    name: Literal["graph_cut"] = Field(
        "graph_cut", description="graph_cut: graph cut from scribbles and points (ScribbleSup)."
    )
    point_radius_px: float = Field(
        3.0, gt=0, le=1000, description="Radius of the disc that stands for a point, pixels."
    )
    scribble_width_px: float = Field(
        3.0, ge=1, le=1000, description="Width of a drawn scribble, pixels."
    )
    background: Literal["none", "border"] = Field(
        "border",
        description="Where no scribble marks background: border = superpixels at the border of the "
        "image without any seed stand in for it; none: nothing does.",
    )
    superpixels: SuperpixelConfig = Field(
        SuperpixelConfig(method="felzenszwalb"), description="Superpixels that get a class each."
    )
    cut: CutConfig = Field(CutConfig(), description="What labels cost.")


def named(value: Any) -> Any:
    """Take a bare name for the settings of that name.

    Example:
        >>> named("crf"), named({"name": "crf", "iterations": 5})
        ({'name': 'crf'}, {'name': 'crf', 'iterations': 5})
    """
    return {"name": value} if isinstance(value, str) else value


Cleanup = Annotated[
    TagsCleanup
    | CrfCleanup
    | BoxesCleanup
    | ConfidenceCleanup
    | KeepFirstCleanup
    | ProposalsCleanup
    | GraphCutCleanup,
    Field(discriminator="name"),
    BeforeValidator(named),
]


class Urn(Config):
    """Uncertainty from scaled responses: doubtful pixels count less in the loss (URN)."""

    powers: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(
        (0.15, 0.2, 0.25, 4.0, 5.0, 6.0),
        min_length=2,
        description="Factors that the probability of a class is multiplied by, one at a time; "
        "published for many classes (COCO): 0.4, 0.5, 0.6, 2, 3, 4.",
    )
    crf: CrfConfig = Field(CrfConfig(), description="Dense CRF that answers each factor.")
    max_weight: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Pixels whose weight, 1 - uncertainty, is at most this are uncertain.",
    )
    floor: float = Field(0.05, ge=0, le=1, description="What an uncertain pixel counts.")
    binary: bool = Field(
        True,
        description="All other pixels count 1; false: they count 1 - uncertainty.",
    )


class RoundsConfig(Config):
    """Self-training: predictions on the training images become the next pseudo masks."""

    count: int = Field(
        0, ge=0, le=100, description="Trainings after the first one; 0: the first one alone."
    )
    start: Literal["anew", "previous"] = Field(
        "anew",
        description="Weights that a round's training starts from: anew = the first ones again; "
        "previous = those that the round before it ended with.",
    )
    masks: Literal["predictions", "first"] = Field(
        "predictions",
        description="What a round trains on: the cleaned predictions, or the first pseudo masks "
        "again (with uncertainty).",
    )
    cleanups: tuple[Cleanup, ...] = Field(
        (TagsCleanup(), CrfCleanup()),
        description="What is done to the predictions, in this order. In the end no class that the "
        "image does not carry, and nothing outside of its boxes, is left in any case.",
    )
    uncertainty: Urn | None = Field(
        None, description="Weigh the pixels of each round by their uncertainty; null: not."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.uncertainty is not None and self.count == 0:
            raise ValueError(
                "uncertainty comes from a trained segmenter, so count must be at least 1, got 0"
            )
        if self.masks == "first" and self.uncertainty is None:
            raise ValueError(
                "masks=first without uncertainty would repeat the first training; set "
                "masks=predictions, or uncertainty={}"
            )
        return self

    def names(self) -> frozenset[str]:
        """Return the names of the clean-ups."""
        return frozenset(cleanup.name for cleanup in self.cleanups)
