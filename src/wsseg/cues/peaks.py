"""Peaks and boxes of score maps, as prompts for segments.

Reference: Kweon and Yoon, "From SAM to CAMs: Exploring Segment Anything Model for Weakly Supervised
Semantic Segmentation", CVPR 2024, for the peaks: the largest value, and every local maximum of the
map, after a 3x3 maximum filter, that is high enough and far from larger ones.

Difference: peaks at the edge of the image count, and what lies near the largest value is left out,
where the code leaves out the first local maximum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def map_peaks(values: np.ndarray, min_distance_px: int = 20, min_value: float = 0.5) -> Doubles:
    """Find the peaks of a map.

    Args:
        values: (H, W) scores in [0, 1].
        min_distance_px: Peaks are farther apart than this, in rows or in columns.
        min_value: Least score of a peak beside the highest one.

    Returns:
        (P, 2) x and y of the middles of pixels, the highest first; none where no score is above
        zero.

    Example:
        >>> values = np.zeros((30, 60))
        >>> values[4, 5], values[20, 50], values[25, 10] = 0.9, 0.7, 0.3
        >>> map_peaks(values).tolist()
        [[5.5, 4.5], [50.5, 20.5]]
    """
    from scipy.ndimage import maximum_filter
    from skimage.feature import peak_local_max

    if not values.max() > 0:
        return np.zeros((0, 2))
    top = np.array(np.unravel_index(int(values.argmax()), values.shape))
    smooth = maximum_filter(values, size=3)
    found = peak_local_max(
        smooth, min_distance=min_distance_px, threshold_abs=min_value, exclude_border=False
    )
    # The filter makes plateaus of 3x3 pixels, of which any may be named: go back to their middle.
    places = [top, *(_highest_near(values, place) for place in found)]
    kept: list[np.ndarray] = []
    for place in places:
        is_apart = all(np.abs(place - other).max() > min_distance_px for other in kept)
        if not kept or (is_apart and values[tuple(place)] > min_value):
            kept.append(place)
    return np.array(kept, np.float64)[:, ::-1] + 0.5


def map_boxes(values: np.ndarray, min_value: float, min_area_px: int = 1) -> Doubles:
    """Put a box around every connected area of a thresholded map.

    Args:
        values: (H, W) scores in [0, 1].
        min_value: Scores of at least this, and above zero, count.
        min_area_px: Smaller areas get no box.

    Returns:
        (M, 4) x0, y0, x1, y1, half-open, the largest area first.

    Example:
        >>> values = np.zeros((6, 8))
        >>> values[1:3, 2:7] = values[5, 0] = 1
        >>> map_boxes(values, 0.5).tolist()
        [[2.0, 1.0, 7.0, 3.0], [0.0, 5.0, 1.0, 6.0]]
    """
    from scipy.ndimage import find_objects, label

    areas, count = label((values >= min_value) & (values > 0), structure=np.ones((3, 3)))
    sizes = np.bincount(areas.ravel(), minlength=count + 1)[1:]
    boxes = [
        (place[1].start, place[0].start, place[1].stop, place[0].stop)
        for place in find_objects(areas)
    ]
    order = np.argsort(-sizes, kind="stable")
    return np.array([boxes[i] for i in order if sizes[i] >= min_area_px], np.float64).reshape(-1, 4)


def _highest_near(values: np.ndarray, place: np.ndarray) -> npt.NDArray[np.int64]:
    """Find the highest pixel of the 3x3 around a pixel."""
    row, column = (int(index) for index in place)
    first = np.maximum([row - 1, column - 1], 0)
    window = values[first[0] : row + 2, first[1] : column + 2]
    inner = np.unravel_index(int(window.argmax()), window.shape)
    found: npt.NDArray[np.int64] = first + np.array(inner)
    return found
