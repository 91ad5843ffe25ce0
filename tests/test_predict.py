from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.image_io import read_mask
from wsseg.data.labels import ClassList
from wsseg.errors import DataError, MissingWeightsError, RecipeError
from wsseg.predict import find_samples, predict_folder
from wsseg.segment.predict import Predictor


class Dark:
    """A network that calls dark pixels a dent."""

    fixed_size = None

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.num_calls += len(images)
        dark = (images.mean(axis=3) < 100).astype(np.float32)
        return np.stack([1 - dark, dark], axis=1)


@pytest.fixture
def dark(monkeypatch: pytest.MonkeyPatch) -> Dark:
    from wsseg.segment.config import PredictConfig

    forward = Dark()
    predictor = Predictor(forward, ClassList(("dent",)), PredictConfig(flip=False))
    monkeypatch.setattr(Predictor, "load", classmethod(lambda _cls, _path: predictor))
    return forward


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    return path


def paint(path: Path, dark_columns: int, width: int = 6) -> Path:
    image = np.full((4, width, 3), 200, np.uint8)
    image[:, :dark_columns] = 10
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "new"
    paint(root / "a.png", 2)
    paint(root / "line 1" / "b.bmp", 6)
    return root


def test_every_image_gets_a_mask_of_its_size(dark, model, images, tmp_path):
    found = predict_folder(model, images, tmp_path / "out")
    assert found.num_images == 2
    assert found.failures == {}
    assert read_mask(found.masks / "a.png").tolist() == [[1, 1, 0, 0, 0, 0]] * 4
    assert (read_mask(found.masks / "line 1" / "b.png") == 1).all()
    assert found.written == (tmp_path / "out" / "overlays",)
    with Image.open(tmp_path / "out" / "overlays" / "line 1" / "b.jpg") as overlay:
        assert overlay.size == (6, 4)


def test_overlays_can_be_left_out(dark, model, images, tmp_path):
    found = predict_folder(model, images, tmp_path / "out", overlay=False)
    assert found.written == ()
    assert not (tmp_path / "out" / "overlays").exists()


def test_a_second_call_does_only_what_is_missing(dark, model, images, tmp_path):
    predict_folder(model, images, tmp_path / "out")
    assert dark.num_calls == 2
    paint(images / "c.png", 1)
    assert predict_folder(model, images, tmp_path / "out").num_images == 3
    assert dark.num_calls == 3


def test_a_changed_image_is_predicted_anew(dark, model, images, tmp_path):
    predict_folder(model, images, tmp_path / "out")
    paint(images / "a.png", 5, width=7)
    found = predict_folder(model, images, tmp_path / "out")
    assert read_mask(found.masks / "a.png").sum() == 20
    assert dark.num_calls == 3


def test_a_changed_model_predicts_everything_anew(dark, model, images, tmp_path):
    predict_folder(model, images, tmp_path / "out")
    model.write_bytes(b"other weights")
    predict_folder(model, images, tmp_path / "out")
    assert dark.num_calls == 4


def test_a_broken_image_is_named_and_the_others_are_done(dark, model, images, tmp_path):
    (images / "broken.png").write_bytes(b"no image")
    found = predict_folder(model, images, tmp_path / "out")
    assert found.num_images == 2
    assert list(found.failures) == ["broken"]
    assert "broken.png" in found.failures["broken"]
    assert "1 failed:" in found.text()
    assert found.as_dict()["failures"] == found.failures


class Boxed(Dark):
    """A network that calls boxes a dent."""

    takes_boxes = True

    def with_boxes(self, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        self.num_calls += len(images)
        found = np.zeros((len(images), 2, *images.shape[1:3]), np.float32)
        found[:, 0] = 1
        for one, rows in zip(found, boxes, strict=True):
            for x0, y0, x1, y1, class_id in rows.astype(int).tolist():
                one[:, y0:y1, x0:x1] = np.eye(2)[class_id][:, None, None]
        return found


@pytest.fixture
def boxed(monkeypatch: pytest.MonkeyPatch) -> Boxed:
    from wsseg.segment.config import PredictConfig

    forward = Boxed()
    predictor = Predictor(forward, ClassList(("dent",)), PredictConfig(flip=False))
    monkeypatch.setattr(Predictor, "load", classmethod(lambda _cls, _path: predictor))
    return forward


def coco_boxes(root: Path, *names: str, label: str = "dent", x: int = 1) -> None:
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 6, "height": 4}
            for number, name in enumerate(names)
        ],
        "categories": [{"id": 7, "name": label}],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 7,
                "bbox": [x, 1, 2, 3],
                "area": 6,
                "iscrowd": 0,
                "segmentation": [],
            }
            for number in range(len(names))
        ],
    }
    (root / "annotations.json").write_text(json.dumps(content))


def test_images_with_boxes_are_predicted_with_them_and_the_others_without(
    boxed, model, images, tmp_path
):
    coco_boxes(images, "line 1/b.bmp")
    found = predict_folder(
        model, images, tmp_path / "out", overlay=False, labels=images, format="coco"
    )
    expected = np.zeros((4, 6), np.uint8)
    expected[1:4, 1:3] = 1
    assert read_mask(found.masks / "line 1" / "b.png").tolist() == expected.tolist()
    assert read_mask(found.masks / "a.png").tolist() == [[1, 1, 0, 0, 0, 0]] * 4
    assert "1 of them predicted with boxes, 1 without" in found.text()
    assert found.as_dict()["with_boxes"] == 1
    assert "with_boxes" not in predict_folder(model, images, tmp_path / "plain").as_dict()


def test_other_boxes_predict_anew(boxed, model, images, tmp_path):
    coco_boxes(images, "a.png", "line 1/b.bmp")
    for x in (1, 1, 2):
        coco_boxes(images, "a.png", "line 1/b.bmp", x=x)
        found = predict_folder(
            model, images, tmp_path / "out", overlay=False, labels=images, format="coco"
        )
    assert boxed.num_calls == 4
    assert read_mask(found.masks / "a.png")[2].tolist() == [0, 0, 1, 1, 0, 0]


def test_boxes_that_cannot_be_used_are_refused(dark, model, images, tmp_path):
    coco_boxes(images, "a.png")
    with pytest.raises(RecipeError, match="does not look at boxes"):
        predict_folder(model, images, tmp_path / "out", labels=images, format="coco")


def test_boxes_of_other_images_or_unknown_classes_are_refused(boxed, model, images, tmp_path):
    paint(tmp_path / "other" / "a.png", 2)
    coco_boxes(tmp_path / "other", "a.png")
    with pytest.raises(DataError, match="none of them is among the images"):
        predict_folder(model, images, tmp_path / "out", labels=tmp_path / "other")
    coco_boxes(images, "a.png", label="dint")
    with pytest.raises(DataError, match='Did you mean "dent"'):
        predict_folder(model, images, tmp_path / "out", labels=images, format="coco")
    assert not (tmp_path / "out").exists()


def test_coco_holds_every_mask(dark, model, images, tmp_path):
    found = predict_folder(model, images, tmp_path / "out", overlay=False, coco=True)
    path = tmp_path / "out" / "coco.json"
    assert found.written == (path,)
    content = json.loads(path.read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == ["a.png", "line 1/b.bmp"]
    assert sorted(annotation["area"] for annotation in content["annotations"]) == [8, 24]


def test_one_image_can_be_given_by_itself(dark, model, images, tmp_path):
    found = predict_folder(model, images / "a.png", tmp_path / "out")
    assert found.num_images == 1
    assert (found.masks / "a.png").is_file()
    assert found.text().splitlines()[0] == f"1 masks in {found.masks}"


def test_two_images_of_one_name_are_told_apart_by_refusing_one(images):
    paint(images / "a.bmp", 1)
    samples, problems = find_samples(images)
    assert len([sample for sample in samples if sample.id == "a"]) <= 1
    assert len(problems) == 1


def test_a_folder_without_images_says_which_suffixes_count(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"holds no image \(\.avif, \.bmp"):
        find_samples(tmp_path)


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        find_samples(tmp_path / "nowhere")


def test_a_model_that_does_not_exist_is_named(images, tmp_path):
    with pytest.raises(MissingWeightsError, match=r"nowhere\.onnx"):
        predict_folder(tmp_path / "nowhere.onnx", images, tmp_path / "out")
    assert not (tmp_path / "out").exists()
