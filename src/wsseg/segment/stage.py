"""The segment stage: train a segmenter on pseudo masks, then predict every split with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsseg import console, registry
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import read_image, write_mask
from wsseg.errors import DataError, RecipeError
from wsseg.processes import from_main_process
from wsseg.rundir import StageDir, fingerprint
from wsseg.segment.companions import check_companions, make_companions, masks_with_boxes
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.data import ImageTags, PixelWeights, SegmentationData, count_pixels
from wsseg.segment.rounds import (
    WEIGHTS_FOLDER,
    corrected_stage,
    relabel,
    round_stages,
    say_change,
    training_folder,
)
from wsseg.segment.said import Said
from wsseg.segment.trust import trust_by_id
from wsseg.segment.validation import MaskValidation, hold_out

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet
    from wsseg.segment.correction_task import Corrections

VERSION = 2
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

    With ``config.rounds`` it is trained again on its own cleaned predictions; the last training
    makes the model.

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
    train, held_out = _parts(dataset, samples, config, pseudo, context)
    job = _Job(dataset, config, stage, context, localizer)
    rounds = [_Round(pseudo)]
    module = job.train(train, held_out, rounds[0])
    for number, masks in enumerate(round_stages(config, stage), start=1):
        relabel(module.net, samples, config, pseudo, masks, context)
        say_change(masks)
        before = module if config.rounds.start == "previous" else None
        rounds.append(_Round(masks, number, before))
        kept = {sample.id for sample in masks.usable(samples)}
        module = job.train(
            [sample for sample in train if sample.id in kept],
            [sample for sample in held_out if sample.id in kept or config.validate_on != "pseudo"],
            rounds[-1],
        )
    from_main_process(lambda: _write_bundle(module, dataset, config, stage, context))
    stage.finish(
        seconds=time.perf_counter() - started,
        num_train=len(train),
        num_held_out=len(held_out),
        tuned_on_masks=config.validate_on == "val_masks",
    )


@dataclass(frozen=True)
class _Round:
    """One training: the masks it sees, its number, and the task it goes on from."""

    masks: StageDir
    number: int = 0
    before: Any = None


@dataclass(frozen=True)
class _Job:
    """What all trainings of the stage share."""

    dataset: Dataset
    config: SegmenterConfig
    stage: StageDir
    context: RunContext
    localizer: Callable[[], ClassMapNet] | None

    def train(self, train: Sequence[Sample], held_out: Sequence[Sample], now: _Round) -> Any:
        """Train on the masks of a round, or find it trained; returns the task."""
        from wsseg.segment.correction_task import CorrectedData, CorrectedTask
        from wsseg.training.loop import fit

        config, stage, context = self.config, self.stage, self.context
        num_classes = self.dataset.classes.num_classes
        data = self._data(train, now)
        task = self._task(data, now)
        validate = None
        if held_out:
            pairs = _pairs(held_out, None if config.validate_on == "val_masks" else now.masks)
            validate = MaskValidation(pairs, config, num_classes, max_side_px=context.max_side_px)
        mark = fingerprint(stage.fingerprint, "round", now.number)
        fitted: Any = task
        if isinstance(data, CorrectedData):
            fitted = CorrectedTask(task, self._corrections(train, now))
            data.corrected_masks = fitted.corrections.mask_paths()
        result = fit(
            fitted,
            data,
            config.training,
            training_folder(stage, now.number),
            seed=context.seed,
            title="segment: " + (f"train, round {now.number}" if now.number else "train"),
            fingerprint=mark if now.number else stage.fingerprint,
            validate=fitted.validated(validate) if fitted is not task else validate,
            monitor="miou" if validate else None,
        )
        return task if fitted is not task else result.module

    def _data(self, train: Sequence[Sample], now: _Round) -> SegmentationData:
        tags = {sample.image_path: sample.labels.tags for sample in train}
        weights = None
        uncertainty = self.config.rounds.uncertainty
        if now.number and uncertainty is not None:
            files = [now.masks.file(WEIGHTS_FOLDER, sample.id, ".png") for sample in train]
            weights = PixelWeights(files, uncertainty)
        kind = SegmentationData
        if self.config.correction is not None:
            from wsseg.segment.correction_task import CorrectedData

            kind = CorrectedData
        return kind(
            _pairs(train, now.masks),
            self.config,
            max_side_px=self.context.max_side_px,
            tags=ImageTags(self.dataset.classes.num_classes, tags),
            weights=weights,
            trust=self._trust(train),
            companions=make_companions(
                self.dataset,
                train,
                self.config,
                self.context,
                cues_dir=self.stage.path / "cues",
                masks=now.masks,
                localizer=self.localizer,
            ),
        )

    def _trust(self, train: Sequence[Sample]) -> dict[Path, float]:
        known = trust_by_id(self.context.localize_dir, self.config.trust)
        return {sample.image_path: known[sample.id] for sample in train if sample.id in known}

    def _corrections(self, train: Sequence[Sample], now: _Round) -> Corrections:
        from wsseg.segment.correction_task import Corrections

        folder = corrected_stage(self.stage, now.number)
        said = Said.of_run(self.context)
        return Corrections(train, now.masks, folder, self.config, self.context.max_side_px, said)

    def _task(self, data: SegmentationData, now: _Round) -> Any:
        task = _task(self.config, self.dataset, data, self.context.seed)
        if task.needs_filling_rates:
            task.set_filling_rates(_measured_rates(self.dataset, data))
        if now.before is not None:
            task.load_state_dict(now.before.state_dict())
        elif starts_from_localizer(self.config):
            if self.localizer is None:
                raise RecipeError(
                    "segment.weights is localizer, but there is none here. Set segment.weights to "
                    "none."
                )
            task.start_from(self.localizer().backbone)
        return task


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


def _measured_rates(dataset: Dataset, data: SegmentationData) -> Any:
    import torch

    from wsseg.segment.losses.filling_rate import measure_rates

    samples = {sample.image_path: sample for sample in dataset.samples}
    known = [samples[image_path] for image_path, _ in data.pairs]
    parts = masks_with_boxes(known, [mask_path for _, mask_path in data.pairs])
    rates = measure_rates(parts, dataset.classes.num_classes)
    named = zip(dataset.classes.names, rates[1:].tolist(), strict=True)
    console.info("filling rates: " + ", ".join(f"{name} {rate:.2f}" for name, rate in named))
    return torch.from_numpy(rates)


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
        cues=context.cues,
        data={
            "source": dataset.root.name,
            "train images": len(dataset.split("train")),
            "fingerprint": dataset.fingerprint(masks=False),
            "validated on": config.validate_on,
        },
    )
    save_bundle(stage.path / MODEL_FOLDER, task, info)


def _parts(
    dataset: Dataset,
    samples: Sequence[Sample],
    config: SegmenterConfig,
    pseudo: StageDir,
    context: RunContext,
) -> tuple[list[Sample], list[Sample]]:
    """Choose what is trained on and what chooses the best epoch; the same in all rounds."""
    if not samples:
        raise DataError(
            "No image of the train split has a pseudo mask, so there is nothing to train a "
            f"segmenter on. The reasons are in {pseudo.path / 'manifest.jsonl'}."
        )
    if config.validate_on == "none":
        return list(samples), []
    if config.validate_on == "pseudo":
        return hold_out(samples, config.validation_frac, context.seed)
    check_validation(dataset, config, context)
    return list(samples), _masked(dataset)


def _pairs(samples: Sequence[Sample], masks: StageDir | None) -> list[tuple[Path, Path]]:
    """Name image and mask file of each sample; the true masks where no folder is given."""
    if masks is not None:
        return [(sample.image_path, masks.path / f"{sample.id}.png") for sample in samples]
    return [(s.image_path, s.mask_path) for s in samples if s.mask_path]


def _masked(dataset: Dataset) -> list[Sample]:
    return [sample for sample in dataset.split("val") if sample.mask_path]


def check_validation(dataset: Dataset, config: SegmenterConfig, context: RunContext) -> None:
    """Refuse to choose the best epoch by masks that may not be used, and what is not there.

    Args:
        dataset: The data set.
        config: The segmenter's settings.
        context: Settings of the run.

    Raises:
        RecipeError: When masks may not choose anything.
        DataError: When the val split has no mask, or boxes or maps of a cue are looked at and
            there are none.
        MissingExtraError: When the loss's cue needs an optional package.
        MissingWeightsError: When its network is not at hand.
    """
    check_companions(dataset, config)
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
