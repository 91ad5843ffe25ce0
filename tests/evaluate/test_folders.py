from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.data.labels import ClassList
from wsseg.errors import DataError
from wsseg.evaluate.folders import evaluate_folders

CLASSES = ClassList(("dent", "stain"))


def write(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "pred", tmp_path / "gt"


def test_masks_are_matched_below_sub_folders_and_scored_over_the_whole_set(folders):
    pred, gt = folders
    write(gt / "a" / "x.png", [[0, 1, 1, 255]])
    write(pred / "a" / "x.png", [[0, 1, 0, 0]])
    write(gt / "y.z.png", [[2, 2]])
    write(pred / "y.z.PNG", [[2, 255]])
    result = evaluate_folders(pred, gt, CLASSES)
    entry = result["stages"][0]
    assert entry["num_images"] == 2
    assert [row["iou"] for row in entry["classes"]] == [0.5, 0.5, 0.5]
    assert entry["ignored_pixels"] == [0, 0, 1]
    assert result["missing_predictions"] == []
    assert result["classifier"] is None


def test_missing_predictions_are_listed_and_not_scored(folders):
    pred, gt = folders
    for name in ("a", "b", "c"):
        write(gt / f"{name}.png", [[1]])
    write(pred / "b.png", [[1]])
    write(pred / "other.png", [[1]])
    write(pred / ".tmp-c.png", [[1]])
    result = evaluate_folders(pred, gt, CLASSES)
    assert result["missing_predictions"] == ["a", "c"]
    assert result["predictions_without_truth"] == ["other"]
    assert result["stages"][0]["num_images"] == 1


def test_without_a_class_list_the_ids_found_are_the_classes(folders):
    pred, gt = folders
    write(gt / "a.png", [[0, 1, 255]])
    write(pred / "a.png", [[0, 3, 9]])
    entry = evaluate_folders(pred, gt)["stages"][0]
    assert [row["name"] for row in entry["classes"]] == [
        "background", "class 1", "class 2", "class 3",
    ]  # fmt: skip
    assert [row["iou"] for row in entry["classes"]] == [1.0, 0.0, None, 0.0]
    with_list = evaluate_folders(pred, gt, ClassList(("a", "b", "c", *"defghi")))["stages"][0]
    assert with_list["miou"] == entry["miou"]
    assert with_list["boundary_iou"] == entry["boundary_iou"]


def test_boundary_can_be_left_out(folders):
    pred, gt = folders
    write(gt / "a.png", [[1]])
    write(pred / "a.png", [[1]])
    assert evaluate_folders(pred, gt, CLASSES, boundary=False)["stages"][0]["boundary_iou"] is None


def test_different_sizes_name_the_files_and_both_sizes(folders):
    pred, gt = folders
    write(gt / "a.png", np.zeros((2, 3)))
    write(pred / "a.png", np.zeros((4, 5)))
    with pytest.raises(DataError, match=r"pred/a\.png is 5 x 4 px .*gt/a\.png is 3 x 2 px"):
        evaluate_folders(pred, gt, CLASSES)


def test_all_bad_masks_are_reported_at_once(folders):
    pred, gt = folders
    for name in ("colour", "values", "broken"):
        write(gt / f"{name}.png", [[0, 1]])
        write(pred / f"{name}.png", [[0, 1]])
    write(pred / "colour.png", np.full((1, 2, 3), 200))
    write(pred / "values.png", [[7, 38]])
    (pred / "broken.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match="3 of 3 masks cannot be scored") as caught:
        evaluate_folders(pred, gt, CLASSES)
    text = "\n".join(caught.value.problems)
    assert "broken.png" in text
    assert "colour.png: a mask stores class ids, but this is a RGB picture" in text
    assert "values.png: the mask has the values 7, 38" in text


def test_black_and_white_truth_is_explained_instead_of_ignored(folders):
    pred, gt = folders
    write(gt / "a.png", [[0, 255]])
    write(pred / "a.png", [[0, 1]])
    with pytest.raises(DataError, match="If 255 marks the object, save it as 1 instead"):
        evaluate_folders(pred, gt)


def test_folders_without_masks_or_without_common_names_say_so(folders):
    pred, gt = folders
    with pytest.raises(DataError, match="does not exist"):
        evaluate_folders(pred, gt, CLASSES)
    write(gt / "a.png", [[1]])
    pred.mkdir()
    with pytest.raises(DataError, match="holds no PNG file"):
        evaluate_folders(pred, gt, CLASSES)
    write(pred / "b.png", [[1]])
    with pytest.raises(DataError, match=r"predictions such as b\.png, ground truth such as a\.png"):
        evaluate_folders(pred, gt, CLASSES)
