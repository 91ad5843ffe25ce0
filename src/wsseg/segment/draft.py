"""A pseudo mask in the making: probabilities of all classes, and what a person said of the image.

What a person said always wins: `enforce` runs after all clean-ups.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import BACKGROUND, IGNORE, Boxes, Points, Scribbles, WeakLabels
from wsseg.segment.inference import only_tags, resize_maps

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Draft:
    """What a pseudo mask is made from.

    Args:
        probabilities: (C + 1, H, W) float32, background first.
        ignored: (H, W) bool, pixels that will be 255.
    """

    probabilities: Floats
    ignored: Bools

    @classmethod
    def of(cls, probabilities: Floats) -> Draft:
        """Begin with a prediction, no pixel ignored."""
        return cls(probabilities, np.zeros(probabilities.shape[1:], np.bool_))

    @property
    def labels(self) -> Mask:
        """The most probable class of each pixel, ignored or not: (H, W) uint8."""
        return self.probabilities.argmax(axis=0).astype(np.uint8)

    @property
    def mask(self) -> Mask:
        """The mask as it stands: (H, W) uint8, 255 where ignored."""
        return np.where(self.ignored, np.uint8(IGNORE), self.labels)

    def assigned(self, where: Bools, labels: Mask) -> Draft:
        """Give pixels a label that is certain.

        Args:
            where: (H, W) bool, the pixels.
            labels: (H, W) uint8 class ids, 255 to ignore a pixel.

        Returns:
            A new draft; probabilities of pixels that become ignored stay.
        """
        known = where & (labels != IGNORE)
        probabilities = self.probabilities.copy()
        probabilities[:, known] = 0
        rows, columns = np.nonzero(known)
        probabilities[labels[known], rows, columns] = 1
        ignored = np.where(where, labels == IGNORE, self.ignored)
        return Draft(probabilities, ignored)

    def resized(self, size: tuple[int, int]) -> Draft:
        """Resize to (H, W): probabilities bilinearly, ignored pixels to the nearest."""
        import cv2

        if self.ignored.shape == size:
            return self
        ignored = cv2.resize(
            self.ignored.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT
        )
        return Draft(resize_maps(self.probabilities, size), ignored.astype(np.bool_))


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """What clean-ups may know of an image.

    Args:
        sample_id: Id of the sample.
        image: (H, W, 3) uint8 RGB at the size of the draft.
        labels: What a person gave, in pixels of that image.
        first: (H, W) uint8, the pseudo mask of the first round at that size.
        seed: Seed of what is drawn for this image in this round.
        segments_dir: Where segments are kept for all stages; None: nowhere.
        cache: Reused between clean-ups, such as the CRF's lattice.
        shared: Reused between images, such as a loaded network.
    """

    sample_id: str
    image: NDArray[np.uint8]
    labels: WeakLabels
    first: Mask
    seed: int = 0
    segments_dir: Path | None = None
    cache: dict[Hashable, Any] = field(default_factory=dict)
    shared: dict[Hashable, Any] = field(default_factory=dict)


def carried_classes(labels: WeakLabels) -> frozenset[int] | None:
    """Name the classes that an image may show besides background.

    Args:
        labels: What a person gave.

    Returns:
        The tagged classes, or those of the boxes where there are boxes and no tags; None where
        nobody said.

    Example:
        >>> carried_classes(WeakLabels(tags={2})), carried_classes(WeakLabels())
        (frozenset({2}), None)
    """
    if labels.tags is None and labels.boxes is None:
        return None
    return labels.class_ids()


def box_pixels(boxes: Boxes, size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Say which pixels each box holds: those whose centres lie in it.

    Args:
        boxes: Boxes in pixels; what reaches out of the image is cut.
        size: (H, W) of the image.

    Returns:
        Rows and columns per box; a box without any centre has the pixel nearest to its middle.

    Example:
        >>> box_pixels(Boxes([[0.4, 1, 2.6, 9]], [1]), (4, 5))
        [(slice(1, 4, None), slice(0, 3, None))]
    """
    found = []
    for left, top, right, bottom in boxes.xyxy.astype(np.float64).tolist():
        rows = _span(top, bottom, size[0])
        columns = _span(left, right, size[1])
        found.append((rows, columns))
    return found


def _span(start: float, end: float, length: int) -> slice:
    first = int(np.clip(np.ceil(start - 0.5), 0, length))
    after = int(np.clip(np.ceil(end - 0.5), 0, length))
    if first >= after:
        first = int(np.clip((start + end) / 2, 0, length - 1))
        after = first + 1
    return slice(first, after)


def scaled_labels(labels: WeakLabels, factors: tuple[float, float]) -> WeakLabels:
    """Scale the shapes of an image that was resized.

    Args:
        labels: What a person gave, in pixels of the image.
        factors: New size over old size, of height and width.

    Returns:
        The same labels in pixels of the resized image.
    """
    if factors == (1.0, 1.0):
        return labels
    place = np.array([factors[1], factors[0]], np.float32)
    boxes, points, scribbles = labels.boxes, labels.points, labels.scribbles
    if boxes is not None:
        boxes = Boxes(boxes.xyxy * np.tile(place, 2), boxes.class_ids)
    if points is not None:
        points = Points(points.xy * place, points.class_ids)
    if scribbles is not None:
        lines = tuple(line * place for line in scribbles.lines)
        scribbles = Scribbles(lines, scribbles.class_ids)
    return replace(labels, boxes=boxes, points=points, scribbles=scribbles)


def outside_boxes(labels: Mask, boxes: Boxes) -> Bools:
    """Find the pixels of classes that have boxes, outside of all boxes of their class.

    Args:
        labels: (H, W) uint8 class ids.
        boxes: The boxes of the image.

    Returns:
        (H, W) bool.
    """
    outside = np.zeros(labels.shape, np.bool_)
    pixels = box_pixels(boxes, (labels.shape[0], labels.shape[1]))
    for class_id in np.unique(boxes.class_ids).tolist():
        stray = labels == class_id
        for place, owner in zip(pixels, boxes.class_ids.tolist(), strict=True):
            if owner == class_id:
                stray[place] = False
        outside |= stray
    return outside


def without_absent(draft: Draft, labels: WeakLabels) -> Draft:
    """Take the probability of classes away that the image does not carry."""
    carried = carried_classes(labels)
    if carried is None:
        return draft
    known = {class_id for class_id in carried if class_id < len(draft.probabilities)}
    return Draft(only_tags(draft.probabilities, known), draft.ignored)


def inside_boxes(draft: Draft, labels: WeakLabels) -> Draft:
    """Turn pixels outside of every box of their class into background."""
    if labels.boxes is None or not len(labels.boxes):
        return draft
    found = draft.labels
    stray = outside_boxes(found, labels.boxes)
    # Ignored pixels stay ignored: nobody claims their class.
    return draft.assigned(stray & ~draft.ignored, np.full_like(found, BACKGROUND))


def enforce(draft: Draft, labels: WeakLabels) -> Mask:
    """Finish a mask so that it contradicts nothing that a person said.

    Args:
        draft: The draft at the size of the labels.
        labels: Tags and boxes.

    Returns:
        (H, W) uint8, 255 where ignored: no class that the image does not carry, no class that has
        boxes outside of them; an image tagged as empty is background everywhere.
    """
    if carried_classes(labels) == frozenset():
        return np.zeros(draft.ignored.shape, np.uint8)
    return inside_boxes(without_absent(draft, labels), labels).mask
