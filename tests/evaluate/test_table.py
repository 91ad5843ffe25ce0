from __future__ import annotations

from typing import Any

import numpy as np

from wsseg.data.labels import ClassList
from wsseg.evaluate.summary import StageLabel, metrics_document, stage_entry
from wsseg.evaluate.table import metrics_text, percent, stages_text

CLASSES = ClassList(("dent",))
COUNTS = np.array([[3, 1, 0], [0, 4, 0]])


def entry(label: StageLabel) -> dict[str, Any]:
    return stage_entry(COUNTS, CLASSES, label, num_images=2)


def test_a_number_that_is_not_there_is_a_dash() -> None:
    assert percent(None) == "-"
    assert percent(0.12345) == "12.3"


def test_each_stage_is_a_row_with_its_numbers() -> None:
    document = metrics_document([entry(StageLabel("segment", "Segmenter", "val"))])
    head, line, row = stages_text(document).splitlines()
    assert head.split() == ["stage", "split", "mIoU", "%", "fg", "%", "images"]
    assert set(line) == {"-"}
    assert row.split() == ["Segmenter", "val", "77.5", "80.0", "2"]


def test_a_row_says_what_its_number_owes_to_masks_and_tags() -> None:
    label = StageLabel(
        "localize", "Maps", "val", tags="oracle", threshold=0.25, tuned_on_masks=True
    )
    row = stages_text(metrics_document([entry(label)])).splitlines()[-1]
    assert row.endswith("threshold 0.25, oracle tags, TUNED ON MASKS")


def test_the_classifier_is_the_last_row() -> None:
    classifier = {"split": "val", "map": 0.915, "ap": {"dent": 0.915}, "num_images": 3}
    row = stages_text(metrics_document([], classifier)).splitlines()[-1]
    assert row.split() == ["Classifier", "mAP", "val", "91.5"]


def test_a_class_table_has_every_class_and_the_means() -> None:
    document = metrics_document([entry(StageLabel("folders", "pred", "test"))])
    lines = metrics_text(document).splitlines()
    assert lines[2].split() == ["background", "75.0", "100.0", "75.0", "-"]
    assert lines[3].split() == ["dent", "80.0", "80.0", "100.0", "-"]
    assert lines[-1] == (
        "mIoU 77.5 % with background, 80.0 % without, pixel accuracy 87.5 %, 2 images"
    )


def test_files_without_a_partner_are_named() -> None:
    document = metrics_document([]) | {
        "missing_predictions": [f"m{index}" for index in range(7)],
        "predictions_without_truth": ["extra"],
    }
    missing, extra = metrics_text(document).splitlines()
    assert missing == (
        "7 ground-truth masks without a prediction (not scored): m0, m1, m2, m3, m4 ..."
    )
    assert extra == "1 predictions without ground truth: extra"
