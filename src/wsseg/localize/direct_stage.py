"""The localize stage of a direct localizer: labels of each image to Scores, no training."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsseg import console, registry
from wsseg.context import RunContext
from wsseg.cues.source import open_configured_cue
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.scores import save_scores
from wsseg.data.working import read_working_image
from wsseg.device import best_device
from wsseg.localize.direct import (
    DirectLocalizerConfig,
    FittedLocalizer,
    LearnInputs,
    LocalizeContext,
    all_background,
    is_empty,
    scaled_labels,
)
from wsseg.rundir import KNOWS_BACKGROUND, StageDir

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

DIRECT_VERSION = 3
"""Raised where the same labels give other scores than before."""

_MAX_NAMES_SHOWN = 5


def localize_direct(
    dataset: Dataset,
    config: DirectLocalizerConfig,
    stage: StageDir,
    context: RunContext,
    localizer: Callable[[], ClassMapNet] | None = None,
) -> None:
    """Write ``scores/ID.npz`` for the images of every split that have the labels for it.

    Images that a person found empty are background; the others without the labels that the
    localizer needs are named and left out.

    Args:
        dataset: The data set.
        config: The localizer's settings.
        stage: Where the results go.
        context: Settings of the run.
        localizer: Loads the trained network of `DirectLocalizerConfig.network_part`.

    Raises:
        OutputError: When results cannot be written.
    """
    if stage.begin():
        return
    started = time.perf_counter()
    method = registry.load("localizers", config.name)
    samples = [s for s in dataset.samples if _is_labelled(s, config, context)]
    note_left_out(dataset, samples, *config.left_out())
    cue = open_configured_cue(dataset, config, stage.path, context, localizer)
    if localizer is not None and config.uses_network(samples, allow_masks=context.allow_masks):
        # All processes train; the images below are the work of the first one alone.
        net = localizer()
        localizer = lambda: net  # noqa: E731
    shared: dict[Hashable, Any] = {}
    device = best_device()
    state = _learned(dataset, samples, config, stage, context)

    def work(sample: Sample) -> dict[str, Any]:
        image = read_working_image(sample.image_path, context.max_side_px)
        size = (image.shape[0], image.shape[1])
        step = LocalizeContext(
            sample_id=sample.id,
            device=device,
            seed=context.seed,
            cue=None if cue is None else cue.map(sample, image),
            mask=_mask_reader(sample, size, config, context),
            localizer=localizer,
            shared=shared,
            class_names=dataset.classes.names,
            folder=stage.path,
            state=state,
            segments_dir=None if context.cues_dir is None else context.cues_dir / "segments",
        )
        if is_empty(sample.labels) and step.mask is None:
            scores = all_background(size)
        else:
            labels = scaled_labels(sample.labels, _drawn_size(sample, context, size), size)
            scores = method(image, labels, config=config, context=step)
        save_scores(stage.file("scores", sample.id, ".npz"), scores)
        return step.facts

    stage.for_each(samples, work, title=f"localize: {config.name}")
    if cue is not None:
        cue.note_empty()
    facts = {KNOWS_BACKGROUND: True} if config.writes_background else {}
    stage.finish(seconds=time.perf_counter() - started, **facts)


def _learned(
    dataset: Dataset,
    samples: Sequence[Sample],
    config: DirectLocalizerConfig,
    stage: StageDir,
    context: RunContext,
) -> dict[str, Any]:
    """Let a localizer that learns do so, in all processes; nothing for the others."""
    method = registry.load("localizers", config.name)
    if not isinstance(method, FittedLocalizer):
        return {}
    inputs = LearnInputs(
        dataset=dataset,
        samples=tuple(s for s in samples if s.split == "train"),
        folder=stage.path,
        seed=context.seed,
        device=best_device(),
        max_side_px=context.max_side_px,
        fingerprint=stage.fingerprint,
    )
    return method.fit(inputs, config=config)


def note_left_out(dataset: Dataset, kept: Sequence[Sample], kinds: str, remedy: str = "") -> None:
    """Name the images that get no maps, and say why.

    Args:
        dataset: The data set.
        kept: The images that get maps.
        kinds: What the others lack.
        remedy: What to do about it; a sentence part.
    """
    known = {sample.id for sample in kept}
    left_out = [sample.id for sample in dataset.samples if sample.id not in known]
    if left_out:
        more = ", ..." if len(left_out) > _MAX_NAMES_SHOWN else ""
        names = f"{', '.join(left_out[:_MAX_NAMES_SHOWN])}{more}"
        advice = remedy or "label them, or combine kinds of labels with --recipe mixed"
        console.warning(
            f"{len(left_out)} images have no {kinds} and get no maps ({names}); {advice}."
        )


def _is_labelled(sample: Sample, config: DirectLocalizerConfig, context: RunContext) -> bool:
    return config.takes(sample.labels, has_mask=_may_use_mask(sample, config, context))


def _may_use_mask(sample: Sample, config: DirectLocalizerConfig, context: RunContext) -> bool:
    """Masks are labels in the train split only; those of other splits are there to score."""
    may = config.uses_masks and context.allow_masks and sample.split == "train"
    return may and sample.mask_path is not None


def _mask_reader(
    sample: Sample, size: tuple[int, int], config: DirectLocalizerConfig, context: RunContext
) -> Callable[[], npt.NDArray[np.uint8]] | None:
    path = sample.mask_path
    if path is None or not _may_use_mask(sample, config, context):
        return None

    def read() -> npt.NDArray[np.uint8]:
        import cv2

        from wsseg.data.image_io import read_mask

        mask = read_mask(path)
        small = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return small.astype(np.uint8, copy=False)

    return read


def _drawn_size(sample: Sample, context: RunContext, size: tuple[int, int]) -> tuple[int, int]:
    """Tell the size (H, W) of the image file, which labels are drawn on."""
    if context.max_side_px is None or max(size) < context.max_side_px:
        return size
    from wsseg.data.image_io import image_size

    return image_size(sample.image_path)
