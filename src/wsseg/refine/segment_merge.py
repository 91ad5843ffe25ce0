"""Segment merging (SEPL): classes take over the segments that they mostly cover.

Reference: Chen, Mai, Li and Chao, "Segment Anything Model (SAM) Enhanced Pseudo Labels for Weakly
Supervised Semantic Segmentation", 2023 (authors from memory). With P the area where class c wins,
and M the segments that no class took before, in the order of the class ids:

    c takes M when |P and M| > |M| / 2, or |P and M| >= 0.85 |P|
    area of c = union of its segments, and what of P lies in no segment at all

What of P lies only in segments that c did not take becomes background; areas of later classes lie
on top. Three variants: `max_iou_imp2` is all of it, `max_iou_imp` lacks the second condition, and
`max_iou` also the part of P in no segment.

Differences: any segments, not only those of SAM. The option ``order: overlap`` gives each segment
to the class of which it holds the largest share, and lets the larger share lie on top, so that the
numbers of the classes do not matter. An image without any segment keeps its scores, which the
manifest notes. The background row must be filled before, by a background rule or a threshold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.cues.segments import Segments, SegmentsContext, SegmentsField
from wsseg.cues.segments_config import Superpixels
from wsseg.cues.segments_source import all_segments
from wsseg.data.scores import Scores
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image

Bools = npt.NDArray[np.bool_]

_SHARE_OF_SEGMENT = 0.5
_SHARE_OF_CLASS = 0.85


class SegmentMerge(MethodConfig):
    """Settings of `segment_merge`."""

    name: Literal["segment_merge"] = Field(
        "segment_merge", description="Which refiner: classes take over segments (SEPL)."
    )
    variant: Literal["max_iou", "max_iou_imp", "max_iou_imp2"] = Field(
        "max_iou_imp2",
        description="max_iou: segments that the class covers by more than a half. max_iou_imp: and "
        "its pixels in no segment. max_iou_imp2: and segments that hold 85 % of the class.",
    )
    order: Literal["index", "overlap"] = Field(
        "index",
        description="Who takes a segment that several classes may: index, the first by class id, "
        "as published; overlap, the one that covers the largest share of it.",
    )
    segments: SegmentsField = Field(
        Superpixels(),
        description="Where segments come from: superpixels (null, too), sam or folder.",
    )


def segment_merge(
    image: np.ndarray,
    scores: Scores,
    *,
    config: SegmentMerge = SegmentMerge(),
    context: RefineContext | None = None,
) -> Scores:
    """Let classes take over the segments that they mostly cover.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: Scores of the image, with a filled background row.
        config: Which segments, and the rule.
        context: Where segments are kept.

    Returns:
        Scores at full size (K, H, W), 1 for the class of a pixel and 0 for the others; pixels
        without any evidence, outside of the taken segments, keep having none. An image without
        segments keeps its scores; one without classes is background everywhere.

    Raises:
        DataError: When the image does not belong to the scores, or its segments cannot be had.
    """
    check_image(image, scores)
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    context = context or RefineContext()
    segments = all_segments(image, config.segments, segments_context(context))
    if len(segments) == 0:
        context.facts["note"] = "no segment; scores kept"
        return full
    context.facts["segments"] = len(segments)
    is_known = full.values.max(axis=0) > 0
    winners = np.where(is_known, full.class_ids[full.values.argmax(axis=0)], 0)
    merged = merge(winners, segments, config)
    hard = (merged == full.class_ids[:, None, None]) & (is_known | (merged > 0))
    return replace(full, values=hard.astype(np.float32))


def segments_context(context: RefineContext) -> SegmentsContext:
    """Tell a backend of segments what a refiner knows."""
    folder = None if context.cues_dir is None else context.cues_dir / "segments"
    return SegmentsContext(context.sample_id, context.device, folder, context.shared)


def merge(
    labels: npt.NDArray[np.integer], segments: Segments, config: SegmentMerge
) -> npt.NDArray[np.uint8]:
    """Give segments to classes.

    Args:
        labels: (H, W) class ids, 0 for the background.
        segments: The segments of the image.
        config: Variant and order.

    Returns:
        (H, W) uint8 class ids.

    Example:
        >>> labels = np.array([[1, 1, 1, 0, 0, 0, 1, 1]])
        >>> masks = np.zeros((2, 1, 8), bool)
        >>> masks[0, 0, :5] = masks[1, 0, 5:7] = True
        >>> segments = Segments.of_masks(masks, np.ones(2))
        >>> merge(labels, segments, SegmentMerge()).tolist()
        [[1, 1, 1, 1, 1, 0, 0, 1]]
    """
    class_ids = np.unique(labels[labels > 0])
    areas = segments.areas()
    rows = [segments.overlaps(labels == class_id) for class_id in class_ids]
    common = np.array(rows, np.int64).reshape(len(class_ids), len(segments))
    taken = _taken(common, areas, labels, config)
    is_covered = _union(segments, np.arange(len(segments)))
    found = np.zeros(labels.shape, np.uint8)
    if config.variant != "max_iou":
        found[~is_covered] = labels[~is_covered]
    for row, index in taken:
        found[segments.mask(index)] = class_ids[row]
    return found


def _taken(
    common: npt.NDArray[np.int64],
    areas: npt.NDArray[np.int64],
    labels: npt.NDArray[np.integer],
    config: SegmentMerge,
) -> list[tuple[int, int]]:
    """List which class takes which segment, in the order of painting.

    Args:
        common: (C, S) pixels that classes share with segments.
        areas: (S,) pixels of the segments.
        labels: (H, W) class ids.
        config: Variant and order.
    """
    may_take = common > _SHARE_OF_SEGMENT * areas
    if config.variant == "max_iou_imp2":
        sizes = np.array([(labels == c).sum() for c in np.unique(labels[labels > 0])])
        may_take |= common >= _SHARE_OF_CLASS * sizes[:, None]
    rows, indices = np.nonzero(may_take)
    pairs = list(zip(rows.tolist(), indices.tolist(), strict=True))
    shares = common / np.maximum(areas, 1)
    if config.order == "overlap":
        # Of equal shares the class of the lower id goes first.
        pairs.sort(key=lambda pair: (-shares[pair], pair))
    seen: set[int] = set()
    taken = []
    for row, index in pairs:
        if index not in seen:
            seen.add(index)
            taken.append((row, index))
    return taken[::-1] if config.order == "overlap" else taken


def _union(segments: Segments, indices: npt.NDArray[np.intp]) -> Bools:
    """Join segments: (H, W) bool."""
    packed = np.bitwise_or.reduce(segments.packed[indices], axis=0)[None]
    return Segments(packed, np.ones(1, np.float32), segments.size).mask(0)
