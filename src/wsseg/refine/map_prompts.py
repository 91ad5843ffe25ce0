"""Prompts from maps: peaks and areas of the class maps ask for segments, which become the masks.

What refines maps by a promptable network without training: a map knows where an object is, a
segment where it ends. For every class, in an image of its own scores s_c:

* points: its highest peak, and all others above `min_peak` (`wsseg.cues.peaks`), as one prompt;
* boxes: one per connected area of s_c >= `box_threshold`, each a prompt, with its peak as a point
  where both are asked for; where no area is large enough, the peaks ask, which the manifest notes.

The peaks of the other classes say where the object is not (`negatives`). Of the answers to a prompt
one is chosen: the `whole` (the last), the best `score`, or what fits the thresholded map best
(`overlap`). Then classes compete, as in "From SAM to CAMs" (Kweon and Yoon, CVPR 2024):

    conf_c(x) = l(x) * mean of s_c over the mask, for x in the mask

with l the mask's logit, or 1 where a backend has no logits. A pixel gets the class of the largest
confidence; where no mask lies is background.

Differences: boxes and negative points, which users of SAM found to help. A class without any
answer keeps the area that it wins in the scores, and an image where no class gets an answer keeps
its scores; the manifest notes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.cues.peaks import map_boxes, map_peaks
from wsseg.cues.segments import OpenedImage, Prompt, Segments, SegmentsField
from wsseg.cues.segments_config import Superpixels
from wsseg.cues.segments_source import open_kept
from wsseg.data.scores import Scores
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image
from wsseg.refine.segment_merge import segments_context

Floats = npt.NDArray[np.float32]

# What wins a pixel has at least this score, so that it is not taken for unknown.
_LEAST_EVIDENCE = 1e-3


class MapPrompts(MethodConfig):
    """Settings of `map_prompts`."""

    name: Literal["map_prompts"] = Field(
        "map_prompts", description="Which refiner: maps ask for segments."
    )
    prompts: Literal["points", "boxes", "both"] = Field(
        "points", description="What a class asks by: its peaks, boxes around its areas, or both."
    )
    min_peak: float = Field(0.5, ge=0, le=1, description="Score above which a second peak counts.")
    peak_distance_px: int = Field(20, ge=1, le=1000, description="Peaks are farther apart.")
    box_threshold: float = Field(
        0.5, ge=0, le=1, description="Scores from which on an area gets a box."
    )
    min_box_area_px: int = Field(
        64, ge=1, le=1_000_000, description="Areas smaller than this get no box."
    )
    negatives: bool = Field(
        True, description="Let the peaks of the other classes say where the object is not."
    )
    choose: Literal["whole", "score", "overlap"] = Field(
        "whole",
        description="Which of up to three answers counts: whole, the last; score, the best by the "
        "backend; overlap, the one that fits the scores above box_threshold best.",
    )
    segments: SegmentsField = Field(
        Superpixels(),
        description="Where segments come from: superpixels (null, too), sam or folder.",
    )


def map_prompts(
    image: np.ndarray,
    scores: Scores,
    *,
    config: MapPrompts = MapPrompts(),
    context: RefineContext | None = None,
) -> Scores:
    """Turn maps to prompts and their answers to masks.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: Scores of the image; a background row is looked at only where answers are missing.
        config: Which prompts, which answers, which segments.
        context: Where embeddings are kept.

    Returns:
        Scores at full size (K, H, W): in its masks, the winner's mean score, and 1 for the
        background elsewhere. An image without answers keeps its scores; one without classes is
        background everywhere.

    Raises:
        DataError: When the image does not belong to the scores, or its segments cannot be had.
    """
    check_image(image, scores)
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    context = context or RefineContext()
    opened = open_kept(image, config.segments, segments_context(context))
    asked = [class_prompts(full.values, row, config) for row in range(1, len(full.values))]
    masks = [
        _class_mask(opened, full.values, row, prompts, config)
        for row, prompts in enumerate(asked, start=1)
    ]
    silent = [int(full.class_ids[i + 1]) for i, mask in enumerate(masks) if mask is None]
    notes = []
    if config.prompts != "points":
        without = [any(prompt.box is None for prompt in prompts) for prompts in asked]
        if any(without):
            pointed = full.class_ids[1:][without].tolist()
            notes.append(f"no area for a box in the classes {pointed}; their peaks asked")
    if len(silent) == len(masks):
        notes.append("no segment; scores kept")
    elif silent:
        notes.append(f"no segment for the classes {silent}; their scores kept")
    if notes:
        context.facts["note"] = ". ".join(notes)
    if len(silent) == len(masks):
        return full
    return replace(full, values=_combined(full.values, masks))


def class_prompts(values: np.ndarray, row: int, config: MapPrompts) -> list[Prompt]:
    """Make the prompts of one class.

    Args:
        values: (K, H, W) scores.
        row: Its row.
        config: Which prompts.

    Returns:
        The prompts; none where the class has no evidence. Where boxes are wanted and no area is
        large enough for one, its peaks ask instead, as one prompt without a box.
    """
    peaks = {
        other: map_peaks(values[other], config.peak_distance_px, config.min_peak)
        for other in range(1, len(values))
        if other == row or config.negatives
    }
    own = peaks.pop(row)
    if len(own) == 0:
        return []
    # Where another class is stronger than this one, its peak is not on the object.
    others = np.array([
        point
        for other, points in peaks.items()
        for point in points
        if values[other][_pixel(point)] > values[row][_pixel(point)]
    ]).reshape(-1, 2)  # fmt: skip
    if config.prompts == "points":
        return [_prompt(own, others)]
    boxes = map_boxes(values[row], config.box_threshold, config.min_box_area_px)
    if len(boxes) == 0:
        return [_prompt(own, others)]
    inside = [own[_in_box(own, box)] if config.prompts == "both" else own[:0] for box in boxes]
    return [_prompt(points, others, box) for points, box in zip(inside, boxes, strict=True)]


def choose_answer(answer: Segments, wanted: np.ndarray, rule: str) -> int:
    """Choose among the answers to a prompt.

    Args:
        answer: One to three segments, from the part to the whole.
        wanted: (H, W) bool, where the object is thought to be.
        rule: ``"whole"``, ``"score"`` or ``"overlap"``.

    Returns:
        Index of the segment; of equal ones the larger.
    """
    if rule == "whole":
        return len(answer) - 1
    merits = np.asarray(answer.scores, np.float64)
    if rule == "overlap":
        common = answer.overlaps(wanted)
        merits = common / np.maximum(answer.areas() + wanted.sum() - common, 1)
    return len(merits) - 1 - int(merits[::-1].argmax())


def soft_mask(answer: Segments, index: int) -> Floats:
    """Give a segment with its logits, (H, W): positive inside, 0 outside; 1 without logits."""
    mask = answer.mask(index).astype(np.float32)
    if answer.logits is None:
        return mask
    import cv2

    height, width = answer.size
    logits = cv2.resize(answer.logits[index], (width, height), interpolation=cv2.INTER_LINEAR)
    # A pixel of the mask whose logit was lost in the reduction is still in the mask.
    return mask * np.maximum(logits.astype(np.float32), np.float32(_LEAST_EVIDENCE))


def _class_mask(
    opened: OpenedImage,
    values: np.ndarray,
    row: int,
    prompts: Sequence[Prompt],
    config: MapPrompts,
) -> Floats | None:
    """Ask for one class: (H, W) logits, 0 outside of its masks; None without an answer."""
    wanted = values[row] >= config.box_threshold
    found = [
        soft_mask(answer, choose_answer(answer, wanted, config.choose))
        for answer in (opened.at(prompts) if prompts else [])
        if len(answer)
    ]
    if not found:
        return None
    joined: Floats = np.max(found, axis=0)
    return joined if joined.any() else None


def _combined(values: np.ndarray, masks: list[Floats | None]) -> Floats:
    """Let classes compete for pixels by their confidence."""
    means = [
        0.0 if mask is None else float(values[row][mask > 0].mean(dtype=np.float64))
        for row, mask in enumerate(masks, start=1)
    ]
    zeros = np.zeros(values.shape[1:], np.float32)
    confidence = np.stack(
        [zeros if m is None else m * np.float32(w) for m, w in zip(masks, means, strict=True)]
    )
    found = np.zeros_like(values)
    winner = confidence.argmax(axis=0)
    is_masked = confidence.max(axis=0) > 0
    old_winner = values.argmax(axis=0)
    for row, mask in enumerate(masks, start=1):
        if mask is None:
            kept = ~is_masked & (old_winner == row) & (values[row] > 0)
            found[row][kept] = values[row][kept]
        else:
            won = is_masked & (winner == row - 1)
            found[row][won] = np.clip(means[row - 1], _LEAST_EVIDENCE, 1)
    found[0][~found[1:].any(axis=0)] = 1
    return found


def _prompt(points: np.ndarray, others: np.ndarray, box: np.ndarray | None = None) -> Prompt:
    positive = np.arange(len(points) + len(others)) < len(points)
    if box is not None:
        others = others[_in_box(others, box)]
        positive = positive[: len(points) + len(others)]
    return Prompt(np.concatenate([points, others]), positive, box)


def _in_box(points: np.ndarray, box: np.ndarray) -> npt.NDArray[np.bool_]:
    is_within = (points >= box[:2]) & (points < box[2:])
    inside: npt.NDArray[np.bool_] = np.all(is_within, axis=1)
    return inside


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[1]), int(point[0])
