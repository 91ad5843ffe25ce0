"""All that the labels of an image say about scores, whichever of them the scores came from.

* Tags rule out classes that are not among them.
* Boxes bound their class: outside of all boxes of a class it scores 0. Where every class of the
  image has boxes, the outside of all of them is background.
* Points and scribbles pin their pixels to their class; what two classes claim is unknown.

A pixel that loses all evidence by that is unknown.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.windows import front_last, outside_of_boxes
from wsseg.localize.kinds import allowed
from wsseg.localize.points.marks import draw_marks


def constrained(
    scores: Scores,
    labels: WeakLabels,
    *,
    point_radius_px: float = 3.0,
    point_spacing_frac: float = math.inf,
    scribble_width_px: float = 3.0,
) -> Scores:
    """Bind scores to all that the labels of the image say.

    Args:
        scores: Scores with a background row.
        labels: The labels of the image, in its pixels.
        point_radius_px: Radius of the disc that a point pins.
        point_spacing_frac: Its largest share of the way to the next point.
        scribble_width_px: Width of the stroke that a scribble pins.

    Returns:
        Scores at full size (K, H, W).

    Example:
        >>> from wsseg.data.labels import Boxes
        >>> from wsseg.localize.direct import scores_of_mask
        >>> scores = scores_of_mask(np.array([[1, 1, 0, 2]], np.uint8))
        >>> bound = constrained(scores, WeakLabels(tags={1}, boxes=Boxes([[1, 0, 2, 1]], [1])))
        >>> bound.class_ids.tolist(), bound.values[:, 0].tolist()
        ([0, 1], [[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    """
    pins, contested = draw_marks(
        allowed(labels),
        scores.size,
        point_radius_px=point_radius_px,
        point_spacing_frac=point_spacing_frac,
        scribble_width_px=scribble_width_px,
    )
    full = _with_rows(replace(scores, values=scores.resized()), labels, pins)
    values = full.values
    covered = _bound(values, full.class_ids, labels)
    if covered is not None:
        values[0, ~covered], values[1:, ~covered] = 1.0, 0.0
    marked = pins != IGNORE
    values[:, marked] = full.class_ids[:, None] == pins[marked]
    values[:, contested] = 0.0
    return full


def _with_rows(scores: Scores, labels: WeakLabels, pins: npt.NDArray[np.uint8]) -> Scores:
    """Drop rows of classes that the tags rule out, and add those of pinned classes."""
    allowed = [
        row
        for row, class_id in enumerate(scores.class_ids.tolist())
        if class_id == BACKGROUND or labels.tags is None or class_id in labels.tags
    ]
    kept = scores.class_ids[allowed]
    new = np.setdiff1d(pins, [*kept.tolist(), IGNORE]).astype(np.uint8)
    empty = np.zeros((len(new), *scores.size), np.float32)
    values = np.concatenate([scores.values[allowed], empty])
    return Scores(values, np.concatenate([kept, new]), scores.size)


def _bound(
    values: npt.NDArray[np.float32], class_ids: npt.NDArray[np.uint8], labels: WeakLabels
) -> npt.NDArray[np.bool_] | None:
    """Clear classes outside of their boxes, in place.

    Returns:
        (H, W) bool, True inside of any box, where boxes bound every class of the image; else None.
    """
    size = (values.shape[1], values.shape[2])
    windows = front_last(labels, size)
    if not windows:
        return None
    inside = np.zeros(values.shape, np.bool_)
    rows = {int(class_id): row for row, class_id in enumerate(class_ids)}
    covered = np.zeros(size, np.bool_)
    for window in windows:
        covered[window.slices] = True
        if window.class_id in rows:
            inside[(rows[window.class_id], *window.slices)] = True
    boxed = {window.class_id for window in windows}
    for class_id, row in rows.items():
        if class_id in boxed:
            values[row, ~inside[row]] = 0.0
    unboxed = labels.class_ids() - boxed if labels.tags is None else frozenset()
    is_complete = outside_of_boxes(labels, size) == BACKGROUND and not unboxed
    return covered if is_complete else None
