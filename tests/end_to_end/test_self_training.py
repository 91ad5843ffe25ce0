"""Self-training rounds and corrections in whole runs: numbers, report, several processes."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from wsseg.data.image_io import read_mask
from wsseg.errors import DataError
from wsseg.intake import open_data
from wsseg.pipeline import again, run
from wsseg.recipe import load_recipe

OVERRIDES = (
    "segment.training.epochs=3",
    "segment.rounds={count: 1, cleanups: [tags, {name: crf, iterations: 1}]}",
    "segment.correction={scales: [0.5, 1], min_confidence: 0.3}",
)


def _stages(document: dict) -> set[tuple[str, str]]:
    return {(stage["stage"], stage["split"]) for stage in document["stages"]}


@pytest.mark.slow
def test_masks_of_rounds_and_corrections_are_scored_and_reported(template, recipe_path, tmp_path):
    out = tmp_path / "run"
    finished = run(template, recipe=recipe_path, overrides=OVERRIDES, out=out)
    assert not finished.failures
    assert {
        ("pseudo", "train"),
        ("pseudo/corrected", "train"),
        ("pseudo/round_1", "train"),
        ("pseudo/round_1_corrected", "train"),
        ("segment", "val"),
    } <= _stages(finished.metrics)
    assert ("pseudo/round_1", "val") not in _stages(finished.metrics)
    page = (out / "report.html").read_text("utf-8")
    assert "Pseudo masks, round 1" in page
    assert "segment/round_1" in page
    dataset, _ = open_data(template)
    for sample in dataset.split("train"):
        for folder in ("round_1/masks", "round_1/training/labels", "training/labels"):
            path = out / "segment" / folder / f"{sample.id}.png"
            if path.is_file():
                seen = set(np.unique(read_mask(path)).tolist()) - {0, 255}
                assert seen <= sample.labels.tags
    # A finished run is recognised, and a stage again without rounds leaves none of their files.
    stamp = (out / "segment" / "round_1" / "masks" / "stage.json").stat().st_mtime_ns
    run(template, recipe=recipe_path, overrides=OVERRIDES, out=out)
    assert (out / "segment" / "round_1" / "masks" / "stage.json").stat().st_mtime_ns == stamp
    again(out, "segment", overrides=["segment.rounds.count=0", "segment.correction=null"])
    assert not (out / "segment" / "round_1").exists()


def test_clean_ups_of_boxes_are_refused_before_anything_is_trained(template, recipe_path, tmp_path):
    with pytest.raises(DataError, match="no image of the train split has boxes"):
        run(
            template,
            recipe=recipe_path,
            overrides=["segment.rounds={count: 1, cleanups: [boxes]}"],
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run" / "localize" / "training").exists()


def test_settings_of_rounds_do_not_change_the_fingerprint_of_runs_without_any():
    plain = load_recipe("cam")
    content = plain.model_dump(mode="json")
    assert not {"rounds", "correction"} & set(content["segment"])
    spelt = copy.deepcopy(content)
    spelt["segment"] |= {"rounds": {"count": 0}, "correction": None}
    assert load_recipe(spelt) == plain
    assert load_recipe(spelt).model_dump(mode="json") == content


@pytest.mark.slow
def test_two_processes_share_rounds_and_corrections(template, recipe_path, tmp_path):
    recipe = yaml.safe_load(recipe_path.read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    arguments = ["run", str(template), "--recipe", str(path), "--out", str(tmp_path / "run")]
    for override in OVERRIDES:
        arguments += ["--set", override]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "wsseg", *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=280) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    segment = tmp_path / "run" / "segment"
    state = json.loads((segment / "round_1/training/labels/state.json").read_text())
    assert (len(state["ious"]), state["epoch"]) == (3, 2)
    assert {len(line) for line in state["ious"]} == {3}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert ("pseudo/round_1", "train") in _stages(metrics)


def _with_boxes(folder: Path):
    """Give the data set boxes around what its masks show."""
    from wsseg.data.labels import Boxes

    dataset, _ = open_data(folder)
    samples = []
    for sample in dataset.samples:
        xyxy, ids = [], []
        mask = read_mask(sample.mask_path)
        for class_id in sorted(set(np.unique(mask).tolist()) - {0}):
            rows, columns = np.nonzero(mask == class_id)
            xyxy.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            ids.append(class_id)
        boxes = Boxes(np.array(xyxy, np.float32).reshape(-1, 4), np.array(ids, np.int64))
        samples.append(replace(sample, labels=replace(sample.labels, boxes=boxes)))
    return replace(dataset, samples=tuple(samples))


@pytest.mark.slow
@pytest.mark.parametrize("cleanups", ["[{name: boxes}, {name: crf, iterations: 1}]", "[proposals]"])
def test_boxes_train_through_the_recipe_sdi_and_are_never_left(template, tmp_path, cleanups):
    dataset = _with_boxes(template)
    overrides = [
        "localize.runs=3",
        "segment.encoder=tu-test_resnet",
        "segment.architecture=unet",
        "segment.training.epochs=1",
        "segment.training.num_workers=0",
        "segment.training.precision=float32",
        "segment.augment={scale: null, crop_px: 48}",
        f"segment.rounds={{count: 1, cleanups: {cleanups}}}",
    ]
    finished = run(dataset, recipe="sdi", overrides=overrides, out=tmp_path / "run")
    assert ("pseudo/round_1", "train") in _stages(finished.metrics)
    for sample in dataset.split("train"):
        mask = read_mask(tmp_path / "run" / "segment/round_1/masks" / f"{sample.id}.png")
        allowed = np.zeros((3, *mask.shape), bool)
        allowed[0] = True
        for (x0, y0, x1, y1), owner in zip(
            sample.labels.boxes.xyxy.astype(int), sample.labels.boxes.class_ids, strict=True
        ):
            allowed[owner, y0:y1, x0:x1] = True
        known = mask != 255
        assert np.take_along_axis(allowed, np.where(known, mask, 0)[None], axis=0).all()
