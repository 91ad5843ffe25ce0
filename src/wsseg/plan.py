"""What a run consists of: its stages with their folders, and what each one's results depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel

from wsseg.data.dataset import Dataset
from wsseg.outside import RECORD_FILE, outside_marks
from wsseg.recipe import Recipe
from wsseg.rundir import RunDir, StageDir, fingerprint

if TYPE_CHECKING:
    from wsseg.evaluate.stage import EvaluateInputs
    from wsseg.pseudo.masks import PseudoMaskConfig

STAGES = ("localize", "refine", "pseudo", "segment", "evaluate", "report")


@dataclass(frozen=True)
class Plan:
    """The stages of one run with their folders and fingerprints.

    Attributes:
        outside: Marks of the files outside of the run that its results depend on, as of now; see
            `wsseg.outside`. Who does stages writes them to `wsseg.outside.RECORD_FILE`.
    """

    images: StageDir
    ground_truth: StageDir
    localize: StageDir
    refine: tuple[StageDir, ...]
    pseudo: StageDir
    segment: StageDir
    predict: StageDir
    evaluate: StageDir
    outside: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> tuple[StageDir, ...]:
        """The folders of one of `STAGES`; the report has none."""
        folders = {
            "localize": (self.localize,),
            "refine": self.refine,
            "pseudo": (self.pseudo,),
            "segment": (self.segment, self.predict),
            "evaluate": (self.evaluate,),
        }
        return folders.get(name, ())

    def all(self) -> tuple[StageDir, ...]:
        """All stages in order."""
        named = (folder for name in STAGES for folder in self.of(name))
        return (self.images, self.ground_truth, *named)


def plan(folder: RunDir, dataset: Dataset, recipe: Recipe, use_masks: bool) -> Plan:
    """Name every stage's folder and what its results depend on.

    Args:
        folder: The run's folder.
        dataset: The data set.
        recipe: The recipe.
        use_masks: Whether masks may tune; then their content counts too.

    Returns:
        The stages; a stage is done again when its fingerprint changes. Weight files, networks and
        maps that the recipe names count by their content.
    """
    from wsseg.evaluate import stage as evaluate_stage
    from wsseg.localize import stage as localize_stage
    from wsseg.pseudo import stage as pseudo_stage
    from wsseg.refine import stage as refine_stage
    from wsseg.segment import stage as segment_stage

    shared = {"seed": recipe.seed, "max_side_px": recipe.max_side_px}
    labels = dataset.fingerprint(masks=False)
    tuning = dataset.fingerprint(masks=True) if use_masks else labels
    outside: dict[str, str] = {}
    known = _recorded(folder)

    def content_of(settings: BaseModel | None) -> tuple[dict[str, str], ...]:
        """Mark what lies outside; nothing where nothing does, as before there were marks."""
        marks = {} if settings is None else outside_marks(settings, dataset, known)
        outside.update(marks)
        return (marks,) if marks else ()

    settings = localize_stage.fingerprint_settings(recipe.localize)
    drawn = tuning if localize_stage.takes_masks(recipe.localize) else labels
    files = content_of(recipe.localize)
    mark = fingerprint("localize", localize_stage.VERSION, shared, drawn, settings, *files)
    localize = folder.stage("localize", mark)
    steps = []
    for number, step in enumerate(recipe.refine.steps, start=1):
        content = step.model_dump(mode="json")
        files = content_of(step)
        mark = fingerprint("refine", refine_stage.VERSION, mark, content, tuning, *files)
        steps.append(folder.stage(f"refine/{number}_{content['name']}", mark))
    content = pseudo_stage.fingerprint_settings(pseudo_rule(recipe))
    mark = fingerprint("pseudo", pseudo_stage.VERSION, mark, content)
    pseudo = folder.stage("masks", mark)
    segmenter = recipe.segment.model_dump(mode="json") if recipe.segment else None
    files = content_of(recipe.segment)
    mark = fingerprint("segment", segment_stage.VERSION, mark, segmenter, shared, tuning, *files)
    scored = dataset.fingerprint(masks=True)
    measures = recipe.evaluate.model_dump(mode="json")
    return Plan(
        images=folder.stage("images", fingerprint("images", labels)),
        ground_truth=folder.stage("ground_truth", fingerprint("ground truth", scored)),
        localize=localize,
        refine=tuple(steps),
        pseudo=pseudo,
        segment=folder.stage("segment", mark),
        predict=folder.stage("predictions", fingerprint("predict", mark)),
        evaluate=folder.stage(
            "evaluate", fingerprint("evaluate", evaluate_stage.VERSION, mark, scored, measures)
        ),
        outside=outside,
    )


def _recorded(folder: RunDir) -> dict[str, str]:
    """Read the marks that the run's stages were made with."""
    try:
        found = json.loads((folder.path / RECORD_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def pseudo_rule(recipe: Recipe) -> PseudoMaskConfig:
    """Resolve the pseudo-mask rule: whether steps before it may leave pixels open.

    Args:
        recipe: The recipe.

    Returns:
        The rule as it acts.
    """
    leaves_open = [recipe.localize.writes_background, *(s.leaves_open for s in recipe.refine.steps)]
    return recipe.pseudo.resolved(leaves_open=any(leaves_open))


def evaluate_inputs(recipe: Recipe, stages: Plan) -> EvaluateInputs:
    """Tell the evaluation which stages there are and what their numbers depend on.

    Args:
        recipe: The recipe.
        stages: The stages of its run, as far as they are done.

    Returns:
        What `wsseg.evaluate.stage.evaluate` takes.
    """
    from wsseg.evaluate.stage import EvaluateInputs, RefinedStage
    from wsseg.localize.direct import trained_part
    from wsseg.localize.kinds import led_by
    from wsseg.segment.rounds import mask_folders

    refined = []
    from_masks = tuned = "masks" in led_by(stages.localize.manifest()).values()
    leaves_open = False
    has_background = recipe.localize.writes_background
    trained = trained_part(recipe.localize)
    for step, stage in zip(recipe.refine.steps, stages.refine, strict=True):
        content = step.model_dump()
        state = stage.state().get("state", {})
        has_background |= step.writes_background
        leaves_open |= step.leaves_open
        tuned |= bool(state.get("tuned_on_masks"))
        threshold = state.get("threshold")
        if content["name"] == "background_constant":
            threshold = content["value"]
        marks = (has_background, threshold, tuned, leaves_open)
        refined.append(RefinedStage(content["name"], stage, *marks))
    segmenter_tuned = recipe.segment is not None and recipe.segment.validate_on == "val_masks"
    return EvaluateInputs(
        localize=stages.localize,
        refine=tuple(refined),
        pseudo=stages.pseudo,
        trained_masks=mask_folders(recipe.segment, stages.segment),
        predictions=stages.predict if recipe.segment is not None else None,
        tags=None if trained is None else trained.inference.tags,
        has_background=recipe.localize.writes_background,
        localized_from_masks=from_masks,
        segmenter_tuned_on_masks=segmenter_tuned,
        boundary_width_frac=recipe.evaluate.boundary_width_frac
        if recipe.evaluate.boundary
        else None,
    )
