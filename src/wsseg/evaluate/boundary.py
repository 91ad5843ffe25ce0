"""Boundary IoU: how well outlines fit, whatever the size of the object.

Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image
Segmentation Evaluation", CVPR 2021 (from memory):

    boundary IoU = |(G_d ∩ G) ∩ (P_d ∩ P)| / |(G_d ∩ G) ∪ (P_d ∩ P)|

G_d holds the pixels within distance d of the contour of G; d is 2 % of the image diagonal, at
least one pixel. As in the authors' program, distance is the chessboard distance and the image
border counts as contour. Differences: the counts are summed over the data set per class, as the
IoU's are; and void pixels (ground truth 255) are cut out of both masks before the contours are
drawn, so that a prediction which is right wherever truth is known scores 1.

All classes are handled at once: a pixel is inside its class by more than d when the smallest and
the largest label in the (2d + 1) x (2d + 1) window around it are equal.
"""

from __future__ import annotations

import math

import numpy as np

from wsseg.data.labels import IGNORE
from wsseg.evaluate.confusion import check_pair, value_pairs
from wsseg.evaluate.metrics import nan_mean, ratio

WIDTH_FRAC = 0.02


def band_width_px(size: tuple[int, int], width_frac: float = WIDTH_FRAC) -> int:
    """Give the width of the boundary band.

    Args:
        size: (H, W) of the image in pixels.
        width_frac: Fraction of the image diagonal.

    Returns:
        Pixels, at least 1.

    Example:
        >>> band_width_px((375, 500))
        12
    """
    return max(1, round(width_frac * math.hypot(*size)))


def inner_band(mask: np.ndarray, width_px: int) -> np.ndarray:
    """Find the pixels within a distance of the outline of their own class.

    Args:
        mask: (H, W) uint8 label map.
        width_px: Chessboard distance in pixels; 1 gives the outermost pixels of each region.

    Returns:
        (H, W) bool.

    Example:
        >>> import numpy as np
        >>> inner_band(np.zeros((3, 3), np.uint8), width_px=1).astype(int).tolist()
        [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    """
    import cv2

    # The kernel is decomposed by OpenCV: the cost does not grow with the square of the width.
    kernel = np.ones((2 * width_px + 1, 2 * width_px + 1), dtype=np.uint8)
    band = cv2.erode(mask, kernel) != cv2.dilate(mask, kernel)
    for rows in (slice(None, width_px), slice(-width_px, None)):
        band[rows] = True
        band[:, rows] = True
    return band


def boundary_counts(
    prediction: np.ndarray, truth: np.ndarray, num_classes: int, width_frac: float = WIDTH_FRAC
) -> np.ndarray:
    """Count the boundary pixels of one image.

    Args:
        prediction: (H, W) uint8, 0..C and 255.
        truth: (H, W) uint8, 0..C and 255.
        num_classes: C, the number of foreground classes.
        width_frac: Width of the band as a fraction of the image diagonal.

    Returns:
        (2, C + 1) int64: intersection and union of the two bands per class.

    Raises:
        DataError: When sizes differ or a value is neither 0..C nor 255.
    """
    check_pair(prediction, truth)
    width_px = band_width_px(truth.shape, width_frac)
    prediction = np.where(truth == IGNORE, np.uint8(IGNORE), prediction)
    outside = np.uint8(IGNORE)
    in_truth = np.where(inner_band(truth, width_px), truth, outside)
    in_prediction = np.where(inner_band(prediction, width_px), prediction, outside)
    counts = value_pairs(in_prediction, in_truth, num_classes)
    hits = np.diagonal(counts)
    union = counts.sum(axis=1) + counts.sum(axis=0) - hits
    return np.stack([hits[:-1], union[:-1]])


class BoundaryIou:
    """Boundary IoU accumulated over many images.

    Args:
        num_classes: C, the number of foreground classes.
        width_frac: Width of the band as a fraction of the image diagonal.

    Attributes:
        counts: (2, C + 1) int64, intersection and union per class.

    Example:
        >>> import numpy as np
        >>> boundary = BoundaryIou(num_classes=1)
        >>> truth = np.zeros((20, 20), np.uint8)
        >>> truth[5:15, 5:15] = 1
        >>> boundary.add(truth, truth)
        >>> boundary.iou().tolist()
        [1.0, 1.0]
    """

    def __init__(self, num_classes: int, width_frac: float = WIDTH_FRAC) -> None:
        self.num_classes = num_classes
        self.width_frac = width_frac
        self.counts = np.zeros((2, num_classes + 1), dtype=np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: (H, W) uint8, 0..C and 255.
            truth: (H, W) uint8, 0..C and 255.

        Raises:
            DataError: When sizes differ or a value is neither 0..C nor 255.
        """
        self.counts += boundary_counts(prediction, truth, self.num_classes, self.width_frac)

    def iou(self) -> np.ndarray:
        """Compute the boundary IoU of every class.

        Returns:
            (C + 1,) float64, background first; NaN for a class that occurs nowhere.
        """
        return ratio(self.counts[0], self.counts[1])

    def mean(self) -> float:
        """Average over the classes that occur, background included."""
        return float(nan_mean(self.iou()))
