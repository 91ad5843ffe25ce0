from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from wsseg.atomic import append_jsonl
from wsseg.data.image_io import read_mask
from wsseg.data.scores import Scores, save_scores
from wsseg.pseudo.masks import PseudoMaskConfig
from wsseg.pseudo.stage import pseudo
from wsseg.rundir import MANIFEST_FILE, StageDir


@pytest.fixture
def before(tmp_path):
    return StageDir(tmp_path / "refine" / "1_dense_crf", "f")


def give(stage: StageDir, image_id: str, values, ids, size) -> None:
    scores = Scores(np.asarray(values, np.float32), np.array(ids, np.uint8), size)
    save_scores(stage.file("scores", image_id, ".npz"), scores, dtype="float16")
    append_jsonl(stage.path / MANIFEST_FILE, {"id": image_id, "status": "ok"})


LEFT = [[[0.2, 0.8]], [[0.8, 0.2]]]


def test_the_strongest_row_of_each_pixel_is_the_mask(make_dataset, before, tmp_path):
    dataset = make_dataset({"sub/a": {"tags": {2}, "size": (1, 2)}})
    give(before, "sub/a", LEFT, [0, 2], (1, 2))
    stage = StageDir(tmp_path / "masks", "f")
    pseudo(dataset, PseudoMaskConfig(), before, stage)
    assert read_mask(stage.path / "sub" / "a.png", dataset.classes).tolist() == [[2, 0]]
    assert stage.is_done


def test_masks_have_the_size_of_the_image_whatever_the_scores_were_made_at(
    make_dataset, before, tmp_path
):
    dataset = make_dataset({"a": {"tags": {1}, "size": (8, 16)}})
    give(before, "a", LEFT, [0, 1], (1, 2))
    stage = StageDir(tmp_path / "masks", "f")
    pseudo(dataset, PseudoMaskConfig(), before, stage)
    mask = read_mask(stage.path / "a.png", dataset.classes)
    assert mask.shape == (8, 16)
    assert (mask[:, :8] == 1).all()
    assert (mask[:, 8:] == 0).all()


def test_masks_have_the_orientation_of_the_upright_image(make_dataset, before, tmp_path):
    dataset = make_dataset({"a": {"tags": {1}, "size": (4, 6)}})
    path = dataset.samples[0].image_path
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.open(path).save(path, exif=exif)
    give(before, "a", LEFT, [0, 1], (6, 4))
    stage = StageDir(tmp_path / "masks", "f")
    pseudo(dataset, PseudoMaskConfig(), before, stage)
    assert read_mask(stage.path / "a.png").shape == (6, 4)


def test_only_images_with_scores_get_a_mask(make_dataset, before, tmp_path):
    dataset = make_dataset({"a": {"tags": {1}, "size": (1, 2)}, "b": {"tags": {1}}})
    give(before, "a", LEFT, [0, 1], (1, 2))
    stage = StageDir(tmp_path / "masks", "f")
    pseudo(dataset, PseudoMaskConfig(), before, stage)
    assert [sample.id for sample in stage.usable(dataset.samples)] == ["a"]
    assert not (stage.path / "b.png").exists()


def test_the_most_doubtful_mask_is_that_of_a_class_that_was_not_found(
    make_dataset, before, tmp_path
):
    dataset = make_dataset(
        {
            "sure": {"tags": {1}, "size": (1, 2)},
            "unsure": {"tags": {1}, "size": (1, 2)},
            "missing": {"tags": {1}, "size": (1, 2)},
            "ok": {"tags": set(), "size": (1, 2)},
        }
    )
    give(before, "sure", [[[0, 1]], [[1, 0]]], [0, 1], (1, 2))
    give(before, "unsure", [[[0.4, 1]], [[0.6, 0]]], [0, 1], (1, 2))
    give(before, "missing", [[[1, 1]], [[0, 0]]], [0, 1], (1, 2))
    give(before, "ok", [[[1, 1]]], [0], (1, 2))
    stage = StageDir(tmp_path / "masks", "f")
    pseudo(dataset, PseudoMaskConfig(), before, stage)
    lines = [json.loads(line) for line in (stage.path / "doubt.jsonl").read_text().splitlines()]
    doubt = {line["id"]: line["doubt"] for line in lines}
    assert doubt["missing"] == 1.0
    assert doubt["sure"] == doubt["ok"] == 0.0
    assert 0 < doubt["unsure"] < 1


def test_a_complete_stage_is_not_done_again(make_dataset, before, tmp_path):
    dataset = make_dataset({"a": {"tags": {1}, "size": (1, 2)}})
    stage = StageDir(tmp_path / "masks", "f")
    stage.begin()
    stage.finish()
    give(before, "a", LEFT, [0, 1], (1, 2))
    pseudo(dataset, PseudoMaskConfig(), before, stage)
    assert not (stage.path / "a.png").exists()


def test_without_any_scores_there_is_an_empty_list_of_doubts(make_dataset, before, tmp_path):
    dataset = make_dataset({"a": {"tags": {1}}})
    stage = StageDir(tmp_path / "masks", "f")
    pseudo(dataset, PseudoMaskConfig(), before, stage)
    assert (stage.path / "doubt.jsonl").read_text().strip() == ""
