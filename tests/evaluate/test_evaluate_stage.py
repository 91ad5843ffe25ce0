from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsseg.atomic import append_jsonl
from wsseg.data.dataset import Dataset
from wsseg.data.image_io import write_mask
from wsseg.data.scores import Scores, save_scores
from wsseg.evaluate.stage import EvaluateInputs, RefinedStage, evaluate
from wsseg.rundir import MANIFEST_FILE, StageDir

# One 4 x 4 image: the left half is a dent.
TRUTH = np.repeat([[1, 1, 0, 0]], 4, axis=0).astype(np.uint8)
# Evidence of the four columns: at 0.3 the third column is taken for a dent too, at 0.7 only the
# first column is found.
EVIDENCE = np.repeat([[0.9, 0.6, 0.4, 0.1]], 4, axis=0).astype(np.float32)


def scored(evidence: np.ndarray, background: float = 0.0, class_id: int = 1) -> Scores:
    values = np.stack([np.full_like(evidence, background), evidence])
    return Scores(values, np.array([0, class_id], np.uint8), evidence.shape)


class Run:
    """The stage folders of a run, filled by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage(self, name: str) -> StageDir:
        return StageDir(self.root / name, "f")

    def scores(self, stage: str, image_id: str, scores: Scores, **facts: Any) -> None:
        folder = self.stage(stage)
        save_scores(folder.file("scores", image_id, ".npz"), scores, dtype="float16")
        append_jsonl(folder.path / MANIFEST_FILE, {"id": image_id, "status": "ok", **facts})

    def mask(self, stage: str, image_id: str, mask: np.ndarray) -> None:
        folder = self.stage(stage)
        write_mask(folder.path / f"{image_id}.png", mask)
        append_jsonl(folder.path / MANIFEST_FILE, {"id": image_id, "status": "ok"})

    def inputs(self, *refined: RefinedStage, **changes: Any) -> EvaluateInputs:
        settings: dict[str, Any] = {
            "localize": self.stage("localize"),
            "refine": refined,
            "pseudo": self.stage("masks"),
            "predictions": self.stage("predictions"),
            "tags": "oracle",
            "segmenter_tuned_on_masks": False,
            "boundary_width_frac": None,
        }
        return EvaluateInputs(**settings | changes)

    def evaluate(self, dataset: Dataset, inputs: EvaluateInputs) -> dict[str, Any]:
        return evaluate(dataset, inputs, self.stage("evaluate"), self.root / "metrics.json")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_maps_are_scored_at_the_best_threshold_and_say_that_masks_chose_it(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    run.scores("localize", "a", scored(EVIDENCE))
    (entry,) = run.evaluate(dataset, run.inputs())["stages"]
    assert entry["stage"] == "localize"
    assert entry["label"] == "Maps, best threshold"
    assert entry["split"] == "val"
    assert entry["tags"] == "oracle"
    assert entry["miou"] == 1.0
    assert 0.4 <= entry["threshold"] < 0.6
    assert entry["tuned_on_masks"] is True


def test_a_chosen_threshold_is_scored_beside_the_best_one(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    run.scores("localize", "a", scored(EVIDENCE))
    run.scores("refine/1_background_constant", "a", scored(EVIDENCE, 0.305))
    step = RefinedStage(
        "background_constant",
        run.stage("refine/1_background_constant"),
        has_background=True,
        threshold=0.305,
        tuned_on_masks=False,
    )
    best, chosen, refined = run.evaluate(dataset, run.inputs(step))["stages"]
    # 12 of 16 pixels are called dent, 8 of them rightly: IoU 8/12 and 4/8.
    expected = (8 / 12 + 4 / 8) / 2
    assert best["miou"] == 1.0
    assert chosen["label"] == "Maps, chosen threshold"
    assert chosen["threshold"] == pytest.approx(0.305)
    assert chosen["miou"] == pytest.approx(expected)
    assert chosen["tuned_on_masks"] is False
    assert refined["stage"] == "refine/background_constant"
    assert refined["label"] == "After background_constant"
    assert refined["threshold"] == 0.305
    assert refined["miou"] == pytest.approx(expected)
    assert refined["confusion"] == [[4, 4, 0], [0, 8, 0], [0, 0, 0]]


def test_steps_before_the_first_background_rule_are_not_scored(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    for stage in ("localize", "refine/1_superpixel_pooling"):
        run.scores(stage, "a", scored(EVIDENCE))
    step = RefinedStage(
        "superpixel_pooling",
        run.stage("refine/1_superpixel_pooling"),
        has_background=False,
        threshold=None,
        tuned_on_masks=False,
    )
    stages = run.evaluate(dataset, run.inputs(step))["stages"]
    assert [entry["stage"] for entry in stages] == ["localize"]


def test_what_was_tuned_on_masks_says_so_in_every_later_number(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    run.scores("localize", "a", scored(EVIDENCE))
    run.scores("refine/1_threshold", "a", scored(EVIDENCE, 0.5))
    run.mask("masks", "a", TRUTH)
    run.mask("predictions", "a", TRUTH)
    step = RefinedStage(
        "threshold", run.stage("refine/1_threshold"), True, threshold=0.5, tuned_on_masks=True
    )
    stages = run.evaluate(dataset, run.inputs(step))["stages"]
    assert [entry["stage"] for entry in stages] == [
        "localize",
        "localize",
        "refine/threshold",
        "pseudo",
        "segment",
    ]
    assert all(entry["tuned_on_masks"] for entry in stages)


def test_a_segmenter_chosen_on_masks_says_so_but_its_pseudo_masks_do_not(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    run.mask("masks", "a", TRUTH)
    run.mask("predictions", "a", TRUTH)
    inputs = run.inputs(segmenter_tuned_on_masks=True)
    pseudo, segment = run.evaluate(dataset, inputs)["stages"]
    assert (pseudo["stage"], pseudo["tuned_on_masks"]) == ("pseudo", False)
    assert (segment["stage"], segment["tuned_on_masks"]) == ("segment", True)


def test_masks_are_scored_over_all_images_of_a_split(run, make_dataset):
    dataset = make_dataset(
        {
            "a": {"mask": TRUTH, "split": "train"},
            "sub/b": {"mask": 2 * TRUTH, "split": "train"},
            "c": {"mask": TRUTH, "split": "val"},
        }
    )
    run.mask("masks", "a", TRUTH)
    run.mask("masks", "sub/b", np.zeros_like(TRUTH))
    run.mask("predictions", "c", np.ones_like(TRUTH))
    pseudo, segment = run.evaluate(dataset, run.inputs())["stages"]
    assert (pseudo["split"], pseudo["num_images"]) == ("train", 2)
    # Background: 16 of 24 called so; dent: all 8; stain: none of 8.
    assert pseudo["miou"] == pytest.approx((16 / 24 + 1 + 0) / 3)
    assert pseudo["miou_foreground"] == pytest.approx(0.5)
    assert (segment["split"], segment["num_images"]) == ("val", 1)
    assert segment["miou"] == pytest.approx((0 + 8 / 16) / 2)
    assert segment["tags"] is None


def test_pixels_to_ignore_count_neither_for_nor_against(run, make_dataset):
    truth = TRUTH.copy()
    truth[:, 2:] = 255
    dataset = make_dataset({"a": {"mask": truth, "split": "val"}})
    run.mask("predictions", "a", np.ones_like(TRUTH))
    (segment,) = run.evaluate(dataset, run.inputs())["stages"]
    assert segment["miou"] == 1.0
    assert segment["pixel_accuracy"] == 1.0


def test_scores_of_small_maps_are_compared_at_the_size_of_the_mask(run, make_dataset):
    truth = np.kron(TRUTH, np.ones((4, 4), np.uint8))
    dataset = make_dataset({"a": {"mask": truth, "split": "val"}})
    small = Scores(
        scored(EVIDENCE).values, np.array([0, 1], np.uint8), (4, 4)
    )  # the run worked on an image of 4 x 4
    run.scores("localize", "a", small)
    (entry,) = run.evaluate(dataset, run.inputs())["stages"]
    assert np.sum(entry["confusion"]) == 256
    assert entry["miou"] == 1.0


def test_images_without_a_result_or_a_mask_are_left_out(run, make_dataset):
    dataset = make_dataset(
        {
            "a": {"mask": TRUTH, "split": "val"},
            "failed": {"mask": TRUTH, "split": "val"},
            "unlabelled": {"mask": None, "split": "val"},
        }
    )
    run.mask("predictions", "a", TRUTH)
    folder = run.stage("predictions").path
    append_jsonl(folder / MANIFEST_FILE, {"id": "failed", "status": "failed", "reason": "x"})
    (segment,) = run.evaluate(dataset, run.inputs())["stages"]
    assert segment["num_images"] == 1


def test_without_ground_truth_there_are_no_stages(run, make_dataset):
    dataset = make_dataset({"a": {"mask": None, "tags": {1}}})
    run.scores("localize", "a", scored(EVIDENCE))
    assert run.evaluate(dataset, run.inputs()) == {"stages": [], "classifier": None}
    assert json.loads((run.root / "metrics.json").read_text())["stages"] == []


def test_without_a_segmenter_there_is_no_entry_for_it(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    run.mask("masks", "a", TRUTH)
    stages = run.evaluate(dataset, run.inputs(predictions=None))["stages"]
    assert [entry["stage"] for entry in stages] == ["pseudo"]


def test_boundary_iou_is_measured_where_it_is_asked_for(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    run.mask("predictions", "a", TRUTH)
    (plain,) = run.evaluate(dataset, run.inputs())["stages"]
    assert plain["boundary_iou"] is None
    other = Run(run.root)
    (run.root / "metrics.json").unlink()
    (measured,) = other.evaluate(dataset, run.inputs(boundary_width_frac=0.2))["stages"]
    assert measured["boundary_iou"] == 1.0


def test_the_classifier_is_scored_on_held_out_images(run, make_dataset):
    dataset = make_dataset(
        {
            "train": {"tags": {1}, "split": "train"},
            "one": {"tags": {1}, "split": "val"},
            "two": {"tags": {2}, "split": "val"},
            "none": {"tags": set(), "split": "val"},
            "untagged": {"tags": None, "split": "val"},
        }
    )
    probabilities = {
        "train": [0.0, 1.0],
        "one": [0.9, 0.1],
        "two": [0.2, 0.3],
        "none": [0.1, 0.7],
        "untagged": [1.0, 1.0],
    }
    for image_id, values in probabilities.items():
        run.scores("localize", image_id, scored(EVIDENCE), probabilities=values)
    classifier = run.evaluate(dataset, run.inputs())["classifier"]
    assert classifier["split"] == "val"
    assert classifier["num_images"] == 3
    # The stain comes second behind an image without one.
    assert classifier["ap"] == {"dent": 1.0, "stain": 0.5}
    assert classifier["map"] == 0.75


def test_the_classifier_is_scored_on_train_where_nothing_is_held_out(run, make_dataset):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}}})
    run.scores("localize", "a", scored(EVIDENCE), probabilities=[0.9, 0.1])
    run.scores("localize", "b", scored(EVIDENCE), probabilities=[0.1, 0.9])
    classifier = run.evaluate(dataset, run.inputs())["classifier"]
    assert classifier["split"] == "train"
    assert classifier["map"] == 1.0


def test_numbers_that_are_up_to_date_are_read_back_and_others_made_anew(run, make_dataset):
    dataset = make_dataset({"a": {"mask": TRUTH, "split": "val"}})
    run.mask("predictions", "a", TRUTH)
    first = run.evaluate(dataset, run.inputs())
    path = run.root / "metrics.json"
    path.write_text(json.dumps(first | {"marker": 1}))
    assert run.evaluate(dataset, run.inputs())["marker"] == 1
    path.write_text("{ torn")
    assert run.evaluate(dataset, run.inputs()) == first
    changed = evaluate(dataset, run.inputs(), StageDir(run.root / "evaluate", "other"), path)
    assert changed == first
