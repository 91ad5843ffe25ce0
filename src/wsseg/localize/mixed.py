"""Mixed labels: in each image the strongest label leads, and the others constrain what it says.

Painted masks are used as they are (those of the train split, and only with ``--use-masks``). Where
there is none, scribbles lead before boxes, boxes before points, points before tags; each kind has a
localizer of its own. Then all labels of the image bind the result:

* tags rule out classes that are not among them;
* boxes bound their class: outside of all boxes of a class it scores 0, and where every class of the
  image is ruled out that way, the pixel is background;
* points and scribbles pin their pixels to their class.

A pixel that loses all evidence by that is unknown. The manifest names the kind that led, so that
``segment.trust`` can let images count by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from wsseg import registry
from wsseg.cues.source import configured_cue
from wsseg.data.labels import WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError, RecipeError
from wsseg.localize.config import LocalizerConfig, TagLocalizerConfig
from wsseg.localize.constrain import constrained
from wsseg.localize.direct import (
    DirectLocalizerConfig,
    LocalizeContext,
    all_background,
    is_empty,
    kinds_text,
    scores_of_mask,
)
from wsseg.localize.kinds import LED_BY, Kind, leading_kind
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

    def uses_network(self, samples: Sequence[Sample]) -> bool:
        """Say whether some image is led by its tags."""
        return self.tags is not None and any(
            leading_kind(s.labels) == "tags" and not is_empty(s.labels) for s in samples
        )

    def check(self, dataset: Dataset, *, allow_masks: bool) -> None:
        """Refuse data without labels, and parts that cannot work here.

        Args:
            dataset: The data set.
            allow_masks: Whether painted masks may be used.

        Raises:
            DataError: When no image of the train split has a label that a part works from.
            RecipeError: When a part asks for a cue.
        """
        for kind in ("boxes", "points", "scribbles"):
            if configured_cue(getattr(self, kind)) is not None:
                raise RecipeError(
                    f"localize.{kind} names a cue, which localizer mixed does not pass on. Choose "
                    "another localizer for it."
                )
        train = dataset.split("train")
        usable = [s for s in train if _led(s, self, allow_masks) is not None]
        if not any(not is_empty(s.labels) or s.mask_path for s in usable):
            hint = "" if allow_masks else " Painted masks count with --use-masks."
            raise DataError(
                f'Localizer "mixed" finds no label that it can use ({kinds_text(dataset)}).{hint}'
            )
        if self.uses_network(train):
            from wsseg.localize.stage import check_trainable

            check_trainable([s for s in train if s.labels.tags is not None], dataset)


def _led(sample: Sample, config: Mixed, allow_masks: bool) -> Kind | None:
    kind = leading_kind(sample.labels, mask=allow_masks and sample.mask_path is not None)
    needs_tags = kind == "tags" and not is_empty(sample.labels)
    return None if needs_tags and config.tags is None else kind


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
    kind = leading_kind(labels, mask=context.mask is not None)
    context.facts[LED_BY] = kind
    if kind == "masks" and context.mask is not None:
        return scores_of_mask(context.mask())
    if is_empty(labels):
        return all_background((image.shape[0], image.shape[1]))
    if kind is None:
        raise DataError(f"Image {context.sample_id} has no label. Label it, or remove it.")
    if kind == "tags":
        scores = _from_tags(image, labels, config, context)
    else:
        part = getattr(config, kind)
        method = registry.load("localizers", part.name)
        shown = _shapes_for(kind, labels)
        scores = method(image, shown, config=part, context=context)
    points, scribbles = config.points, config.scribbles
    return constrained(
        scores,
        labels,
        point_radius_px=getattr(points, "point_radius_px", 3.0),
        scribble_width_px=getattr(scribbles, "scribble_width_px", 3.0),
    )


def _shapes_for(kind: str, labels: WeakLabels) -> WeakLabels:
    """Leave a localizer what it grows from; the rest constrains its result later."""
    if kind == "boxes":
        return WeakLabels(tags=labels.tags, boxes=labels.boxes)
    return WeakLabels(tags=labels.tags, points=labels.points, scribbles=labels.scribbles)


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
