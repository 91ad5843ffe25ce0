"""Make tags, boxes and points from a ground-truth mask, as a person would have given them.

Every function works on one mask, draws all random numbers from the generator it is given, and
treats 8-connected pixels of one class as one object unless an instance map tells better. Pixels of
the value 255 belong to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE, Boxes, Points

Mask = npt.NDArray[np.uint8]
Instances = npt.NDArray[np.integer]
Placement = Literal["centre", "random"]

# A person who clicks "in the middle" hits a place at least this deep, as a share of the deepest.
_CENTRE_DEPTH = 0.7


def tags_from_mask(mask: Mask, *, min_area_px: int = 1) -> frozenset[int]:
    """List the classes that cover enough pixels.

    Args:
        mask: (H, W) uint8 class ids, 255 = ignore.
        min_area_px: A class with fewer pixels than this goes unnoticed.

    Returns:
        Class ids; empty for an image without any class.

    Example:
        >>> tags_from_mask(np.array([[0, 1, 1], [255, 2, 0]], np.uint8), min_area_px=2)
        frozenset({1})
    """
    areas = np.bincount(mask.ravel(), minlength=256)
    areas[[BACKGROUND, IGNORE]] = 0
    return frozenset(np.flatnonzero(areas >= max(min_area_px, 1)).tolist())


def components(
    mask: Mask, *, instances: Instances | None = None, min_area_px: int = 1
) -> Iterator[tuple[int, tuple[slice, slice], npt.NDArray[np.bool_]]]:
    """Go through the objects of a mask, by class and then by position.

    Args:
        mask: (H, W) uint8 class ids, 255 = ignore.
        instances: (H, W) object numbers, 0 = none; without, 8-connected pixels of one class are one
            object. An object that is cut in two by another one stays one object.
        min_area_px: Smaller objects are left out.

    Yields:
        Class id, the window (rows, columns) of the object, and its pixels in the window.
    """
    import cv2
    from scipy import ndimage

    for class_id in sorted(tags_from_mask(mask)):
        of_class = mask == class_id
        if instances is None:
            _, numbered = cv2.connectedComponents(of_class.astype(np.uint8), connectivity=8)
        else:
            # Numbers may be large and sparse; pixels without one form an object of their own.
            _, compact = np.unique(instances[of_class], return_inverse=True)
            numbered = np.zeros(mask.shape, np.int32)
            numbered[of_class] = compact.ravel() + 1
        for number, window in enumerate(ndimage.find_objects(numbered), start=1):
            if window is None:
                continue
            rows, columns = window
            pixels = numbered[rows, columns] == number
            if np.count_nonzero(pixels) >= min_area_px:
                yield class_id, (rows, columns), pixels


def boxes_from_mask(
    mask: Mask,
    *,
    rng: np.random.Generator,
    jitter_frac: float = 0.0,
    instances: Instances | None = None,
    min_area_px: int = 1,
) -> Boxes:
    """Draw a box around every object.

    Args:
        mask: (H, W) uint8 class ids, 255 = ignore.
        rng: Source of the jitter.
        jitter_frac: Each side moves by up to this share of the box's width or height, evenly
            distributed, and stays in the image; 0 gives tight boxes.
        instances: (H, W) object numbers, see `components`.
        min_area_px: Smaller objects get no box.

    Returns:
        Half-open boxes in pixels, in the order of `components`.

    Example:
        >>> mask = np.array([[0, 1, 1], [0, 0, 1], [2, 0, 0]], np.uint8)
        >>> boxes = boxes_from_mask(mask, rng=np.random.default_rng(0))
        >>> boxes.xyxy.tolist(), boxes.class_ids.tolist()
        ([[1.0, 0.0, 3.0, 2.0], [0.0, 2.0, 1.0, 3.0]], [1, 2])
    """
    height, width = mask.shape
    corners, class_ids = [], []
    for class_id, (rows, columns), _ in components(
        mask, instances=instances, min_area_px=min_area_px
    ):
        tight = np.array([columns.start, rows.start, columns.stop, rows.stop], float)
        shift = rng.uniform(-jitter_frac, jitter_frac, 4)
        box = tight + shift * np.tile(tight[2:] - tight[:2], 2)
        box = np.clip(box, 0, [width, height, width, height])
        if (box[2:] - box[:2]).min() < 1:
            box = tight
        corners.append(box)
        class_ids.append(class_id)
    return Boxes(np.array(corners, np.float32).reshape(-1, 4), np.array(class_ids, np.int64))


def points_from_mask(
    mask: Mask,
    *,
    rng: np.random.Generator,
    placement: Placement = "centre",
    per_object: int = 1,
    per_class: int | None = None,
    instances: Instances | None = None,
    min_area_px: int = 1,
) -> Points:
    """Click into every object.

    Args:
        mask: (H, W) uint8 class ids, 255 = ignore.
        rng: Source of the positions.
        placement: "centre": where the object is nearly as deep as it gets; "random": anywhere in
            the object.
        per_object: Number of points in each object; fewer where it has fewer pixels to choose.
        per_class: Keep at most this many points of a class, chosen at random; None keeps all.
        instances: (H, W) object numbers, see `components`.
        min_area_px: Smaller objects get no point.

    Returns:
        Points at pixel centres (whole numbers + 0.5), all inside their class.

    Example:
        >>> mask = np.pad(np.ones((3, 3), np.uint8), 1)
        >>> points_from_mask(mask, rng=np.random.default_rng(0)).xy.tolist()
        [[2.5, 2.5]]
    """
    chosen: dict[int, list[npt.NDArray[np.float64]]] = {}
    for class_id, (rows, columns), pixels in components(
        mask, instances=instances, min_area_px=min_area_px
    ):
        eligible = pixels if placement == "random" else pixels & _deep(pixels)
        row, column = np.nonzero(eligible)
        picked = rng.choice(len(row), size=min(per_object, len(row)), replace=False)
        xy = np.stack([column[picked] + columns.start, row[picked] + rows.start], axis=1) + 0.5
        chosen.setdefault(class_id, []).append(xy)
    xys, class_ids = [np.zeros((0, 2))], []
    for class_id, parts in chosen.items():
        xy = np.concatenate(parts)
        if per_class is not None and len(xy) > per_class:
            xy = xy[np.sort(rng.choice(len(xy), size=per_class, replace=False))]
        xys.append(xy)
        class_ids += [class_id] * len(xy)
    return Points(np.concatenate(xys).astype(np.float32), np.array(class_ids, np.int64))


def _deep(pixels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Find the pixels that lie far from the edge of an object; its window's border is an edge."""
    import cv2

    padded = np.pad(pixels, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.asarray(depth >= _CENTRE_DEPTH * depth.max(), np.bool_)
