from __future__ import annotations

import logging

import numpy as np
import pytest

from wsseg.context import RunContext
from wsseg.data.scores import load_scores
from wsseg.errors import DataError
from wsseg.localize.stage import check_trainable, localize
from wsseg.localize.tags.cam import Cam
from wsseg.rundir import StageDir

CONFIG = Cam.model_validate(
    {
        "backbone": "test_resnet",
        "training": {"epochs": 1, "batch_size": 2, "num_workers": 0, "precision": "float32"},
        "augment": {"scale": None, "crop_px": 32},
        "inference": {"scales": [1.0], "flip": False},
    }
)


def predicted() -> Cam:
    inference = CONFIG.inference.model_copy(
        update={"tags": "predicted", "min_tag_probability": 0.0}
    )
    return CONFIG.model_copy(update={"inference": inference})


@pytest.fixture
def dataset(make_dataset):
    """Four train images, two of them to train on with tags, and two to hold out."""
    return make_dataset(
        {
            "dent": {"tags": {1}, "size": (24, 40)},
            "sub/stain": {"tags": {2}, "size": (32, 32)},
            "ok": {"tags": set(), "size": (32, 32)},
            "untagged": {"tags": None, "size": (32, 32)},
            "val": {"tags": {1, 2}, "size": (32, 32), "split": "val"},
            "test": {"tags": {2}, "size": (32, 32), "split": "test"},
        }
    )


def test_every_tagged_image_of_every_split_gets_scores_of_its_classes(dataset, tmp_path, caplog):
    stage = StageDir(tmp_path / "localize", "f")
    with caplog.at_level(logging.INFO, logger="wsseg"):
        localize(dataset, CONFIG, stage, RunContext())
    found = {
        sample.id: load_scores(stage.file("scores", sample.id, ".npz"))
        for sample in stage.usable(dataset.samples)
    }
    assert set(found) == {"dent", "sub/stain", "ok", "val", "test"}
    assert found["dent"].class_ids.tolist() == [0, 1]
    assert found["dent"].size == (24, 40)
    assert found["val"].class_ids.tolist() == [0, 1, 2]
    assert not found["val"].values[0].any()
    assert found["ok"].class_ids.tolist() == [0]
    assert (found["ok"].values == 1).all()
    line = stage.manifest()["ok"]
    assert len(line["probabilities"]) == 2
    assert all(0 <= value <= 1 for value in line["probabilities"])
    assert stage.state()["progress"] == "done"
    assert "1 images have no tags and get no maps" in caplog.text


def test_a_complete_stage_is_not_done_again(dataset, tmp_path, monkeypatch):
    stage = StageDir(tmp_path / "localize", "f")
    stage.begin()
    stage.finish()
    before = stage.state()
    monkeypatch.setattr("wsseg.localize.stage.train_localizer", None)
    localize(dataset, CONFIG, stage, RunContext())
    assert stage.is_done
    assert stage.state() == before


def test_with_predicted_tags_untagged_images_get_maps_too(dataset, tmp_path):
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, predicted(), stage, RunContext())
    scores = load_scores(stage.file("scores", "untagged", ".npz"))
    assert scores.class_ids.tolist() == [0, 1, 2]


def test_images_of_held_out_splits_never_train(dataset, tmp_path, monkeypatch):
    seen = []
    real = __import__("wsseg.localize.data", fromlist=["TagData"]).TagData

    class Spy(real):  # type: ignore[misc, valid-type]
        def __init__(self, samples, *args, **kwargs):
            seen.extend(sample.id for sample in samples)
            super().__init__(samples, *args, **kwargs)

    monkeypatch.setattr("wsseg.localize.stage.TagData", Spy)
    localize(dataset, CONFIG, StageDir(tmp_path / "localize", "f"), RunContext())
    assert seen == ["dent", "sub/stain", "ok"]


def test_the_same_seed_gives_the_same_maps_and_another_seed_others(dataset, tmp_path):
    values = []
    for number, seed in enumerate((1, 1, 2)):
        stage = StageDir(tmp_path / f"localize{number}", "f")
        localize(dataset, CONFIG, stage, RunContext(seed=seed))
        values.append(load_scores(stage.file("scores", "dent", ".npz")).values)
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_rare_classes_are_weighted_where_it_is_asked_for(dataset, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        "wsseg.nets.cam_head.ClassMapNet.set_class_weights",
        lambda _net, tags: given.append(np.asarray(tags).tolist()),
    )
    config = CONFIG.model_copy(update={"class_weights": True})
    localize(dataset, config, StageDir(tmp_path / "localize", "f"), RunContext())
    assert given == [[[1, 0], [0, 1], [0, 0]]]


def test_tags_that_can_be_learned_are_accepted_without_a_warning(make_dataset, caplog):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}}})
    check_trainable(list(dataset.samples), dataset)
    assert not caplog.records


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([], "no tagged image"),
        ([set(), set()], "No image of the train split carries a class"),
        ([{1}, {1, 2}], "Every train image carries dent"),
        ([{1, 2}], "Every train image carries dent, stain"),
    ],
)
def test_tags_that_cannot_be_learned_are_refused_with_a_remedy(tags, message, make_dataset):
    dataset = make_dataset({f"image {i}": {"tags": tag} for i, tag in enumerate(tags)})
    with pytest.raises(DataError, match=message):
        check_trainable(list(dataset.samples), dataset)


def test_a_class_without_an_image_is_named(make_dataset, caplog):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": set()}})
    check_trainable(list(dataset.samples), dataset)
    assert "No train image carries stain" in caplog.text


def test_a_regularised_localizer_is_loaded_again_with_its_modules(dataset, tmp_path, monkeypatch):
    """Refiners ask for the trained network later; it comes from its weights, not from training."""
    import torch

    from wsseg.localize.stage import train_localizer

    config = Cam.model_validate(
        CONFIG.model_dump()
        | {"regularisers": ["hide_and_seek", "spatial_dropout", "seam"], "augment": {"crop_px": 64}}
    )
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, config, stage, RunContext())
    scores = load_scores(stage.file("scores", "dent", ".npz"))
    assert scores.class_ids.tolist() == [0, 1]
    monkeypatch.setattr("wsseg.training.loop._Loop", None)
    first = train_localizer(dataset, config, stage, RunContext())
    again = train_localizer(dataset, config, stage, RunContext())
    assert "extras.seam.vectors.weight" in first.state_dict()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(first.maps(images), again.maps(images))
