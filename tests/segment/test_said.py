"""Tests of wsseg.segment.said: what people gave, pixel by pixel, outlives self-training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.labels import Points, Scribbles, WeakLabels
from wsseg.rundir import MANIFEST_FILE, StageDir
from wsseg.segment.config import Smp
from wsseg.segment.rounds import corrected_stage, round_stage
from wsseg.segment.said import Said
from wsseg.segment.stage import segment


def _mask(size=(6, 8)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[:2] = 1
    return mask


def _shown(given) -> list:
    """What was said, 255 where nothing was."""
    return given.over(np.full_like(given.values, 255)).tolist()


def test_points_and_scribbles_pin_the_pixels_that_they_touch(make_dataset):
    sample = make_dataset({"a": {"mask": _mask()}}).samples[0]
    labels = WeakLabels(
        points=Points([[1.2, 4.7]], [2]),
        scribbles=Scribbles((np.array([[3.5, 0.5], [5.5, 0.5]]),), np.array([0])),
    )
    found = Said().pixels(replace(sample, labels=labels), _mask())
    expected = np.full((6, 8), 255)
    expected[4, 1] = 2
    expected[0, 3:6] = 0
    assert _shown(found) == expected.tolist()


def test_painted_masks_and_corrections_win_over_shapes(make_dataset, tmp_path):
    sample = make_dataset({"sub/a": {"mask": _mask()}}).samples[0]
    sample = replace(sample, labels=WeakLabels(points=Points([[0.5, 0.5]], [2])))
    first = _mask()
    first[5] = 255
    correction = np.full((6, 8), 255, np.uint8)
    correction[1, 1], correction[2, 3] = 2, 254
    write_mask(tmp_path / "drawn" / "sub" / "a.png", correction)
    found = Said(frozenset({"sub/a"}), tmp_path / "drawn").pixels(sample, first)
    expected = first.copy()
    expected[1, 1], expected[2, 3] = 2, 255
    assert (found.is_given == (first != 255)).all()
    assert _shown(found) == expected.tolist()


def test_images_without_anything_said_leave_all_pixels_open(make_dataset, tmp_path):
    sample = make_dataset({"a": {"mask": _mask()}}).samples[0]
    assert not Said(frozenset({"b"}), tmp_path).pixels(sample, _mask()).is_given.any()


def test_the_run_knows_which_masks_were_painted(tmp_path):
    append_jsonl(tmp_path / MANIFEST_FILE, {"id": "a", "status": "ok", "led_by": "masks"})
    append_jsonl(tmp_path / MANIFEST_FILE, {"id": "b", "status": "ok", "led_by": "boxes"})
    context = RunContext(localize_dir=tmp_path, corrections_dir=tmp_path / "drawn")
    assert Said.of_run(context) == Said(frozenset({"a"}), tmp_path / "drawn")
    assert Said.of_run(RunContext()) == Said()


@pytest.mark.parametrize("way", ["rounds", "correction"])
def test_self_training_changes_nothing_that_a_person_gave(make_dataset, tmp_path, monkeypatch, way):
    monkeypatch.setattr("wsseg.segment.correction_task.classes_to_correct", lambda *_: [0, 1, 2])
    dataset = make_dataset({name: {"mask": _mask((32, 32))} for name in "abc"})
    scribbles = Scribbles((np.array([[2.5, 20.5], [9.5, 20.5]]),), np.array([1]))
    labels = WeakLabels(tags={1}, scribbles=scribbles)
    samples = (replace(dataset.samples[0], labels=labels), *dataset.samples[1:])
    dataset = replace(dataset, samples=samples)
    pseudo, localize = StageDir(tmp_path / "masks", "f"), tmp_path / "localize"
    for sample in dataset.samples:
        append_jsonl(pseudo.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})
        write_mask(pseudo.path / f"{sample.id}.png", read_mask(sample.mask_path))
    append_jsonl(localize / MANIFEST_FILE, {"id": "b", "status": "ok", "led_by": "masks"})
    drawn = np.full((32, 32), 255, np.uint8)
    drawn[10:14, 10:14], drawn[0, 0], drawn[6:9] = 1, 0, 254
    write_mask(tmp_path / "drawn" / "c.png", drawn)
    chosen = {
        "rounds": {"rounds": {"count": 1, "cleanups": [], "uncertainty": {"powers": [0.2, 5]}}},
        "correction": {"correction": {"consistency": 0, "scales": [1.0], "min_confidence": 0}},
    }[way]
    config = Smp.model_validate(
        {
            "architecture": "unet",
            "encoder": "tu-test_resnet",
            "encoder_depth": 3,
            "weights": "none",
            "training": {"epochs": 2, "batch_size": 3, "num_workers": 0, "precision": "float32"},
            "augment": {"scale": None, "crop_px": 32},
            "validate_on": "none",
            **chosen,
        }
    )
    stage = StageDir(tmp_path / "segment", "f")
    context = RunContext(localize_dir=localize, corrections_dir=tmp_path / "drawn")
    segment(dataset, config, pseudo, stage, context)
    folder = (round_stage(stage, 1) if way == "rounds" else corrected_stage(stage, 0)).path
    scribbled, painted, corrected = (read_mask(folder / f"{name}.png") for name in "abc")
    assert (scribbled[20, 2:10] == 1).all()
    np.testing.assert_array_equal(painted, _mask((32, 32)))
    expected = np.where(drawn == 254, 255, drawn)
    np.testing.assert_array_equal(corrected[drawn != 255], expected[drawn != 255])
    assert any((read_mask(folder / f"{n}.png") != _mask((32, 32))).mean() > 0.02 for n in "ac")
    if way == "rounds":
        assert (read_mask(folder / "weights" / "b.png") == 255).all()
