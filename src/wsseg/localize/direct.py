"""What a direct localizer is: a function from the labels of one image to Scores, without training.

Boxes, points and scribbles say where something is, so no classifier is needed. A direct localizer
is a function `localizer(image, labels, *, config, context) -> Scores`; its configuration extends
`DirectLocalizerConfig`. It becomes known like every other localizer (group ``localizers`` of
`wsseg.registry`), and the localize stage calls it image by image.

Rules for every direct localizer:

* row 0 of the result is the background, and it is final: no background rule follows (unless its
  settings say ``writes_background = False``: then row 0 is zero, as for localizers from tags);
* **a pixel whose values are all zero is unknown**: nothing speaks for a class, and nothing for the
  background. Pseudo masks ignore it (255), the dense CRF lets its neighbours decide;
* the classes of the result are those of the labels; values are float32 in [0, 1];
* image and labels are not changed, and the same input gives the same result;
* shapes may reach beyond the image or lie outside of it; what is outside counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsseg.config import MethodConfig
from wsseg.data.labels import BACKGROUND, IGNORE, Boxes, Points, Scribbles, WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.localize.config import LocalizerConfig, TagLocalizerConfig

if TYPE_CHECKING:
    from wsseg.data.dataset import Dataset, Sample
    from wsseg.nets.cam_head import ClassMapNet

_KINDS = ("tags", "boxes", "points", "scribbles")


class DirectLocalizerConfig(LocalizerConfig):
    """What all localizers without training share.

    Attributes:
        writes_background: Whether row 0 of its scores is final. False for maps of tags alone,
            whose row 0 is zero and which a background rule follows.
        label_kinds: Kinds of label that the localizer works from (tags, boxes, points, scribbles);
            an image needs at least one of them.
        uses_masks: Whether painted masks of the train split are labels for it, where
            ``--use-masks`` allows that.
    """

    writes_background: ClassVar[bool] = True
    label_kinds: ClassVar[tuple[str, ...]] = ()
    uses_masks: ClassVar[bool] = False

    def network_part(self) -> TagLocalizerConfig | None:
        """Return the settings of the localizer from tags inside of this one, or None."""
        return None

    def uses_network(self, samples: Sequence[Sample], *, allow_masks: bool) -> bool:  # noqa: ARG002
        """Say whether the network of `network_part` has to be trained for these samples.

        Args:
            samples: Samples that get scores.
            allow_masks: Whether painted masks may be used.
        """
        return False

    def takes(self, labels: WeakLabels, *, has_mask: bool) -> bool:
        """Say whether an image has what this localizer makes scores from; others are left out.

        Args:
            labels: The labels of the image.
            has_mask: Whether it has a painted mask that may be used.
        """
        return has_mask or is_empty(labels) or has_kind(labels, self.label_kinds)

    def left_out(self) -> tuple[str, str]:
        """Say what images lack that are left out, and what to do about it; parts of a sentence."""
        return " or ".join(self.label_kinds), ""

    def check(self, dataset: Dataset, *, allow_masks: bool) -> None:  # noqa: ARG002
        """Refuse, before the run starts, data that this localizer can do nothing with.

        Args:
            dataset: The data set.
            allow_masks: Whether ground-truth masks may be used.

        Raises:
            DataError: When no image of the train split has a kind of label that is needed.
        """
        if not any(has_kind(s.labels, self.label_kinds) for s in dataset.split("train")):
            raise DataError(
                f'Localizer "{self.name}" works from {" or ".join(self.label_kinds)}, but no image '
                f"of the train split has any ({kinds_text(dataset)}). Add them, or choose a recipe "
                "for the labels that are there with --recipe."
            )


@dataclass
class LocalizeContext:
    """What a direct localizer may know besides the image and its labels.

    Args:
        sample_id: Id of the sample, for messages and for random numbers of its own.
        device: Where torch code runs, such as ``"cpu"`` or ``"cuda:0"``.
        seed: Seed of everything random.
        cue: (H, W) class-agnostic map of the image; None where the settings name no cue.
        mask: Reads the painted mask (H, W) uint8 of the image; None where there is none or it may
            not be used.
        localizer: Loads the trained network of `DirectLocalizerConfig.network_part`, in evaluation
            mode; None where there is none. Keep what it returns in `shared`.
        shared: Reused between all images of the stage, such as a loaded network.
        facts: What the manifest says about this image (JSON-able); the localizer adds to it.
        class_names: Names of the classes 1..C, for localizers that go by names.
        segments_dir: Where segments are kept for all stages; None: nowhere.
        folder: The stage's folder, where `FittedLocalizer.fit` put its files; None outside of a
            run.
        state: What `FittedLocalizer.fit` returned; empty for the others.
    """

    sample_id: str = ""
    device: str = "cpu"
    seed: int = 0
    cue: np.ndarray | None = None
    mask: Callable[[], npt.NDArray[np.uint8]] | None = None
    localizer: Callable[[], ClassMapNet] | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    segments_dir: Path | None = None
    folder: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Add a sentence to the notes of this image's manifest line."""
        self.facts.setdefault("notes", []).append(text)


class DirectLocalizer(Protocol):
    """A function from the labels of one image to Scores."""

    def __call__(
        self,
        image: np.ndarray,
        labels: WeakLabels,
        *,
        config: Any = ...,
        context: LocalizeContext | None = None,
    ) -> Scores:
        """Make the scores of one image.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            labels: Its labels, in pixels of that image; not changed.
            config: The localizer's own frozen settings.
            context: What else is known; None means nothing is.

        Returns:
            Scores whose row 0 is the background; a pixel without any evidence is unknown.
        """
        ...


@dataclass(frozen=True)
class LearnInputs:
    """What a direct localizer sees of the data set before it looks at single images.

    Args:
        dataset: The data set.
        samples: Images of the train split that it makes scores of.
        folder: The stage's folder, for checkpoints and weights.
        seed: Seed of everything random.
        device: Where torch code runs.
        max_side_px: Images are read with their longer side reduced to this; None as they are.
        fingerprint: Names labels and settings; a training found under another one starts anew.
    """

    dataset: Dataset
    samples: tuple[Sample, ...]
    folder: Path
    seed: int = 0
    device: str = "cpu"
    max_side_px: int | None = None
    fingerprint: str = ""


@runtime_checkable
class FittedLocalizer(Protocol):
    """A direct localizer that learns from the labels of the whole train split first.

    Attributes:
        config_class: The class of its settings.
    """

    config_class: type[MethodConfig]

    def fit(self, inputs: LearnInputs, *, config: Any) -> dict[str, Any]:
        """Learn what `__call__` needs, continue, or find it learned.

        Args:
            inputs: The labelled images.
            config: The localizer's own frozen settings.

        Returns:
            JSON-able state, which comes back in `LocalizeContext.state`.
        """
        ...

    def __call__(
        self,
        image: np.ndarray,
        labels: WeakLabels,
        *,
        config: Any = ...,
        context: LocalizeContext | None = None,
    ) -> Scores:
        """Make the scores of one image; see `DirectLocalizer`."""
        ...


def trained_part(config: LocalizerConfig) -> TagLocalizerConfig | None:
    """Return the settings of the network that a localizer trains; None where it trains none."""
    if isinstance(config, TagLocalizerConfig):
        return config
    return config.network_part() if isinstance(config, DirectLocalizerConfig) else None


def has_kind(labels: WeakLabels, kinds: Iterable[str]) -> bool:
    """Say whether an image has shapes, or tags, of one of some kinds.

    Args:
        labels: The labels of the image.
        kinds: Out of tags, boxes, points and scribbles.

    Example:
        >>> has_kind(WeakLabels(tags={1}), ("boxes", "points"))
        False
    """
    for kind in kinds:
        given = getattr(labels, kind)
        if given is not None and (kind == "tags" or len(given) > 0):
            return True
    return False


def is_empty(labels: WeakLabels) -> bool:
    """Say whether a person looked at the image and found nothing: no class and no object."""
    return labels.is_ok and not labels.class_ids()


def kinds_text(dataset: Dataset) -> str:
    """Count the images of the train split by kind of label, in words."""
    samples = dataset.split("train")
    counts = {kind: sum(has_kind(s.labels, (kind,)) for s in samples) for kind in _KINDS}
    counts["painted masks"] = sum(s.mask_path is not None for s in samples)
    found = [f"{count} with {kind}" for kind, count in counts.items() if count]
    return f"{len(samples)} images: {', '.join(found) or 'none is labelled'}"


def scaled_labels(
    labels: WeakLabels, size: tuple[int, int], new_size: tuple[int, int]
) -> WeakLabels:
    """Carry labels over to a resized image.

    Args:
        labels: Labels in pixels of an image of ``size``.
        size: (H, W) that they were drawn on.
        new_size: (H, W) that they are wanted for.

    Returns:
        The labels in pixels of the new size.

    Example:
        >>> labels = WeakLabels(boxes=Boxes([[2, 4, 6, 8]], [1]))
        >>> scaled_labels(labels, (8, 8), (4, 8)).boxes.xyxy.tolist()
        [[2.0, 2.0, 6.0, 4.0]]
    """
    if size == new_size:
        return labels
    factors = np.array([new_size[1] / size[1], new_size[0] / size[0]], np.float32)
    boxes, points, scribbles = labels.boxes, labels.points, labels.scribbles
    if boxes is not None:
        boxes = Boxes(boxes.xyxy * np.tile(factors, 2), boxes.class_ids)
    if points is not None:
        points = Points(points.xy * factors, points.class_ids)
    if scribbles is not None:
        lines = tuple(line * factors for line in scribbles.lines)
        scribbles = Scribbles(lines, scribbles.class_ids)
    return WeakLabels(labels.tags, boxes, points, scribbles)


def all_background(size: tuple[int, int]) -> Scores:
    """Make the scores of an image (H, W) that shows no class."""
    return Scores(np.ones((1, *size), np.float32), np.array([BACKGROUND], np.uint8), size)


def scores_of_mask(mask: npt.NDArray[np.uint8], class_ids: Iterable[int] = ()) -> Scores:
    """Make scores of hard labels: 1 for the class of the pixel, nothing where it is 255.

    Args:
        mask: (H, W) uint8: 0 background, class ids, 255 unknown.
        class_ids: Classes that get a row even where the mask does not show them.

    Returns:
        Scores of the size of the mask.

    Example:
        >>> scores = scores_of_mask(np.array([[0, 2, 255]], np.uint8))
        >>> scores.class_ids.tolist(), scores.values[:, 0].tolist()
        ([0, 2], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    """
    shown = set(np.unique(mask).tolist()) | {int(class_id) for class_id in class_ids}
    ids = np.array([BACKGROUND, *sorted(shown - {BACKGROUND, IGNORE})], np.uint8)
    values = (mask[None] == ids[:, None, None]).astype(np.float32)
    return Scores(values, ids, (mask.shape[0], mask.shape[1]))
