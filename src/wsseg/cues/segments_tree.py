"""Segments without weights: the regions of a merging tree over superpixels that survive longest.

The tree (`wsseg.cues.region_tree`) gives nested regions from superpixels to the whole image. A
region is a segment when it stays about the same while the tree is climbed: with b the height at
which it was formed, d the height at which it is swallowed by a larger one, its stability is

    1 - exp(-(d - b) / scale),      scale in Lab units

Two nested regions are the same while the smaller covers 90 % of the larger.

* everything: all regions by falling stability, without those that nearly repeat a better one.
* points: the tree distance of a superpixel from a point is the height at which both are in one
  region. The regions within t of a positive point, and nearer to it than to any negative one, are
  an answer for every t; those that stay longest are given.
* box: a superpixel's exit is the height of the first region around it that lies outside the box
  by more than a tenth. What exits at t or above is an answer for every t: background that reaches
  into the box leaves early, an object late. A region that holds a negative point is outside, too.
  The stability is multiplied by the IoU of the box with the answer's own box.

An own method, after the idea of extremal regions: J. Matas, O. Chum, M. Urban, T. Pajdla, "Robust
Wide Baseline Stereo from Maximally Stable Extremal Regions", BMVC 2002 (from memory). It knows
colour and edges only: what is of several colours, such as a clothed person, comes in parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsseg.cues.protocol import check_rgb
from wsseg.cues.region_tree import Doubles, Ints, RegionTree, build_tree
from wsseg.cues.segments import OpenedImage, Prompt, Segments, SegmentsContext, check_points
from wsseg.cues.segments_config import Superpixels
from wsseg.cues.superpixels import superpixels

__all__ = ["Superpixels", "TreeSegments", "lifetimes", "superpixel_tree"]

# Two nested regions are the same when the smaller covers this share of the larger.
_SAME = 0.9
# A region is in a box when this share of its pixels is.
_INSIDE = 0.9
_MAX_ANSWERS = 3


def superpixel_tree(
    image: np.ndarray,
    *,
    config: Superpixels = Superpixels(),
    context: SegmentsContext | None = None,  # noqa: ARG001 - every backend has this signature
) -> OpenedImage:
    """Build the region tree of an image.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        config: Superpixels, differences and what counts as a segment.
        context: Not used.

    Returns:
        What answers `everything` and `at`.

    Raises:
        DataError: When the image is no (H, W, 3) uint8 array.
    """
    check_rgb(image)
    labels = superpixels(image, config.superpixels)
    return TreeSegments(build_tree(image, labels, config.merge), config)


class TreeSegments:
    """Answers from the region tree of one image.

    Args:
        tree: The tree.
        config: What counts as a segment.
    """

    def __init__(self, tree: RegionTree, config: Superpixels) -> None:
        from wsseg.kernels._region_tree_passes import survival

        self.tree = tree
        self.config = config
        survived = survival(tree.parents, tree.heights, tree.areas, tree.children, _SAME)
        self.stability: Doubles = self._stability(survived)
        # Boxes of the superpixels in the order of the leaves, x0, y0, x1, y1.
        self._leaf_boxes = _boxes_of(tree.ranks, tree.num_leaves)
        self._leaf_areas = np.bincount(tree.ranks.reshape(-1)).astype(np.float64)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self.tree.ranks.shape
        return height, width

    def everything(self) -> Segments:
        """List the stable regions of the whole image, the most stable first; see `OpenedImage`."""
        tree, config = self.tree, self.config
        max_area = config.max_area_frac * tree.ranks.size
        is_candidate = (self.stability >= config.min_stability) & (self.stability > 0)
        is_candidate &= (tree.areas >= config.min_area_px) & (tree.areas <= max_area)
        nodes = np.flatnonzero(is_candidate)
        # Of equally stable ones the larger comes first.
        nodes = nodes[np.lexsort((nodes, -tree.areas[nodes], -self.stability[nodes]))]
        kept: list[int] = []
        for node in nodes.tolist():
            if len(kept) == config.max_segments:
                break
            if not self._repeats(node, np.array(kept, np.int64)):
                kept.append(node)
        chosen = [(tree.first[node], tree.after[node]) for node in kept]
        members = np.zeros((len(kept), tree.num_leaves), bool)
        for row, (first, after) in zip(members, chosen, strict=True):
            row[first:after] = True
        return self._segments(members, self.stability[kept])

    def at(self, prompts: Sequence[Prompt]) -> list[Segments]:
        """Say what is at points or in boxes; see `OpenedImage`."""
        return [self._answer(prompt) for prompt in prompts]

    def _stability(self, survived: Doubles) -> Doubles:
        found: Doubles = 1 - np.exp(-survived / self.config.scale)
        return found

    def _repeats(self, node: int, kept: Ints) -> bool:
        """Tell whether a region nearly repeats one of those kept; regions are nested or apart."""
        tree = self.tree
        is_around = (tree.first[kept] <= tree.first[node]) & (tree.after[kept] >= tree.after[node])
        is_within = (tree.first[kept] >= tree.first[node]) & (tree.after[kept] <= tree.after[node])
        related = tree.areas[kept][is_around | is_within]
        area = tree.areas[node]
        iou = np.minimum(related, area) / np.maximum(related, area)
        return bool((iou > self.config.max_iou).any())

    def _answer(self, prompt: Prompt) -> Segments:
        """Cut a family of nested areas at its most stable places."""
        check_points(prompt, self.size)
        num_leaves = self.tree.num_leaves
        allowed = np.ones(num_leaves, bool)
        late, limit = np.zeros(num_leaves), float(self.tree.heights[-1])
        if prompt.box is not None:
            exits = self._exits(prompt.box, prompt.points[~prompt.positive])
            allowed = exits >= 0
            late, limit = -exits, 0.0
        if prompt.positive.any():
            positive = self._distances(prompt.points[prompt.positive])
            negative = self._distances(prompt.points[~prompt.positive])
            allowed &= positive < negative
            late, limit = positive, float(self.tree.heights[-1])
        return self._cut(late, limit, allowed, prompt.box)

    def _cut(
        self, late: Doubles, limit: float, allowed: npt.NDArray[np.bool_], box: np.ndarray | None
    ) -> Segments:
        """Choose among the areas {leaf: late <= t} those that stay the same over most of t.

        Args:
            late: (n,) when each leaf joins the area.
            limit: When all have joined.
            allowed: (n,) which leaves may.
            box: The box of the prompt, or None.
        """
        leaves = np.flatnonzero(allowed)
        leaves = leaves[np.argsort(late[leaves], kind="stable")]
        if not len(leaves):
            return self._segments(np.zeros((0, self.tree.num_leaves), bool), np.zeros(0))
        joined = late[leaves]
        ends = np.flatnonzero(np.append(joined[1:] > joined[:-1], True))
        areas = np.cumsum(self._leaf_areas[leaves])[ends]
        times = joined[ends]
        scores = self._stability(lifetimes(times, areas, limit))
        if box is not None:
            scores = scores * _box_iou(self._growing_boxes(leaves)[ends], box)
        else:
            scores[areas > self.config.max_area_frac * self.tree.ranks.size] = 0
        picked = self._best(scores, areas)
        members = np.zeros((len(picked), self.tree.num_leaves), bool)
        for row, index in zip(members, picked, strict=True):
            row[leaves[: ends[index] + 1]] = True
        return self._segments(members, scores[picked])

    def _best(self, scores: Doubles, areas: Doubles) -> Ints:
        """Pick up to three areas of a nested family, without repeats, by rising area."""
        picked: list[int] = []
        for index in np.argsort(-scores, kind="stable").tolist():
            if scores[index] <= 0 or len(picked) == _MAX_ANSWERS:
                break
            others = areas[picked]
            iou = np.minimum(others, areas[index]) / np.maximum(others, areas[index])
            if not (iou > self.config.max_iou).any():
                picked.append(index)
        return np.sort(np.array(picked, np.int64))

    def _distances(self, points: np.ndarray) -> Doubles:
        """Compute the tree distance of every leaf to the nearest point; infinite without points."""
        tree = self.tree
        found = np.full(tree.num_leaves, np.inf)
        order = np.argsort(tree.first[: tree.num_leaves])
        for rank in {int(tree.ranks[int(y), int(x)]) for x, y in points}:
            node = int(order[rank])
            found[rank] = 0.0
            low, high = rank, rank + 1
            while tree.parents[node] >= 0:
                node = int(tree.parents[node])
                height = tree.heights[node]
                first, after = tree.first[node], tree.after[node]
                for part in (slice(first, low), slice(high, after)):
                    np.minimum(found[part], height, out=found[part])
                low, high = first, after
        return found

    def _exits(self, box: np.ndarray, outside: np.ndarray) -> Doubles:
        """Compute at which height each leaf leaves the box; -1 for what does not lie in it.

        Args:
            box: (4,) x0, y0, x1, y1.
            outside: (P, 2) points; regions that hold one count as outside of the box.
        """
        tree = self.tree
        x0, y0, x1, y1 = _pixels_of(box, self.size)
        counts = np.bincount(tree.ranks[y0:y1, x0:x1].reshape(-1), minlength=tree.num_leaves)
        total = np.concatenate([[0], np.cumsum(counts)])
        inside = total[tree.after] - total[tree.first] >= _INSIDE * tree.areas
        for x, y in outside:
            rank = tree.ranks[int(y), int(x)]
            inside &= ~((tree.first <= rank) & (rank < tree.after))
        # A region that reaches out of the box is where the regions in it leave; the root is, too.
        exits = np.where(tree.children[:, 0] < 0, -1.0, tree.heights)
        exits[-1] = tree.heights[-1] if tree.num_leaves > 1 or inside[-1] else -1.0
        for node in range(len(exits) - 2, -1, -1):
            if inside[node]:
                exits[node] = exits[tree.parents[node]]
        found = np.empty(tree.num_leaves)
        found[tree.first[: tree.num_leaves]] = exits[: tree.num_leaves]
        return found

    def _growing_boxes(self, leaves: Ints) -> npt.NDArray[np.int64]:
        """Compute the boxes around the first 1, 2, ... leaves, (n, 4)."""
        boxes = self._leaf_boxes[leaves]
        low = np.minimum.accumulate(boxes[:, :2], axis=0)
        high = np.maximum.accumulate(boxes[:, 2:], axis=0)
        return np.concatenate([low, high], axis=1)

    def _segments(self, members: npt.NDArray[np.bool_], scores: Doubles) -> Segments:
        """Draw sets of leaves."""
        height, width = self.size
        packed = np.empty((len(members), (height * width + 7) // 8), np.uint8)
        for row, leaves in zip(packed, members, strict=True):
            row[:] = np.packbits(leaves[self.tree.ranks].reshape(-1))
        return Segments(packed, np.clip(scores, 0, 1).astype(np.float32), self.size)


def lifetimes(times: Doubles, areas: Doubles, limit: float) -> Doubles:
    """Measure how long each of a growing series of areas stays about the same.

    Args:
        times: (m,) rising, when each area begins.
        areas: (m,) rising.
        limit: When the series ends.

    Returns:
        (m,) float64 >= 0: from the first area that is about the same to the first that is larger.

    Example:
        >>> lifetimes(np.array([0.0, 2.0, 3.0]), np.array([10.0, 95.0, 100.0]), 5.0).tolist()
        [2.0, 3.0, 3.0]
    """
    born = times[np.searchsorted(areas, _SAME * areas, side="left")]
    ends = np.searchsorted(areas, areas / _SAME, side="right")
    found: Doubles = np.append(times, max(limit, float(times[-1])))[ends] - born
    return found


def _pixels_of(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Round a box outwards to whole pixels of the image."""
    height, width = size
    x0, y0 = (max(0, int(np.floor(value))) for value in box[:2])
    x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    return x0, y0, max(x0, x1), max(y0, y1)


def _boxes_of(ranks: np.ndarray, num_leaves: int) -> npt.NDArray[np.int64]:
    """Compute the boxes around the leaves, (n, 4) x0, y0, x1, y1, half-open."""
    from scipy.ndimage import find_objects

    found = np.empty((num_leaves, 4), np.int64)
    for row, place in zip(found, find_objects(ranks + 1, num_leaves), strict=True):
        row[:] = place[1].start, place[0].start, place[1].stop, place[0].stop
    return found


def _box_iou(boxes: np.ndarray, box: np.ndarray) -> Doubles:
    """Compute the IoU of boxes (n, 4) with one box."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    found: Doubles = common / (areas - common)
    return found
