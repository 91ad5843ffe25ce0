"""The evaluate stage: numbers for every stage of a run, where ground truth exists."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsseg import console
from wsseg.atomic import write_json
from wsseg.data.dataset import SPLITS, Dataset, Sample
from wsseg.data.image_io import read_mask
from wsseg.data.labels import IGNORE
from wsseg.data.scores import load_scores
from wsseg.errors import DataError
from wsseg.evaluate.average_precision import classifier_entry
from wsseg.evaluate.summary import (
    MaskEvaluator,
    StageLabel,
    TagMode,
    metrics_document,
    sweep_entry,
)
from wsseg.evaluate.sweep import ThresholdSweep
from wsseg.rundir import StageDir

VERSION = 1
SWEPT_THRESHOLDS = tuple(step / 100 for step in range(100))


@dataclass(frozen=True)
class RefinedStage:
    """One refine step as the evaluation sees it.

    Args:
        name: The refiner's name.
        folder: Its scores.
        has_background: Whether row 0 of its scores means something yet.
        threshold: The background threshold that this step chose, if it chose one.
        tuned_on_masks: Whether this step or one before it looked at ground-truth masks.
        leaves_open: Whether pixels without any evidence are not known; they count as a miss.
    """

    name: str
    folder: StageDir
    has_background: bool
    threshold: float | None
    tuned_on_masks: bool
    leaves_open: bool = False


@dataclass(frozen=True)
class EvaluateInputs:
    """The folders of a run that are scored.

    Args:
        localize: The localizer's scores.
        refine: The refine steps in order.
        pseudo: The pseudo masks.
        predictions: The segmenter's masks, or None when there is no segmenter.
        tags: Which tags chose the classes of the maps; None where no network did.
        segmenter_tuned_on_masks: Whether masks chose the segmenter's checkpoint.
        boundary_width_frac: Width of the boundary band; None measures no boundary IoU.
        has_background: Whether row 0 of the localizer's own scores means something, so that they
            are scored as they are and not at every threshold.
        localized_from_masks: Whether painted masks were labels for some images of the localizer.
        trained_masks: Pseudo masks that the segmenter's training made, named ``pseudo/...``, and
            its predictions from more than the image: name, the same in words, and folder.
    """

    localize: StageDir
    refine: tuple[RefinedStage, ...]
    pseudo: StageDir
    predictions: StageDir | None
    tags: TagMode | None
    segmenter_tuned_on_masks: bool
    boundary_width_frac: float | None
    has_background: bool = False
    localized_from_masks: bool = False
    trained_masks: tuple[tuple[str, str, StageDir], ...] = ()


def evaluate(
    dataset: Dataset, inputs: EvaluateInputs, stage: StageDir, path: Path
) -> dict[str, Any]:
    """Score maps, refined maps, pseudo masks and predictions, split by split.

    Args:
        dataset: The data set; samples without a mask are left out.
        inputs: What is scored.
        stage: Remembers whether the numbers are up to date.
        path: ``metrics.json`` of the run.

    Returns:
        The content of ``metrics.json``; ``stages`` is empty without ground truth.

    Raises:
        DataError: When a ground-truth mask cannot be read or does not fit its image.
        OutputError: When the file cannot be written.
    """
    if stage.begin():
        known = _read_metrics(path)
        if known is not None:
            return known
    started = time.perf_counter()
    stages: list[dict[str, Any]] = []
    for split in SPLITS:
        samples = [s for s in dataset.split(split) if s.mask_path is not None]
        if samples:
            console.info(f"evaluate: {len(samples)} images of the {split} split")
            stages += _map_entries(dataset, samples, inputs, split)
            stages += _mask_entries(dataset, samples, inputs, split)
    document = metrics_document(stages, _classifier(dataset, inputs.localize))
    write_json(path, document)
    stage.finish(seconds=time.perf_counter() - started)
    return document


def _read_metrics(path: Path) -> dict[str, Any] | None:
    """Read the numbers of an earlier evaluation; None where somebody removed or damaged them."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _map_entries(
    dataset: Dataset, samples: Sequence[Sample], inputs: EvaluateInputs, split: str
) -> Iterator[dict[str, Any]]:
    if inputs.has_background:
        yield from _localized_entries(dataset, samples, inputs, split)
    else:
        yield from _swept_entries(dataset, samples, inputs, split)
    for step in inputs.refine:
        if step.has_background:
            entry = _refined_entry(dataset, samples, inputs, step, split)
            if entry is not None:
                yield entry


def _localized_entries(
    dataset: Dataset, samples: Sequence[Sample], inputs: EvaluateInputs, split: str
) -> Iterator[dict[str, Any]]:
    """Score what the localizer says itself; what it leaves open counts as a miss."""

    def read(sample: Sample, truth: np.ndarray) -> np.ndarray:
        return _strongest(inputs.localize, sample, truth)

    label = StageLabel(
        "localize",
        "From the labels",
        split,
        tags=inputs.tags,
        tuned_on_masks=inputs.localized_from_masks,
    )
    entry = _entry(dataset, inputs.localize.usable(samples), read, label, None)
    if entry is not None:
        yield entry


def _swept_entries(
    dataset: Dataset, samples: Sequence[Sample], inputs: EvaluateInputs, split: str
) -> Iterator[dict[str, Any]]:
    chosen = next((step for step in inputs.refine if step.threshold is not None), None)
    extra = () if chosen is None or chosen.threshold is None else (chosen.threshold,)
    sweep = _sweep(dataset, samples, inputs.localize, extra)
    if sweep is None:
        return
    curve = sweep.curve()
    label = StageLabel("localize", "Maps, best threshold", split, tags=inputs.tags)
    yield sweep_entry(curve, dataset.classes, label)
    if chosen is not None:
        label = StageLabel(
            "localize",
            "Maps, chosen threshold",
            split,
            tags=inputs.tags,
            tuned_on_masks=chosen.tuned_on_masks,
        )
        yield sweep_entry(curve, dataset.classes, label, threshold=chosen.threshold)


def _strongest(
    folder: StageDir, sample: Sample, truth: np.ndarray, *, open_pixels: bool = True
) -> np.ndarray:
    """Read scores and take the strongest row; pixels without evidence are 255 where asked for."""
    scores = load_scores(folder.file("scores", sample.id, ".npz"))
    full = replace(scores, size=truth.shape).resized()
    mask: np.ndarray = scores.class_ids[full.argmax(axis=0)]
    if open_pixels:
        mask[~full.any(axis=0)] = IGNORE
    return mask


def _sweep(
    dataset: Dataset, samples: Sequence[Sample], folder: StageDir, extra: Sequence[float]
) -> ThresholdSweep | None:
    sweep = ThresholdSweep(dataset.classes.num_classes, (*SWEPT_THRESHOLDS, *extra))
    for sample in folder.usable(samples):
        truth = _truth(sample, dataset)
        scores = load_scores(folder.file("scores", sample.id, ".npz"))
        sweep.add(replace(scores, size=truth.shape), truth)
    return sweep if sweep.num_images else None


def _refined_entry(
    dataset: Dataset,
    samples: Sequence[Sample],
    inputs: EvaluateInputs,
    step: RefinedStage,
    split: str,
) -> dict[str, Any] | None:
    def read(sample: Sample, truth: np.ndarray) -> np.ndarray:
        open_pixels = inputs.has_background or step.leaves_open
        return _strongest(step.folder, sample, truth, open_pixels=open_pixels)

    label = StageLabel(
        f"refine/{step.name}",
        f"After {step.name}",
        split,
        tags=inputs.tags,
        threshold=step.threshold,
        tuned_on_masks=step.tuned_on_masks,
    )
    return _entry(dataset, step.folder.usable(samples), read, label, None)


def _mask_entries(
    dataset: Dataset, samples: Sequence[Sample], inputs: EvaluateInputs, split: str
) -> Iterator[dict[str, Any]]:
    tuned = inputs.localized_from_masks or any(step.tuned_on_masks for step in inputs.refine)
    pseudo_label = StageLabel(
        "pseudo", "Pseudo masks", split, tags=inputs.tags, tuned_on_masks=tuned
    )
    also = tuned or inputs.segmenter_tuned_on_masks
    folders = [(inputs.pseudo, pseudo_label)]
    predicted = []
    for name, words, folder in inputs.trained_masks:
        if name.startswith("pseudo"):
            label = StageLabel(name, words, split, tags=inputs.tags, tuned_on_masks=also)
            folders.append((folder, label))
        else:
            predicted.append((folder, StageLabel(name, words, split, tuned_on_masks=also)))
    if inputs.predictions is not None:
        folders.append(
            (
                inputs.predictions,
                StageLabel("segment", "Segmenter", split, tuned_on_masks=also),
            )
        )
    for folder, label in [*folders, *predicted]:
        root = folder.path

        def read(sample: Sample, _truth: np.ndarray, root: Path = root) -> np.ndarray:
            return read_mask(root / f"{sample.id}.png", dataset.classes)

        entry = _entry(dataset, folder.usable(samples), read, label, inputs.boundary_width_frac)
        if entry is not None:
            yield entry


def _entry(
    dataset: Dataset,
    samples: Sequence[Sample],
    read: Callable[[Sample, np.ndarray], np.ndarray],
    label: StageLabel,
    boundary_width_frac: float | None,
) -> dict[str, Any] | None:
    if not samples:
        return None
    evaluator = MaskEvaluator(
        dataset.classes,
        boundary=boundary_width_frac is not None,
        boundary_width_frac=boundary_width_frac or 0.02,
    )
    for sample in samples:
        truth = _truth(sample, dataset)
        evaluator.add(read(sample, truth), truth)
    return evaluator.entry(label)


def _truth(sample: Sample, dataset: Dataset) -> np.ndarray:
    if sample.mask_path is None:
        raise DataError(f"{sample.id} has no ground-truth mask.")
    return read_mask(sample.mask_path, dataset.classes)


def _classifier(dataset: Dataset, localize: StageDir) -> dict[str, Any] | None:
    """Score the classifier's probabilities on held-out images, or on train where there are none."""
    manifest = localize.manifest()
    for split in ("val", "test", "train"):
        rows, tags = [], []
        for sample in dataset.split(split):
            probabilities = manifest.get(sample.id, {}).get("probabilities")
            if probabilities is None or sample.labels.tags is None:
                continue
            rows.append(probabilities)
            tags.append([i + 1 in sample.labels.tags for i in range(dataset.classes.num_classes)])
        if rows:
            return classifier_entry(
                np.array(rows, np.float64), np.array(tags), dataset.classes.names, split=split
            )
    return None
