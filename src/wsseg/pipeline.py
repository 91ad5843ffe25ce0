"""The whole chain, in order; this module alone knows it.

weak labels -> localize -> refine -> pseudo masks -> segment -> predict -> evaluate -> report
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsseg import console
from wsseg.atomic import remove_temporaries, write_json, write_text
from wsseg.context import RunContext
from wsseg.cues.origin import cue_origins
from wsseg.data.dataset import Dataset
from wsseg.data.rendered import keep_rendered, with_kept
from wsseg.device import machine_facts
from wsseg.errors import RecipeError, unknown_name
from wsseg.finished import Finished
from wsseg.intake import open_data, readable, refuse_foreign, with_sound_masks
from wsseg.outside import RECORD_FILE
from wsseg.plan import STAGES, Plan, evaluate_inputs, plan, pseudo_rule
from wsseg.processes import from_main_process
from wsseg.recipe import Recipe, load_recipe, to_yaml
from wsseg.rundir import RunDir, StageDir

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

MACHINE_FILE = "machine.json"
SETTINGS_FILE = "settings.json"
DRAWN_MASKS = "drawn_masks"


def run(
    data: Path | str | Dataset,
    *,
    recipe: str | Path | Recipe | None = None,
    overrides: Sequence[str] = (),
    out: Path | str | None = None,
    use_masks: bool = False,
    strict: bool = False,
    classes: Sequence[str] | None = None,
    format: str | None = None,  # noqa: A002 - the word the command line uses
) -> Finished:
    """Turn weak labels into pseudo masks, a segmenter, numbers and a report.

    Calling it again with the same arguments continues where it was.

    Args:
        data: Folder with images and labels, or a data set.
        recipe: Name, YAML file or recipe; None picks one that suits the data and says so.
        overrides: ``"key=value"`` changes of the recipe.
        out: Folder of the run; ``runs/DATA-RECIPE`` when None.
        use_masks: Let ground-truth masks tune thresholds and choose checkpoints.
        strict: Stop at any error in the data, instead of leaving those images out.
        classes: Class names in the order of their ids, where the folder does not fix them.
        format: Name of the data's format, where several fit.

    Returns:
        The run's folder, numbers and failed images.

    Raises:
        DataError: When the data cannot be used.
        RecipeError: When the recipe is wrong.
        OutputError: When results cannot be written.
        MissingWeightsError: When pre-trained weights are not at hand.
    """
    problems: dict[str, str] = {}
    if isinstance(data, Dataset):
        dataset = data
    else:
        dataset, problems = open_data(
            Path(data), use_masks=use_masks, strict=strict, classes=classes, format=format
        )
    chosen = _choose(recipe, overrides, dataset)
    folder = RunDir(Path(out) if out else Path("runs") / f"{_name(dataset)}-{chosen.name}")
    with folder.locked():
        from_main_process(lambda: _write_head(folder, dataset, chosen, use_masks))
        dataset = with_kept(dataset, folder.path / DRAWN_MASKS)
        finished = _run_stages(folder, dataset, chosen, use_masks, STAGES)
    return dataclasses.replace(finished, failures=problems | finished.failures)


def check_run(
    dataset: Dataset, *, recipe: Recipe, out: Path | str, use_masks: bool = False
) -> None:
    """Find what would stop a run before its first training; writes nothing.

    Args:
        dataset: The data set.
        recipe: The recipe.
        out: Folder of the run; stages that are complete there are not asked.
        use_masks: Whether ground-truth masks may tune.

    Raises:
        DataError: When a step needs data that the data set does not have.
        RecipeError: When a network or a step cannot do what is asked.
        MissingWeightsError: When pre-trained weights are not at hand or do not fit.
    """
    _checked(RunDir(Path(out)), dataset, recipe, use_masks, STAGES)


def _write_head(folder: RunDir, dataset: Dataset, recipe: Recipe, use_masks: bool) -> None:
    """Write what the run is, before any of its results."""
    refuse_foreign(folder, dataset)
    for leftover in (folder.path, folder.path / "export"):
        remove_temporaries(leftover, below=False)
    write_text(folder.recipe_path, _provenance() + to_yaml(recipe))
    keep_rendered(dataset, folder.path / DRAWN_MASKS).to_jsonl(folder.samples_path)
    write_json(folder.path / SETTINGS_FILE, {"use_masks": use_masks})
    facts = machine_facts() | {"data fingerprint": dataset.fingerprint(masks=False)}
    write_json(folder.path / MACHINE_FILE, facts)


def again(
    run_folder: Path, stage: str, *, overrides: Sequence[str] = (), force: bool = False
) -> Finished:
    """Do one stage of a run again, with changed settings or from nothing.

    Args:
        run_folder: Folder of a run.
        stage: One of `STAGES`.
        overrides: ``"key=value"`` changes of the run's recipe, which are kept in the run.
        force: Do the stage even when nothing changed.

    Returns:
        The run's folder, numbers and failed images.

    Raises:
        RecipeError: When the folder is not a run, or the stage or an override is wrong.
        DataError: When the data cannot be used.
    """
    if stage not in STAGES:
        raise RecipeError(unknown_name("stage", stage, STAGES))
    folder = RunDir(run_folder).require()
    recipe = load_recipe(folder.recipe_path, overrides)
    dataset = Dataset.from_jsonl(folder.samples_path)
    use_masks = _may_use_masks(folder)
    with folder.locked():
        head = _provenance() + to_yaml(recipe)
        from_main_process(lambda: write_text(folder.recipe_path, head))
        if force:
            stages = plan(folder, dataset, recipe, use_masks)
            from_main_process(lambda: _invalidate(stages, stage))
        wanted = STAGES[: STAGES.index(stage) + 1]
        return _run_stages(folder, dataset, recipe, use_masks, wanted)


def _may_use_masks(folder: RunDir) -> bool:
    try:
        settings = json.loads((folder.path / SETTINGS_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("use_masks") is True


def _invalidate(stages: Plan, first: str) -> None:
    """Let a stage be done again from nothing, and so the stages that build on it."""
    for name in STAGES[STAGES.index(first) :]:
        for stage in stages.of(name):
            stage.invalidate()


def _run_stages(
    folder: RunDir, dataset: Dataset, recipe: Recipe, use_masks: bool, wanted: Sequence[str]
) -> Finished:
    """Do the wanted stages in order; what is up to date is not done again."""
    started = time.perf_counter()
    stages, context = _checked(folder, dataset, recipe, use_masks, wanted)
    if stages.outside:
        marks = dict(stages.outside)
        from_main_process(lambda: write_json(folder.path / RECORD_FILE, marks))
    usable = with_sound_masks(readable(dataset, stages.images), stages.ground_truth)
    _train_and_map(usable, recipe, stages, context, wanted)
    metrics: dict[str, Any] = {}
    if "evaluate" in wanted:
        from wsseg.evaluate.stage import evaluate

        inputs = evaluate_inputs(recipe, stages)
        metrics = from_main_process(
            lambda: evaluate(usable, inputs, stages.evaluate, folder.metrics_path)
        )
    if "report" in wanted:
        from wsseg.report.render import build_report

        from_main_process(lambda: str(build_report(folder.path)))
    console.info(f"done in {time.perf_counter() - started:.0f} s")
    return Finished(
        folder, metrics, _failures(stages), _next_command(folder, dataset, recipe, stages)
    )


def _checked(
    folder: RunDir, dataset: Dataset, recipe: Recipe, use_masks: bool, wanted: Sequence[str]
) -> tuple[Plan, RunContext]:
    """Name the stages of a run, and find what would go wrong with it; nothing is written."""
    from wsseg.preflight import preflight

    stages = plan(folder, dataset, recipe, use_masks)
    context = RunContext(
        recipe.seed,
        recipe.max_side_px,
        use_masks,
        recipe.name,
        recipe.supervision,
        cues_dir=folder.path / "cues",
        localizer_fingerprint=stages.localize.fingerprint,
        localize_dir=stages.localize.path,
        corrections_dir=Path(recipe.pseudo.corrections) if recipe.pseudo.corrections else None,
        cues=cue_origins(recipe.model_dump(mode="json")),
        outside=stages.outside,
    )
    preflight(dataset, recipe, stages, wanted, context)
    return stages, context


def _train_and_map(
    dataset: Dataset, recipe: Recipe, stages: Plan, context: RunContext, wanted: Sequence[str]
) -> None:
    """Do the stages that make something: maps, refined maps, masks, a segmenter, its masks."""
    from wsseg.localize.direct import trained_part
    from wsseg.localize.stage import localize, train_localizer
    from wsseg.pseudo.stage import pseudo
    from wsseg.refine.stage import refine_step
    from wsseg.segment.boxed import predict_with_boxes
    from wsseg.segment.stage import predict, segment

    if "localize" in wanted:
        localize(dataset, recipe.localize, stages.localize, context)

    trained = trained_part(recipe.localize)
    localizer: Callable[[], ClassMapNet] | None = None
    if trained is not None:
        localizer = partial(train_localizer, dataset, trained, stages.localize, context)
    before = stages.localize
    if "refine" in wanted:
        from_main_process(lambda: _remove_other_steps(stages))
    for step, stage in zip(recipe.refine.steps, stages.refine, strict=True):
        if "refine" in wanted:
            refine_step(dataset, step, before, stage, context, localizer)
        before = stage
    if "pseudo" in wanted:
        from_main_process(lambda: pseudo(dataset, pseudo_rule(recipe), before, stages.pseudo))
    if "segment" not in wanted:
        return
    if recipe.segment is not None:
        segment(dataset, recipe.segment, stages.pseudo, stages.segment, context, localizer)
        from_main_process(lambda: predict(dataset, stages.segment, stages.predict))
        segmenter = recipe.segment
        from_main_process(lambda: predict_with_boxes(dataset, segmenter, stages.segment))
    else:
        from_main_process(stages.segment.remove)
        from_main_process(stages.predict.remove)


def _remove_other_steps(stages: Plan) -> None:
    """Remove refine steps of an earlier recipe, which the report would show as part of this one."""
    wanted = {stage.path for stage in stages.refine}
    parent = stages.localize.path.parent / "refine"
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if path.is_dir() and path not in wanted:
            StageDir(path, "").remove()


def _failures(stages: Plan) -> dict[str, str]:
    return {
        image_id: reason
        for stage in stages.all()
        if stage.is_current
        for image_id, reason in stage.failures().items()
    }


def _next_command(folder: RunDir, dataset: Dataset, recipe: Recipe, stages: Plan) -> str:
    """Tell what to type next: the rest of the job where stages are out of date, else its use."""
    made = ("localize", "refine", "pseudo", *(("segment",) if recipe.segment else ()), "evaluate")
    if all(stage.is_done for name in made for stage in stages.of(name)):
        if recipe.segment is None:
            return f"wsseg export {shlex.quote(str(folder.path))} --to coco"
        return f"wsseg predict {shlex.quote(str(folder.path))} NEW_IMAGES"
    parts = ["wsseg", "run", dataset.root, "--recipe", folder.recipe_path, "--out", folder.path]
    if _may_use_masks(folder):
        parts.append("--use-masks")
    return shlex.join(str(part) for part in parts)


def _choose(
    recipe: str | Path | Recipe | None, overrides: Sequence[str], dataset: Dataset
) -> Recipe:
    if isinstance(recipe, Recipe):
        return load_recipe(recipe.model_dump(mode="json"), overrides) if overrides else recipe
    if recipe is None:
        from wsseg.suggest import suggest_recipe

        recipe, why = suggest_recipe(dataset)
        console.info(f'recipe: "{recipe}", because {why} (choose another with --recipe)')
    return load_recipe(recipe, overrides)


def _name(dataset: Dataset) -> str:
    return dataset.root.resolve().name or "data"


def _provenance() -> str:
    """Comment lines that tell which software resolved the recipe."""
    import platform
    from importlib.metadata import version

    from wsseg._version import __version__

    packages = ("torch", "timm", "segmentation-models-pytorch", "numpy", "numba")
    listed = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"# wsseg {__version__}, Python {platform.python_version()}, {listed}\n"
