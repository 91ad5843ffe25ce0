"""The segment stage: train a segmenter on pseudo masks, then predict every split with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsseg import registry
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import read_image, write_mask
from wsseg.errors import DataError, RecipeError
from wsseg.processes import from_main_process
from wsseg.rundir import StageDir
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.data import ImageTags, SegmentationData, count_pixels
from wsseg.segment.validation import MaskValidation, hold_out

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

VERSION = 1
MODEL_FOLDER = "model"


def segment(
    dataset: Dataset,
    config: SegmenterConfig,
    pseudo: StageDir,
    stage: StageDir,
    context: RunContext,
    localizer: Callable[[], ClassMapNet] | None = None,
) -> None:
    """Train the segmenter on the pseudo masks of the train split and write its model bundle.

    Args:
        dataset: The data set.
        config: The segmenter's settings.
        pseudo: The folder of the pseudo masks.
        stage: Where the training and the model go.
        context: Settings of the run.
        localizer: Loads the trained localizer, for ``weights: localizer``.

    Raises:
        DataError: When there is no pseudo mask to train on.
        RecipeError: When validation on masks is asked for and masks may not be used, or the
            network cannot start from the localizer.
        OutputError: When results cannot be written.
    """
    if stage.begin():
        return
    started = time.perf_counter()
    samples = pseudo.usable(dataset.split("train"))
    train, held_out = _validation(dataset, samples, config, pseudo, context)
    tags = ImageTags(dataset.classes.num_classes, {s.image_path: s.labels.tags for s in samples})
    data = SegmentationData(train, config, max_side_px=context.max_side_px, tags=tags)
    task = _task(config, dataset, data, context.seed)
    if starts_from_localizer(config):
        if localizer is None:
            raise RecipeError(
                "segment.weights is localizer, but there is none here. Set segment.weights to none."
            )
        task.start_from(localizer().backbone)
    validate = None
    if held_out:
        validate = MaskValidation(
            held_out, config, dataset.classes.num_classes, max_side_px=context.max_side_px
        )
    from wsseg.training.loop import fit

    result = fit(
        task,
        data,
        config.training,
        stage.path / "training",
        seed=context.seed,
        title="segment: train",
        fingerprint=stage.fingerprint,
        validate=validate,
        monitor="miou" if validate else None,
    )
    from_main_process(lambda: _write_bundle(result.module, dataset, config, stage, context))
    stage.finish(
        seconds=time.perf_counter() - started,
        num_train=len(train),
        num_held_out=len(held_out),
        tuned_on_masks=config.validate_on == "val_masks",
    )


def starts_from_localizer(config: SegmenterConfig) -> bool:
    """Tell whether the network starts from what the localizer learned."""
    return getattr(config, "weights", None) == "localizer"


def _task(config: SegmenterConfig, dataset: Dataset, data: SegmentationData, seed: int) -> Any:
    import torch

    from wsseg.training.seeds import seed_everything

    seed_everything(seed)
    method = registry.load("segmenters", config.name)  # type: ignore[attr-defined]
    task = method(config=config, num_classes=dataset.classes.num_classes)
    if task.needs_pixel_counts:
        counts = count_pixels((mask for _, mask in data.pairs), dataset.classes.num_classes)
        task.set_pixel_counts(torch.from_numpy(counts))
    return task


def _write_bundle(
    task: Any, dataset: Dataset, config: SegmenterConfig, stage: StageDir, context: RunContext
) -> None:
    from wsseg.export.bundle import ModelInfo, describe, save_bundle

    info = ModelInfo(
        segmenter=describe(config),
        classes=dataset.classes.names,
        max_side_px=context.max_side_px,
        recipe=context.recipe,
        supervision=context.supervision,
        data={
            "source": dataset.root.name,
            "train images": len(dataset.split("train")),
            "fingerprint": dataset.fingerprint(masks=False),
            "validated on": config.validate_on,
        },
    )
    save_bundle(stage.path / MODEL_FOLDER, task, info)


def _validation(
    dataset: Dataset,
    samples: Sequence[Sample],
    config: SegmenterConfig,
    pseudo: StageDir,
    context: RunContext,
) -> tuple[list[tuple[Path, Path]], list[tuple[Path, Path]]]:
    """Choose what is trained on and what chooses the best epoch."""
    pairs = [(sample.image_path, pseudo.path / f"{sample.id}.png") for sample in samples]
    if not pairs:
        raise DataError(
            "No image of the train split has a pseudo mask, so there is nothing to train a "
            f"segmenter on. The reasons are in {pseudo.path / 'manifest.jsonl'}."
        )
    if config.validate_on == "none":
        return pairs, []
    if config.validate_on == "pseudo":
        return hold_out(pairs, config.validation_frac, context.seed)
    check_validation(dataset, config, context)
    return pairs, _masked(dataset)


def _masked(dataset: Dataset) -> list[tuple[Path, Path]]:
    return [(s.image_path, s.mask_path) for s in dataset.split("val") if s.mask_path]


def check_validation(dataset: Dataset, config: SegmenterConfig, context: RunContext) -> None:
    """Refuse to choose the best epoch by masks that may not be used, or are not there.

    Args:
        dataset: The data set.
        config: The segmenter's settings.
        context: Settings of the run.

    Raises:
        RecipeError: When masks may not choose anything.
        DataError: When the val split has no mask.
    """
    if config.validate_on != "val_masks":
        return
    if not context.allow_masks:
        raise RecipeError(
            "segment.validate_on is val_masks, but ground-truth masks may not choose anything: "
            "pass --use-masks, or set segment.validate_on=pseudo."
        )
    if not _masked(dataset):
        raise DataError(
            "segment.validate_on is val_masks, but no image of the val split has a mask. Add "
            "masks, or set segment.validate_on=pseudo."
        )


def predict(
    dataset: Dataset, model: StageDir, stage: StageDir, *, splits: Sequence[str] = ("val", "test")
) -> None:
    """Predict the masks of held-out images with the trained segmenter, without their tags.

    Args:
        dataset: The data set.
        model: The segment stage.
        stage: Where the masks go.
        splits: The splits to predict; where none of them has images, the train split.

    Raises:
        OutputError: When masks cannot be written.
    """
    if stage.begin():
        return
    from wsseg.segment.predict import Predictor

    started = time.perf_counter()
    samples = [sample for sample in dataset.samples if sample.split in splits]
    predictor = Predictor.load(model.path / MODEL_FOLDER)

    def work(sample: Sample) -> None:
        prediction = predictor.predict(read_image(sample.image_path), sample.labels.tags)
        write_mask(stage.path / f"{sample.id}.png", prediction.mask)

    stage.for_each(samples or list(dataset.samples), work, title="segment: predict")
    stage.finish(seconds=time.perf_counter() - started)
