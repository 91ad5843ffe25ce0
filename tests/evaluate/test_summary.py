from __future__ import annotations

import json

import numpy as np
import pytest

from wsseg.data.labels import ClassList
from wsseg.data.scores import Scores
from wsseg.evaluate.summary import (
    MaskEvaluator,
    StageLabel,
    metrics_document,
    restrict_to_tags,
    sweep_entry,
)
from wsseg.evaluate.sweep import sweep_thresholds

CLASSES = ClassList(("dent", "stain"))
REQUIRED = {
    "stage", "label", "split", "tags", "threshold", "tuned_on_masks", "num_images", "miou",
    "miou_foreground", "pixel_accuracy", "boundary_iou", "classes", "confusion",
}  # fmt: skip


def test_an_entry_holds_every_number_of_the_contract_and_is_strict_json():
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    prediction = truth.copy()
    prediction[5:15, 5] = 255
    evaluator = MaskEvaluator(CLASSES)
    evaluator.add(prediction, truth)
    entry = evaluator.entry(StageLabel("pseudo", "Pseudo masks", "train", tags="oracle"))
    assert set(entry) >= REQUIRED
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["miou"] == pytest.approx((1 + 0.9) / 2)
    assert entry["miou_foreground"] == pytest.approx(0.9)
    assert entry["confusion"] == [[300, 0, 0], [0, 90, 0], [0, 0, 0]]
    assert entry["ignored_pixels"] == [0, 10, 0]
    assert entry["ignored"] == 0.025
    assert entry["tags"] == "oracle"
    assert entry["tuned_on_masks"] is False
    background, dent, stain = entry["classes"]
    assert background["name"] == "background"
    assert dent == {
        "id": 1, "name": "dent", "iou": 0.9, "precision": 1.0, "recall": 0.9,
        "boundary_iou": dent["boundary_iou"], "gt_pixels": 100,
    }  # fmt: skip
    assert 0.5 < dent["boundary_iou"] < 1
    assert stain["iou"] is None
    assert stain["boundary_iou"] is None


def test_without_boundary_the_boundary_numbers_are_null():
    evaluator = MaskEvaluator(CLASSES, boundary=False)
    evaluator.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    entry = evaluator.entry(StageLabel("segment", "Segmenter", "val"))
    assert entry["boundary_iou"] is None
    assert [row["boundary_iou"] for row in entry["classes"]] == [None, None, None]
    assert entry["miou_foreground"] is None


def small_curve():
    values = np.zeros((2, 1, 4), np.float32)
    values[1] = [0.1, 0.3, 0.5, 0.7]
    scores = Scores(values, np.array([0, 1], np.uint8), (1, 4))
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    return sweep_thresholds([(scores, truth)], 2, [0.0, 0.2, 0.4, 0.6])


def test_the_best_threshold_is_marked_as_tuned_and_a_chosen_one_is_not():
    label = StageLabel("localize", "Maps", "val")
    best = sweep_entry(small_curve(), CLASSES, label)
    assert (best["threshold"], best["miou"], best["tuned_on_masks"]) == (0.4, 1.0, True)
    chosen = sweep_entry(small_curve(), CLASSES, label, threshold=0.21)
    assert (chosen["threshold"], chosen["tuned_on_masks"]) == (0.2, False)
    assert chosen["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert [pair[0] for pair in chosen["curve"]] == [0.0, 0.2, 0.4, 0.6]
    assert json.dumps(best, allow_nan=False)


def test_a_threshold_that_masks_chose_earlier_stays_marked():
    label = StageLabel("localize", "Maps", "val", tuned_on_masks=True)
    assert sweep_entry(small_curve(), CLASSES, label, threshold=0.2)["tuned_on_masks"] is True


def test_the_document_lists_stages_and_classifier():
    assert metrics_document(iter([{"stage": "pseudo"}]), {"map": 1.0}) == {
        "stages": [{"stage": "pseudo"}],
        "classifier": {"map": 1.0},
    }


def test_oracle_tags_turn_other_classes_into_background_but_keep_ignore():
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    assert restrict_to_tags(mask, frozenset({1})).tolist() == [[0, 1, 0, 255]]
    assert restrict_to_tags(mask, []).tolist() == [[0, 0, 0, 255]]
