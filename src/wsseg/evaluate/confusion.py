"""Confusion matrix over a whole data set, counted once per pixel pair.

Intersection over union and its relatives are accumulated over all pixels of the data set, never
averaged per image (Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010;
from memory). Ground truth 255 is not counted at all. A prediction of 255 is a refusal to answer:
it is counted in a last column of its own, so it is a false negative of the true class and a
false positive of none. Leaving pixels open therefore never raises a score.
"""

from __future__ import annotations

import numpy as np

from wsseg.data.labels import IGNORE, MAX_CLASSES
from wsseg.errors import DataError


def check_pair(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Check that two label maps can be compared.

    Raises:
        DataError: When one is no (H, W) uint8 map or their sizes differ.
    """
    for what, mask in (("prediction", prediction), ("ground truth", truth)):
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise DataError(
                f"The {what} has shape {mask.shape} and type {mask.dtype}; "
                "expected a label map (H, W) of type uint8."
            )
    if prediction.shape != truth.shape:
        raise DataError(
            f"The prediction is {size_text(prediction.shape)} and the ground truth is "
            f"{size_text(truth.shape)}; both must have the size of the image."
        )


def size_text(shape: tuple[int, ...]) -> str:
    """Write an array shape as people write image sizes.

    Example:
        >>> size_text((375, 500))
        '500 x 375 px (width x height)'
    """
    return f"{shape[1]} x {shape[0]} px (width x height)"


def pair_counts(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixel pairs of one image.

    Args:
        prediction: (H, W) uint8, 0..C and 255.
        truth: (H, W) uint8, 0..C and 255.
        num_classes: C, the number of foreground classes, 0..254.

    Returns:
        (C + 1, C + 2) int64: rows are the true class, columns the predicted one; the last column
        counts predictions of 255. Pixels whose truth is 255 are left out.

    Raises:
        DataError: When sizes differ or a value is neither 0..C nor 255.

    Example:
        >>> import numpy as np
        >>> truth = np.array([[0, 1, 1, 255]], dtype=np.uint8)
        >>> prediction = np.array([[0, 1, 255, 0]], dtype=np.uint8)
        >>> pair_counts(prediction, truth, num_classes=1).tolist()
        [[1, 0, 0], [0, 1, 1]]
    """
    return value_pairs(prediction, truth, num_classes)[: num_classes + 1]


def value_pairs(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixel pairs of one image, those with truth 255 too.

    Args:
        prediction: (H, W) uint8, 0..C and 255.
        truth: (H, W) uint8, 0..C and 255.
        num_classes: C, the number of foreground classes, 0..254.

    Returns:
        (C + 2, C + 2) int64: the last row and the last column count 255.

    Raises:
        DataError: When sizes differ or a value is neither 0..C nor 255.
    """
    from wsseg.evaluate._counting import count_pairs

    check_pair(prediction, truth)
    if not 0 <= num_classes <= MAX_CLASSES:
        raise DataError(f"A label map holds 0 to {MAX_CLASSES} classes, not {num_classes}.")
    ignore_row, other_row = num_classes + 1, num_classes + 2
    index = np.full(256, other_row, dtype=np.int64)
    index[: num_classes + 1] = np.arange(num_classes + 1)
    index[IGNORE] = ignore_row
    table = count_pairs(
        np.ascontiguousarray(truth).reshape(-1),
        np.ascontiguousarray(prediction).reshape(-1),
        index,
        num_classes + 3,
    )
    if table[other_row].any() or table[:, other_row].any():
        raise DataError(_unknown_values(prediction, truth, num_classes))
    return table[:other_row, :other_row]


def _unknown_values(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> str:
    texts = []
    for what, mask in (("prediction", prediction), ("ground truth", truth)):
        values = [int(v) for v in np.unique(mask) if num_classes < v < IGNORE]
        if values:
            shown = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
            texts.append(f"the {what} has the values {shown}")
    return (
        f"{' and '.join(texts)}; expected class ids 0 to {num_classes} and 255. "
        "Check that the masks belong to this class list."
    )


class ConfusionMatrix:
    """Pixel counts over many images.

    Args:
        num_classes: C, the number of foreground classes.

    Attributes:
        num_classes: C.
        counts: (C + 1, C + 2) int64; see `pair_counts`.
        num_images: How many images were added.

    Example:
        >>> import numpy as np
        >>> matrix = ConfusionMatrix(num_classes=1)
        >>> matrix.add(np.array([[0, 1]], np.uint8), np.array([[1, 1]], np.uint8))
        >>> matrix.counts.tolist()
        [[0, 0, 0], [1, 1, 0]]
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes + 1, num_classes + 2), dtype=np.int64)
        self.num_images = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: (H, W) uint8, 0..C and 255.
            truth: (H, W) uint8, 0..C and 255.

        Raises:
            DataError: When sizes differ or a value is neither 0..C nor 255.
        """
        self.counts += pair_counts(prediction, truth, self.num_classes)
        self.num_images += 1

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, such as that of another process.

        Raises:
            ValueError: When the other matrix has another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise ValueError(
                f"Matrices of {self.num_classes} and {other.num_classes} classes do not add up."
            )
        self.counts += other.counts
        self.num_images += other.num_images
