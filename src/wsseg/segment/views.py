"""What a random view of an image shows of what belongs to it: boxes, colours, labelled pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsseg.data.colour import normalise
from wsseg.data.dataset import Sample
from wsseg.data.geometry import Geometry
from wsseg.data.image_io import image_size
from wsseg.data.labels import IGNORE, Boxes, WeakLabels
from wsseg.pseudo.corrections import Given

UNSAID = -1
"""Value of `said_of_view` where nobody said anything."""


def nearest_view(geometry: Geometry, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show a map of an image in a view of it, each pixel from the nearest one.

    Args:
        geometry: The map from the image to the view.
        values: (H, W) uint8 over the image.

    Returns:
        (h, w) uint8, 255 where the view does not show the image.

    Example:
        >>> from wsseg.data.geometry import identity
        >>> nearest_view(identity((1, 3)), np.array([[1, 2, 3]], np.uint8)).tolist()
        [[1, 2, 3]]
    """
    import cv2

    # cv2 counts from pixel centres, the geometry from their corners.
    matrix = geometry.matrix.copy()
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    height, width = geometry.size
    shown = cv2.warpAffine(
        values, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=(IGNORE,)
    )
    return np.asarray(shown, np.uint8)


def all_boxes(labels: WeakLabels) -> Boxes | None:
    """Return the boxes of an image where they may be those of all its objects.

    Args:
        labels: The labels of the image.

    Returns:
        Its boxes; None where nobody drew any, or a tagged class has none, so that its objects are
        outside of the boxes.

    Example:
        >>> boxes = Boxes([[0, 0, 4, 4]], [1])
        >>> len(all_boxes(WeakLabels(tags={1}, boxes=boxes)))
        1
        >>> all_boxes(WeakLabels(tags={1, 2}, boxes=boxes)) is None
        True
    """
    boxes = labels.boxes
    if boxes is None or (labels.tags or frozenset()) - frozenset(boxes.class_ids.tolist()):
        return None
    return boxes


def box_rows(boxes: Boxes, scale: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.float32]:
    """Write the boxes of an image as prediction takes them.

    Args:
        boxes: Boxes in pixels.
        scale: Size of the image that is predicted over that of theirs, of height and width.

    Returns:
        (M, 5) float32: left, top, right, bottom and class; one row of class 0 where there is none.

    Example:
        >>> box_rows(Boxes([[2, 4, 6, 8]], [1]), (0.5, 1.0)).tolist()
        [[2.0, 2.0, 6.0, 4.0, 1.0]]
        >>> box_rows(Boxes([], [])).tolist()
        [[0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    rows = np.zeros((max(1, len(boxes)), 5), np.float32)
    rows[: len(boxes), :4] = boxes.xyxy * np.array([scale[1], scale[0]] * 2, np.float32)
    rows[: len(boxes), 4] = boxes.class_ids
    return rows


def boxes_of_view(sample: Sample, geometry: Geometry, count: int) -> NDArray[np.float32]:
    """Show the boxes of an image in a view of it.

    Args:
        sample: The image; boxes are in its original pixels.
        geometry: From the image at working size to the view.
        count: M, at least the number of its boxes.

    Returns:
        (M, 5) float32: left, top, right, bottom in pixels of the view, cut at its edge, and class;
        class 0 fills up, also in place of boxes that the view does not show.
    """
    found = np.zeros((count, 5), np.float32)
    boxes = sample.labels.boxes
    if boxes is None or len(boxes) == 0:
        return found
    height, width = image_size(sample.image_path)
    scale = np.array([geometry.source_size[1] / width, geometry.source_size[0] / height] * 2)
    inside = np.clip(boxes.xyxy, 0, [width, height, width, height])
    shown = geometry.boxes(inside * scale)
    is_there = (shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1])
    found[: len(boxes), :4] = np.where(is_there[:, None], shown, 0)
    found[: len(boxes), 4] = np.where(is_there, boxes.class_ids, 0)
    return found


def guide_of_view(
    image: NDArray[np.uint8], geometry: Geometry, in_channels: int
) -> NDArray[np.float32]:
    """Show an image in a view without random changes of colour, normalised.

    Args:
        image: (H, W, 3) uint8 RGB at working size.
        geometry: From it to the view.
        in_channels: 3 for colour, 1 for grey networks.

    Returns:
        (in_channels, h, w) float32, bilinear; black at padding.
    """
    planes = [geometry.view_of(image[..., c].astype(np.float32)) for c in range(3)]
    shown = np.rint(np.stack(planes, axis=-1)).astype(np.uint8)
    return normalise(shown, 1 if in_channels == 1 else 3)


def said_of_view(given: Given, geometry: Geometry) -> NDArray[np.int16]:
    """Show what a person said of an image in a view of it.

    Args:
        given: At any size of the image.
        geometry: From the image at working size to the view.

    Returns:
        (h, w) int16: class ids, 255 where pixels are to be ignored, -1 where nobody said anything
        and at padding.
    """
    import cv2

    height, width = geometry.source_size
    shown = []
    for plane in (given.values, given.is_given.astype(np.uint8)):
        working = cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        shown.append(nearest_view(geometry, np.asarray(working, np.uint8)))
    values, is_given = shown
    return np.where(is_given == 1, values.astype(np.int16), np.int16(UNSAID))
