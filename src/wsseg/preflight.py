"""What can be found wrong with a recipe before the first image is read.

A run takes minutes to days; weights that are missing, a backbone that cannot do what is asked, or
a rule that needs ground-truth masks should be known in its first seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsseg import registry
from wsseg.context import RunContext
from wsseg.cues.source import check_cue, configured_cue
from wsseg.data.dataset import Dataset
from wsseg.recipe import Recipe

if TYPE_CHECKING:
    from wsseg.pipeline import Plan


def preflight(
    dataset: Dataset, recipe: Recipe, stages: Plan, wanted: Sequence[str], context: RunContext
) -> None:
    """Make every network that will be trained, and drop it; ask every step what it needs.

    Stages that are complete are left out, so that a finished run opens without its first weights.

    Args:
        dataset: The data set.
        recipe: The recipe.
        stages: The stages of the run.
        wanted: Names of the stages that will be done.
        context: Settings of the run.

    Raises:
        RecipeError: When a network or a step cannot do what is asked.
        DataError: When a step needs data that the data set does not have.
        MissingWeightsError: When pre-trained weights are not at hand or do not fit.
    """
    num_classes = dataset.classes.num_classes
    if "localize" in wanted and not stages.localize.is_done:
        from wsseg.localize.regularise.attach import make_localizer

        make_localizer(recipe.localize, num_classes)
    for step, stage in zip(recipe.refine.steps, stages.refine, strict=True):
        check = getattr(registry.load("refiners", step.model_dump()["name"]), "check", None)
        if "refine" in wanted and check is not None and not stage.is_done:
            check(dataset, config=step, allow_masks=context.allow_masks)
        cue = configured_cue(step)
        if "refine" in wanted and cue is not None and not stage.is_done:
            check_cue(cue, dataset)
    if "segment" in wanted and recipe.segment is not None and not stages.segment.is_done:
        from wsseg.segment.stage import check_validation, starts_from_localizer

        check_validation(dataset, recipe.segment, context)
        make_segmenter = registry.load("segmenters", recipe.segment.model_dump()["name"])
        segmenter = make_segmenter(config=recipe.segment, num_classes=num_classes)
        if starts_from_localizer(recipe.segment):
            from wsseg.localize.regularise.attach import make_localizer

            bare = recipe.localize.model_copy(update={"weights": "none"})
            segmenter.start_from(make_localizer(bare, num_classes).backbone)
