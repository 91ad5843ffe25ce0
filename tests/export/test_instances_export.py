"""Tests of wsseg.export.instances: pycocotools reads the instances of a run back."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from wsseg.atomic import append_jsonl, write_json, write_text
from wsseg.errors import DataError
from wsseg.export.run import export_run
from wsseg.refine.irn_instances import Instance, instances_document
from wsseg.rundir import MANIFEST_FILE, RunDir

# pycocotools 2.0 does not know the `copy` keyword of NumPy 2 yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MASK = np.array([[1, 1, 0], [1, 1, 1]], bool)


@pytest.fixture
def run(make_dataset, tmp_path) -> Path:
    """A run with two instances and a fragment in one image, none in another, one image failed."""
    dataset = make_dataset(
        {
            "a": {"tags": {1, 2}, "size": (8, 10)},
            "sub/b": {"tags": set(), "split": "val"},
            "failed": {"tags": {1}},
        }
    )
    folder = RunDir(tmp_path / "run")
    write_text(folder.recipe_path, "name: tiny\n")
    dataset.to_jsonl(folder.samples_path)
    instances = [
        Instance(2, 0.9, (1, 2, 3, 2), MASK),
        Instance(2, 0.5, (4, 2, 3, 2), MASK),
        Instance(1, 0.0, (9, 7, 1, 1), np.ones((1, 1), bool)),
    ]
    put(folder.path, "2_irn", "a", instances_document(instances, (8, 10)))
    put(folder.path, "2_irn", "sub/b", instances_document([], (8, 8)))
    return folder.path


def put(run: Path, step: str, image_id: str, content: dict) -> None:
    write_json(run / "refine" / step / "instances" / f"{image_id}.json", content)
    line = {"id": image_id, "status": "ok"}
    append_jsonl(run / "refine" / step / MANIFEST_FILE, line)


def masks_in(path: Path, image_id: int) -> list[np.ndarray]:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    found = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
    return [coco.annToMask(annotation).astype(bool) for annotation in found]


def test_instances_become_coco_without_fragments(run: Path):
    written = export_run(run, "coco-instances")
    assert written.path == run / "export" / "coco-instances.json"
    assert written.facts == {"images": 2, "annotations": 2}
    content = json.loads(written.path.read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "images/a.png", "height": 8, "width": 10},
        {"id": 2, "file_name": "images/sub/b.png", "height": 8, "width": 8},
    ]
    assert [c["name"] for c in content["categories"]] == ["dent", "stain"]
    kept = [(a["id"], a["category_id"], a["score"], a["bbox"], a["area"], a["iscrowd"])
            for a in content["annotations"]]  # fmt: skip
    assert kept == [(1, 2, 0.9, [1, 2, 3, 2], 5, 0), (2, 2, 0.5, [4, 2, 3, 2], 5, 0)]
    first, second = masks_in(written.path, 1)
    np.testing.assert_array_equal(first[2:4, 1:4], MASK)
    assert first.sum() == second.sum() == 5
    assert not (first & second).any()
    assert masks_in(written.path, 2) == []


def test_instances_of_shrunk_images_are_enlarged(run: Path, tmp_path: Path):
    small = instances_document([Instance(1, 0.7, (1, 1, 2, 1), np.ones((1, 2), bool))], (4, 5))
    put(run, "2_irn", "a", small)
    written = export_run(run, "coco-instances", out=tmp_path / "i.json")
    (annotation,) = json.loads(written.path.read_text())["annotations"]
    assert annotation["bbox"] == [2, 2, 4, 2]
    assert annotation["area"] == 8
    (mask,) = masks_in(written.path, 1)
    assert mask.shape == (8, 10)
    assert mask[2:4, 2:6].all()
    assert mask.sum() == 8


def test_the_last_step_with_instances_counts(run: Path):
    put(run, "10_irn", "a", instances_document([], (8, 10)))
    assert export_run(run, "coco-instances").facts == {"images": 1, "annotations": 0}


def test_a_run_without_instances_says_how_to_get_them(run: Path, tmp_path: Path):
    (run / "refine").rename(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match=r"wsseg refine .* --set refine\.steps\.irn\.instances=true"
    ):
        export_run(run, "coco-instances")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"size": [8, 10]}', '{"size": [8], "instances": []}']
)
def test_a_damaged_file_is_named(run: Path, content: str):
    path = run / "refine" / "2_irn" / "instances" / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.json: no valid instances"):
        export_run(run, "coco-instances")
    assert not (run / "export").exists()


def test_a_class_beyond_the_class_list_is_refused(run: Path):
    wrong = [Instance(7, 0.7, (0, 0, 1, 1), np.ones((1, 1), bool))]
    put(run, "2_irn", "a", instances_document(wrong, (8, 10)))
    with pytest.raises(DataError, match="Class id 7"):
        export_run(run, "coco-instances")
