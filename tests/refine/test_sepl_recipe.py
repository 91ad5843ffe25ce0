from __future__ import annotations

import numpy as np
import pytest

from wsseg.context import RunContext
from wsseg.errors import DataError, MissingWeightsError, RecipeError, WssegError
from wsseg.explain import explain
from wsseg.plan import STAGES, plan
from wsseg.preflight import preflight
from wsseg.recipe import load_recipe
from wsseg.rundir import RunDir


@pytest.fixture
def check(make_dataset, tmp_path):
    image = np.full((40, 60, 3), 90, np.uint8)
    dataset = make_dataset({"a": {"image": image, "tags": {1}}, "b": {"image": image, "tags": {2}}})

    def run(name, *overrides):
        recipe = load_recipe(name, ["localize.backbone=test_resnet", "segment=null", *overrides])
        stages = plan(RunDir(tmp_path / "run"), dataset, recipe, use_masks=False)
        preflight(dataset, recipe, stages, STAGES, RunContext())

    return run


def test_segments_of_sam_must_be_named_as_outside_knowledge(check, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    step = f"refine.steps.segment_merge.segments={{name: sam, model: {tmp_path}/none}}"
    with pytest.raises(
        RecipeError, match=r"supervision is I.*segment_merge.*Set supervision=I\+SAM"
    ):
        check("sepl", step)
    with pytest.raises(MissingWeightsError, match="is no folder"):
        check("sepl", step, "supervision=I+SAM")


def test_missing_segments_are_known_before_anything_is_trained(check, tmp_path):
    step = f"refine.steps.segment_merge.segments={{name: folder, path: {tmp_path}/none}}"
    with pytest.raises(DataError, match="does not exist"):
        check("sepl", step)
    check("sepl")


def test_a_wrong_setting_of_a_backend_is_named_with_its_place(check):
    with pytest.raises(WssegError, match=r"segments.*Did you mean"):
        check("sepl", "refine.steps.segment_merge.segments={name: superpixel}")


@pytest.mark.parametrize("step", ["segment_merge", "map_prompts"])
def test_settings_of_backends_are_explained(step):
    keys = {info.key for info in explain(f"refine.steps.{step}.segments")}
    assert {f"refine.steps.{step}.segments.min_stability"} <= keys
