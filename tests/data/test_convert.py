from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.convert import convert_dataset
from wsseg.data.dataset import Dataset
from wsseg.data.discover import open_dataset
from wsseg.data.labels import Boxes, WeakLabels
from wsseg.errors import OutputError, RecipeError


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """One folder per class: two scratched images and a sound one."""
    root = tmp_path / "parts"
    rng = np.random.default_rng(0)
    for name in ("scratch/1", "scratch/2", "ok/3"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(path)
    return root


def test_a_converted_set_says_the_same_as_its_source(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert_dataset(folders, out).images == 3
    before, after = open_dataset(folders), open_dataset(out)
    assert after.source != before.source
    assert after.classes == before.classes
    for one, other in zip(before.samples, after.samples, strict=True):
        assert (one.id, one.labels.tags, one.split) == (other.id, other.labels.tags, other.split)
        assert np.array_equal(Image.open(one.image_path), Image.open(other.image_path))


def test_an_unknown_format_is_answered_with_the_known(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'Unknown target format "coko".*Available: .*csv'):
        convert_dataset(folders, tmp_path / "out", to="coko")
    assert not (tmp_path / "out").exists()


def test_labels_that_are_there_are_never_overwritten(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels.csv").write_text("file,tags\n")
    with pytest.raises(OutputError, match=r"has a labels\.csv already"):
        convert_dataset(folders, out)
    assert (out / "labels.csv").read_text() == "file,tags\n"


def test_every_format_is_converted_into_every_other(folders: Path, tmp_path: Path) -> None:
    """Boxes and classes survive a chain through all formats that hold them."""
    chain = ("csv", "label-studio", "cvat", "labelme", "yolo", "coco", "csv")
    dataset = open_dataset(folders)
    boxed = tuple(
        dataclasses.replace(
            sample,
            labels=WeakLabels(sample.labels.tags, Boxes([[1, 0.5, 4, 3]], [1]))
            if sample.labels.tags
            else sample.labels,
        )
        for sample in dataset
    )
    before = dataclasses.replace(dataset, samples=boxed)
    data: Path | Dataset = before
    for index, to in enumerate(chain):
        out = tmp_path / f"{index}-{to}"
        assert convert_dataset(data, out, to=to).notes == ()
        data = out
    after = open_dataset(data)
    assert after.classes == before.classes
    assert {s.id: s.labels for s in after} == {s.id: s.labels for s in before}


@pytest.mark.parametrize("to", ["coco", "yolo", "labelme", "cvat", "label_studio", "voc"])
def test_a_data_set_that_is_there_is_never_overwritten(
    folders: Path, tmp_path: Path, to: str
) -> None:
    dataset = open_dataset(folders)
    tagged = dataclasses.replace(dataset, samples=dataset.samples[:1])
    convert_dataset(tagged, tmp_path / "out", to=to)
    with pytest.raises(OutputError, match=r"already; write to a new folder"):
        convert_dataset(tagged, tmp_path / "out", to=to)
