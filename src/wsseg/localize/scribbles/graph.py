"""Images as graphs: superpixels are nodes, and seeds give some of them their class.

Every node is a superpixel. Where seeds of a class share a superpixel with seeds of another one,
each class gets a node of its own, and what is left of the superpixel is a third one, so that no
node has two classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.localize.boxes.windows import front_last
from wsseg.localize.direct import LocalizeContext
from wsseg.localize.points.marks import SeedMap, draw_marks, ridges
from wsseg.localize.points.seed_map import SeedLocalizerConfig, border_background, seeds_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of an image.

    Args:
        cells: (H, W) int64, node of every pixel, numbered from 0.
        seeds: (n,) uint8, class of each node, 255 where none of its pixels is a seed.
    """

    cells: Ints
    seeds: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def sizes(self) -> Ints:
        """(n,) int64, pixels of each node."""
        return np.bincount(self.cells.ravel(), minlength=len(self))

    def mean(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Average (H, W, d) values over each node: (n, d) float64."""
        flat = self.cells.ravel()
        columns = values.reshape(len(flat), -1).T
        sums = [np.bincount(flat, weights=column, minlength=len(self)) for column in columns]
        return np.stack(sums, axis=1) / self.sizes[:, None]


def nodes_of(cells: npt.NDArray[np.integer], seeds: SeedMap) -> Nodes:
    """Make nodes from superpixels and seeds, none of which has two classes.

    Args:
        cells: (H, W) superpixel of every pixel.
        seeds: (H, W) uint8 seeds, 255 where nothing is known.

    Returns:
        The nodes; superpixels without contest stay whole.

    Example:
        >>> nodes = nodes_of(np.array([[0, 0, 0, 1, 1]]), np.array([[3, 255, 0, 255, 3]], np.uint8))
        >>> nodes.cells.tolist(), nodes.seeds.tolist()
        ([[1, 2, 0, 3, 3]], [0, 3, 255, 3])
    """
    flat, marks = cells.ravel().astype(np.int64), seeds.ravel()
    is_seed = marks != IGNORE
    low = np.full(int(flat.max()) + 1, IGNORE, np.int64)
    high = np.full(len(low), -1, np.int64)
    np.minimum.at(low, flat[is_seed], marks[is_seed])
    np.maximum.at(high, flat[is_seed], marks[is_seed])
    is_contested = (high > low)[flat]
    keys = flat * (IGNORE + 1) + np.where(is_contested, marks, 0)
    number = np.unique(keys, return_inverse=True)[1].ravel()
    classes = np.full(int(number.max()) + 1, IGNORE, np.uint8)
    classes[number[is_seed]] = marks[is_seed]
    return Nodes(number.reshape(cells.shape), classes)


def neighbours(cells: Ints) -> Ints:
    """List the pairs of nodes that touch.

    Args:
        cells: (H, W) node of every pixel.

    Returns:
        (m, 2) int64, each pair once, the lower number first, in ascending order.

    Example:
        >>> neighbours(np.array([[0, 1], [2, 1]])).tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    across = np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], axis=1)
    down = np.stack([cells[:-1].ravel(), cells[1:].ravel()], axis=1)
    return unique_pairs(np.concatenate([across, down]))


def unique_pairs(pairs: Ints) -> Ints:
    """Sort (m, 2) pairs, and drop doubles and those of a node with itself."""
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if not len(pairs):
        return np.zeros((0, 2), np.int64)
    return np.unique(np.sort(pairs, axis=1), axis=0).astype(np.int64)


def seeds_with_boxes(
    image: npt.NDArray[np.uint8],
    labels: WeakLabels,
    config: SeedLocalizerConfig,
    inner_frac: float,
    context: LocalizeContext | None = None,
) -> SeedMap:
    """Draw the seeds of an image: points, scribbles, and the middle and the outside of boxes.

    The outside of all boxes is no object of a class with boxes. It counts as background, also where
    a tagged class has no label at all: the others need something to grow against, and the caller
    passes the result to `wsseg.localize.points.left_open.left_open`. Where a class has points or
    scribbles and no box, its object may lie outside, and superpixels at the border stand in.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: Its labels, in pixels of the image.
        config: How points and scribbles are drawn, and whether superpixels at the border stand in
            for the background where neither scribbles nor boxes tell it.
        inner_frac: Share of a box's area, around its middle, that is taken for its class.
        context: Takes notes.

    Returns:
        (H, W) uint8: 0 background, class ids, 255 where nothing is known. Points and scribbles win
        over boxes, also where they contradict each other.
    """
    size = (image.shape[0], image.shape[1])
    windows = front_last(labels, size, context)
    if not windows:
        return seeds_of(image, labels, config, context, stand_in=True)
    drawn, contested = draw_marks(
        labels,
        size,
        point_radius_px=config.point_radius_px,
        point_spacing_frac=config.point_spacing_frac,
        scribble_width_px=config.scribble_width_px,
        context=context,
    )
    marked = set(np.unique(drawn).tolist()) - {IGNORE}
    has_loose = bool(marked - {BACKGROUND} - {window.class_id for window in windows})
    seeds: SeedMap = np.full(size, IGNORE if has_loose else BACKGROUND, np.uint8)
    outside = np.ones(size, np.bool_)
    for window in windows:
        outside[window.slices] = False
        seeds[window.slices] = IGNORE
        seeds[window.inner(inner_frac).slices] = window.class_id
    seeds = np.where(drawn == IGNORE, seeds, drawn)
    seeds[contested] = IGNORE
    if config.ridges:
        seeds[ridges(labels, size) & (seeds == IGNORE) & ~contested] = BACKGROUND
    if has_loose and BACKGROUND not in marked and config.background == "border":
        border = border_background(image, seeds, config.superpixels, contested) & outside
        seeds[border] = BACKGROUND
        if context is not None:
            context.facts["automatic_background"] = round(float(border.mean()), 4)
    return seeds


def seed_classes(seeds: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """List the classes that have seeds, background first whether it has any or not."""
    shown = set(np.unique(seeds).tolist()) - {IGNORE}
    return np.array([BACKGROUND, *sorted(shown - {BACKGROUND})], np.uint8)
