"""Score a folder of predicted masks against a folder of ground-truth masks, nothing else needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsseg.data.image_io import read_mask
from wsseg.data.labels import IGNORE, MAX_CLASSES, ClassList
from wsseg.errors import DataError
from wsseg.evaluate.boundary import WIDTH_FRAC, boundary_counts
from wsseg.evaluate.confusion import pair_counts, size_text
from wsseg.evaluate.metrics import ratio
from wsseg.evaluate.summary import StageLabel, metrics_document, stage_entry


def evaluate_folders(
    pred_dir: Path,
    gt_dir: Path,
    classes: ClassList | None = None,
    *,
    boundary: bool = True,
    boundary_width_frac: float = WIDTH_FRAC,
) -> dict[str, Any]:
    """Compare two folders of index PNGs, matched by their path below the folder.

    Args:
        pred_dir: Folder of predicted masks; sub-folders are searched.
        gt_dir: Folder of ground-truth masks.
        classes: The foreground classes. Without them the ids found in the masks are the classes,
            named ``class 1``, ``class 2``, ...
        boundary: Also measure boundary IoU.
        boundary_width_frac: Width of the boundary band as a fraction of the image diagonal.

    Returns:
        The content of a ``metrics.json`` with one stage named ``folders``, and two lists:
        ``missing_predictions`` (ground truth without a prediction; **not** part of the numbers)
        and ``predictions_without_truth``.

    Raises:
        DataError: Listing every folder that holds no PNG, mask that cannot be read, size that
            differs and value outside the class list, with file names.
    """
    truths = _masks_below(Path(gt_dir), "ground truth")
    predictions = _masks_below(Path(pred_dir), "predictions")
    both = [name for name in truths if name in predictions]
    if not both:
        raise DataError(
            f"No file of {pred_dir} has the name of a ground-truth mask in {gt_dir} (predictions "
            f"such as {next(iter(predictions))}.png, ground truth such as "
            f"{next(iter(truths))}.png). Names must be equal up to the suffix."
        )
    num_classes = MAX_CLASSES if classes is None else classes.num_classes
    counts = np.zeros((num_classes + 1, num_classes + 2), dtype=np.int64)
    bands = np.zeros((2, num_classes + 1), dtype=np.int64)
    problems: list[str] = []
    has_ignore = False
    for name in both:
        try:
            prediction, truth = _read_pair(predictions[name], truths[name], classes)
        except DataError as error:
            problems.append(str(error))
            continue
        counts += pair_counts(prediction, truth, num_classes)
        has_ignore |= bool((truth == IGNORE).any())
        if boundary:
            bands += boundary_counts(prediction, truth, num_classes, boundary_width_frac)
    if problems:
        raise DataError(f"{len(problems)} of {len(both)} masks cannot be scored.", problems)
    if classes is None:
        classes, counts, bands = _found_classes(counts, bands, Path(gt_dir), has_ignore)
    entry = stage_entry(
        counts,
        classes,
        StageLabel("folders", str(pred_dir), "test"),
        num_images=len(both),
        boundary=ratio(bands[0], bands[1]) if boundary else None,
    )
    return metrics_document([entry]) | {
        "missing_predictions": [name for name in truths if name not in predictions],
        "predictions_without_truth": [name for name in predictions if name not in truths],
    }


def _masks_below(folder: Path, what: str) -> Mapping[str, Path]:
    """Find the PNGs of a folder, sorted, by their relative path without suffix."""
    if not folder.is_dir():
        raise DataError(f"The folder of {what}, {folder}, does not exist. Check the path.")
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    }
    if not found:
        raise DataError(
            f"The folder of {what}, {folder}, holds no PNG file. Masks must be PNG files whose "
            "values are class ids."
        )
    return found


def _read_pair(
    prediction_path: Path, truth_path: Path, classes: ClassList | None
) -> tuple[np.ndarray, np.ndarray]:
    prediction = read_mask(prediction_path, classes)
    truth = read_mask(truth_path, classes)
    if prediction.shape != truth.shape:
        raise DataError(
            f"{prediction_path} is {size_text(prediction.shape)}, but {truth_path} is "
            f"{size_text(truth.shape)}. Predictions must have the size of the image."
        )
    return prediction, truth


def _found_classes(
    counts: np.ndarray, bands: np.ndarray, gt_dir: Path, has_ignore: bool
) -> tuple[ClassList, np.ndarray, np.ndarray]:
    """Cut the counts down to the highest class id that occurs."""
    pixels = counts.sum(axis=1)
    if has_ignore and not pixels[1:].any():
        raise DataError(
            f"The ground-truth masks in {gt_dir} hold only 0 and 255, and 255 means ignore. If "
            "255 marks the object, save it as 1 instead."
        )
    used = np.flatnonzero(pixels + counts[:, :-1].sum(axis=0))
    num_classes = int(used[-1]) if used.size else 0
    kept = np.concatenate(
        [counts[: num_classes + 1, : num_classes + 1], counts[: num_classes + 1, -1:]], axis=1
    )
    names = tuple(f"class {class_id}" for class_id in range(1, num_classes + 1))
    return ClassList(names), kept, bands[:, : num_classes + 1]
