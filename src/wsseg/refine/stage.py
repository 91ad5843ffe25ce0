"""The refine stage: each step reads the scores before it and writes its own folder."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wsseg import console, registry
from wsseg.atomic import write_json
from wsseg.config import MethodConfig
from wsseg.context import RunContext
from wsseg.cues.source import open_configured_cue
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.scores import load_scores, save_scores
from wsseg.data.working import read_working_image
from wsseg.device import best_device
from wsseg.outside import outside_marks
from wsseg.processes import from_main_process
from wsseg.refine.protocol import FitInputs, FittedRefiner, RefineContext
from wsseg.rundir import KNOWS_BACKGROUND, StageDir, fingerprint

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

VERSION = 1
STATE_FILE = "state.json"


def refine_step(
    dataset: Dataset,
    config: MethodConfig,
    before: StageDir,
    stage: StageDir,
    context: RunContext,
    localizer: Callable[[], ClassMapNet] | None = None,
) -> None:
    """Apply one refiner to the scores of every image.

    Args:
        dataset: The data set.
        config: The refiner's settings; its ``name`` picks the refiner.
        before: The stage whose scores are refined.
        stage: Where the refined scores go.
        context: Settings of the run.
        localizer: Loads the trained localizer, for refiners that start from its weights.

    Raises:
        DataError: When a refiner that looks at the whole data set cannot work with it.
        OutputError: When results cannot be written.
    """
    # Asked once for all processes, as `begin` below is.
    if from_main_process(lambda: stage.is_done):
        return
    started = time.perf_counter()
    name = config.name  # type: ignore[attr-defined]
    refiner = registry.load("refiners", name)
    stage, marks = _marks(refiner, config, before, stage, context)
    stage.begin()
    samples = before.usable(dataset.samples)
    device = best_device()
    knows_background = bool(before.state().get(KNOWS_BACKGROUND))
    state: dict[str, Any] = {}
    if isinstance(refiner, FittedRefiner):
        inputs = FitInputs(
            dataset=dataset,
            samples=tuple(samples),
            load=lambda sample: load_scores(before.file("scores", sample.id, ".npz")),
            folder=stage.path,
            seed=context.seed,
            device=device,
            allow_masks=context.allow_masks,
            max_side_px=context.max_side_px,
            localizer=localizer,
            knows_background=knows_background,
            **marks,
        )
        state = refiner.fit(inputs, config=config)
        from_main_process(lambda: write_json(stage.path / STATE_FILE, state))
        for note in state.get("notes", []):
            console.info(f"{name}: {note}")

    cue = open_configured_cue(dataset, config, stage.path, context, localizer)
    shared: dict[Hashable, Any] = {}

    def work(sample: Sample) -> dict[str, Any]:
        scores = load_scores(before.file("scores", sample.id, ".npz"))
        image = read_working_image(sample.image_path, context.max_side_px)
        step_context = RefineContext(
            sample_id=sample.id,
            tags=sample.labels.tags,
            device=device,
            cue=None if cue is None else cue.map(sample, image),
            state=state,
            folder=stage.path,
            shared=shared,
            localizer=localizer,
            cues_dir=context.cues_dir,
            knows_background=knows_background,
        )
        refined = refiner(image, scores, config=config, context=step_context)
        save_scores(stage.file("scores", sample.id, ".npz"), refined)
        return step_context.facts

    stage.for_each(samples, work, title=f"refine: {name}")
    _tell_notes(name, stage)
    if cue is not None:
        cue.note_empty()
    facts = {KNOWS_BACKGROUND: True} if knows_background else {}
    stage.finish(seconds=time.perf_counter() - started, state=state, **facts)


def _tell_notes(name: str, stage: StageDir) -> None:
    """Count what a refiner noted about single images, such as that it kept their scores."""
    lines = stage.manifest().values()
    # Lists of classes differ from image to image; the manifest has them.
    notes = Counter(re.sub(r"\[.*?\]", "[...]", line["note"]) for line in lines if "note" in line)
    for note, count in notes.most_common():
        console.info(f"{name}: {count} of {len(lines)} images: {note}")


def _marks(
    refiner: Any, config: MethodConfig, before: StageDir, stage: StageDir, context: RunContext
) -> tuple[StageDir, dict[str, str]]:
    """Name what a training depends on, and let the stage keep it when nothing of that changes."""
    scores = fingerprint("scores", VERSION, before.fingerprint)
    training_settings = getattr(refiner, "training_settings", None)
    if training_settings is None:
        return stage, {"fingerprint": stage.fingerprint, "scores_fingerprint": scores}
    files = outside_marks(config, known=context.outside)
    training = fingerprint(scores, training_settings(config), *([files] if files else []))
    stage = replace(stage, learned=scores)
    return stage, {"fingerprint": training, "scores_fingerprint": scores}
