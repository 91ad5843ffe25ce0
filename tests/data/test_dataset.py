import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import Boxes, ClassList, Points, Scribbles, WeakLabels
from wsseg.errors import DataError

CLASSES = ClassList(("a", "b", "흠집"))


def make_dataset(root):
    (root / "images").mkdir(exist_ok=True)
    samples = []
    for name, split in (("one", "train"), ("sub dir/둘", "val"), ("three", "test")):
        image = root / "images" / f"{name}.png"
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(name.encode())
        labels = WeakLabels(tags=frozenset({1, 3}) if split != "test" else None)
        samples.append(Sample(name, image, labels, split, group="g" if split == "val" else None))
    return Dataset(root, CLASSES, tuple(samples), "python", ("a note",))


def test_split_keeps_order_and_selects(tmp_path):
    dataset = make_dataset(tmp_path)
    assert [sample.id for sample in dataset.split("val")] == ["sub dir/둘"]
    assert len(dataset) == 3
    with pytest.raises(DataError, match='"tarin"; allowed are train, val, test'):
        dataset.split("tarin")


def test_by_id_finds_one_sample(tmp_path):
    dataset = make_dataset(tmp_path)
    assert dataset.by_id("three") is dataset.samples[2]
    with pytest.raises(DataError, match='"four"'):
        dataset.by_id("four")


def test_jsonl_round_trip_gives_an_equal_dataset(tmp_path):
    dataset = make_dataset(tmp_path)
    dataset.to_jsonl(tmp_path / "samples.jsonl")
    assert Dataset.from_jsonl(tmp_path / "samples.jsonl") == dataset


def test_jsonl_paths_follow_the_data_folder(tmp_path):
    dataset = make_dataset(tmp_path)
    outside = Sample("x", tmp_path.parent / "x.png")
    dataset = Dataset(tmp_path, CLASSES, (*dataset.samples, outside))
    dataset.to_jsonl(tmp_path / "samples.jsonl")
    moved = Dataset.from_jsonl(tmp_path / "samples.jsonl", root=tmp_path / "moved")
    assert moved.samples[0].image_path == tmp_path / "moved" / "images" / "one.png"
    assert moved.samples[3].image_path == outside.image_path


def coordinates(width):
    number = st.floats(-1e4, 1e4, width=32)
    return st.lists(st.lists(number, min_size=width, max_size=width), min_size=1, max_size=3)


@given(
    tags=st.none() | st.frozensets(st.integers(1, 3)),
    points=coordinates(2),
    line=coordinates(2),
    corner=coordinates(2),
    name=st.text(min_size=1).filter(
        lambda text: not set(text) & set("/\\\0") and text not in {".", ".."}
    ),
)
def test_every_kind_of_label_and_name_survives_the_round_trip(
    tmp_path_factory, tags, points, line, corner, name
):
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    root = tmp_path_factory.mktemp("data")
    corner = np.array(corner, np.float32)
    ids = np.full(len(points), 2)
    labels = WeakLabels(
        tags=tags,
        boxes=Boxes(np.hstack([corner, corner + 1]), np.full(len(corner), 3)),
        points=Points(np.array(points), ids),
        scribbles=Scribbles((np.array(line),), np.array([0])),
    )
    dataset = Dataset(root, CLASSES, (Sample(name, root / "x.png", labels),))
    dataset.to_jsonl(root / "samples.jsonl")
    assert Dataset.from_jsonl(root / "samples.jsonl") == dataset


def test_empty_shapes_survive_the_round_trip(tmp_path):
    labels = WeakLabels(
        boxes=Boxes(np.zeros((0, 4)), np.zeros(0)),
        points=Points(np.zeros((0, 2)), np.zeros(0)),
        scribbles=Scribbles((), np.zeros(0)),
    )
    dataset = Dataset(tmp_path, CLASSES, (Sample("a", tmp_path / "a.png", labels),))
    dataset.to_jsonl(tmp_path / "s.jsonl")
    assert Dataset.from_jsonl(tmp_path / "s.jsonl") == dataset


def test_fingerprint_ignores_place_and_order(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    prints = []
    for root in (first, second):
        root.mkdir()
        dataset = make_dataset(root)
        for sample in dataset:
            os.utime(sample.image_path, ns=(10**18, 10**18))
        order = dataset.samples if root == first else dataset.samples[::-1]
        prints.append(Dataset(root, CLASSES, order).fingerprint())
    assert prints[0] == prints[1]
    assert len(prints[0]) == 32


def test_fingerprint_sees_every_change_that_matters(tmp_path):
    dataset = make_dataset(tmp_path)
    first, *rest = dataset.samples
    mask = tmp_path / "m.png"
    mask.write_bytes(b"m")

    def variant(**changes):
        fields = {"labels": first.labels, "split": first.split, **changes}
        return Dataset(tmp_path, CLASSES, (Sample(first.id, first.image_path, **fields), *rest))

    variants = [
        dataset,
        variant(labels=WeakLabels(tags=frozenset({2}))),
        variant(labels=WeakLabels()),
        variant(labels=WeakLabels(tags=frozenset())),
        variant(split="val"),
        variant(group="x"),
        variant(mask_path=mask),
        Dataset(tmp_path, ClassList(("b", "a", "흠집")), dataset.samples),
    ]
    assert len({item.fingerprint() for item in variants}) == len(variants)
    before = dataset.fingerprint()
    first.image_path.write_bytes(b"longer than before")
    assert dataset.fingerprint() != before


def test_fingerprint_without_masks_does_not_see_masks(tmp_path):
    dataset = make_dataset(tmp_path)
    sample = dataset.samples[0]
    mask = tmp_path / "m.png"
    mask.write_bytes(b"m")
    with_mask = Sample(sample.id, sample.image_path, sample.labels, sample.split, mask)
    masked = Dataset(tmp_path, CLASSES, (with_mask, *dataset.samples[1:]))
    assert masked.fingerprint(masks=False) == dataset.fingerprint(masks=False)
    assert masked.fingerprint() != dataset.fingerprint()


def test_repeated_ids_are_refused(tmp_path):
    samples = (Sample("a", tmp_path / "a.png"), Sample("a", tmp_path / "a.jpg"))
    with pytest.raises(DataError, match='"a" occurs 2 times'):
        Dataset(tmp_path, CLASSES, samples)


def test_labels_outside_the_class_list_are_refused(tmp_path):
    sample = Sample("a", tmp_path / "a.png", WeakLabels(tags=frozenset({4})))
    with pytest.raises(DataError, match=r'class ids 1 to 3\.\n  - "a" has class id 4'):
        Dataset(tmp_path, CLASSES, (sample,))


@pytest.mark.parametrize("name", ["", "../a", "a/../b", "/a", "a//b", "a\\b", "./a", "a/"])
def test_ids_that_could_leave_the_output_folder_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="Sample id"):
        Sample(name, tmp_path / "a.png")


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match='split "dev"; allowed are train, val, test'):
        Sample("a", tmp_path / "a.png", split="dev")


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, "{}", "line 1 is not the head"),
        (0, "[]", "line 1: expected a JSON object"),
        (1, "{torn", "line 2: not valid JSON"),
        (1, "{}", "line 2: not a sample"),
        (2, json.dumps({"id": "a", "mask": None}), "line 3: not a sample"),
    ],
)
def test_damaged_sample_list_names_the_line(tmp_path, line, text, message):
    path = tmp_path / "samples.jsonl"
    make_dataset(tmp_path).to_jsonl(path)
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        Dataset.from_jsonl(path)


def test_missing_sample_list_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"samples\.jsonl: cannot be read"):
        Dataset.from_jsonl(tmp_path / "samples.jsonl")
