"""The refine stage: each step reads the scores before it and writes its own folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from wsseg import registry
from wsseg.atomic import write_json
from wsseg.config import MethodConfig
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.scores import load_scores, save_scores
from wsseg.data.working import read_working_image
from wsseg.refine.protocol import FitInputs, RefineContext
from wsseg.rundir import StageDir

VERSION = 1
STATE_FILE = "state.json"


def refine_step(
    dataset: Dataset,
    config: MethodConfig,
    before: StageDir,
    stage: StageDir,
    context: RunContext,
) -> None:
    """Apply one refiner to the scores of every image.

    Args:
        dataset: The data set.
        config: The refiner's settings; its ``name`` picks the refiner.
        before: The stage whose scores are refined.
        stage: Where the refined scores go.
        context: Settings of the run.

    Raises:
        DataError: When a refiner that looks at the whole data set cannot work with it.
        OutputError: When results cannot be written.
    """
    if stage.begin():
        return
    started = time.perf_counter()
    name = config.name  # type: ignore[attr-defined]
    refiner = registry.load("refiners", name)
    samples = before.usable(dataset.samples)
    state: dict[str, Any] = {}
    if hasattr(refiner, "fit"):
        state = refiner.fit(
            _inputs(dataset, samples, before, stage, context), config=config
        )
        write_json(stage.path / STATE_FILE, state)

    def work(sample: Sample) -> None:
        scores = load_scores(before.file("scores", sample.id, ".npz"))
        image = read_working_image(sample.image_path, context.max_side_px)
        step_context = RefineContext(sample_id=sample.id, tags=sample.labels.tags, state=state)
        refined = refiner(image, scores, config=config, context=step_context)
        save_scores(stage.file("scores", sample.id, ".npz"), refined)

    stage.for_each(samples, work, title=f"refine: {name}")
    stage.finish(seconds=time.perf_counter() - started, state=state)


def _inputs(
    dataset: Dataset,
    samples: Sequence[Sample],
    before: StageDir,
    stage: StageDir,
    context: RunContext,
) -> FitInputs:
    return FitInputs(
        dataset=dataset,
        samples=tuple(samples),
        load=lambda sample: load_scores(before.file("scores", sample.id, ".npz")),
        folder=stage.path,
        seed=context.seed,
        allow_masks=context.allow_masks,
    )
