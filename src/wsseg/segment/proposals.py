"""BoxSup: each box takes a segment of the image that fits the box and the network.

With B a person's box of class c, S a segment and b(S) the smallest box around it:

    cost(S) = 1 - IoU(B, b(S)) + weight * mean over pixels of B of CE(network, labels that S makes)

where S makes its pixels c and the rest of B background. One of the ``top`` segments of the lowest
cost is drawn, so that a wrong choice is not made again and again; training and choice alternate.

Reference: Dai, He and Sun, "BoxSup: Exploiting Bounding Boxes to Supervise Convolutional Networks
for Semantic Segmentation", ICCV 2015 (from memory; weight 3, top 5). Differences: segments are
those of a backend of `wsseg.cues.segments` in place of MCG; the network's cost is a mean over the
box and not a sum over the image, so that it means the same in boxes of all sizes; a segment is
cut at its box; a box that no segment fits keeps its first label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsseg.cues.segments import Segments, SegmentsContext
from wsseg.cues.segments_config import Superpixels
from wsseg.cues.segments_source import all_segments
from wsseg.data.labels import BACKGROUND
from wsseg.device import best_device
from wsseg.segment.draft import Bools, Draft, Floats, ImageFacts, box_pixels
from wsseg.segment.rounds_config import ProposalsCleanup

# Probabilities below this cost no more, so that one pixel cannot decide alone.
_LEAST_PROBABILITY = 1e-5


def proposals(
    draft: Draft, facts: ImageFacts, config: ProposalsCleanup = ProposalsCleanup()
) -> Draft:
    """Replace the prediction by one segment per box; smaller boxes lie in front.

    Args:
        draft: The prediction.
        facts: The image with its boxes, and the first mask; an image without boxes is left as it
            is.
        config: Segments, weight of the network and how many are drawn from.

    Returns:
        A draft with certain labels everywhere: segments, background around them, and 255 where
        a box that no segment fits has it in its first mask.
    """
    boxes = facts.labels.boxes
    if boxes is None or not len(boxes):
        return draft
    context = SegmentsContext(facts.sample_id, best_device(), facts.segments_dir, facts.shared)
    found = all_segments(facts.image, config.segments or Superpixels(), context)
    tight = tight_boxes(found)
    rng = np.random.default_rng(facts.seed)
    size = (draft.ignored.shape[0], draft.ignored.shape[1])
    result = np.full(size, BACKGROUND, np.uint8)
    places = box_pixels(boxes, size)
    areas = [result[place].size for place in places]
    for index in np.argsort(areas, kind="stable")[::-1].tolist():
        place, class_id = places[index], int(boxes.class_ids[index])
        overlaps = box_ious(tight, _edges(place))
        chosen = np.flatnonzero(overlaps >= config.min_overlap)
        inside = np.array([found.mask(i)[place] for i in chosen.tolist()], np.bool_)
        view, first = result[place], facts.first[place]
        if not inside.any():
            view[first != BACKGROUND] = first[first != BACKGROUND]
            continue
        costs = 1 - overlaps[chosen]
        if config.network_weight > 0:
            network = network_costs(draft.probabilities[:, *place], inside, class_id)
            costs = costs + config.network_weight * network
        costs[~inside.any(axis=(1, 2))] = np.inf
        best = np.argsort(costs, kind="stable")[: min(config.top, int(np.isfinite(costs).sum()))]
        view[inside[int(rng.choice(best))]] = class_id
    return draft.assigned(np.ones(size, np.bool_), result)


def _edges(place: tuple[slice, slice]) -> NDArray[np.float64]:
    rows, columns = place
    return np.array([columns.start, rows.start, columns.stop, rows.stop], np.float64)


def tight_boxes(segments: Segments) -> NDArray[np.float64]:
    """Find the smallest box around each segment: (S, 4) xyxy, half-open; zeros where empty."""
    found = np.zeros((len(segments), 4))
    for index in range(len(segments)):
        mask = segments.mask(index)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            found[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return found


def box_ious(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the IoU of boxes (S, 4) with a box (4,), xyxy: (S,).

    Example:
        >>> box_ious(np.array([[0.0, 0, 2, 2], [1, 0, 3, 2]]), np.array([0.0, 0, 2, 2])).round(3)
        array([1.   , 0.333])
    """
    width = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
    height = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = areas + (box[2] - box[0]) * (box[3] - box[1]) - shared
    return shared / np.where(union > 0, union, 1)


def network_costs(probabilities: Floats, inside: Bools, class_id: int) -> NDArray[np.float64]:
    """Compute the mean cross-entropy in a box of the labels that segments make.

    Args:
        probabilities: (C + 1, h, w) of the box.
        inside: (S, h, w) bool, the segments cut at the box.
        class_id: What their pixels are; the rest of the box is background.

    Returns:
        (S,) float64.
    """
    log_p = np.log(np.clip(probabilities[[BACKGROUND, class_id]], _LEAST_PROBABILITY, 1.0))
    background, foreground = -log_p.astype(np.float64).reshape(2, -1)
    gain = foreground - background
    costs: NDArray[np.float64] = background.mean() + (
        inside.reshape(len(inside), -1) @ gain / gain.size
    )
    return costs
