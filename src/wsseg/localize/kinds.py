"""Kinds of label, from the strongest to the weakest, and which of them led in an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, Boxes, Points, Scribbles, WeakLabels
from wsseg.localize.boxes.windows import box_window
from wsseg.localize.direct import has_kind
from wsseg.localize.points.marks import stroke_mask

LED_BY = "led_by"
"""The manifest's word for the kind of label that led."""

Kind = Literal["masks", "scribbles", "boxes", "points", "tags"]

KINDS: tuple[Kind, ...] = ("masks", "scribbles", "boxes", "points", "tags")
"""From the strongest to the weakest."""

SHAPES: tuple[Kind, ...] = ("scribbles", "boxes", "points")
"""Those of them that are drawn, from the strongest to the weakest."""

_Keep = npt.NDArray[np.bool_]


def leading_kind(labels: WeakLabels, *, mask: bool = False) -> Kind | None:
    """Name the strongest kind of label of an image.

    Scribbles that mark nothing but background say where no object is; they lead only where there
    is no other label.

    Args:
        labels: The labels of the image.
        mask: Whether a painted mask may be used, too.

    Returns:
        Out of masks, scribbles, boxes, points and tags; None where there is no label.

    Example:
        >>> from wsseg.data.labels import Points
        >>> leading_kind(WeakLabels(tags={1}, points=Points([[3, 4]], [1])))
        'points'
    """
    if mask:
        return "masks"
    scribbles = labels.scribbles
    is_ground = scribbles is not None and not (scribbles.class_ids != BACKGROUND).any()
    for kind in KINDS[1:]:
        if has_kind(labels, (kind,)) and not (kind == "scribbles" and is_ground):
            return kind
    return "scribbles" if has_kind(labels, ("scribbles",)) else None


def classes_by_kind(labels: WeakLabels) -> dict[Kind, frozenset[int]]:
    """Say which kind of shape each class of an image is led by: the strongest that it has.

    Args:
        labels: The labels of the image.

    Returns:
        The classes of each kind that leads some, from the strongest kind to the weakest.

    Example:
        >>> labels = WeakLabels(
        ...     boxes=Boxes([[0, 0, 9, 9], [5, 5, 8, 8]], [1, 2]),
        ...     scribbles=Scribbles(([[1, 1], [3, 3]],), [1]),
        ... )
        >>> classes_by_kind(labels)
        {'scribbles': frozenset({1}), 'boxes': frozenset({2})}
    """
    found: dict[Kind, frozenset[int]] = {}
    seen: frozenset[int] = frozenset({BACKGROUND})
    for kind in SHAPES:
        shapes = getattr(labels, kind)
        classes = frozenset() if shapes is None else frozenset(shapes.class_ids.tolist()) - seen
        if classes:
            found[kind] = classes
            seen |= classes
    return found


def allowed(labels: WeakLabels) -> WeakLabels:
    """Leave out the shapes of classes that the tags of the image rule out.

    Args:
        labels: The labels of the image; not changed.

    Returns:
        The labels that count; all of them for an untagged image.
    """
    if labels.tags is None:
        return labels
    ids = np.array([BACKGROUND, *sorted(labels.tags)])
    return _filtered(labels, lambda shapes: np.isin(shapes.class_ids, ids))


def in_image(labels: WeakLabels, size: tuple[int, int], scribble_width_px: float) -> WeakLabels:
    """Leave out the shapes that have no pixel of an image.

    Args:
        labels: The labels of the image, in its pixels; not changed.
        size: (H, W) of the image.
        scribble_width_px: Width of a drawn scribble, pixels.

    Returns:
        The labels that show something.
    """

    def shown(shapes: Boxes | Points | Scribbles) -> _Keep:
        if isinstance(shapes, Boxes):
            return np.array([box_window(xyxy, 0, size) is not None for xyxy in shapes.xyxy], bool)
        if isinstance(shapes, Points):
            return np.all((shapes.xy >= 0) & (shapes.xy < [size[1], size[0]]), axis=1)
        radius = scribble_width_px / 2
        return np.array([stroke_mask(line, radius, size).any() for line in shapes.lines], bool)

    return _filtered(labels, shown)


def of_classes(labels: WeakLabels, class_ids: frozenset[int]) -> WeakLabels:
    """Keep the shapes of some classes, and what marks the background.

    Args:
        labels: The labels of the image; not changed.
        class_ids: The classes.

    Returns:
        Labels with the same tags.
    """
    ids = np.array([BACKGROUND, *sorted(class_ids)])
    return _filtered(labels, lambda shapes: np.isin(shapes.class_ids, ids))


def _filtered(
    labels: WeakLabels, keep: Callable[[Boxes | Points | Scribbles], _Keep]
) -> WeakLabels:
    boxes, points, scribbles = labels.boxes, labels.points, labels.scribbles
    if boxes is not None:
        kept = keep(boxes)
        boxes = Boxes(boxes.xyxy[kept], boxes.class_ids[kept])
    if points is not None:
        kept = keep(points)
        points = Points(points.xy[kept], points.class_ids[kept])
    if scribbles is not None:
        kept = keep(scribbles)
        lines = tuple(line for line, stays in zip(scribbles.lines, kept, strict=True) if stays)
        scribbles = Scribbles(lines, scribbles.class_ids[kept])
    return WeakLabels(labels.tags, boxes, points, scribbles)


def led_by(manifest: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Read from the manifest of the localize stage which kind of label led in each image.

    Args:
        manifest: What `wsseg.rundir.StageDir.manifest` returns.

    Returns:
        ``{sample id: kind}``; images of other localizers are not in it.
    """
    return {key: str(line[LED_BY]) for key, line in manifest.items() if LED_BY in line}
