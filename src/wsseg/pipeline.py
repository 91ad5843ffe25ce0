"""The whole chain, in order; this module alone knows it.

weak labels -> localize -> refine -> pseudo masks -> segment -> predict -> evaluate -> report
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsseg import console
from wsseg.atomic import write_json, write_text
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset
from wsseg.errors import DataError, OutputError, RecipeError, unknown_name
from wsseg.recipe import Recipe, load_recipe, to_yaml
from wsseg.rundir import RunDir, StageDir, fingerprint

if TYPE_CHECKING:
    from wsseg.evaluate.stage import EvaluateInputs

BACKGROUND_RULES = ("background_constant", "background_cue", "background_power", "threshold")
MACHINE_FILE = "machine.json"
STAGES = ("localize", "refine", "pseudo", "segment", "evaluate", "report")


@dataclass(frozen=True)
class Finished:
    """What a run ended with.

    Args:
        run: The run's folder.
        metrics: Content of ``metrics.json``, or an empty dictionary.
        failures: ``{image id: reason}`` of the images that could not be done.
    """

    run: RunDir
    metrics: dict[str, Any]
    failures: dict[str, str]

    def text(self) -> str:
        """Say what came out, where it lies, and what to try next."""
        from wsseg.evaluate.table import stages_text

        lines = []
        if self.metrics.get("stages"):
            lines.append(stages_text(self.metrics))
        if self.failures:
            lines.append(f"{len(self.failures)} images failed; the reasons:")
            lines += [f"  - {reason}" for reason in list(self.failures.values())[:20]]
        lines.append(f"Masks:  {self.run.path / 'masks'}")
        if (self.run.path / "segment").is_dir():
            lines.append(f"Model:  {self.run.path / 'segment' / 'model'}")
        if self.run.report_path.exists():
            lines.append(f"Report: {self.run.report_path}")
        lines.append(f"Next:   wsseg predict {self.run.path} NEW_IMAGES")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Say the same for machines."""
        return {
            "run": str(self.run.path),
            "masks": str(self.run.path / "masks"),
            "report": str(self.run.report_path),
            "metrics": self.metrics,
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Plan:
    """The stages of one run with their folders and fingerprints."""

    images: StageDir
    localize: StageDir
    refine: tuple[StageDir, ...]
    pseudo: StageDir
    segment: StageDir
    predict: StageDir

    def all(self) -> tuple[StageDir, ...]:
        """All stages in order."""
        return (self.images, self.localize, *self.refine, self.pseudo, self.segment, self.predict)


def run(
    data: Path | str | Dataset,
    *,
    recipe: str | Path | Recipe | None = None,
    overrides: Sequence[str] = (),
    out: Path | str | None = None,
    use_masks: bool = False,
    strict: bool = False,
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

    Returns:
        The run's folder, numbers and failed images.

    Raises:
        DataError: When the data cannot be used.
        RecipeError: When the recipe is wrong.
        OutputError: When results cannot be written.
        MissingWeightsError: When pre-trained weights are not at hand.
    """
    dataset = data if isinstance(data, Dataset) else _open(Path(data), use_masks, strict)
    chosen = _choose(recipe, overrides, dataset)
    folder = RunDir(Path(out) if out else Path("runs") / f"{_name(dataset)}-{chosen.name}")
    with folder.locked():
        _refuse_foreign(folder, dataset)
        write_text(folder.recipe_path, _provenance() + to_yaml(chosen))
        dataset.to_jsonl(folder.samples_path)
        write_json(folder.path / "settings.json", {"use_masks": use_masks})
        write_json(folder.path / MACHINE_FILE, machine_facts(dataset))
        return _run_stages(folder, dataset, chosen, use_masks, STAGES)


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
        DataError: When a stage before it has not run.
    """
    import json
    import shutil

    if stage not in STAGES:
        raise RecipeError(unknown_name("stage", stage, STAGES))
    folder = open_run(run_folder)
    recipe = load_recipe(folder.recipe_path, overrides)
    dataset = Dataset.from_jsonl(folder.samples_path)
    settings_path = folder.path / "settings.json"
    use_masks = bool(
        settings_path.exists() and json.loads(settings_path.read_text()).get("use_masks")
    )
    with folder.locked():
        write_text(folder.recipe_path, _provenance() + to_yaml(recipe))
        if force and stage in ("localize", "refine", "pseudo", "segment"):
            name = "masks" if stage == "pseudo" else stage
            shutil.rmtree(folder.path / name, ignore_errors=True)
        upto = STAGES[: STAGES.index(stage) + 1]
        wanted = upto if stage != "report" else (*upto[:-2], "report")
        return _run_stages(folder, dataset, recipe, use_masks, wanted)


def open_run(path: Path) -> RunDir:
    """Open a run's folder.

    Raises:
        RecipeError: When the folder is not a run.
    """
    folder = RunDir(path)
    if not folder.recipe_path.is_file() or not folder.samples_path.is_file():
        raise RecipeError(
            f"{path} is not the folder of a run: it has no recipe.yaml and samples.jsonl. "
            "`wsseg run DATA` makes one."
        )
    return folder


def plan(folder: RunDir, dataset: Dataset, recipe: Recipe, use_masks: bool) -> Plan:
    """Name every stage's folder and what its results depend on.

    Args:
        folder: The run's folder.
        dataset: The data set.
        recipe: The recipe.
        use_masks: Whether masks may tune; then their content counts too.

    Returns:
        The stages; a stage is done again when its fingerprint changes.
    """
    from wsseg.localize import stage as localize_stage
    from wsseg.pseudo import stage as pseudo_stage
    from wsseg.refine import stage as refine_stage
    from wsseg.segment import stage as segment_stage

    shared = {"seed": recipe.seed, "max_side_px": recipe.max_side_px}
    labels = dataset.fingerprint(masks=False)
    tuning = dataset.fingerprint(masks=True) if use_masks else labels
    mark = fingerprint(
        "localize", localize_stage.VERSION, shared, labels, recipe.localize.model_dump(mode="json")
    )
    localize = folder.stage("localize", mark)
    steps = []
    for number, step in enumerate(recipe.refine.steps, start=1):
        content = step.model_dump(mode="json")
        mark = fingerprint("refine", refine_stage.VERSION, mark, content, tuning)
        steps.append(folder.stage(f"refine/{number}_{content['name']}", mark))
    content = recipe.pseudo.model_dump(mode="json")
    mark = fingerprint("pseudo", pseudo_stage.VERSION, mark, content)
    pseudo = folder.stage("masks", mark)
    segmenter = recipe.segment.model_dump(mode="json") if recipe.segment else None
    mark = fingerprint("segment", segment_stage.VERSION, mark, segmenter, shared, tuning)
    return Plan(
        folder.stage("images", fingerprint("images", labels)),
        localize,
        tuple(steps),
        pseudo,
        folder.stage("segment", mark),
        folder.stage("predictions", fingerprint("predict", mark)),
    )


def _run_stages(
    folder: RunDir, dataset: Dataset, recipe: Recipe, use_masks: bool, wanted: Sequence[str]
) -> Finished:
    from wsseg.evaluate.stage import evaluate
    from wsseg.localize.stage import localize
    from wsseg.pseudo.stage import pseudo
    from wsseg.refine.stage import refine_step
    from wsseg.report.render import build_report
    from wsseg.segment.stage import predict, segment

    context = RunContext(
        recipe.seed, recipe.max_side_px, use_masks, recipe.name, recipe.supervision
    )
    stages = plan(folder, dataset, recipe, use_masks)
    started = time.perf_counter()
    metrics: dict[str, Any] = {}
    dataset = readable(dataset, stages.images)
    if "localize" in wanted:
        localize(dataset, recipe.localize, stages.localize, context)
    before = stages.localize
    for step, stage in zip(recipe.refine.steps, stages.refine, strict=True):
        if "refine" in wanted:
            refine_step(dataset, step, before, stage, context)
        before = stage
    if "pseudo" in wanted:
        pseudo(dataset, recipe.pseudo, before, stages.pseudo)
    if "segment" in wanted and recipe.segment is not None:
        segment(dataset, recipe.segment, stages.pseudo, stages.segment, context)
        predict(dataset, stages.segment, stages.predict)
    if "evaluate" in wanted:
        inputs = _evaluate_inputs(recipe, stages)
        metrics = evaluate(dataset, inputs, folder.metrics_path)
    if "report" in wanted:
        build_report(folder.path)
    console.info(f"done in {time.perf_counter() - started:.0f} s")
    failures = {key: why for stage in stages.all() for key, why in stage.failures().items()}
    return Finished(folder, metrics, failures)


def readable(dataset: Dataset, stage: StageDir) -> Dataset:
    """Decode every image once, so that a corrupt one is named now and not in mid-training.

    Args:
        dataset: The data set.
        stage: Where the outcome is kept; images found sound before are not read again.

    Returns:
        The data set without the images that cannot be read.

    Raises:
        DataError: When no image can be read.
    """
    from wsseg.data.image_io import read_image

    if not stage.begin():
        stage.for_each(
            dataset.samples,
            lambda sample: {"size": list(read_image(sample.image_path).shape[:2])},
            title="check images",
        )
        stage.finish(seconds=stage.seconds())
    kept = stage.usable(dataset.samples)
    if not kept:
        raise DataError("No image can be read:", list(stage.failures().values()))
    return dataclasses.replace(dataset, samples=tuple(kept))


def _refuse_foreign(folder: RunDir, dataset: Dataset) -> None:
    """Keep a run's results from being replaced by those of other data by mistake."""
    if not folder.samples_path.exists():
        return
    before = Dataset.from_jsonl(folder.samples_path).root.resolve()
    if before != dataset.root.resolve():
        raise OutputError(
            f"{folder.path} holds a run on other data ({before}). Choose another folder with "
            "--out, or remove this one."
        )


def machine_facts(dataset: Dataset) -> dict[str, str]:
    """Describe what the run works on and with, for the report."""
    import os
    import platform

    from wsseg.device import best_device, processor_name

    return {
        "processor": processor_name(),
        "cores": str(os.cpu_count()),
        "device": best_device(),
        "system": f"{platform.system()} {platform.machine()}",
        "data fingerprint": dataset.fingerprint(masks=False),
    }


def _evaluate_inputs(recipe: Recipe, stages: Plan) -> EvaluateInputs:
    from wsseg.evaluate.stage import EvaluateInputs, RefinedStage

    refined = []
    has_background = tuned = False
    for step, stage in zip(recipe.refine.steps, stages.refine, strict=True):
        content = step.model_dump()
        state = stage.state().get("state", {})
        has_background |= content["name"] in BACKGROUND_RULES
        tuned |= bool(state.get("tuned_on_masks"))
        threshold = state.get("threshold")
        if content["name"] == "background_constant":
            threshold = content["value"]
        refined.append(RefinedStage(content["name"], stage, has_background, threshold, tuned))
    segmenter_tuned = recipe.segment is not None and recipe.segment.validate_on == "val_masks"
    return EvaluateInputs(
        localize=stages.localize,
        refine=tuple(refined),
        pseudo=stages.pseudo,
        predictions=stages.predict if recipe.segment is not None else None,
        tags=recipe.localize.inference.tags,
        segmenter_tuned_on_masks=segmenter_tuned,
        boundary_width_frac=recipe.evaluate.boundary_width_frac
        if recipe.evaluate.boundary
        else None,
    )


def _open(path: Path, use_masks: bool, strict: bool) -> Dataset:
    from wsseg.data.discover import open_dataset

    dataset = open_dataset(path, use_masks=use_masks, strict=strict)
    for note in dataset.notes:
        console.info(note)
    return dataset


def _choose(
    recipe: str | Path | Recipe | None, overrides: Sequence[str], dataset: Dataset
) -> Recipe:
    if isinstance(recipe, Recipe):
        return load_recipe(recipe.model_dump(mode="json"), overrides) if overrides else recipe
    if recipe is None:
        has_ok = any(sample.labels.tags == frozenset() for sample in dataset.split("train"))
        recipe = "defects" if has_ok else "cam"
        why = "there are images tagged ok" if has_ok else "no image is tagged ok"
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
