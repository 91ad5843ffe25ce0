from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from wsseg.context import RunContext
from wsseg.cues.protocol import CueInputs
from wsseg.cues.source import check_cue
from wsseg.data.image_io import write_mask
from wsseg.data.scores import load_scores
from wsseg.data.transforms import AugmentConfig
from wsseg.errors import DataError, RecipeError
from wsseg.localize.cue_maps import SAYS_NOTHING, check_learned_cue, learned_cue
from wsseg.localize.data import TagData
from wsseg.localize.stage import localize, train_localizer
from wsseg.localize.tags.eps import Eps
from wsseg.plan import STAGES, plan
from wsseg.preflight import preflight
from wsseg.recipe import load_recipe
from wsseg.rundir import RunDir, StageDir


@pytest.fixture
def dataset(make_dataset):
    """Three tagged training images and one that is not tagged; a bright square in each."""
    image = np.full((40, 60, 3), 40, np.uint8)
    image[10:20, 30:50] = 220
    item = {"image": image, "tags": {1}}
    return make_dataset(
        {"a": item, "b": {**item, "tags": {2}}, "ok": {**item, "tags": set()}}
        | {"later": {**item, "tags": {1}, "split": "val"}, "x": {**item, "tags": None}}
    )


@pytest.fixture
def folder(tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()

    def write(**planes):
        for name, plane in planes.items():
            Image.fromarray(np.asarray(plane, np.uint8)).save(maps / f"{name}.png")
        return maps

    return write


def square(size=(40, 60), value=255):
    plane = np.zeros(size, np.uint8)
    plane[10:20, 30:50] = value
    return plane


def settings_with(maps, **more) -> Eps:
    return Eps.model_validate({"cue": {"name": "folder", "path": str(maps)}, **more})


def learners(dataset):
    return [s for s in dataset.split("train") if s.labels.tags is not None]


def test_only_images_that_train_need_a_map(dataset, folder, caplog, tmp_path):
    config = settings_with(folder(a=square(), b=square(), ok=square()))
    check_learned_cue(config, dataset)
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    cue.prepare(learners(dataset))
    assert not caplog.text


def test_missing_maps_stop_the_run_before_it_starts_unless_they_may_miss(
    dataset, folder, caplog, tmp_path
):
    config = settings_with(folder(a=square()))
    with pytest.raises(DataError, match=r"no map for 2 of the 3 images.*skip:\n  - b\n  - ok"):
        check_learned_cue(config, dataset)
    config = settings_with(config.cue.path, missing_maps="skip")
    check_learned_cue(config, dataset)
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    samples = learners(dataset)
    cue.prepare(samples)
    assert "folder has no map for 2 of 3 training images (b, ok)" in caplog.text
    image = np.zeros((40, 60, 3), np.uint8)
    assert (cue.map(samples[1], image) == SAYS_NOTHING).all()
    assert cue.map(samples[0], image).max() == 1


def test_no_map_at_all_is_an_error_in_any_case(dataset, folder):
    for rule in ("error", "skip"):
        with pytest.raises(DataError, match="has no map of any"):
            check_learned_cue(settings_with(folder(), missing_maps=rule), dataset)
    with pytest.raises(DataError, match="nowhere, does not exist"):
        check_learned_cue(settings_with("nowhere"), dataset)


def test_maps_of_another_shape_and_damaged_ones_are_named_together(dataset, folder, tmp_path):
    maps = folder(a=square((60, 40)), b=square(), ok=square())
    (maps / "ok.png").write_bytes(b"torn")
    cue = learned_cue(settings_with(maps), CueInputs(dataset, tmp_path / "cues"))
    with pytest.raises(DataError) as caught:
        cue.prepare(learners(dataset))
    text = str(caught.value)
    assert "a.png: the map is 40 x 60 px, its image 60 x 40 px" in text
    assert "ok.png" in text
    assert "b.png" not in text


def test_maps_that_are_zero_everywhere_are_counted_and_say_nothing(
    dataset, folder, caplog, tmp_path
):
    config = settings_with(folder(a=square(), b=square(value=0), ok=square(value=0)))
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    samples = learners(dataset)
    cue.prepare(samples)
    assert "zero everywhere in 2 of 3 training images (b, ok); they teach their tags" in caplog.text
    data = TagData(samples, 2, AugmentConfig(crop_px=32), aligned={"saliency": cue})
    views = [data.item(i, np.random.default_rng(1))["saliency"] for i in range(3)]
    assert [bool((view < 0).any()) for view in views] == [False, True, True]


def test_weight_free_maps_are_made_once_and_read_by_loading_processes(dataset, tmp_path):
    config = Eps.model_validate({"cue": "ft"})
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    samples = learners(dataset)
    cue.prepare(samples)
    copy = pickle.loads(pickle.dumps(cue))
    assert copy.source is None
    image = np.array(Image.open(samples[0].image_path))
    found = copy.map(samples[0], image)
    np.testing.assert_array_equal(found, cue.map(samples[0], image))
    assert found[15, 40] > 0.9 > 0.3 > found[2, 2]
    assert {path.stem for path in tmp_path.rglob("cues/ft-*/maps/*.png")} == {"a", "b", "ok"}


def test_a_cue_that_needs_the_localizer_is_refused(dataset, tmp_path):
    config = Eps.model_validate({"cue": {"name": "anomaly", "init": "localizer"}})
    with pytest.raises(RecipeError, match="learn from it"):
        check_learned_cue(config, dataset)
    with pytest.raises(RecipeError, match="learn from it"):
        learned_cue(config, CueInputs(dataset, tmp_path))


def test_what_the_cue_itself_lacks_is_known_before(dataset):
    config = Eps.model_validate(
        {"cue": {"name": "anomaly", "init": "none", "backbone": "resnet18"}}
    )
    with pytest.raises(DataError, match="two train images tagged ok"):
        check_learned_cue(config, dataset)
    check_cue(Eps().cue, dataset)


GEOMETRY = {"brightness": 0, "contrast": 0, "saturation": 0, "hflip": 0.5, "vflip": 0.5}


@pytest.mark.parametrize("scale", [(0.5, 0.9), (1.0, 1.0), (1.1, 2.0)])
@pytest.mark.parametrize("crop", [32, 96])
def test_a_marker_lands_on_the_same_cell_in_image_and_saliency(
    scale, crop, dataset, folder, tmp_path
):
    """White square on dark ground in the image; the map has the same square."""
    config = settings_with(folder(a=square(), b=square(), ok=square()))
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    augmentation = AugmentConfig(scale=scale, crop_px=crop, rot90=0.5, **GEOMETRY)
    data = TagData(learners(dataset), 2, augmentation, aligned={"saliency": cue})
    seen = 0
    for seed in range(12):
        item = data.item(0, np.random.default_rng(seed))
        valid = item["valid"][0] > 0
        shown = item["image"][0] * 0.229 * 255 + 0.485 * 255
        marker = (shown - 40) / 180 * valid
        np.testing.assert_allclose(item["saliency"][0], marker, atol=0.51)
        # Beyond one blurred pixel at its edge they are the same.
        assert np.abs(item["saliency"][0] - marker).mean() < 0.02
        rounded = np.abs((item["saliency"][0] > 0.5) ^ (marker > 0.5)).mean()
        assert rounded < 0.02
        seen += bool((marker > 0.5).any())
    assert seen >= 6


def test_masks_of_a_folder_are_no_saliency_by_accident(dataset, tmp_path):
    """Palette pictures with class ids are dark colours; they are read as the grey they show."""
    maps = tmp_path / "maps"
    for name in ("a", "b", "ok"):
        write_mask(maps / f"{name}.png", np.zeros((40, 60), np.uint8))
    cue = learned_cue(settings_with(maps), CueInputs(dataset, tmp_path / "cues"))
    cue.prepare(learners(dataset))
    image = np.zeros((40, 60, 3), np.uint8)
    assert (cue.map(dataset.samples[0], image) == SAYS_NOTHING).all()


# --- through the stage ---

SMALL = {
    "backbone": "test_resnet",
    "output_stride": 8,
    "training": {"epochs": 2, "batch_size": 2, "num_workers": 1, "precision": "float32"},
    "augment": {"crop_px": 32},
    "inference": {"scales": [1.0], "flip": False},
}


def test_a_training_with_a_cue_writes_maps_and_is_loaded_again_without_the_cue(dataset, tmp_path):
    """Two processes read the maps; once trained, the network needs neither cue nor folder."""
    config = Eps.model_validate({**SMALL, "cue": "ft"})
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, config, stage, RunContext(cues_dir=tmp_path / "cues"))
    scores = load_scores(stage.file("scores", "a", ".npz"))
    assert scores.class_ids.tolist() == [0, 1]
    assert set(stage.usable(dataset.samples)) >= {s for s in dataset.samples if s.labels.tags}
    first = train_localizer(dataset, config, stage, RunContext(cues_dir=tmp_path / "cues"))
    for path in (tmp_path / "cues").rglob("*.png"):
        path.unlink()
    again = train_localizer(dataset, config, stage, RunContext(cues_dir=tmp_path / "cues"))
    assert not list((tmp_path / "cues").rglob("*.png"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    logged = (stage.path / "training" / "metrics.jsonl").read_text()
    assert '"saliency"' in logged


def test_a_bad_map_stops_the_stage_before_the_first_update(dataset, folder, tmp_path):
    maps = folder(a=square(), b=square((60, 40)), ok=square())
    config = settings_with(maps, **SMALL)
    stage = StageDir(tmp_path / "localize", "f")
    with pytest.raises(DataError, match=r"cannot teach the localizer:\n  - .*b\.png: the map is"):
        localize(dataset, config, stage, RunContext())
    assert not (stage.path / "training" / "metrics.jsonl").exists()


def test_missing_maps_are_known_before_the_run_starts(dataset, folder, tmp_path):
    recipe = load_recipe(
        "eps",
        [
            f"localize.cue={{name: folder, path: '{folder(a=square())}'}}",
            "localize.backbone=test_resnet",
            "segment=null",
        ],
    )
    stages = plan(RunDir(tmp_path / "run"), dataset, recipe, use_masks=False)
    with pytest.raises(DataError, match="no map for 2 of the 3"):
        preflight(dataset, recipe, stages, STAGES, RunContext())
