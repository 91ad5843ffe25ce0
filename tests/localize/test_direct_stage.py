from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest

from wsseg.context import RunContext
from wsseg.data.image_io import read_mask
from wsseg.data.labels import Boxes, WeakLabels
from wsseg.data.scores import load_scores
from wsseg.errors import DataError, RecipeError
from wsseg.localize.boxes.fill import FilledBoxes
from wsseg.localize.stage import localize
from wsseg.pipeline import again, plan, run
from wsseg.recipe import load_recipe, to_yaml, validate
from wsseg.rundir import RunDir, StageDir

BARE = {"name": "boxes-only", "localize": {"name": "filled_boxes"}, "supervision": "boxes"}


@pytest.fixture
def dataset(make_dataset):
    """Boxes on two images, an image that is ok, and one with a tag alone."""
    truth = np.zeros((10, 20), np.uint8)
    truth[2:8, 4:14] = 1
    made = make_dataset(
        {
            "boxed": {"mask": truth},
            "sub/ok": {"tags": set(), "size": (6, 6)},
            "tagged": {"tags": {2}, "size": (6, 6)},
            "val": {"mask": truth, "split": "val"},
        }
    )
    drawn = WeakLabels(tags={1}, boxes=Boxes([[4, 2, 14, 8]], [1]))
    samples = [
        dataclasses.replace(s, labels=drawn) if s.id in ("boxed", "val") else s for s in made
    ]
    return dataclasses.replace(made, samples=tuple(samples))


def recipe(**changes):
    return validate({**BARE, **changes})


def test_images_with_boxes_get_scores_and_the_others_are_named(dataset, tmp_path, caplog):
    stage = StageDir(tmp_path / "localize", "f")
    with caplog.at_level(logging.INFO, logger="wsseg"):
        localize(dataset, FilledBoxes(), stage, RunContext())
    usable = {sample.id for sample in stage.usable(dataset.samples)}
    assert usable == {"boxed", "sub/ok", "val"}
    assert "1 images have no boxes and get no maps (tagged)" in caplog.text
    ok = load_scores(stage.file("scores", "sub/ok", ".npz"))
    assert ok.class_ids.tolist() == [0]
    assert (ok.values == 1).all()
    boxed = load_scores(stage.file("scores", "boxed", ".npz"))
    assert boxed.values[1].sum() == 60
    assert boxed.values[1, 2:8, 4:14].all()
    assert stage.is_done
    assert not (stage.path / "training").exists()


def test_labels_fit_images_that_are_shrunk(dataset, tmp_path):
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, FilledBoxes(), stage, RunContext(max_side_px=10))
    scores = load_scores(stage.file("scores", "boxed", ".npz"))
    assert scores.size == (5, 10)
    assert scores.values[1].sum() == 15
    assert scores.values[1, 1:4, 2:7].all()


def test_a_killed_stage_goes_on_where_it_was_and_failures_stop_nothing(
    dataset, tmp_path, monkeypatch
):
    calls = []

    def fails_once(image, labels, *, config, context):
        calls.append(context.sample_id)
        if context.sample_id == "boxed" and len(calls) == 1:
            raise DataError("boxed is damaged")
        if context.sample_id == "val" and calls.count("val") == 1:
            raise KeyboardInterrupt
        from wsseg.localize.boxes.fill import filled_boxes

        context.note("made")
        return filled_boxes(image, labels, config=config, context=context)

    monkeypatch.setattr("wsseg.registry.load", lambda *_: fails_once)
    stage = StageDir(tmp_path / "localize", "f")
    with pytest.raises(KeyboardInterrupt):
        localize(dataset, FilledBoxes(), stage, RunContext())
    assert stage.failures() == {"boxed": "boxed is damaged"}
    localize(dataset, FilledBoxes(), stage, RunContext())
    assert calls == ["boxed", "val", "boxed", "val"]
    assert not stage.failures()
    assert stage.manifest()["boxed"]["notes"] == ["made"]
    assert stage.is_done


def test_a_run_goes_from_boxes_to_masks_numbers_and_a_report(dataset, tmp_path):
    finished = run(dataset, recipe=recipe(), out=tmp_path / "run")
    mask = read_mask(tmp_path / "run" / "masks" / "boxed.png")
    truth = read_mask(dataset.by_id("boxed").mask_path)
    assert np.array_equal(mask, truth)
    entries = {(entry["stage"], entry["split"]): entry for entry in finished.metrics["stages"]}
    assert entries["localize", "train"]["miou"] == 1.0
    assert entries["localize", "train"]["label"] == "From the labels"
    assert entries["localize", "train"]["tags"] is None
    assert entries["pseudo", "val"]["miou"] == 1.0
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "filled_boxes" in report
    before = (tmp_path / "run" / "masks" / "boxed.png").stat().st_mtime_ns
    run(dataset, recipe=recipe(), out=tmp_path / "run")
    assert (tmp_path / "run" / "masks" / "boxed.png").stat().st_mtime_ns == before
    again(tmp_path / "run", "localize", overrides=["localize=inner_boxes"])
    state = json.loads((tmp_path / "run" / "localize" / "stage.json").read_text())
    assert state["progress"] == "done"


def test_open_pixels_reach_the_mask_as_ignored_and_count_as_misses(dataset, tmp_path):
    config = recipe(localize={"name": "inner_boxes", "inner_frac": 0.25})
    finished = run(dataset, recipe=config, out=tmp_path / "run")
    mask = read_mask(tmp_path / "run" / "masks" / "boxed.png")
    assert np.bincount(mask.ravel(), minlength=256)[[0, 1, 255]].tolist() == [140, 15, 45]
    entry = next(e for e in finished.metrics["stages"] if e["stage"] == "pseudo")
    assert entry["classes"][1]["iou"] == pytest.approx(15 / 60)


def test_a_segmenter_trains_on_the_masks_and_its_card_says_boxes(dataset, tmp_path):
    segment = {
        "name": "smp",
        "architecture": "unet",
        "encoder": "tu-test_resnet",
        "weights": "none",
        "validate_on": "none",
        "training": {"epochs": 1, "batch_size": 2, "num_workers": 0, "precision": "float32"},
        "augment": {"crop_px": 32, "scale": None},
    }
    run(dataset, recipe=recipe(segment=segment), out=tmp_path / "run")
    card = (tmp_path / "run" / "segment" / "model" / "README.md").read_text("utf-8")
    assert "bounding boxes" in card
    assert (tmp_path / "run" / "predictions" / "val.png").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("segment={name: smp, weights: localizer}", "segment.weights is localizer"),
        ("refine.steps=[affinity_net]", '"affinity_net" works with the network that the localizer'),
        ("refine.steps=[background_constant]", "makes the background row anew"),
        ("refine.steps=[attention_affinity]", "works with the network that the localizer trains"),
    ],
)
def test_what_needs_a_trained_localizer_is_refused_before_anything_starts(
    change, message, dataset, tmp_path
):
    chosen = load_recipe(BARE, [change])
    with pytest.raises(RecipeError, match=message):
        run(dataset, recipe=chosen, out=tmp_path / "run")
    assert not (tmp_path / "run" / "localize").exists()


def test_data_without_boxes_is_refused_before_anything_starts(make_dataset, tmp_path):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}}})
    with pytest.raises(DataError, match="works from boxes"):
        run(dataset, recipe=recipe(), out=tmp_path / "run")


def test_the_recipe_survives_yaml_and_is_validated_by_the_class_of_its_name(tmp_path):
    chosen = recipe(localize={"name": "inner_boxes", "inner_frac": 0.4})
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(chosen), "utf-8")
    assert load_recipe(path) == chosen
    with pytest.raises(RecipeError, match=r"localize\.backbone"):
        recipe(localize={"name": "filled_boxes", "backbone": "resnet18"})


def test_the_fingerprints_of_localizers_from_tags_are_what_they_were(dataset, tmp_path):
    """Runs from before there were direct localizers go on."""
    from wsseg.localize import stage as localize_stage
    from wsseg.pseudo import stage as pseudo_stage
    from wsseg.rundir import fingerprint

    chosen = load_recipe("cam")
    stages = plan(RunDir(tmp_path / "run"), dataset, chosen, use_masks=False)
    shared = {"seed": chosen.seed, "max_side_px": chosen.max_side_px}
    labels = dataset.fingerprint(masks=False)
    settings = chosen.localize.model_dump(mode="json", exclude={"regularisers"})
    mark = fingerprint("localize", localize_stage.VERSION, shared, labels, settings)
    assert stages.localize.fingerprint == mark
    rule = chosen.pseudo.model_dump(mode="json", exclude={"no_evidence", "corrections"})
    before = stages.refine[-1].fingerprint
    assert stages.pseudo.fingerprint == fingerprint("pseudo", pseudo_stage.VERSION, before, rule)
