"""Every background threshold at once: one pass over the data gives the whole mIoU curve.

The usual protocol (Wang et al., "Self-supervised Equivariant Attention Mechanism", SEAM, CVPR
2020, and many others) writes a constant background score t = 0.00, 0.01, ..., 0.59 into row 0,
takes the argmax, and reports the best mIoU: sixty passes. Here each pixel is looked at once: it
is foreground for exactly those t that lie below its strongest class score, so a histogram over
(true class, strongest class, number of thresholds passed) and one cumulative sum give the sixty
confusion matrices, equal to those of sixty argmaxes (ties go to the background, as in argmax).

The best threshold is chosen with the help of ground-truth masks. It is an upper bound for the
maps and no result of weak supervision, so everything that comes from here says
``tuned_on_masks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsseg.data.labels import IGNORE
from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.evaluate.confusion import check_pair, size_text
from wsseg.evaluate.metrics import iou_from_counts, nan_mean

DEFAULT_THRESHOLDS: tuple[float, ...] = tuple(step / 100 for step in range(60))


@dataclass(frozen=True, eq=False)
class SweepCurve:
    """What every threshold would have given.

    Args:
        thresholds: (T,) float64, ascending, in [0, 1].
        counts: (T, C + 1, C + 2) int64, one confusion matrix per threshold; see
            `wsseg.evaluate.confusion.pair_counts`.
        num_images: Number of images behind it.
    """

    thresholds: np.ndarray
    counts: np.ndarray
    num_images: int
    tuned_on_masks: bool = True

    @property
    def iou(self) -> np.ndarray:
        """(T, C + 1) IoU per threshold and class, NaN for classes that occur nowhere."""
        return iou_from_counts(self.counts)

    @property
    def miou(self) -> np.ndarray:
        """(T,) mean IoU over the classes that occur, background included."""
        return nan_mean(self.iou)

    @property
    def miou_foreground(self) -> np.ndarray:
        """(T,) mean IoU over the foreground classes that occur."""
        return nan_mean(self.iou[:, 1:])

    @property
    def best_index(self) -> int:
        """Position of the highest mIoU; the lowest threshold where several are equal."""
        return int(np.argmax(self.miou))

    @property
    def best_threshold(self) -> float:
        """The threshold with the highest mIoU; chosen with ground-truth masks."""
        return float(self.thresholds[self.best_index])

    def nearest_index(self, threshold: float) -> int:
        """Find the position of the threshold nearest to a value."""
        return int(np.argmin(np.abs(self.thresholds - threshold)))

    def to_json(self) -> dict[str, Any]:
        """Give the curve as JSON-able data."""
        best = self.best_index
        return {
            "thresholds": self.thresholds.tolist(),
            "miou": self.miou.tolist(),
            "best_threshold": self.best_threshold,
            "best_miou": float(self.miou[best]),
            "num_images": self.num_images,
            "tuned_on_masks": self.tuned_on_masks,
        }


class ThresholdSweep:
    """Accumulates images for a sweep over background thresholds.

    Args:
        num_classes: C, the number of foreground classes.
        thresholds: Background scores to try, each in [0, 1]; sorted, repetitions removed.

    Raises:
        ValueError: When there is no threshold or one is outside [0, 1].

    Example:
        >>> import numpy as np
        >>> values = np.zeros((2, 1, 3), np.float32)
        >>> values[1] = [0.1, 0.4, 0.9]
        >>> scores = Scores(values, np.array([0, 1], np.uint8), (1, 3))
        >>> sweep = ThresholdSweep(num_classes=1, thresholds=[0.0, 0.2, 0.5])
        >>> sweep.add(scores, np.array([[0, 1, 1]], np.uint8))
        >>> sweep.curve().best_threshold
        0.2
    """

    def __init__(self, num_classes: int, thresholds: Sequence[float] = DEFAULT_THRESHOLDS) -> None:
        grid = np.unique(np.asarray(thresholds, dtype=np.float64))
        if grid.size == 0 or not (grid[0] >= 0 and grid[-1] <= 1):
            raise ValueError(f"thresholds must be numbers in [0, 1], at least one: {thresholds}.")
        self.num_classes = num_classes
        self.thresholds = grid
        self.num_images = 0
        # (true class, strongest class, number of thresholds passed); an image without classes is
        # counted in column 0.
        shape = (num_classes + 1, num_classes + 1, grid.size + 1)
        self._table = np.zeros(shape, dtype=np.int64)

    def add(self, scores: Scores, truth: np.ndarray) -> None:
        """Add one image; row 0 of the scores is not looked at.

        Args:
            scores: Scores of an image of size (H, W).
            truth: (H, W) uint8, 0..C and 255.

        Raises:
            DataError: When the sizes differ or a class is outside 0..C.
        """
        from wsseg.evaluate._counting import count_bins

        check_pair(truth, truth)
        if truth.shape != scores.size:
            raise DataError(
                f"The scores belong to an image of {size_text(scores.size)}, the ground truth is "
                f"{size_text(truth.shape)}; both must have the size of the image."
            )
        self._check_classes(scores, truth)
        self.num_images += 1
        flat = np.ascontiguousarray(truth).reshape(-1)
        if len(scores.class_ids) == 1:
            counts = np.bincount(flat, minlength=self.num_classes + 1)
            self._table[:, 0, 0] += counts[: self.num_classes + 1]
            return
        values = scores.resized()[1:].reshape(len(scores.class_ids) - 1, -1)
        columns = scores.class_ids[1:].astype(np.int64)
        count_bins(values, columns, flat, self.thresholds.astype(np.float32), self._table)

    def _check_classes(self, scores: Scores, truth: np.ndarray) -> None:
        highest = int(np.max(truth, where=truth != IGNORE, initial=0))
        for what, value in (("ground truth", highest), ("scores", int(scores.class_ids.max()))):
            if value > self.num_classes:
                raise DataError(
                    f"The {what} have the class id {value}; expected 0 to {self.num_classes} "
                    "and 255."
                )

    def merge(self, other: ThresholdSweep) -> None:
        """Add the counts of another sweep over the same thresholds.

        Raises:
            ValueError: When classes or thresholds differ.
        """
        if other._table.shape != self._table.shape or (other.thresholds != self.thresholds).any():
            raise ValueError("Only sweeps over the same classes and thresholds add up.")
        self._table += other._table
        self.num_images += other.num_images

    def curve(self) -> SweepCurve:
        """Turn the histogram into one confusion matrix per threshold.

        Raises:
            DataError: When no labelled pixel was added.
        """
        total = self._table.sum(axis=(1, 2))
        if not total.any():
            raise DataError(
                "A threshold sweep needs images with ground-truth masks, and none was given. Add "
                "masks, or choose the threshold without labels."
            )
        # A pixel that passes b thresholds is foreground for the thresholds 0..b-1.
        passed = np.cumsum(self._table[:, 1:, ::-1], axis=2)[:, :, -2::-1]
        counts = np.zeros(
            (self.thresholds.size, self.num_classes + 1, self.num_classes + 2), dtype=np.int64
        )
        counts[:, :, 1:-1] = np.moveaxis(passed, 2, 0)
        counts[:, :, 0] = total - counts.sum(axis=2)
        return SweepCurve(self.thresholds, counts, self.num_images)


def sweep_thresholds(
    pairs: Iterable[tuple[Scores, np.ndarray]],
    num_classes: int,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
) -> SweepCurve:
    """Sweep the background threshold over a data set in one pass.

    Args:
        pairs: Scores and ground truth (H, W) uint8 of each image.
        num_classes: C, the number of foreground classes.
        thresholds: Background scores to try.

    Returns:
        The whole curve.

    Raises:
        DataError: When there is no image, or sizes or classes do not fit.
    """
    sweep = ThresholdSweep(num_classes, thresholds)
    for scores, truth in pairs:
        sweep.add(scores, truth)
    return sweep.curve()
