"""Mixed labels: in each image the strongest label leads, and the others constrain what it says.

Painted masks are used as they are (those of the train split, and only with ``--use-masks``). Where
there is none, scribbles lead before boxes, boxes before points, points before tags; each kind has a
localizer of its own. Then all labels of the image bind the result:

* a class is led by the strongest kind of shape that it has itself: where scribbles lead, a class
  with boxes alone comes from its boxes. What two kinds claim for different classes is unknown, and
  background is what all of them call background;
* strokes that mark nothing but background lead only where there is no other label;
* tags rule out classes that are not among them;
* boxes bound their class: outside of all boxes of a class it scores 0, and where every class of the
  image is ruled out that way, the pixel is background;
* points and scribbles pin their pixels to their class; what two classes claim is unknown.

A pixel that loses all evidence by that is unknown. The manifest names the kind that led, so that
``segment.trust`` can let images count by it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from wsseg import registry
from wsseg.cues.segments_source import check_configured
from wsseg.cues.source import configured_cue
from wsseg.data.labels import IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError, RecipeError
from wsseg.localize.config import LocalizerConfig, TagLocalizerConfig
from wsseg.localize.constrain import constrained
from wsseg.localize.direct import (
    DirectLocalizerConfig,
    FittedLocalizer,
    LocalizeContext,
    all_background,
    has_kind,
    is_empty,
    kinds_text,
    scores_of_mask,
)
from wsseg.localize.joined import joined, of_some_classes
from wsseg.localize.kinds import (
    LED_BY,
    SHAPES,
    Kind,
    allowed,
    classes_by_kind,
    in_image,
    leading_kind,
    of_classes,
)
from wsseg.refine.background import with_constant_background

if TYPE_CHECKING:
    from wsseg.data.dataset import Dataset, Sample


def _localizer(value: Any) -> Any:
    return None if value is None else registry.settings("localizers", value)


_Settings = Annotated[SerializeAsAny[LocalizerConfig], BeforeValidator(_localizer)]


class Mixed(DirectLocalizerConfig):
    """Settings of `mixed`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("scribbles", "boxes", "points", "tags")
    uses_masks: ClassVar[bool] = True

    name: Literal["mixed"] = Field(
        "mixed", description="The strongest label of each image leads, the others constrain."
    )
    tags: Annotated[SerializeAsAny[LocalizerConfig] | None, BeforeValidator(_localizer)] = Field(
        default=None,
        description="Localizer from tags, for images with tags alone; it trains on all tagged "
        "images. null: images with tags alone get no maps.",
    )
    tag_background: float = Field(
        0.3, ge=0, le=1, description="Background score beside the maps of `tags`."
    )
    boxes: _Settings = Field(
        default_factory=lambda: _localizer("grabcut"), description="Localizer from boxes."
    )
    points: _Settings = Field(
        default_factory=lambda: _localizer("random_walker_seeds"),
        description="Localizer from points.",
    )
    scribbles: _Settings = Field(
        default_factory=lambda: _localizer("random_walker_seeds"),
        description="Localizer from scribbles.",
    )

    @model_validator(mode="after")
    def _check_parts(self) -> Mixed:
        if self.tags is not None and not isinstance(self.tags, TagLocalizerConfig):
            raise ValueError(
                f"tags is {self.tags.name}, which does not train on tags. Choose cam, for example."
            )
        for kind in ("boxes", "points", "scribbles"):
            part = getattr(self, kind)
            fits = isinstance(part, DirectLocalizerConfig) and kind in part.label_kinds
            if not fits or isinstance(part, Mixed):
                raise ValueError(f"{kind} is {part.name}, which does not work from {kind}.")
        return self

    def network_part(self) -> TagLocalizerConfig | None:
        """Return the settings of the localizer from tags."""
        return self.tags if isinstance(self.tags, TagLocalizerConfig) else None

    def uses_network(self, samples: Sequence[Sample], *, allow_masks: bool) -> bool:
        """Say whether some image is led by its tags.

        Args:
            samples: Samples that get scores.
            allow_masks: Whether painted masks may be used.
        """
        return self.tags is not None and any(
            _kind(s, allow_masks=allow_masks) == "tags" for s in samples
        )

    def takes(self, labels: WeakLabels, *, has_mask: bool) -> bool:
        """Say whether an image has a label that a part works from; see `DirectLocalizerConfig`."""
        if has_mask or is_empty(allowed(labels)):
            return True
        kind = leading_kind(allowed(labels))
        return kind is not None and (kind != "tags" or self.tags is not None)

    def left_out(self) -> tuple[str, str]:
        """Say what images lack that are left out; see `DirectLocalizerConfig`."""
        if self.tags is not None:
            return " or ".join(self.label_kinds), "label them"
        return (
            "scribbles or boxes or points",
            "draw some, or let a network learn from tags (--set localize.tags=cam)",
        )

    def check(self, dataset: Dataset, *, allow_masks: bool) -> None:
        """Refuse data without labels, and parts that cannot work here.

        A part that no image needs is not asked.

        Args:
            dataset: The data set.
            allow_masks: Whether painted masks may be used.

        Raises:
            DataError: When no image of the train split has a label that a part works from, or a
                part lacks data that it needs.
            RecipeError: When a part asks for a cue, or cannot do what its settings ask.
            MissingExtraError: When a part needs an optional package.
            MissingWeightsError: When the weights of a part are not at hand.
        """
        for kind in SHAPES:
            self._refuse_cue(kind)
            self._refuse_learner(kind)
        train = dataset.split("train")
        masked = {s.id for s in train if _has_mask(s, allow_masks=allow_masks)}
        usable = [s for s in train if self.takes(s.labels, has_mask=s.id in masked)]
        if not any(s.id in masked or not is_empty(allowed(s.labels)) for s in usable):
            hint = "" if allow_masks else " Painted masks count with --use-masks."
            raise DataError(
                f'Localizer "mixed" finds no label that it can use ({kinds_text(dataset)}).{hint}'
            )
        self._check_parts_of(dataset, masked, allow_masks=allow_masks)
        if self.uses_network(dataset.samples, allow_masks=allow_masks):
            from wsseg.localize.stage import check_trainable

            try:
                check_trainable([s for s in train if s.labels.tags is not None], dataset)
            except DataError as error:
                raise DataError(
                    f"{error} Or leave out the images that have tags alone: "
                    "--set localize.tags=null."
                ) from error

    def _refuse_cue(self, kind: str) -> None:
        part = getattr(self, kind)
        cue = configured_cue(part)
        if cue is not None:
            raise RecipeError(
                f'localize.{kind} is {part.name} with the cue "{cue.model_dump()["name"]}", but '
                "mixed makes no cue maps for its parts. Set localize."
                f"{kind}.cue=null, or choose a localizer without a cue, or run {part.name} alone "
                f"(--set localize={part.name}) on the images with {kind}."
            )

    def _refuse_learner(self, kind: str) -> None:
        part = getattr(self, kind)
        if isinstance(registry.load("localizers", part.name), FittedLocalizer):
            raise RecipeError(
                f"localize.{kind} is {part.name}, which learns from all images with {kind}; mixed "
                "trains no parts but `tags`. Choose another localizer, or run "
                f"{part.name} alone (--set localize={part.name}) on the images with {kind}."
            )

    def _check_parts_of(
        self, dataset: Dataset, masked: Collection[str], *, allow_masks: bool
    ) -> None:
        """Ask the parts that some image needs for what they need."""
        for kind in SHAPES:
            part = getattr(self, kind)
            needing = [
                s for s in dataset if s.id not in masked and kind in _parts(allowed(s.labels), self)
            ]
            if needing:
                check_configured(part, dataset)
            if any(s.split == "train" for s in needing):
                part.check(dataset, allow_masks=allow_masks)


def _has_mask(sample: Sample, *, allow_masks: bool) -> bool:
    """Masks are labels in the train split only; those of other splits are there to score."""
    return allow_masks and sample.split == "train" and sample.mask_path is not None


def _kind(sample: Sample, *, allow_masks: bool) -> Kind | None:
    """Name what leads in an image; None where nothing does, or nothing has to."""
    labels = allowed(sample.labels)
    if _has_mask(sample, allow_masks=allow_masks):
        return "masks"
    return None if is_empty(labels) else leading_kind(labels)


def mixed(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: Mixed = Mixed(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Let the strongest label lead and the others constrain it.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: All labels of the image, in its pixels.
        config: A localizer for each kind of label.
        context: The painted mask and the trained network, where there are some; learns which kind
            led.

    Returns:
        Scores at full size (K, H, W); pixels without evidence are 0 in all rows.

    Raises:
        DataError: When the image has tags alone and `Mixed.tags` is null, or no label at all.
    """
    context = context or LocalizeContext()
    size = (image.shape[0], image.shape[1])
    labels = allowed(labels)
    kind = leading_kind(labels, mask=context.mask is not None)
    context.facts[LED_BY] = kind
    if kind == "masks" and context.mask is not None:
        return scores_of_mask(context.mask())
    if is_empty(labels):
        return all_background(size)
    if kind is None:
        raise DataError(f"Image {context.sample_id} has no label. Label it, or remove it.")
    point_radius_px = getattr(config.points, "point_radius_px", 3.0)
    scribble_width_px = getattr(config.scribbles, "scribble_width_px", 3.0)
    if kind == "tags":
        scores = _from_tags(image, labels, config, context)
    else:
        shown = in_image(labels, size, scribble_width_px)
        context.facts[LED_BY] = leading_kind(shown) if has_kind(shown, SHAPES) else kind
        scores = _from_shapes(image, shown, config, context)
    return constrained(
        scores,
        labels,
        point_radius_px=point_radius_px,
        point_spacing_frac=getattr(config.points, "point_spacing_frac", math.inf),
        scribble_width_px=scribble_width_px,
    )


def _parts(labels: WeakLabels, config: Mixed) -> dict[Kind, frozenset[int]]:
    """Say which part makes the scores of which classes.

    Classes with points alone go with the scribbles of the others where that part takes points: the
    seeds of each are what the others are not.
    """
    found = classes_by_kind(labels)
    takes_points = "points" in getattr(config.scribbles, "label_kinds", ())
    if "scribbles" in found and "points" in found and takes_points:
        found["scribbles"] |= found.pop("points")
    if not found and has_kind(labels, ("scribbles",)):
        # Nothing but strokes of background.
        found["scribbles"] = frozenset()
    return found


def _from_shapes(
    image: np.ndarray, labels: WeakLabels, config: Mixed, context: LocalizeContext
) -> Scores:
    """Let every class be led by its strongest shapes, and join what comes out."""
    parts = _parts(labels, config)
    if not parts:
        context.note("no shape lies in the image; nothing is known of it")
        return scores_of_mask(np.full(image.shape[:2], IGNORE, np.uint8))
    if len(parts) > 1:
        context.facts["led_classes"] = {kind: sorted(ids) for kind, ids in parts.items()}
    found: list[Scores] = []
    for kind, class_ids in parts.items():
        part = getattr(config, kind)
        method = registry.load("localizers", part.name)
        shown = _shapes_for(kind, labels, class_ids, frozenset().union(*parts.values()))
        scores = method(image, shown, config=part, context=context)
        found.append(scores if len(parts) == 1 else of_some_classes(scores, class_ids))
    return found[0] if len(found) == 1 else joined(found)


def _shapes_for(
    kind: Kind, labels: WeakLabels, class_ids: frozenset[int], led: frozenset[int]
) -> WeakLabels:
    """Leave a localizer what it grows from; the rest constrains its result later.

    Tags of classes that other parts lead do not count here: what this part calls background is
    compared with what those say.
    """
    tags = None if labels.tags is None else labels.tags - (led - class_ids)
    if kind == "boxes":
        return WeakLabels(tags=tags, boxes=of_classes(labels, class_ids).boxes)
    return WeakLabels(tags=tags, points=labels.points, scribbles=labels.scribbles)


def _from_tags(
    image: np.ndarray, labels: WeakLabels, config: Mixed, context: LocalizeContext
) -> Scores:
    from wsseg.localize.inference import class_maps, prepare

    part = config.network_part()
    if part is None or context.localizer is None:
        raise DataError(
            f"Image {context.sample_id} has tags alone, and localize.tags is null. Name a "
            "localizer from tags there (cam), or label the image otherwise."
        )
    key = ("mixed", "network")
    if key not in context.shared:
        context.shared[key] = prepare(context.localizer(), part.inference, context.device)
    maps, _ = class_maps(context.shared[key], image, labels.tags, part.inference)
    return with_constant_background(maps, config.tag_background)
