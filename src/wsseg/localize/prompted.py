"""Points and boxes that people gave, as prompts for segments: their answers are the masks.

* `point_prompts`: every point asks on its own, with the points of the other classes as negatives.
  Of up to three answers, those that hold a point of another class are rejected; of the others the
  best score counts, or the whole object (`choose`). The points of one class near each other may be
  of one object; with ``join: true`` all points of a class are one prompt.
* `box_prompts`: every box asks on its own, with the points that lie in it, if there are any: those
  of its class are on the object (of the smallest box, where several of the class hold the point),
  those of other classes are not. Answers are cut at the box.

Where masks of two classes overlap, the smaller one lies on top: it is seldom behind the larger. A
point or box without an answer says only what it says by itself: the disc of the point, the box.
The pixel of a point has its class, whatever the answers are.

Common practice with SAM (Kirillov et al., "Segment Anything", ICCV 2023); no paper of its own.
What lies in no mask is background; it is unknown where a tagged class has no point, or no box, in
the image, because it may be that class. Pixels in the box of an object without an answer are
unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.cues.segments import OpenedImage, Prompt, Segments, SegmentsContext, SegmentsField
from wsseg.cues.segments_config import Superpixels
from wsseg.cues.segments_source import open_kept
from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.windows import box_window
from wsseg.localize.direct import (
    DirectLocalizerConfig,
    LocalizeContext,
    all_background,
    has_kind,
    is_empty,
    scores_of_mask,
)
from wsseg.localize.points.marks import draw_marks

Bools = npt.NDArray[np.bool_]
_Prompted = tuple[int, Prompt]


class PromptedConfig(DirectLocalizerConfig):
    """What localizers by prompts share."""

    segments: SegmentsField = Field(
        Superpixels(),
        description="Where segments come from: superpixels (null, too), sam or folder.",
    )
    choose: Literal["whole", "score"] = Field(
        "score",
        description="Which of up to three answers counts: score, the best by the backend; whole, "
        "the last.",
    )


class PointPrompts(PromptedConfig):
    """Settings of `point_prompts`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("points",)

    name: Literal["point_prompts"] = Field("point_prompts", description="Points ask for segments.")
    join: bool = Field(
        False, description="Let all points of a class be one prompt, for one object per class."
    )
    negatives: bool = Field(
        True, description="Let the points of other classes say where the object is not."
    )
    point_radius_px: float = Field(
        3.0, gt=0, le=1000, description="Radius of the disc of a point without an answer, pixels."
    )


class BoxPrompts(PromptedConfig):
    """Settings of `box_prompts`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    name: Literal["box_prompts"] = Field("box_prompts", description="Boxes ask for segments.")


@dataclass(frozen=True)
class _Found:
    """The mask of one prompt."""

    class_id: int
    mask: Bools


def point_prompts(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: PointPrompts = PointPrompts(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Ask for the objects at points.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with points, in pixels of the image.
        config: Which segments, and which answers.
        context: Device, and where notes go.

    Returns:
        Scores (K, H, W) of 0 and 1; 0 in all rows where nothing is known.
    """
    context = context or LocalizeContext()
    size = (image.shape[0], image.shape[1])
    if is_empty(labels):
        return all_background(size)
    xy, class_ids = _inside(labels, size)
    if len(xy) == 0:
        return _nothing(labels, size, "no point lies in the image", context)
    prompts = _point_groups(xy, class_ids, config)
    found, missed = _ask(image, prompts, (xy, class_ids), config, context)
    mask = painted(found, size)
    if missed:
        # What lies around the points without an answer may be their objects: only they are known.
        mask[mask == BACKGROUND] = IGNORE
        _note_missed(context, missed, "point")
    _open_ground(mask, labels, class_ids, "point", context)
    seeds = draw_marks(labels, size, point_radius_px=config.point_radius_px).seeds
    unexplained = (mask == IGNORE) & (seeds != IGNORE)
    mask[unexplained] = seeds[unexplained]
    _pin(mask, xy, class_ids)
    return scores_of_mask(mask, _classes(labels))


def box_prompts(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: BoxPrompts = BoxPrompts(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Ask for the objects in boxes.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with boxes, in pixels of the image.
        config: Which segments, and which answers.
        context: Device, and where notes go.

    Returns:
        Scores (K, H, W) of 0 and 1; 0 in all rows where nothing is known.
    """
    context = context or LocalizeContext()
    size = (image.shape[0], image.shape[1])
    if is_empty(labels):
        return all_background(size)
    xy, class_ids = _inside(labels, size)
    prompts = _boxes(labels, size, xy, class_ids)
    if not prompts:
        return _nothing(labels, size, "no box lies in the image", context)
    found, missed = _ask(image, prompts, (xy, class_ids), config, context)
    mask = painted(found, size)
    for _, prompt in missed:
        window = mask[_pixels(prompt.box, size)]
        window[window == BACKGROUND] = IGNORE
    if missed:
        _note_missed(context, missed, "box")
    boxed = np.array([class_id for class_id, _ in prompts])
    _open_ground(mask, labels, boxed, "box", context, also=class_ids)
    _pin(mask, xy, class_ids)
    return scores_of_mask(mask, _classes(labels))


def painted(found: list[_Found], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Paint masks, the smallest on top; (H, W) class ids, 0 where none lies."""
    mask = np.zeros(size, np.uint8)
    for one in sorted(found, key=lambda one: (-int(one.mask.sum()), one.class_id)):
        mask[one.mask] = one.class_id
    return mask


def chosen_mask(answer: Segments, others: npt.NDArray[np.floating], rule: str) -> Bools | None:
    """Choose among the answers to a prompt.

    Args:
        answer: The answers, from the part to the whole.
        others: (P, 2) points of other classes; answers that hold one are rejected.
        rule: ``"whole"`` or ``"score"``.

    Returns:
        (H, W) bool; None where no answer is left.
    """
    masks = answer.masks
    rows, columns = others[:, 1].astype(int), others[:, 0].astype(int)
    left = [i for i, mask in enumerate(masks) if mask.any() and not mask[rows, columns].any()]
    if not left:
        return None
    best = left[-1] if rule == "whole" else max(left, key=lambda i: (answer.scores[i], i))
    found: Bools = masks[best]
    return found


def _ask(
    image: np.ndarray,
    prompts: list[_Prompted],
    points: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]],
    config: PromptedConfig,
    context: LocalizeContext,
) -> tuple[list[_Found], list[_Prompted]]:
    """Ask all prompts of an image: what was found, and the prompts without an answer."""
    known = SegmentsContext(context.sample_id, context.device, context.segments_dir, context.shared)
    opened: OpenedImage = open_kept(image, config.segments, known)
    xy, class_ids = points
    found: list[_Found] = []
    missed: list[_Prompted] = []
    answers = opened.at([prompt for _, prompt in prompts])
    for (class_id, prompt), asked in zip(prompts, answers, strict=True):
        answer = asked if prompt.box is None else _cut(asked, prompt.box)
        mask = chosen_mask(answer, xy[class_ids != class_id], config.choose)
        if mask is None:
            missed.append((class_id, prompt))
        else:
            found.append(_Found(class_id, mask))
    return found, missed


def _point_groups(
    xy: npt.NDArray[np.float64], class_ids: npt.NDArray[np.int64], config: PointPrompts
) -> list[_Prompted]:
    prompts = []
    for class_id in np.unique(class_ids[class_ids != BACKGROUND]).tolist():
        own, others = xy[class_ids == class_id], xy[class_ids != class_id]
        others = others if config.negatives else others[:0]
        for group in [own] if config.join else own[:, None]:
            positive = np.arange(len(group) + len(others)) < len(group)
            prompts.append((class_id, Prompt(np.concatenate([group, others]), positive)))
    return prompts


def _boxes(
    labels: WeakLabels,
    size: tuple[int, int],
    xy: npt.NDArray[np.float64],
    class_ids: npt.NDArray[np.int64],
) -> list[_Prompted]:
    """Make a prompt of every box with a part in the image, and of the points in it."""
    if labels.boxes is None:
        return []
    height, width = size
    clipped = np.clip(labels.boxes.xyxy.astype(np.float64), 0, [width, height, width, height])
    kept = (clipped[:, 0] < clipped[:, 2]) & (clipped[:, 1] < clipped[:, 3])
    if not kept.any():
        return []
    boxes, boxed = clipped[kept], labels.boxes.class_ids[kept]
    # (B, P): which points lie in which boxes, and which are of the object of which box.
    holds = ((xy >= boxes[:, None, :2]) & (xy < boxes[:, None, 2:])).all(axis=2)
    is_own = holds & (boxed[:, None] == class_ids)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    smallest = np.where(is_own, areas[:, None], np.inf).argmin(axis=0, keepdims=True)
    is_asked = is_own & (np.arange(len(boxes))[:, None] == smallest)
    is_other = holds & (boxed[:, None] != class_ids)
    return [
        (int(class_id), Prompt(xy[mine | other], mine[mine | other], box))
        for class_id, box, mine, other in zip(boxed, boxes, is_asked, is_other, strict=True)
    ]


def _pixels(box: npt.NDArray[np.float64], size: tuple[int, int]) -> tuple[slice, slice]:
    """Name the rows and columns of a box's pixels; those of none for a box outside of the image."""
    window = box_window(box, BACKGROUND, size)
    return (slice(0, 0), slice(0, 0)) if window is None else window.slices


def _cut(answer: Segments, box: npt.NDArray[np.float64]) -> Segments:
    """Take from answers what lies outside of the box."""
    inside = np.zeros(answer.size, np.bool_)
    inside[_pixels(box, answer.size)] = True
    return Segments.of_masks(answer.masks & inside, answer.scores)


def _pin(
    mask: npt.NDArray[np.uint8], xy: npt.NDArray[np.float64], class_ids: npt.NDArray[np.int64]
) -> None:
    """Give the pixels of points their class, in place; two classes leave a pixel unknown."""
    pins: dict[tuple[int, int], int] = {}
    for (x, y), class_id in zip(xy, class_ids.tolist(), strict=True):
        place = int(y), int(x)
        pins[place] = class_id if pins.get(place, class_id) == class_id else IGNORE
    for place, value in pins.items():
        mask[place] = value


def _open_ground(
    mask: npt.NDArray[np.uint8],
    labels: WeakLabels,
    shown: npt.NDArray[np.integer],
    kind: str,
    context: LocalizeContext,
    also: npt.NDArray[np.integer] | None = None,
) -> None:
    """Leave the background of a mask unknown, in place, where a class may be anywhere.

    Args:
        mask: (H, W) uint8.
        labels: The labels of the image.
        shown: Classes that asked for segments.
        kind: What asked, ``"point"`` or ``"box"``.
        context: Takes notes.
        also: Classes that the image shows even if it is not tagged.
    """
    named = frozenset() if also is None else frozenset(also.tolist())
    missing = (named if labels.tags is None else labels.tags) - frozenset(shown.tolist())
    if missing:
        mask[mask == BACKGROUND] = IGNORE
        classes = ", ".join(map(str, sorted(missing)))
        context.note(
            f"class(es) {classes} have no {kind} in the image, so what lies in no mask is unknown"
        )


def _inside(
    labels: WeakLabels, size: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """List the points that lie in the image."""
    if labels.points is None:
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    xy = np.asarray(labels.points.xy, np.float64).reshape(-1, 2)
    inside = np.all((xy >= 0) & (xy < [size[1], size[0]]), axis=1)
    return xy[inside], np.asarray(labels.points.class_ids, np.int64)[inside]


def _classes(labels: WeakLabels) -> set[int]:
    found = set(labels.tags or ())
    for shapes in (labels.points, labels.boxes):
        if shapes is not None:
            found |= set(shapes.class_ids.tolist())
    return {int(class_id) for class_id in found} - {BACKGROUND}


def _nothing(
    labels: WeakLabels, size: tuple[int, int], reason: str, context: LocalizeContext
) -> Scores:
    """Say that nothing is known of an image, or, where a box or point lies outside, just that."""
    context.note(f"{reason}; nothing is known of it")
    kinds = ("points", "boxes")
    classes = _classes(labels) if has_kind(labels, kinds) or labels.tags else set()
    return scores_of_mask(np.full(size, IGNORE, np.uint8), classes)


def _note_missed(context: LocalizeContext, missed: list[_Prompted], kind: str) -> None:
    context.facts["without_segment"] = len(missed)
    context.note(f"no segment for {len(missed)} {kind} prompt(s); only the {kind} itself is known")
