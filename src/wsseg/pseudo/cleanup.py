"""Clean-up of label maps by connected components."""

from __future__ import annotations

import numpy as np

from wsseg.data.labels import BACKGROUND, IGNORE


def remove_small(mask: np.ndarray, min_area_px: int, replacement: int = BACKGROUND) -> np.ndarray:
    """Remove small connected components of the foreground classes.

    Args:
        mask: (H, W) uint8 label map.
        min_area_px: Components of fewer pixels go; diagonal neighbours are connected.
        replacement: What their pixels become: 0 or 255.

    Returns:
        New (H, W) uint8 label map.

    Example:
        >>> remove_small(np.array([[1, 0, 2, 2]], np.uint8), min_area_px=2).tolist()
        [[0, 0, 2, 2]]
    """
    import cv2

    result = mask.copy()
    for class_id in _foreground(mask):
        selected = (mask == class_id).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
        is_small = stats[:, cv2.CC_STAT_AREA] < min_area_px
        is_small[0] = False
        result[is_small[labels]] = replacement
    return result


def fill_holes(mask: np.ndarray, max_area_px: int) -> np.ndarray:
    """Fill small holes inside objects.

    A hole is a 4-connected region of background and ignore pixels that does not touch the image
    border and has neighbours of one class only.

    Args:
        mask: (H, W) uint8 label map.
        max_area_px: Larger holes stay.

    Returns:
        New (H, W) uint8 label map.

    Example:
        >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
        >>> fill_holes(ring, max_area_px=1).tolist()
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    import cv2

    result = mask.copy()
    height, width = mask.shape
    is_open = ((mask == BACKGROUND) | (mask == IGNORE)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(is_open, connectivity=4)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for label, (left, top, w, h, area) in enumerate(stats.tolist()):
        touches = left == 0 or top == 0 or left + w == width or top + h == height
        if label == 0 or touches or area > max_area_px:
            continue
        window = (slice(top - 1, top + h + 1), slice(left - 1, left + w + 1))
        hole = labels[window] == label
        ring = cv2.dilate(hole.astype(np.uint8), cross).astype(bool) & ~hole
        classes = np.unique(mask[window][ring])
        if len(classes) == 1:
            result[window][hole] = classes[0]
    return result


def peak_region(values: np.ndarray, peak_frac: float) -> np.ndarray | None:
    """Find the region around the highest score.

    Args:
        values: (H, W) float32 scores of one class.
        peak_frac: The region reaches down to this fraction of the peak.

    Returns:
        (H, W) bool, the connected region that holds the (first) peak; None when all scores are
        zero.

    Example:
        >>> peak_region(np.array([[0.9, 0.8, 0.1, 0.85]], np.float32), 0.8).tolist()
        [[True, True, False, False]]
    """
    import cv2

    row, column = np.unravel_index(int(values.argmax()), values.shape)
    peak = values[row, column]
    if peak <= 0:
        return None
    strong = (values >= peak * np.float32(peak_frac)).astype(np.uint8)
    _, labels = cv2.connectedComponents(strong, connectivity=8)
    return labels == labels[row, column]


def _foreground(mask: np.ndarray) -> list[int]:
    found = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256))
    return [int(value) for value in found if value not in (BACKGROUND, IGNORE)]
