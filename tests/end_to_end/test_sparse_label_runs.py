"""Runs from boxes, points and scribbles with the losses and the network that use them."""

from __future__ import annotations

import json

import pytest

from wsseg.data.simulate import simulate_folder
from wsseg.errors import DataError
from wsseg.pipeline import run

_TRAINING = (
    "segment.training.epochs=1",
    "segment.training.batch_size=4",
    "segment.training.num_workers=0",
    "segment.training.precision=float32",
    "segment.augment={scale: null, crop_px: 48, hflip: 0.5}",
    "segment.inference.flip=false",
)
_TINY = (
    *_TRAINING,
    "segment.architecture=unet",
    "segment.encoder=tu-test_resnet",
    "localize.background=none",
)
_GRID = "grid_px=12"


@pytest.fixture(scope="module")
def labelled(template, tmp_path_factory):
    """The data set with all kinds of label, simulated from its masks."""
    folder = tmp_path_factory.mktemp("labelled") / "data"
    simulate_folder(template, folder, kinds=("tags", "boxes", "points", "scribbles"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "overrides", "logged"),
    [
        ("gated_crf", (*_TINY, f"segment.loss.gated_crf.{_GRID}"), "gated_crf"),
        ("dense_crf_loss", (*_TINY, f"segment.loss.dense_crf.{_GRID}"), "dense_crf"),
        ("tree_energy", (*_TINY, f"segment.loss.tree_energy.{_GRID}"), "tree_energy"),
        ("points_objectness", _TINY, "objectness"),
        ("filling_rate", (*_TINY[:-1],), "loss"),
        ("bb_unet", _TRAINING, "loss"),
    ],
)
def test_shipped_recipes_train_from_their_labels_and_resume(
    labelled, tmp_path, recipe, overrides, logged
):
    out = tmp_path / "run"
    finished = run(labelled, recipe=recipe, overrides=overrides, out=out)
    assert not finished.failures
    curve = (out / "segment" / "training" / "metrics.jsonl").read_text().splitlines()
    assert logged in json.loads(curve[-1])
    stages = {(stage["stage"], stage["split"]) for stage in finished.metrics["stages"]}
    assert {("pseudo", "train"), ("segment", "val")} <= stages
    assert (("segment/with_boxes", "val") in stages) == (recipe == "bb_unet")
    stamp = (out / "segment" / "stage.json").stat().st_mtime_ns
    run(labelled, recipe=recipe, overrides=overrides, out=out)
    assert (out / "segment" / "stage.json").stat().st_mtime_ns == stamp


def test_a_network_that_looks_at_boxes_is_refused_where_there_are_none(
    template, recipe_path, tmp_path
):
    overrides = ("segment={name: bb_unet, training: {epochs: 1}}",)
    with pytest.raises(DataError, match="bb_unet, which looks at boxes"):
        run(template, recipe=recipe_path, overrides=overrides, out=tmp_path / "run")
    assert not (tmp_path / "run" / "localize" / "training").exists()
