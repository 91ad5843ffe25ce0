"""Splits of data sets and of folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.labels import ClassList, WeakLabels
from wsseg.data.split import split_dataset, split_folder, split_summary
from wsseg.errors import DataError

ROOT = Path("data")


def dataset_of(tags, groups=None, classes=("a", "b", "c")):
    samples = tuple(
        Sample(
            f"{index:03d}",
            ROOT / f"{index:03d}.png",
            WeakLabels(tags=ids),
            group=None if groups is None else groups[index],
        )
        for index, ids in enumerate(tags)
    )
    return Dataset(ROOT, ClassList(classes), samples)


def splits_of(dataset):
    return {sample.id: sample.split for sample in dataset.samples}


def test_classes_and_images_without_class_are_shared_as_asked():
    tags = [{1}] * 40 + [{2}] * 20 + [{1, 3}] * 10 + [set()] * 30
    made = split_dataset(dataset_of(tags), {"val": 0.2, "test": 0.1}, seed=1)
    counts = split_summary(made).counts
    assert counts["a"] == {"train": 35, "val": 10, "test": 5}
    assert counts["b"] == {"train": 14, "val": 4, "test": 2}
    assert counts["c"] == {"train": 7, "val": 2, "test": 1}
    assert counts["(no class)"] == {"train": 21, "val": 6, "test": 3}
    assert counts["(images)"] == {"train": 70, "val": 20, "test": 10}


def test_untagged_images_are_shared_on_their_own():
    made = split_dataset(dataset_of([None] * 10 + [set()] * 10), {"val": 0.2})
    counts = split_summary(made).counts
    assert counts["(untagged)"] == {"train": 8, "val": 2, "test": 0}
    assert counts["(no class)"] == {"train": 8, "val": 2, "test": 0}


def test_groups_stay_together():
    rng = np.random.default_rng(0)
    groups = [f"g{index // 5}" for index in range(100)]
    tags = [{int(rng.integers(1, 4))} for _ in range(100)]
    made = split_dataset(dataset_of(tags, groups), {"val": 0.3})
    by_group = {}
    for sample in made.samples:
        by_group.setdefault(sample.group, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert split_summary(made).counts["(images)"]["val"] == pytest.approx(30, abs=5)


def test_a_group_named_like_a_sample_is_not_mixed_up_with_it():
    tags = [{1}] * 4
    made = split_dataset(dataset_of(tags, ["003", "003", "003", None]), {"val": 0.25})
    splits = splits_of(made)
    assert splits["000"] == splits["001"] == splits["002"] == "train"
    assert splits["003"] == "val"


def test_rare_classes_stay_in_train_and_a_note_says_so():
    made = split_dataset(dataset_of([{1}] * 20 + [{2}]), {"val": 0.5}, seed=3)
    assert splits_of(made)["020"] == "train"
    assert any('class "b" occurs in 1 images' in note for note in made.notes)
    assert any('class "c" occurs in 0 images' in note for note in made.notes)
    assert split_summary(made).text().count("note:") == 2


def test_same_seed_gives_the_same_split_in_any_order_of_samples():
    data = dataset_of([{1}, {2}, {1, 2}, set()] * 20)
    shuffled = Dataset(data.root, data.classes, data.samples[::-1])
    assert splits_of(split_dataset(data, seed=5)) == splits_of(split_dataset(shuffled, seed=5))
    assert splits_of(split_dataset(data, seed=5)) != splits_of(split_dataset(data, seed=6))
    assert [s.id for s in split_dataset(shuffled).samples] == [s.id for s in shuffled.samples]


def test_earlier_splits_do_not_matter():
    data = dataset_of([{1}, {2}] * 20)
    again = split_dataset(split_dataset(data, {"val": 0.4}, seed=9), {"val": 0.2}, seed=1)
    assert splits_of(again) == splits_of(split_dataset(data, {"val": 0.2}, seed=1))


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"valid": 0.2}, 'Unknown split "valid"'),
        ({"val": 1.0}, "something left for train"),
        ({"val": -0.1}, "between 0 and 1"),
        ({"train": 0.5, "val": 0.2}, "must sum to 1"),
    ],
)
def test_bad_fractions_are_named(fractions, message):
    with pytest.raises(DataError, match=message):
        split_dataset(dataset_of([{1}]), fractions)


def test_negative_seed_is_refused_and_an_empty_set_stays_empty():
    with pytest.raises(DataError, match="-2"):
        split_dataset(dataset_of([{1}]), seed=-2)
    assert len(split_dataset(dataset_of([]))) == 0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    rows = ["file,tags,split,weight"]
    for index in range(20):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "images" / f"{index}.png")
        rows.append(f"{index}.png,{'a' if index % 2 else ''},train,{index * 3}")
    rows[5] = rows[5].replace("train", "unused")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_folder_keeps_other_columns_and_rows_that_are_not_read(folder):
    summary = split_folder(folder, fractions={"val": 0.25}, seed=0)
    rows = (folder / "labels.csv").read_text().splitlines()
    assert rows[0] == "file,tags,split,weight"
    assert rows[5] == "4.png,,unused,12"
    assert [row.split(",")[3] for row in rows[1:]] == [str(index * 3) for index in range(20)]
    again = open_dataset(folder)
    assert len(again.split("val")) == summary.counts["(images)"]["val"] == 5
    assert len(again.split("train")) == 14
    assert summary.as_dict()["path"] == str(folder / "labels.csv")


def test_folder_split_can_go_to_another_table(folder):
    before = (folder / "labels.csv").read_text()
    out = folder / "tables" / "new.csv"
    text = split_folder(folder, out, fractions={"val": 0.5}).text()
    assert (folder / "labels.csv").read_text() == before
    assert out.read_text().count(",val,") in (9, 10)  # of 19
    assert f"Wrote {out}" in text


def test_a_table_without_a_split_column_gets_one(folder):
    rows = (folder / "labels.csv").read_text().splitlines()
    cut = [",".join(row.split(",")[:2]) for row in rows]
    (folder / "labels.csv").write_text("\n".join(cut))
    split_folder(folder, fractions={"val": 0.2})
    assert (folder / "labels.csv").read_text().splitlines()[0] == "file,tags,split"
    assert len(open_dataset(folder).split("val")) == 4


def test_a_folder_without_table_says_what_to_run(tmp_path):
    for name in ("ok", "dent"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="wsseg data convert"):
        split_folder(tmp_path)
