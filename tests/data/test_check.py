"""The data check finds every planted fault, names the file, and stays silent on good data."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from wsseg.data.check import check_dataset
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.image_io import write_mask
from wsseg.data.labels import Boxes, ClassList, WeakLabels
from wsseg.data.scenes import make_dataset


class Set:
    """A small data set that tests spoil one fault at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples: list[Sample] = []
        self.rng = np.random.default_rng(0)

    def add(self, name, tags=frozenset(), *, image=None, mask=None, **more):
        path = self.root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if image is None:
            image = self.rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(image).save(path)
        mask_path = None
        if mask is not None:
            mask_path = self.root / "masks" / f"{name}.png"
            write_mask(mask_path, mask)
        labels = more.pop("labels", WeakLabels(tags=tags))
        self.samples.append(Sample(name, path, labels, mask_path=mask_path, **more))
        return path

    def dataset(self, classes=("dent", "pore")):
        return Dataset(self.root, ClassList(classes), tuple(self.samples))

    def check(self, classes=("dent", "pore"), **options):
        return check_dataset(self.dataset(classes), **options)


@pytest.fixture
def good(tmp_path):
    made = Set(tmp_path)
    for index in range(12):
        made.add(f"d{index}", {1})
        made.add(f"p{index}", {2})
        made.add(f"ok{index}")
    mask = np.zeros((40, 48), np.uint8)
    mask[:5] = 1
    made.add("v1", {1}, mask=mask, split="val")
    made.add("v2", {2}, mask=mask * 2, split="val")
    return made


def kinds(report, file=None):
    return [f.kind for f in report.findings if file is None or f.file == file]


def only(report, kind):
    found = [finding for finding in report.findings if finding.kind == kind]
    assert len(found) == 1, [str(finding) for finding in report.findings]
    return found[0]


def test_good_data_give_no_finding(good):
    report = good.check()
    assert report.findings == ()
    assert report.num_errors == 0
    assert report.images == {"train": 36, "val": 2, "test": 0}
    assert report.classes["pore"] == {"train": 12, "val": 1, "test": 0}
    assert report.no_class == {"train": 12, "val": 0, "test": 0}
    assert report.mask_pixels == {"background": 3360, "dent": 240, "pore": 240, "ignore": 0}


def test_empty_and_truncated_and_missing_images_are_named(good):
    good.add("empty").write_bytes(b"")
    truncated = good.add("cut")
    truncated.write_bytes(truncated.read_bytes()[:900])
    good.add("text").write_text("not an image")
    good.add("gone").unlink()
    report = good.check()
    found = {f.file: f for f in report.findings}
    assert set(found) == {f"images/{name}.png" for name in ("empty", "cut", "text", "gone")}
    assert {f.kind for f in report.findings} == {"unreadable_image"}
    assert report.num_errors == 4
    assert "0 bytes" in found["images/empty.png"].what
    assert "truncated" in found["images/cut.png"].what
    assert all(f.remedy.endswith(".") and f.remedy for f in report.findings)


def test_without_deep_only_headers_are_read(good):
    truncated = good.add("cut")
    truncated.write_bytes(truncated.read_bytes()[:900])
    good.add("empty").write_bytes(b"")
    report = good.check(deep=False)
    assert [f.file for f in report.findings] == ["images/empty.png"]
    assert report.mask_pixels == {}


def test_mask_of_another_size_is_an_error_and_a_turned_one_is_recognised(good):
    good.add("big", {1}, mask=np.ones((80, 96), np.uint8), split="val")
    good.add("turned", {1}, mask=np.ones((48, 40), np.uint8), split="val")
    report = good.check()
    big, turned = (
        next(f for f in report.findings if f.file == f"masks/{name}.png")
        for name in ("big", "turned")
    )
    assert big.kind == turned.kind == "mask_size"
    assert "96x80 pixels, but the upright image is 48x40" in big.what
    assert "EXIF" in turned.remedy
    assert kinds(good.check(deep=False)) == ["mask_size", "mask_size"]


def test_mask_values_outside_the_class_list_come_with_a_histogram(good):
    mask = np.ones((40, 48), np.uint8)
    mask[:10] = 38
    mask[10:12] = 255
    good.add("odd", {1}, mask=mask, split="val")
    found = only(good.check(), "mask_values")
    assert found.file == "masks/odd.png"
    assert "38: 25.00%" in found.what
    assert "255:" not in found.what
    assert "expected 0 to 2 and 255" in found.what
    mask = np.arange(40 * 48, dtype=np.int64).reshape(40, 48) % 200
    write_mask(good.root / "masks/odd.png", mask.astype(np.uint8))
    found = only(good.check(), "mask_values")
    assert "and 189 more" in found.what
    assert "smoothed" in found.remedy


def test_damaged_and_all_ignored_masks(good):
    good.add("bad", {1}, mask=np.ones((40, 48), np.uint8), split="val")
    (good.root / "masks/bad.png").write_bytes(b"no")
    good.add("void", mask=np.full((40, 48), 255, np.uint8), split="val")
    report = good.check()
    assert only(report, "unreadable_mask").severity == "error"
    assert only(report, "mask_ignored").file == "masks/void.png"


def test_copies_within_and_across_splits(good):
    image = good.rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    good.add("one", {1}, image=image)
    good.add("two", {1}, image=image)
    good.add("three", {2}, image=image)
    good.add("four", {1}, image=image, split="val", mask=np.ones((40, 48), np.uint8))
    report = good.check()
    assert kinds(report, "images/two.png") == ["duplicate"]
    assert kinds(report, "images/four.png") == ["leak"]
    third = next(f for f in report.findings if f.file == "images/three.png")
    assert "with other labels" in third.what
    assert only(report, "leak").severity == "error"
    assert "images/one.png (train)" in only(report, "leak").what


def test_the_same_pixels_in_another_shape_or_file_format(good):
    image = good.rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    path = good.add("one", {1}, image=image)
    good.add("reshaped", {1}, image=image.reshape(48, 40, 3))
    good.add("bmp", {1}, image=image)
    Image.open(path).save(good.root / "images/bmp.png", format="BMP")
    assert only(good.check(), "duplicate").file == "images/bmp.png"


def test_odd_sizes(good):
    good.add("dot", image=np.zeros((1, 1, 3), np.uint8))
    good.add("small", image=good.rng.integers(0, 255, (20, 40, 3), dtype=np.uint8))
    good.add("strip", image=good.rng.integers(0, 255, (33, 400, 3), dtype=np.uint8))
    good.add("huge", image=good.rng.integers(0, 255, (900, 8200, 3), dtype=np.uint8))
    good.add("flat", image=np.full((40, 48, 3), 7, np.uint8))
    report = good.check()
    assert kinds(report, "images/dot.png") == ["one_pixel"]
    assert kinds(report, "images/small.png") == ["small_image"]
    assert kinds(report, "images/strip.png") == ["long_image"]
    assert kinds(report, "images/huge.png") == ["large_image"]
    assert kinds(report, "images/flat.png") == ["flat_image"]
    assert report.count("error") == 0


def test_classes_with_no_or_few_images(good):
    good.add("rare", {3})
    report = good.check(("dent", "pore", "stain", "scratch"))
    assert kinds(report, "stain") == ["few_images", "not_held_out"]
    assert kinds(report, "scratch") == ["empty_class", "not_held_out"]
    assert "only 1 images" in only(report, "few_images").what


def test_imbalance_is_said(good):
    for index in range(240):
        good.samples.append(replace(good.samples[0], id=f"more{index}"))
    found = only(good.check(deep=False), "imbalance")
    assert '"dent" has 252 images, "pore" only 12' in found.what


def test_one_class_without_ok_images_has_nothing_to_compare_with(tmp_path):
    made = Set(tmp_path)
    for index in range(12):
        made.add(f"d{index}", {1})
    found = only(made.check(("dent",)), "no_negatives")
    assert found.severity == "error"
    assert "nothing to compare with" in found.what
    made.add("fine")
    assert "no_negatives" not in kinds(made.check(("dent",)))
    made.samples = [
        replace(sample, labels=WeakLabels(tags={1}, boxes=Boxes([[0, 0, 9, 9]], [1])))
        for sample in made.samples[:-1]
    ]
    assert only(made.check(("dent",)), "no_negatives").severity == "warning"


def test_a_class_that_is_everywhere_cannot_be_learnt_from_tags(tmp_path):
    made = Set(tmp_path)
    for index in range(24):
        made.add(f"d{index}", {1, 2} if index % 2 else {1})
    found = only(made.check(), "class_everywhere")
    assert found.file == "dent"


def test_untagged_images_are_listed_and_none_tagged_is_one_error(good):
    good.add("who", labels=WeakLabels())
    assert only(good.check(), "untagged").file == "images/who.png"
    bare = Set(good.root / "bare")
    bare.add("a", labels=WeakLabels())
    bare.add("b", labels=WeakLabels())
    assert only(bare.check(), "no_labels").severity == "error"
    assert "untagged" not in kinds(bare.check())


def test_a_set_without_training_images(good):
    for index, sample in enumerate(good.samples):
        good.samples[index] = replace(sample, split="test")
    assert only(good.check(), "no_train").severity == "error"
    assert "there are no images" in only(Set(good.root).check(), "no_train").what


def test_nothing_held_out_and_held_out_without_masks(good):
    good.samples = [replace(s, mask_path=None) for s in good.samples]
    assert "2 of 2 held-out images" in only(good.check(), "no_mask").what
    good.samples = [replace(s, split="train") for s in good.samples]
    assert only(good.check(), "no_val").severity == "info"


def test_a_group_in_two_splits_leaks(good):
    mask = np.ones((40, 48), np.uint8)
    good.add("g1", {1}, group="tile 7")
    good.add("g2", {1}, group="tile 7", split="val", mask=mask)
    good.add("g3", {1}, group="tile 8", split="val", mask=mask)
    good.add("g4", {1}, group="tile 8", split="val", mask=mask)
    found = only(good.check(), "group_leak")
    assert found.file == 'group "tile 7"'
    assert "train, val" in found.what


def test_tags_that_disagree_with_the_mask_are_an_info(good):
    mask = np.zeros((40, 48), np.uint8)
    mask[0] = 2
    mask[1] = 255
    good.add("odd", {1}, mask=mask)
    found = only(good.check(), "tags_vs_mask")
    assert found.severity == "info"
    assert found.what == (
        'the mask has "pore", the tags do not; the tags have "dent", the mask does not.'
    )


def test_names_that_differ_in_case_only(good):
    good.samples += [
        replace(good.samples[0], id="Same", image_path=good.samples[0].image_path),
        replace(good.samples[1], id="same", image_path=good.samples[1].image_path),
    ]
    assert kinds(good.check(deep=False)).count("case_clash") == 2


def test_errors_come_first_in_every_form_of_output(good):
    good.add("small", image=good.rng.integers(0, 255, (20, 40, 3), dtype=np.uint8))
    good.add("empty").write_bytes(b"")
    report = good.check()
    assert [f.severity for f in report.findings] == ["error", "warning"]
    text = report.text()
    assert text.index("error: images/empty.png") < text.index("warning: images/small.png")
    assert text.endswith("1 error(s), 1 warning(s)")
    data = json.loads(json.dumps(report.as_dict()))
    assert data["counts"] == {"error": 1, "warning": 1, "info": 0}
    assert data["findings"][0]["file"] == "images/empty.png"
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(report.table())
    assert "images/small.png" in console.export_text()
    console.file.close()


def test_long_lists_are_cut_in_text_only(good):
    for index in range(5):
        good.add(f"empty{index}").write_bytes(b"")
    report = good.check()
    assert "error: ... and 3 more" in report.text(max_shown=2)
    assert len(report.as_dict()["findings"]) == 5


def test_a_folder_is_read_and_what_the_reader_finds_is_in_the_report(tmp_path):
    make_dataset("defects", tmp_path, num_train=30, num_val=8, seed=1, size=(48, 48))
    assert check_dataset(tmp_path).num_errors == 0
    with (tmp_path / "labels.csv").open("a") as stream:
        stream.write("nowhere.png,dent,train\n")
    (tmp_path / "images" / "stray.png").write_bytes(b"")
    report = check_dataset(tmp_path)
    reading = [f for f in report.findings if f.kind == "reading"]
    assert ("error", "labels.csv line 40") in {(f.severity, f.file) for f in reading}
    assert any("stray.png" in f.file for f in reading)
    assert sum(report.images.values()) == 38


def test_notes_of_the_reader_are_infos(good):
    dataset = replace(good.dataset(), notes=("2 rows left out.",))
    assert only(check_dataset(dataset), "note").what == "2 rows left out."


def test_duplicate_stems_are_found_in_a_folder(tmp_path):
    make_dataset("defects", tmp_path, num_train=3, num_val=1, size=(48, 48))
    Image.new("RGB", (48, 48)).save(tmp_path / "images" / "train_00000.jpg")
    report = check_dataset(tmp_path)
    assert any("duplicate stem" in f.what for f in report.findings)
    assert len(open_dataset(tmp_path, strict=False)) > 0
