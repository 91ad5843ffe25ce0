"""GrabCut of one box: which of its pixels look unlike what lies around it.

Reference: C. Rother, V. Kolmogorov, A. Blake, "GrabCut: Interactive Foreground Extraction using
Iterated Graph Cuts", SIGGRAPH 2004. The work is done by OpenCV on a crop around the box, because
its time grows with the number of pixels. GrabCut draws its first colour clusters at random, so
OpenCV's generator is seeded before each run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsseg.localize.boxes.windows import BoxWindow

Bools = npt.NDArray[np.bool_]

# OpenCV fits five colour clusters to each side; with fewer pixels it stops with an error.
_MIN_PIXELS = 8


def surrounding(window: BoxWindow, size: tuple[int, int], margin_frac: float) -> BoxWindow:
    """Enlarge a box on all sides, within the image.

    Args:
        window: The box.
        size: (H, W) of the image.
        margin_frac: What is added on each side, as a fraction of the box's height and width; at
            least 2 pixels.

    Example:
        >>> surrounding(BoxWindow(1, 0, 20, 8, 18), (30, 20), 0.2)
        BoxWindow(class_id=1, top=0, bottom=24, left=6, right=20)
    """
    rows = max(2, round((window.bottom - window.top) * margin_frac))
    columns = max(2, round((window.right - window.left) * margin_frac))
    return BoxWindow(
        window.class_id,
        max(0, window.top - rows),
        min(size[0], window.bottom + rows),
        max(0, window.left - columns),
        min(size[1], window.right + columns),
    )


def segment_crop(
    crop: npt.NDArray[np.uint8],
    inside: Bools,
    *,
    iterations: int,
    seed: int = 0,
) -> Bools | None:
    """Run GrabCut on a crop whose outside of the box is background.

    Args:
        crop: (h, w, 3) uint8 RGB.
        inside: (h, w) bool, True where foreground is possible; everything else is background.
        iterations: Rounds of fitting colours and cutting.
        seed: Seed of OpenCV's generator.

    Returns:
        (h, w) bool, True at the foreground; None where there are too few pixels on one side, or
        OpenCV cannot tell the two apart.
    """
    import cv2

    mask = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    return cut(crop, mask, iterations=iterations, seed=seed)


def cut(
    crop: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], *, iterations: int, seed: int = 0
) -> Bools | None:
    """Run GrabCut from its own labels.

    Args:
        crop: (h, w, 3) uint8 RGB.
        mask: (h, w) uint8 of ``cv2.GC_BGD``, ``GC_FGD``, ``GC_PR_BGD`` and ``GC_PR_FGD``; changed.
        iterations: Rounds of fitting colours and cutting.
        seed: Seed of OpenCV's generator.

    Returns:
        (h, w) bool, True at the foreground; None where there are too few pixels on one side, or
        OpenCV cannot tell the two apart.
    """
    import cv2

    is_foreground = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if is_foreground.sum() < _MIN_PIXELS or (~is_foreground).sum() < _MIN_PIXELS:
        return None
    bgr = np.ascontiguousarray(crop[..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(seed)
    try:
        cv2.grabCut(bgr, mask, (0, 0, 1, 1), *models, iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None
    return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))


def shrink_factor(shape: tuple[int, int], max_side_px: int) -> float:
    """Say by how much a crop of (h, w) is shrunk so that its longer side fits."""
    return min(1.0, max_side_px / max(shape))


def resized_image(crop: npt.NDArray[np.uint8], factor: float) -> npt.NDArray[np.uint8]:
    """Shrink an image by area averaging; a factor of 1 keeps it."""
    import cv2

    if factor == 1.0:
        return crop
    height, width = (max(1, round(length * factor)) for length in crop.shape[:2])
    small = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def resized_mask(mask: Bools, shape: tuple[int, int]) -> Bools:
    """Resize a mask to (h, w); each pixel takes the nearest value."""
    import cv2

    if mask.shape == shape:
        return mask
    resized = cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.bool_)


def box_mask(window: BoxWindow, around: BoxWindow) -> Bools:
    """Mark a box inside of a window around it, (h, w) bool of that window."""
    mask = np.zeros((around.bottom - around.top, around.right - around.left), np.bool_)
    top, left = window.top - around.top, window.left - around.left
    bottom, right = window.bottom - around.top, window.right - around.left
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask
