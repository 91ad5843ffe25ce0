"""From which refine step on the scores count as masks, for methods of others too."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from pydantic import Field

from wsseg import registry
from wsseg.config import MethodConfig
from wsseg.localize.tags.cam import Cam
from wsseg.plan import evaluate_inputs, plan
from wsseg.recipe import Recipe, RefineConfig
from wsseg.refine.superpixel_pooling import SuperpixelPooling
from wsseg.rundir import RunDir


class Plain(MethodConfig):
    """A refiner of somebody else that leaves the background row alone."""

    name: Literal["plain"] = Field("plain", description="Which refiner.")


class OwnRule(MethodConfig):
    """A background rule of somebody else."""

    writes_background: ClassVar[bool] = True
    name: Literal["own_rule"] = Field("own_rule", description="Which refiner.")


def scored_steps(make_dataset, tmp_path, *steps: MethodConfig) -> list[bool]:
    dataset = make_dataset({"a": {"tags": {1}}})
    recipe = Recipe(localize=Cam(), refine=RefineConfig(steps=steps))
    stages = plan(RunDir(tmp_path / "run"), dataset, recipe, use_masks=False)
    return [step.has_background for step in evaluate_inputs(recipe, stages).refine]


def test_steps_are_scored_from_the_first_background_rule_on(make_dataset, tmp_path):
    steps = (Plain(), OwnRule(), SuperpixelPooling())
    assert scored_steps(make_dataset, tmp_path, *steps) == [False, True, True]


def test_without_a_background_rule_no_step_is_scored(make_dataset, tmp_path):
    assert scored_steps(make_dataset, tmp_path, SuperpixelPooling(), Plain()) == [False, False]


@pytest.mark.parametrize(
    "name",
    [
        "affinity_net",
        "background_constant",
        "background_cue",
        "background_power",
        "irn",
        "random_walker",
        "threshold",
    ],
)
def test_steps_that_make_the_background_row_say_so(name):
    assert registry.config_class("refiners", name).writes_background


def test_whether_it_is_a_rule_is_no_setting():
    assert "writes_background" not in OwnRule().model_dump()
