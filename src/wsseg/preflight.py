"""What can be found wrong with a recipe before the first image is read.

A run takes minutes to days; weights that are missing, a backbone that cannot do what is asked, or
a rule that needs ground-truth masks should be known in its first seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsseg import registry
from wsseg.context import RunContext
from wsseg.cues.segments_source import check_configured, check_supervision
from wsseg.cues.source import check_cue, configured_cue
from wsseg.data.dataset import Dataset
from wsseg.errors import RecipeError
from wsseg.localize.direct import DirectLocalizerConfig, trained_part
from wsseg.localize.rounds import check_rounds
from wsseg.recipe import Recipe

if TYPE_CHECKING:
    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet
    from wsseg.plan import Plan


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
    used = (*getattr(recipe.localize, "regularisers", ()), *recipe.refine.steps)
    check_supervision(used, recipe.supervision)
    if "localize" in wanted and not stages.localize.is_done:
        check_rounds(recipe.localize, dataset)
    trained = trained_part(recipe.localize)
    if isinstance(recipe.localize, DirectLocalizerConfig):
        _check_without_network(recipe, recipe.localize, wanted)
    if "localize" in wanted and not stages.localize.is_done:
        if isinstance(recipe.localize, DirectLocalizerConfig):
            recipe.localize.check(dataset, allow_masks=context.allow_masks)
            check_configured(recipe.localize, dataset)
            cue = configured_cue(recipe.localize)
            if cue is not None:
                check_cue(cue, dataset)
        if trained is not None:
            from wsseg.localize.cue_maps import check_learned_cue
            from wsseg.localize.regularise.attach import make_localizer

            make_localizer(trained, num_classes)
            check_learned_cue(trained, dataset)
            for regulariser in trained.regularisers:
                check_configured(regulariser, dataset)
    if "refine" in wanted:
        _check_steps(dataset, recipe, stages, context)
    if "pseudo" in wanted and recipe.pseudo.corrections and not stages.pseudo.is_done:
        from wsseg.pseudo.corrections import check_corrections

        check_corrections(recipe.pseudo.corrections, dataset, stages.pseudo.path)
    if "segment" in wanted and recipe.segment is not None and not stages.segment.is_done:
        from wsseg.segment.rounds import check_self_training
        from wsseg.segment.stage import check_validation, starts_from_localizer

        check_self_training(dataset, recipe.segment)
        check_validation(dataset, recipe.segment, context)
        make_segmenter = registry.load("segmenters", recipe.segment.model_dump()["name"])
        segmenter = make_segmenter(config=recipe.segment, num_classes=num_classes)
        if trained is not None and starts_from_localizer(recipe.segment):
            from wsseg.localize.regularise.attach import make_localizer

            bare = trained.model_copy(update={"weights": "none"})
            segmenter.start_from(make_localizer(bare, num_classes).backbone)


def _check_steps(dataset: Dataset, recipe: Recipe, stages: Plan, context: RunContext) -> None:
    """Ask every refine step that is not complete what it needs, of the localizer's network too."""
    made: list[ClassMapNet] = []

    def network(config: TagLocalizerConfig) -> ClassMapNet:
        from wsseg.localize.regularise.attach import make_localizer

        if not made:
            # Its shape is all that counts here.
            bare = config.model_copy(update={"weights": "none", "regularisers": ()})
            made.append(make_localizer(bare, dataset.classes.num_classes))
        return made[0]

    trained = trained_part(recipe.localize)
    for step, stage in zip(recipe.refine.steps, stages.refine, strict=True):
        if stage.is_done:
            continue
        refiner = registry.load("refiners", step.model_dump()["name"])
        check = getattr(refiner, "check", None)
        if check is not None:
            check(dataset, config=step, allow_masks=context.allow_masks)
        check_localizer = getattr(refiner, "check_localizer", None)
        if check_localizer is not None and trained is not None and step.needs_localizer:
            check_localizer(network(trained), config=step)
        cue = configured_cue(step)
        if cue is not None:
            check_cue(cue, dataset)
        check_configured(step, dataset)


def _check_without_network(
    recipe: Recipe, config: DirectLocalizerConfig, wanted: Sequence[str]
) -> None:
    """Refuse what builds on a trained localizer, or on maps without background, where it is not so.

    Raises:
        RecipeError: Naming the step and what to do.
    """
    name = config.name
    for step in recipe.refine.steps if "refine" in wanted else ():
        where = f'refine.steps: "{step.model_dump()["name"]}"'
        if step.writes_background and config.writes_background and not step.fills_unknown:
            raise RecipeError(
                f'{where} makes the background row anew, but localizer "{name}" knows the '
                "background already, and what it left open. Remove the step; dense_crf and pamr "
                "work on such scores; affinity_net and irn fill what was left open."
            )
        cue = configured_cue(step)
        needs_it = step.needs_localizer or (cue is not None and cue.needs_localizer)
        if needs_it and trained_part(config) is None:
            raise RecipeError(
                f'{where} works with the network that the localizer trains, but localizer "{name}" '
                "trains none. Give the step a network of its own, or remove it."
            )
    own_cue = configured_cue(config)
    if own_cue is not None and own_cue.needs_localizer:
        raise RecipeError(
            f'localize.cue needs the network that a localizer trains, but localizer "{name}" '
            "trains none. Give the cue a network of its own (init=none and a backbone)."
        )
    from wsseg.segment.stage import starts_from_localizer

    starts = recipe.segment is not None and starts_from_localizer(recipe.segment)
    if starts and "segment" in wanted and trained_part(config) is None:
        raise RecipeError(
            f'segment.weights is localizer, but localizer "{name}" trains no network. Set '
            "segment.weights to imagenet, none or the path of a file."
        )
