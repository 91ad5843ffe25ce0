from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsseg.atomic import append_jsonl, write_text
from wsseg.data.discover import read_dataset
from wsseg.data.image_io import read_mask, write_mask
from wsseg.errors import DataError, MissingWeightsError, RecipeError
from wsseg.export.run import export_run
from wsseg.rundir import MANIFEST_FILE, RunDir


@pytest.fixture
def run(make_dataset, tmp_path) -> Path:
    """A run with pseudo masks of two of its three images and one predicted mask."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    dataset = make_dataset(
        {
            "a": {"tags": {1}},
            "sub/b": {"tags": set(), "split": "val"},
            "failed": {"tags": {1}},
        }
    )
    folder = RunDir(tmp_path / "run")
    write_text(folder.recipe_path, "name: tiny\n")
    dataset.to_jsonl(folder.samples_path)
    for stage, items in (
        ("masks", {"a": mask, "sub/b": 0 * mask}),
        ("predictions", {"sub/b": 2 * mask}),
    ):
        for image_id, content in items.items():
            path = folder.path / stage
            write_mask(path / f"{image_id}.png", content)
            append_jsonl(path / MANIFEST_FILE, {"id": image_id, "status": "ok"})
    return folder.path


def test_pseudo_masks_become_coco(run: Path):
    written = export_run(run, "coco")
    assert written.path == run / "export" / "coco-pseudo.json"
    assert written.facts == {"images": 2, "annotations": 1}
    content = json.loads(written.path.read_text())
    assert [image["file_name"] for image in content["images"]] == [
        "images/a.png",
        "images/sub/b.png",
    ]
    (annotation,) = content["annotations"]
    assert annotation["category_id"] == 1
    assert annotation["area"] == 16
    assert written.text() == f"Wrote {written.path} (images 2, annotations 1)"
    assert written.as_dict() == {"path": str(written.path), "images": 2, "annotations": 1}


def test_predicted_masks_become_coco_where_they_are_asked_for(run: Path, tmp_path: Path):
    written = export_run(run, "coco", out=tmp_path / "p.json", masks="predicted")
    assert written.path == tmp_path / "p.json"
    content = json.loads(written.path.read_text())
    assert [a["category_id"] for a in content["annotations"]] == [2]


def test_masks_become_a_voc_folder(run: Path):
    written = export_run(run, "voc")
    root = run / "export" / "voc-pseudo"
    assert written.path == root
    assert written.facts == {"images": 2}
    assert read_mask(root / "SegmentationClass" / "a.png")[2:6, 2:6].min() == 1
    lists = root / "ImageSets" / "Segmentation"
    assert (lists / "train.txt").read_text() == "a\n"
    assert (lists / "val.txt").read_text() == "sub__b\n"


@pytest.mark.parametrize("to", ["labelme", "cvat", "label-studio", "yolo"])
def test_masks_become_annotations_that_are_read_back(run: Path, to: str):
    written = export_run(run, to)
    root = run / "export" / f"{to}-pseudo"
    assert written.path == root
    assert written.facts == {"images": 2}
    if to in ("cvat", "label-studio"):
        # These tools have the images; the test puts them where the reader looks.
        shutil.copytree(run.parent / "data" / "images", root / "images")
        (root / "images" / "failed.png").unlink()
    if to == "label-studio":
        # Guesses are predictions, which count for nothing until a person accepts them.
        assert all(sample.labels.is_untagged for sample in read_dataset(root)[0])
        tasks = json.loads((root / "label_studio.json").read_text())
        assert [task["data"]["image"] for task in tasks] == [
            "/data/local-files/?d=images/a.png",
            "/data/local-files/?d=images/sub/b.png",
        ]
        for task in tasks:
            task["annotations"] = task["predictions"]
        (root / "label_studio.json").write_text(json.dumps(tasks))
    back, problems = read_dataset(root)
    assert [str(problem) for problem in problems] == []
    first, second = back.samples
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    assert read_mask(first.mask_path).tolist() == mask.tolist()
    assert (first.labels.tags, second.labels.is_ok) == ({1}, True)


def test_pixels_that_are_unsure_are_not_annotated(run: Path):
    mask = np.full((8, 8), 255, np.uint8)
    mask[0] = 2
    write_mask(run / "masks" / "a.png", mask)
    written = export_run(run, "cvat")
    text = (written.path / "annotations.xml").read_text()
    assert text.count("<mask") == 1
    assert "ignore" not in text


@pytest.mark.parametrize(
    ("to", "masks", "message"),
    [
        ("onix", "pseudo", 'Unknown export format "onix". Did you mean "onnx"?'),
        ("coco", "predictd", 'Unknown kind of masks "predictd". Did you mean "predicted"?'),
    ],
)
def test_an_unknown_name_is_answered_with_the_known(run: Path, to: str, masks: str, message: str):
    with pytest.raises(RecipeError) as caught:
        export_run(run, to, masks=masks)
    assert str(caught.value).startswith(message)


def test_a_run_without_masks_says_how_to_make_them(run: Path):
    (run / "predictions" / MANIFEST_FILE).unlink()
    with pytest.raises(DataError, match=r"holds no masks\. Run `wsseg pseudo .*`wsseg segment"):
        export_run(run, "voc", masks="predicted")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="is not the folder of a run"):
        export_run(tmp_path, "coco")


def test_a_run_without_a_model_has_no_onnx(run: Path):
    with pytest.raises(MissingWeightsError):
        export_run(run, "onnx")


def test_a_model_becomes_onnx_and_is_checked(run: Path):
    import torch

    from wsseg.export.bundle import ModelInfo, describe, save_bundle
    from wsseg.segment.config import PredictConfig, Smp
    from wsseg.segment.predict import Predictor
    from wsseg.segment.task import smp

    torch.manual_seed(0)
    config = Smp(
        architecture="unet",
        encoder="tu-test_resnet",
        weights="none",
        inference=PredictConfig(flip=False),
    )
    info = ModelInfo(segmenter=describe(config), classes=("dent", "stain"), max_side_px=40)
    save_bundle(run / "segment" / "model", smp(config=config, num_classes=2), info)
    written = export_run(run, "onnx")
    assert written.path == run / "export" / "model.onnx"
    assert float(written.facts["largest difference"]) < 1e-3
    predictor = Predictor.load(written.path)
    assert predictor.classes.names == ("dent", "stain")
    assert predictor.max_side_px == 40
