from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.cues.saliency_mbd import mbd
from wsseg.data.scores import Scores, load_scores, save_scores
from wsseg.errors import DataError, RecipeError
from wsseg.explain import explain
from wsseg.plan import STAGES, plan
from wsseg.preflight import preflight
from wsseg.recipe import load_recipe, to_yaml
from wsseg.refine.stage import refine_step
from wsseg.rundir import MANIFEST_FILE, RunDir, StageDir


def recipe(text: str):
    return load_recipe("cam", [f"refine.steps=[{text}]", "localize.backbone=test_resnet"])


@pytest.fixture
def dataset(make_dataset):
    image = np.full((40, 60, 3), 90, np.uint8)
    image[12:28, 20:40] = (200, 60, 60)
    return make_dataset({"a": {"image": image, "tags": {1}}, "b": {"image": image, "tags": {1}}})


@pytest.fixture
def before(dataset, tmp_path):
    stage = StageDir(tmp_path / "localize", "f")
    values = np.zeros((2, 5, 8), np.float32)
    values[1] = 0.5
    for sample in dataset.samples:
        append_jsonl(stage.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})
        scores = Scores(values, np.array([0, 1], np.uint8), (40, 60))
        save_scores(stage.file("scores", sample.id, ".npz"), scores)
    return stage


def test_a_recipe_names_a_cue_by_name_or_with_settings():
    step = recipe("{name: background_cue, cue: {name: rbd, num_superpixels: 100}}").refine.steps[0]
    assert step.cue.num_superpixels == 100
    assert recipe("{name: background_cue, cue: mbd}").refine.steps[0].cue.name == "mbd"
    whole = recipe("{name: background_cue, cue: {name: anomaly, init: localizer}}")
    import yaml

    assert load_recipe(yaml.safe_load(to_yaml(whole))) == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cue: rdb", 'Unknown cue "rdb". Did you mean "rbd"?'),
        ("cue: {name: rbd, num: 3}", "background_cue.cue.num: unknown key"),
        ("cue: {name: rbd, num_superpixels: 1}", "greater than or equal to 4"),
        ("cue: {name: folder}", "path"),
        ("cue: rbd, cue_folder: maps", "Give one of them"),
    ],
)
def test_a_wrong_cue_is_named_in_the_recipe(text, message):
    with pytest.raises(RecipeError) as caught:
        recipe(f"{{name: background_cue, {text}}}")
    assert message in str(caught.value)


def test_the_settings_of_every_cue_are_explained():
    [info] = [
        info
        for info in explain("refine.steps.background_cue.cue.rbd")
        if info.key.endswith("num_superpixels")
    ]
    assert info.key == "refine.steps.background_cue.cue.num_superpixels"
    assert info.only_with == "refine.steps.background_cue.cue.name=rbd"
    assert info.default == "250"


def test_a_step_takes_its_background_from_the_cue_and_keeps_the_maps(dataset, before, tmp_path):
    step = recipe("{name: background_cue, cue: mbd}").refine.steps[0]
    stage = StageDir(tmp_path / "refine", "f")
    refine_step(dataset, step, before, stage, RunContext(cues_dir=tmp_path / "cues"))
    refined = load_scores(stage.file("scores", "a", ".npz"))
    image = np.array(Image.open(dataset.samples[0].image_path))
    np.testing.assert_allclose(refined.values[0], 1 - mbd(image), atol=2 / 255)
    assert refined.values[0, 20, 30] < 0.1 < 0.9 < refined.values[0, 2, 2]
    assert len(list((tmp_path / "cues").glob("mbd-*/maps/*.png"))) == 2


def test_an_image_without_a_map_fails_and_the_others_go_on(dataset, before, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(maps / "a.png")
    step = recipe(f"{{name: background_cue, cue: {{name: folder, path: '{maps}'}}}}")
    stage = StageDir(tmp_path / "refine", "f")
    refine_step(dataset, step.refine.steps[0], before, stage, RunContext())
    assert not load_scores(stage.file("scores", "a", ".npz")).values[0].any()
    assert list(stage.failures()) == ["b"]
    assert "there is no map for this image" in stage.failures()["b"]


def test_a_map_of_another_shape_and_one_that_is_zero_are_told(dataset, before, tmp_path, caplog):
    maps = tmp_path / "maps"
    maps.mkdir()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(maps / "a.png")
    Image.fromarray(np.zeros((60, 40), np.uint8)).save(maps / "b.png")
    step = recipe(f"{{name: background_cue, cue_folder: '{maps}'}}").refine.steps[0]
    stage = StageDir(tmp_path / "refine", "f")
    refine_step(dataset, step, before, stage, RunContext())
    assert (load_scores(stage.file("scores", "a", ".npz")).values[0] == 1).all()
    assert "The cue folder is zero everywhere in 1 images (a)" in caplog.text
    assert "the map is 40 x 60 px, its image 60 x 40 px" in stage.failures()["b"]


@pytest.mark.parametrize(
    ("cue", "message"),
    [
        ("{name: anomaly}", "at least two train images tagged ok, and there are 0"),
        ("{name: folder, path: nowhere}", "nowhere, does not exist"),
    ],
)
def test_what_a_cue_lacks_is_known_before_the_run_starts(dataset, tmp_path, cue, message):
    chosen = recipe(f"{{name: background_cue, cue: {cue}}}")
    stages = plan(RunDir(tmp_path / "run"), dataset, chosen, use_masks=False)
    with pytest.raises(DataError, match=message):
        preflight(dataset, chosen, stages, STAGES, RunContext())
