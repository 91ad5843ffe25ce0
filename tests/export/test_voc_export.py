"""Tests of wsseg.export.voc."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.image_io import read_image, read_mask
from wsseg.data.labels import ClassList, voc_palette
from wsseg.errors import DataError
from wsseg.export.voc import VocItem, write_voc

CLASSES = ClassList(("scratch", "dent"))


def _item(folder: Path, image_id: str, split: str, suffix: str = ".png") -> VocItem:
    rng = np.random.default_rng(len(image_id))
    path = folder / f"{image_id}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)).save(path)
    mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (12, 20))
    return VocItem(image_id, path, mask, split)


def test_layout_holds_images_masks_and_lists(tmp_path: Path):
    items = [
        _item(tmp_path / "in", "line 1/a", "train"),
        _item(tmp_path / "in", "b", "val", ".jpg"),
        _item(tmp_path / "in", "c", "test"),
    ]
    out = tmp_path / "voc"
    assert write_voc(out, items, CLASSES) == 3
    lists = {path.stem: path.read_text().split("\n")[:-1] for path in out.glob("ImageSets/*/*.txt")}
    assert lists == {
        "train": ["line 1__a"],
        "val": ["b"],
        "test": ["c"],
        "trainval": ["b", "line 1__a"],
    }
    assert (out / "labels.txt").read_text().split() == ["background", "scratch", "dent"]
    for name, item in zip(("line 1__a", "b", "c"), items, strict=True):
        np.testing.assert_array_equal(
            read_mask(out / "SegmentationClass" / f"{name}.png"), item.mask
        )
        with Image.open(out / "JPEGImages" / f"{name}.jpg") as picture:
            assert picture.format == "JPEG"
            assert picture.size == (20, 12)


def test_masks_carry_the_voc_palette(tmp_path: Path):
    write_voc(tmp_path / "voc", [_item(tmp_path, "a", "train")], CLASSES)
    with Image.open(tmp_path / "voc" / "SegmentationClass" / "a.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:9] == voc_palette()[:3].ravel().tolist()


def test_jpeg_files_are_copied_byte_by_byte(tmp_path: Path):
    item = _item(tmp_path, "a", "train", ".jpg")
    write_voc(tmp_path / "voc", [item], CLASSES)
    copied = tmp_path / "voc" / "JPEGImages" / "a.jpg"
    assert copied.read_bytes() == item.image_path.read_bytes()


def test_turned_jpeg_becomes_upright_so_that_it_fits_its_mask(tmp_path: Path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 12, 3), np.uint8)).save(path, exif=exif)
    item = VocItem("a", path, np.zeros(read_image(path).shape[:2], np.uint8), "train")
    write_voc(tmp_path / "voc", [item], CLASSES)
    with Image.open(tmp_path / "voc" / "JPEGImages" / "a.jpg") as picture:
        assert picture.size == item.mask.shape[::-1]
        assert 0x0112 not in picture.getexif()


def test_two_images_of_one_flat_name_are_refused(tmp_path: Path):
    items = [_item(tmp_path, "a/b", "train"), _item(tmp_path, "a__b", "train")]
    with pytest.raises(DataError, match='"a/b" and "a__b" would both be called a__b'):
        write_voc(tmp_path / "voc", items, CLASSES)


def test_class_id_beyond_the_list_is_refused(tmp_path: Path):
    item = _item(tmp_path, "a", "train")
    item.mask[0, 0] = 9
    with pytest.raises(DataError, match="Class id 9"):
        write_voc(tmp_path / "voc", [item], CLASSES)
