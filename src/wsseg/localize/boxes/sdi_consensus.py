"""Consensus of two opinions per box: the best segment and GrabCut (SDI's M∩G+).

For each box, M is the segment whose own box overlaps it most, and G what GrabCut cuts out of it.
Where both say object the pixel has the class; where both say not, it is not of the object; where
they disagree it is unknown. Smaller boxes lie in front. Where there is only one opinion, the box
itself stands in for the other one; where there is none, or they hardly meet, the box becomes what
`fallback` says.

Reference: A. Khoreva et al., "Simple Does It: Weakly Supervised Instance and Semantic
Segmentation", CVPR 2017 (M∩G+; from memory). Differences: segments are those of a backend of
`wsseg.cues.segments` in place of MCG's proposals, by default its answers to the box, and are cut at
the box; GrabCut has no trained edge detector; what happens where an opinion is missing is ours.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from wsseg.cues.segments import Prompt, Segments, SegmentsContext, SegmentsField
from wsseg.cues.segments_config import Superpixels
from wsseg.cues.segments_source import all_segments, open_kept
from wsseg.data.labels import IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.grabcut import GrabcutConfig, cut_box, paint_fallback
from wsseg.localize.boxes.grabcut_jitter import GrabcutJitter, foreground_votes
from wsseg.localize.boxes.grabcut_segment import Bools
from wsseg.localize.boxes.windows import BoxWindow, front_last, outside_of_boxes
from wsseg.localize.direct import LocalizeContext, scores_of_mask

if TYPE_CHECKING:
    from wsseg.cues.segments import OpenedImage


class SdiConsensus(GrabcutConfig):
    """Settings of `sdi_consensus`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    name: Literal["sdi_consensus"] = Field(
        "sdi_consensus", description="What the best segment of a box and GrabCut agree on."
    )
    segments: SegmentsField = Field(
        Superpixels(), description="Where segments come from: superpixels, sam or folder."
    )
    ask: Literal["all", "box"] = Field(
        "box",
        description="Which segments a box chooses from: box, those that the backend answers to "
        "the box as a prompt; all, those of the whole image, as in the paper.",
    )
    min_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least IoU of the box with the segment's own box; below there is no segment.",
    )
    runs: int = Field(
        1,
        ge=1,
        le=1000,
        description="GrabCuts per box: 1, of the box as it is; more: of moved copies, whose share "
        "of votes counts as in grabcut_jitter.",
    )
    jitter_frac: float = Field(
        0.05, gt=0, le=0.5, description="With several runs: how far edges move, part of the sides."
    )
    foreground: float = Field(
        0.7, gt=0, le=1, description="With several runs: share of votes from which it is object."
    )
    background: float = Field(
        0.2, gt=0, le=1, description="With several runs: share below which it is not."
    )
    fallback: Literal["filled", "inner"] = Field(
        "inner",
        description="What a box becomes without any opinion: filled with its class, or its inner "
        "fifth with the rest unknown.",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.runs > 1 and self.background > self.foreground:
            raise ValueError(
                f"background is {self.background}; with several runs it must not be above "
                f"foreground ({self.foreground})."
            )
        return self


def sdi_consensus(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: SdiConsensus = SdiConsensus(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Give pixels of boxes their class where segment and GrabCut agree.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with boxes, in pixels of the image.
        config: Segments, GrabCut and when they are believed.
        context: Seed, device and where segments are kept; takes notes.

    Returns:
        Scores (K, H, W) of 0 and 1; where the two disagree they are 0 in all rows.
    """
    context = context or LocalizeContext()
    size = (image.shape[0], image.shape[1])
    mask = np.full(size, outside_of_boxes(labels, size, context), np.uint8)
    windows = front_last(labels, size, context)
    segments = _segments_of(image, windows, config, context)
    rng = np.random.default_rng([context.seed, zlib.crc32(context.sample_id.encode())])
    fallen = bare = 0
    for window, segment in zip(windows, segments, strict=True):
        bare += segment is None
        cut = _opinion_of_grabcut(image, window, config, context.seed, rng)
        if not paint_consensus(mask, window, segment, cut, config.min_frac):
            fallen += 1
            paint_fallback(mask, window, config)
    _note(context, len(windows), bare, fallen)
    return scores_of_mask(mask, (window.class_id for window in windows))


def paint_consensus(
    mask: npt.NDArray[np.uint8],
    window: BoxWindow,
    segment: Bools | None,
    cut: tuple[Bools, Bools] | None,
    min_frac: float,
) -> bool:
    """Paint what two opinions on a box agree on into a label map, in place.

    Args:
        mask: (H, W) uint8; changed within the box.
        window: The box.
        segment: (h, w) bool of the box, the pixels of its segment; None: there is none.
        cut: (h, w) bool of the box, pixels that GrabCut calls object, and those that it does not
            exclude; None: it found nothing.
        min_frac: Least part of the box that both must call object.

    Returns:
        Whether there was anything to agree on; the map is unchanged otherwise.

    Example:
        >>> mask = np.zeros((1, 6), np.uint8)
        >>> m = np.array([[True, True, False, False]])
        >>> g = np.array([[False, True, True, False]])
        >>> paint_consensus(mask, BoxWindow(3, 0, 1, 1, 5), m, (g, g), 0.1), mask.tolist()
        (True, [[0, 255, 3, 255, 0, 0]])
    """
    if segment is None and cut is None:
        return False
    part = mask[window.slices]
    whole = np.ones(part.shape, np.bool_)
    first = whole if segment is None else segment
    sure, possible = (whole, whole) if cut is None else cut
    agreed = first & sure
    if agreed.mean() < min_frac:
        return False
    part[first | possible] = IGNORE
    part[agreed] = window.class_id
    return True


def best_segment(segments: Segments, window: BoxWindow, min_overlap: float) -> Bools | None:
    """Choose the segment whose own box overlaps a box most, cut at it.

    Args:
        segments: Segments of the image, the best first; of equal overlaps the first wins.
        window: The box.
        min_overlap: Least IoU of the two boxes.

    Returns:
        (h, w) bool of the box; None where no segment overlaps enough.
    """
    from wsseg.segment.proposals import box_ious, tight_boxes

    if not len(segments):
        return None
    edges = np.array([window.left, window.top, window.right, window.bottom], np.float64)
    overlaps = box_ious(tight_boxes(segments), edges)
    best = int(overlaps.argmax())
    if overlaps[best] <= 0 or overlaps[best] < min_overlap:
        return None
    return segments.mask(best)[window.slices]


def _segments_of(
    image: np.ndarray, windows: list[BoxWindow], config: SdiConsensus, context: LocalizeContext
) -> list[Bools | None]:
    """Find the segment of every box, (h, w) bool of the box."""
    if not windows:
        return []
    known = SegmentsContext(context.sample_id, context.device, context.segments_dir, context.shared)
    if config.ask == "all":
        found = [all_segments(image, config.segments, known)] * len(windows)
    else:
        opened: OpenedImage = open_kept(image, config.segments, known)
        prompts = [Prompt(box=(w.left, w.top, w.right, w.bottom)) for w in windows]
        found = opened.at(prompts)
    return [
        best_segment(answer, window, config.min_overlap)
        for answer, window in zip(found, windows, strict=True)
    ]


def _opinion_of_grabcut(
    image: np.ndarray,
    window: BoxWindow,
    config: SdiConsensus,
    seed: int,
    rng: np.random.Generator,
) -> tuple[Bools, Bools] | None:
    """Say which pixels of a box are object, and which might be; None where it cannot be right."""
    if config.runs == 1:
        found = cut_box(image, window, config, seed)
        return None if found is None else (found, found)
    shared = set(GrabcutJitter.model_fields) - {"name"}
    votes = foreground_votes(
        image, window, GrabcutJitter.model_validate(config.model_dump(include=shared)), rng
    )
    sure = votes >= config.foreground
    if not config.min_frac <= sure.mean() <= config.max_frac:
        return None
    return sure, votes >= config.background


def _note(context: LocalizeContext, num_boxes: int, bare: int, fallen: int) -> None:
    context.facts |= {"boxes": num_boxes, "without_segment": bare, "fallback_boxes": fallen}
    if fallen:
        context.note(
            f"{fallen} of {num_boxes} box(es) are taken by themselves: no segment and no GrabCut, "
            "or they do not meet"
        )
