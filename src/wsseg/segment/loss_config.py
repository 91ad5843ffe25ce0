"""Settings of the losses that a segmenter can be trained with."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from wsseg.config import Config
from wsseg.cues.protocol import CueField
from wsseg.segment.noise_config import Bootstrap, Underfit
from wsseg.segment.term_config import (
    DenseCrfLossConfig,
    GatedCrfConfig,
    NormalisedCutConfig,
    TreeEnergyConfig,
)

TERMS = ("constrain", "gated_crf", "dense_crf", "tree_energy", "normalised_cut")
"""Fields of `AddedTermsConfig`, one for each term that can be added."""

Rate = Annotated[float, Field(gt=0, le=1)]


class ConstrainConfig(Config):
    """The term that lets predictions end where a dense CRF ends them (SEC).

    The defaults are the numbers of SEC's training: a grid of 41 cells, and kernels twelve times
    narrower than those used on whole images. A finer grid needs wider kernels: they are in cells.
    """

    weight: float = Field(1.0, ge=0, le=100, description="Weight of the term; 0: none.")
    grid_px: int = Field(
        41,
        ge=2,
        le=1025,
        description="Cells along the longer side of the view. With the losses sec and dsrg all "
        "terms are computed on this grid: raise it for small objects.",
    )
    iterations: int = Field(10, ge=0, le=1000, description="Mean-field iterations.")
    gauss_sxy_cells: float = Field(
        0.25, gt=0, description="Standard deviation of the smoothness kernel, cells."
    )
    gauss_compat: float = Field(3.0, ge=0, description="Weight of the smoothness kernel.")
    bilateral_sxy_cells: float = Field(
        80 / 12, gt=0, description="Position standard deviation of the appearance kernel, cells."
    )
    bilateral_srgb: float = Field(
        13.0, gt=0, description="Colour standard deviation of the appearance kernel, grey levels."
    )
    bilateral_compat: float = Field(10.0, ge=0, description="Weight of the appearance kernel.")


class AddedTermsConfig(Config):
    """What can be added to a loss, in any number; 255 in the mask means unlabelled to all of it.

    Attributes:
        needs_tags: Whether the loss looks at the classes of the image.
        needs_boxes: Whether it looks at its boxes.
    """

    needs_tags: ClassVar[bool] = False
    needs_boxes: ClassVar[bool] = False

    # Redefined by every loss; here so that it comes first wherever settings are shown.
    name: str = Field(description="Which loss.")
    constrain: ConstrainConfig | None = Field(
        None,
        description="Added term that lets predictions end at edges of the image: they must agree "
        "with their own dense CRF, as in SEC; null: none.",
    )
    gated_crf: GatedCrfConfig | None = Field(
        None,
        description="Added term on neighbours within a window: those that look alike should have "
        "the same class; null: none.",
    )
    dense_crf: DenseCrfLossConfig | None = Field(
        None,
        description="Added term on all pairs of pixels: those that look alike and are near should "
        "have the same class; null: none.",
    )
    tree_energy: TreeEnergyConfig | None = Field(
        None,
        description="Added term on unlabelled pixels: they should agree with what a spanning tree "
        "of the image brings them; null: none.",
    )
    normalised_cut: NormalisedCutConfig | None = Field(
        None,
        description="Added term on all pairs of pixels: as dense_crf, but as a share of what each "
        "class has; null: none.",
    )

    @property
    def needs_valid(self) -> bool:
        """Whether the loss must know what is padding."""
        return any(getattr(self, name) is not None for name in TERMS)

    @property
    def needs_guide(self) -> bool:
        """Whether the loss looks at the image without random changes of colour."""
        return self.tree_energy is not None

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave an unset term out, so that runs from before there was any are recognised."""
        content: dict[str, Any] = handler(self)
        for name in (*TERMS, "bootstrap", "underfit"):
            if getattr(self, name, None) is None:
                content.pop(name, None)
        return content


class LossConfig(AddedTermsConfig):
    """Cross-entropy on the pseudo masks, and what can be added to it."""

    name: Literal["cross_entropy"] = Field(
        "cross_entropy", description="cross_entropy: pixel cross-entropy, 255 ignored."
    )
    class_balance: Literal["none", "inverse_sqrt", "dsrg"] = Field(
        "none",
        description="none: every pixel counts the same; inverse_sqrt: classes are weighted by "
        "1 / sqrt(frequency in the pseudo masks); dsrg: background and foreground get half each.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each pixel's target spread over all classes."
    )
    dice: float = Field(
        0.0, ge=0, le=100, description="Weight of an added soft Dice loss; 0: none."
    )
    bootstrap: Bootstrap | None = Field(
        None,
        description="Mix the target with the network's own prediction (masks with errors); "
        "null: not.",
    )
    underfit: Underfit | None = Field(
        None,
        description="Weaken the loss of pixels that stay wrong when most are right (masks with "
        "errors); null: not.",
    )


class FillingRateLoss(AddedTermsConfig):
    """Cross-entropy on the surest part of each box and on what is in no box (BCM's FR-loss)."""

    needs_boxes: ClassVar[bool] = True

    name: Literal["filling_rate"] = Field(
        "filling_rate",
        description="filling_rate: the surest part of each box is its object, the rest of the box "
        "is ignored, all else is background. Images without boxes keep their pseudo masks, pixels "
        "of which a person said something what was said.",
    )
    rates: Rate | tuple[Rate, ...] | None = Field(
        None,
        description="Part of its box that an object fills: one number, or one per class in the "
        "order of the class list; null: measured in the pseudo masks, per class.",
    )

    @property
    def needs_valid(self) -> bool:
        """Whether the loss must know what is padding."""
        return True


class PointLoss(AddedTermsConfig):
    """What's the point: labelled pixels, classes of the image, objectness."""

    needs_tags: ClassVar[bool] = True

    name: Literal["whats_the_point"] = Field(
        "whats_the_point",
        description="whats_the_point: labelled pixels, classes of the image, objectness.",
    )
    point_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the cross-entropy at labelled pixels."
    )
    image_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weight of the term on the classes of the image: at the most probable pixel of "
        "each, it must be there or not; 0: none.",
    )
    background_tag: bool = Field(
        True, description="Every image shows some background, for the term on classes."
    )
    objectness_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the objectness term; 0: none."
    )
    cue: CueField = Field(
        None,
        description="Where objects are likely, by its `name`: maps from a folder, weight-free "
        "saliency, distance from normal images, or a network. null: no objectness term.",
    )

    @property
    def needs_valid(self) -> bool:
        """Whether the loss must know what is padding."""
        return True


class PslLoss(AddedTermsConfig):
    """Prohibitive segmentation learning: the mined masks, and the network's own."""

    needs_tags: ClassVar[bool] = True

    name: Literal["psl"] = Field(
        "psl", description="psl: the masks, and the network's own without unlikely classes."
    )
    online_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weight of the cross-entropy with the network's own labels, where the "
        "probability that the image shows a class weighs that of the pixel; 0: none.",
    )
    classification_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weight of the loss of the branch that classifies the image.",
    )
    start_frac: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the training after which own labels count; 0: from the start. A "
        "network from scratch has none that are worth it before.",
    )

    @property
    def needs_valid(self) -> bool:
        """Whether the loss must know what is padding."""
        return True


class SecLoss(Config):
    """Seed, expand and constrain: the pseudo masks are seeds, 255 is unknown."""

    needs_tags: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = False
    needs_valid: ClassVar[bool] = True
    needs_guide: ClassVar[bool] = False

    name: Literal["sec"] = Field("sec", description="sec: seed, expand, constrain to boundary.")
    seed_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the cross-entropy at seeds."
    )
    expand_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the term on the size of objects; 0: none."
    )
    foreground_decay: float = Field(
        0.996,
        ge=0,
        le=1,
        description="Weight of a tagged class's next best cell relative to the one before it, on "
        "a grid of 41 x 41 cells (adapted to others). 0: only the best cell counts, objects may "
        "be tiny; 1: all cells count, objects fill the image.",
    )
    background_decay: float = Field(
        0.999, ge=0, le=1, description="The same for the background; larger: more of it."
    )
    constrain: ConstrainConfig = Field(
        ConstrainConfig(), description="The term that lets predictions end at edges."
    )


class DsrgLoss(Config):
    """Deep seeded region growing: the pseudo masks are seeds, which grow during training."""

    needs_tags: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = False
    needs_valid: ClassVar[bool] = True
    needs_guide: ClassVar[bool] = False

    name: Literal["dsrg"] = Field("dsrg", description="dsrg: seeds that grow, constrained.")
    seed_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the cross-entropy at seeds that have grown."
    )
    min_foreground: float = Field(
        0.85,
        ge=0,
        le=1,
        description="Probability above which a cell joins a tagged class; 1: seeds do not grow.",
    )
    min_background: float = Field(
        0.99,
        ge=0,
        le=1,
        description="Probability above which a cell joins the background; 1: it does not grow.",
    )
    max_ratio: float | None = Field(
        20.0,
        gt=1,
        description="Cells where CRF and network differ by more than this factor in a class "
        "neither push it further nor lower; null: no limit.",
    )
    constrain: ConstrainConfig = Field(
        ConstrainConfig(),
        description="The term that lets predictions end at edges; its CRF also decides where "
        "seeds grow, even with weight 0.",
    )


def _named(value: Any) -> Any:
    """Take settings without a name for those of cross-entropy, the default."""
    if isinstance(value, dict) and "name" not in value:
        return {"name": "cross_entropy", **value}
    return value


SegmenterLoss = Annotated[
    LossConfig | SecLoss | DsrgLoss | FillingRateLoss | PointLoss | PslLoss,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
