"""The entries of ``metrics.json``: every number of a stage as plain data, NaN written as null."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wsseg.data.labels import ClassList
from wsseg.evaluate.boundary import WIDTH_FRAC, BoundaryIou
from wsseg.evaluate.confusion import ConfusionMatrix
from wsseg.evaluate.metrics import Metrics, metrics_from_counts, nan_mean
from wsseg.evaluate.sweep import SweepCurve

TagMode = Literal["oracle", "predicted"]


@dataclass(frozen=True)
class StageLabel:
    """What a set of numbers belongs to.

    Args:
        stage: ``localize``, ``refine/NAME``, ``pseudo`` or ``segment``.
        label: The stage in words, for tables and charts.
        split: ``train``, ``val`` or ``test``.
        tags: ``oracle`` when the image's true tags chose the classes (a deployed system does not
            have them), ``predicted`` when the classifier did, None where tags play no part.
        threshold: The background threshold, None where there is none.
        tuned_on_masks: Whether ground-truth masks chose something in it.
    """

    stage: str
    label: str
    split: str
    tags: TagMode | None = None
    threshold: float | None = None
    tuned_on_masks: bool = False


def none_if_nan(value: float | np.floating | np.ndarray) -> float | None:
    """Turn a number into JSON: NaN becomes None.

    Example:
        >>> none_if_nan(float("nan")) is None, none_if_nan(0.5)
        (True, 0.5)
    """
    number = float(value)
    return None if math.isnan(number) else number


class MaskEvaluator:
    """Scores label maps against ground truth, image by image.

    Args:
        classes: The foreground classes.
        boundary: Also measure boundary IoU.
        boundary_width_frac: Width of the boundary band as a fraction of the image diagonal.

    Example:
        >>> import numpy as np
        >>> evaluator = MaskEvaluator(ClassList(("dent",)))
        >>> truth = np.array([[0, 1], [0, 1]], np.uint8)
        >>> evaluator.add(truth, truth)
        >>> evaluator.entry(StageLabel("pseudo", "Pseudo masks", "val"))["miou"]
        1.0
    """

    def __init__(
        self,
        classes: ClassList,
        *,
        boundary: bool = True,
        boundary_width_frac: float = WIDTH_FRAC,
    ) -> None:
        self.classes = classes
        self.confusion = ConfusionMatrix(classes.num_classes)
        self.boundary = BoundaryIou(classes.num_classes, boundary_width_frac) if boundary else None

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: (H, W) uint8, 0..C and 255; 255 counts as a miss of the true class.
            truth: (H, W) uint8, 0..C and 255; 255 is not counted.

        Raises:
            DataError: When sizes differ or a value is neither 0..C nor 255.
        """
        self.confusion.add(prediction, truth)
        if self.boundary is not None:
            self.boundary.add(prediction, truth)

    def entry(self, label: StageLabel) -> dict[str, Any]:
        """Build the stage's entry of ``metrics.json``; see `stage_entry`."""
        boundary = None if self.boundary is None else self.boundary.iou()
        matrix = self.confusion
        return stage_entry(
            matrix.counts, self.classes, label, num_images=matrix.num_images, boundary=boundary
        )


def stage_entry(
    counts: np.ndarray,
    classes: ClassList,
    label: StageLabel,
    *,
    num_images: int,
    boundary: np.ndarray | None = None,
) -> dict[str, Any]:
    """Build one entry of the ``stages`` list of ``metrics.json``.

    Args:
        counts: (C + 1, C + 2) pixel counts as made by `pair_counts`.
        classes: The C foreground classes.
        label: What the numbers belong to.
        num_images: Images scored.
        boundary: (C + 1,) boundary IoU, or None when it was not measured.

    Returns:
        JSON-able data. ``miou`` averages the classes that occur in ground truth or predictions.
        ``confusion`` is (C + 1, C + 1), rows the truth; ``ignored_pixels`` counts per true class
        the pixels predicted as 255, which are misses; ``ignored`` is their share.

    Example:
        >>> import numpy as np
        >>> entry = stage_entry(
        ...     np.array([[3, 1, 0], [0, 4, 0]]),
        ...     ClassList(("dent",)),
        ...     StageLabel("segment", "Segmenter", "val"),
        ...     num_images=1,
        ... )
        >>> entry["miou"], entry["classes"][1]["name"], entry["confusion"]
        (0.775, 'dent', [[3, 1], [0, 4]])
    """
    metrics = metrics_from_counts(counts)
    return {
        "stage": label.stage,
        "label": label.label,
        "split": label.split,
        "tags": label.tags,
        "threshold": label.threshold,
        "tuned_on_masks": label.tuned_on_masks,
        "num_images": num_images,
        "miou": none_if_nan(metrics.miou),
        "miou_foreground": none_if_nan(metrics.miou_foreground),
        "pixel_accuracy": none_if_nan(metrics.pixel_accuracy),
        "boundary_iou": None if boundary is None else none_if_nan(nan_mean(boundary)),
        "ignored": none_if_nan(metrics.ignored),
        "classes": _class_rows(metrics, classes, boundary),
        "confusion": counts[:, :-1].tolist(),
        "ignored_pixels": counts[:, -1].tolist(),
    }


def _class_rows(
    metrics: Metrics, classes: ClassList, boundary: np.ndarray | None
) -> list[dict[str, Any]]:
    return [
        {
            "id": class_id,
            "name": classes.name_of(class_id),
            "iou": none_if_nan(metrics.iou[class_id]),
            "precision": none_if_nan(metrics.precision[class_id]),
            "recall": none_if_nan(metrics.recall[class_id]),
            "boundary_iou": None if boundary is None else none_if_nan(boundary[class_id]),
            "gt_pixels": int(metrics.gt_pixels[class_id]),
        }
        for class_id in range(classes.num_classes + 1)
    ]


def sweep_entry(
    curve: SweepCurve, classes: ClassList, label: StageLabel, *, threshold: float | None = None
) -> dict[str, Any]:
    """Build a ``metrics.json`` entry for the maps at one threshold of a sweep.

    Args:
        curve: The sweep.
        classes: The C foreground classes.
        label: What the numbers belong to; its ``threshold`` is replaced.
        threshold: The threshold that the run chose; the nearest one of the grid is reported,
            and ``tuned_on_masks`` stays what the label says. None takes the best one, which is
            chosen with ground-truth masks: ``tuned_on_masks`` is then true.

    Returns:
        As `stage_entry`, with ``curve``: (threshold, mIoU) pairs.
    """
    index = curve.best_index if threshold is None else curve.nearest_index(threshold)
    used = StageLabel(
        stage=label.stage,
        label=label.label,
        split=label.split,
        tags=label.tags,
        threshold=float(curve.thresholds[index]),
        tuned_on_masks=label.tuned_on_masks or threshold is None,
    )
    entry = stage_entry(curve.counts[index], classes, used, num_images=curve.num_images)
    pairs = zip(curve.thresholds.tolist(), curve.miou.tolist(), strict=True)
    return entry | {"curve": [list(pair) for pair in pairs]}


def metrics_document(
    stages: Iterable[dict[str, Any]], classifier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Build the whole content of ``metrics.json``.

    Args:
        stages: Entries made by `stage_entry` and `sweep_entry`, in the order of the run.
        classifier: What `classifier_entry` made, or None.

    Returns:
        JSON-able data.

    Example:
        >>> metrics_document([])
        {'stages': [], 'classifier': None}
    """
    return {"stages": list(stages), "classifier": classifier}


def restrict_to_tags(mask: np.ndarray, tags: Sequence[int] | frozenset[int]) -> np.ndarray:
    """Drop classes that are not among the tags, as an evaluation with oracle tags does.

    Args:
        mask: (H, W) uint8 label map.
        tags: Class ids that may stay.

    Returns:
        (H, W) uint8; pixels of other classes become background, 255 stays.

    Example:
        >>> import numpy as np
        >>> restrict_to_tags(np.array([[0, 1, 2, 255]], np.uint8), {2}).tolist()
        [[0, 0, 2, 255]]
    """
    keep = np.zeros(256, dtype=np.uint8)
    keep[255] = 255
    for class_id in tags:
        keep[class_id] = class_id
    return keep[mask]
