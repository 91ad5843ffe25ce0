"""Boxes taken as they are: filled with their class, or only their inner part (Box^i).

`filled_boxes` gives every pixel of a box its class; where boxes overlap the smaller one is in
front. `inner_boxes` trusts only the centred part with a fifth of the area, of the same aspect, and
leaves the rest of the box unknown. Outside of all boxes is background.

Reference: A. Khoreva et al., "Simple Does It: Weakly Supervised Instance and Semantic
Segmentation", CVPR 2017 (Box and Box^i; from memory). Differences: where a tagged class has no
box, the outside is unknown and not background; the rest of a box in front leaves the pixels
unknown for the boxes behind it, too.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from wsseg.data.labels import IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.windows import front_last, outside_of_boxes
from wsseg.localize.direct import DirectLocalizerConfig, LocalizeContext, scores_of_mask


class FilledBoxes(DirectLocalizerConfig):
    """Settings of `filled_boxes`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    name: Literal["filled_boxes"] = Field(
        "filled_boxes", description="Every pixel of a box gets its class."
    )


class InnerBoxes(DirectLocalizerConfig):
    """Settings of `inner_boxes`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    name: Literal["inner_boxes"] = Field(
        "inner_boxes", description="The centre of a box gets its class; the rest is unknown."
    )
    inner_frac: float = Field(
        0.2, gt=0, le=1, description="Share of the box's area that gets the class."
    )


def filled_boxes(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: FilledBoxes = FilledBoxes(),  # noqa: ARG001 - the signature that all localizers share
    context: LocalizeContext | None = None,
) -> Scores:
    """Fill boxes with their class, smaller ones in front.

    Args:
        image: (H, W, 3) uint8 RGB; only its size matters.
        labels: Labels with boxes, in pixels of the image.
        config: No settings.
        context: Takes notes on what was left out.

    Returns:
        Scores (K, H, W) of 0 and 1.

    Example:
        >>> from wsseg.data.labels import Boxes
        >>> labels = WeakLabels(boxes=Boxes([[0, 0, 3, 1], [1, 0, 2, 1]], [1, 2]))
        >>> filled_boxes(np.zeros((1, 4, 3), np.uint8), labels).values.argmax(axis=0).tolist()
        [[1, 2, 1, 0]]
    """
    size = (image.shape[0], image.shape[1])
    mask = np.full(size, outside_of_boxes(labels, size, context), np.uint8)
    windows = front_last(labels, size, context)
    for window in windows:
        mask[window.slices] = window.class_id
    return scores_of_mask(mask, (window.class_id for window in windows))


def inner_boxes(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: InnerBoxes = InnerBoxes(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Fill the inner part of boxes with their class and leave their rest unknown.

    Args:
        image: (H, W, 3) uint8 RGB; only its size matters.
        labels: Labels with boxes, in pixels of the image.
        config: How much of a box is trusted.
        context: Takes notes on what was left out.

    Returns:
        Scores (K, H, W) of 0 and 1; the outer part of boxes is 0 in all rows.

    Example:
        >>> from wsseg.data.labels import Boxes
        >>> labels = WeakLabels(boxes=Boxes([[0, 0, 5, 5]], [1]))
        >>> scores = inner_boxes(np.zeros((5, 6, 3), np.uint8), labels)
        >>> scores.values.sum(axis=(1, 2)).tolist(), int(scores.unknown.sum())
        ([5.0, 4.0], 21)
    """
    size = (image.shape[0], image.shape[1])
    mask = np.full(size, outside_of_boxes(labels, size, context), np.uint8)
    windows = front_last(labels, size, context)
    for window in windows:
        mask[window.slices] = IGNORE
        mask[window.inner(config.inner_frac).slices] = window.class_id
    return scores_of_mask(mask, (window.class_id for window in windows))
