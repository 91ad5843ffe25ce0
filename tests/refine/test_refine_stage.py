from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from wsseg import registry
from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.data.scores import Scores, load_scores, save_scores
from wsseg.errors import DataError, RecipeError
from wsseg.recipe import load_recipe
from wsseg.refine.stage import refine_step
from wsseg.rundir import MANIFEST_FILE, StageDir


def step(text: str):
    return load_recipe("cam", [f"refine.steps=[{text}]"]).refine.steps[0]


@pytest.fixture
def dataset(make_dataset):
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 1
    return make_dataset(
        {
            "a": {"mask": mask, "split": "val"},
            "sub/b": {"tags": {2}},
            "ok": {"tags": set()},
            "failed": {"tags": {1}},
        }
    )


@pytest.fixture
def before(dataset, tmp_path):
    """Scores of all images but one: 0.6 in the upper half, 0.1 below."""
    stage = StageDir(tmp_path / "localize", "f")
    evidence = np.full((8, 8), 0.1, np.float32)
    evidence[:4] = 0.6
    for sample in dataset.samples:
        status = "failed" if sample.id == "failed" else "ok"
        append_jsonl(stage.path / MANIFEST_FILE, {"id": sample.id, "status": status})
        if status == "failed":
            continue
        ids = [0, *sorted(sample.labels.tags)]
        values = np.zeros((len(ids), 8, 8), np.float32)
        values[1:] = evidence
        values[0] = 1.0 if len(ids) == 1 else 0.0
        scores = Scores(values, np.array(ids, np.uint8), (8, 8))
        save_scores(stage.file("scores", sample.id, ".npz"), scores, dtype="float16")
    return stage


def test_every_image_with_scores_is_refined(dataset, before, tmp_path):
    stage = StageDir(tmp_path / "refine" / "1_background_constant", "f")
    refine_step(dataset, step("{name: background_constant, value: 0.25}"), before, stage,
                RunContext())  # fmt: skip
    assert [s.id for s in stage.usable(dataset.samples)] == ["a", "sub/b", "ok"]
    refined = load_scores(stage.file("scores", "sub/b", ".npz"))
    assert refined.class_ids.tolist() == [0, 2]
    assert refined.values[0] == pytest.approx(np.full((8, 8), 0.25), abs=0.005)
    assert refined.values[1, 0, 0] == pytest.approx(0.6, abs=0.005)
    sound = load_scores(stage.file("scores", "ok", ".npz"))
    assert (sound.values == 1).all()
    assert stage.is_done


def test_what_a_refiner_notes_about_images_is_counted_in_the_log(
    dataset, before, tmp_path, monkeypatch, caplog
):
    def noting(image, scores, *, config, context):
        if context.tags:
            context.facts["note"] = f"nothing for the classes {sorted(context.tags)}; kept"
        return scores

    chosen = step("background_constant")
    monkeypatch.setattr("wsseg.refine.stage.registry.load", lambda *_: noting)
    stage = StageDir(tmp_path / "refine" / "1_background_constant", "f")
    caplog.set_level(logging.INFO)
    refine_step(dataset, chosen, before, stage, RunContext())
    told = "background_constant: 2 of 3 images: nothing for the classes [...]; kept"
    assert told in caplog.messages


def test_a_complete_step_is_not_done_again(dataset, before, tmp_path, monkeypatch):
    stage = StageDir(tmp_path / "step", "f")
    config = step("background_constant")
    refine_step(dataset, config, before, stage, RunContext())
    first = stage.state()
    monkeypatch.setattr(registry, "load", None)
    refine_step(dataset, config, before, stage, RunContext())
    assert stage.is_done
    assert stage.state() == first


def test_a_step_that_looks_at_the_data_set_keeps_what_it_found(dataset, before, tmp_path):
    stage = StageDir(tmp_path / "step", "f")
    config = step("{name: threshold, method: sweep}")
    refine_step(dataset, config, before, stage, RunContext(allow_masks=True))
    state = json.loads((stage.path / "state.json").read_text())
    assert state["tuned_on_masks"] is True
    assert 0.1 <= state["threshold"] < 0.6
    assert stage.state()["state"] == state
    refined = load_scores(stage.file("scores", "a", ".npz"))
    assert refined.values[0] == pytest.approx(np.full((8, 8), state["threshold"]), abs=0.005)
    assert (refined.values.argmax(axis=0)[:4] == 1).all()
    assert (refined.values.argmax(axis=0)[4:] == 0).all()


def test_masks_tune_nothing_unless_it_is_allowed(dataset, before, tmp_path):
    stage = StageDir(tmp_path / "step", "f")
    with pytest.raises(RecipeError, match="--use-masks"):
        refine_step(dataset, step("{name: threshold, method: sweep}"), before, stage, RunContext())
    assert not stage.is_done


def test_a_refiner_is_told_all_that_is_known_of_the_image(dataset, before, tmp_path, monkeypatch):
    told = []

    def spy(image, scores, *, config, context):
        told.append((context.sample_id, context.tags, image.shape, context.folder, context.state))
        context.shared["count"] = context.shared.get("count", 0) + 1
        if context.sample_id == "sub/b":
            raise DataError("sub/b: cannot be refined")
        return scores

    config = step("background_constant")
    monkeypatch.setattr(registry, "load", lambda _group, _name: spy)
    stage = StageDir(tmp_path / "step", "f")
    refine_step(dataset, config, before, stage, RunContext(max_side_px=4))
    assert told == [
        ("a", frozenset({1}), (4, 4, 3), stage.path, {}),
        ("sub/b", frozenset({2}), (4, 4, 3), stage.path, {}),
        ("ok", frozenset(), (4, 4, 3), stage.path, {}),
    ]
    assert stage.failures() == {"sub/b": "sub/b: cannot be refined"}
    assert [sample.id for sample in stage.usable(dataset.samples)] == ["a", "ok"]
