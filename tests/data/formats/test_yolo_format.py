"""YOLO, by files written by hand from the format's documentation and by round trips."""

from __future__ import annotations

import pytest

from wsseg.data.discover import find_format, open_dataset, read_dataset
from wsseg.data.image_io import read_mask
from wsseg.errors import DataError


@pytest.fixture
def read_lines(tmp_path, add_image, add_text):
    """Read a.png (6 x 4 pixels) with the given label lines, and b.png without objects."""

    def read(*lines):
        add_text(tmp_path / "data.yaml", "names: [dent, scratch]\n")
        for name, text in (("a", "\n".join(lines)), ("b", "")):
            add_image(tmp_path / "images" / f"{name}.png")
            add_text(tmp_path / "labels" / f"{name}.txt", text)
        return read_dataset(tmp_path)

    return read


def test_boxes_are_centre_and_extent_in_shares(read_lines):
    dataset, problems = read_lines("1 0.5 0.5 0.5 0.25", "0 0.25 0.5 0.5 1.0")
    assert len(problems) == 0
    assert dataset.source == "yolo"
    assert dataset.classes.names == ("dent", "scratch")
    first, second = dataset.samples
    assert first.labels.boxes.xyxy.tolist() == [[1.5, 1.5, 4.5, 2.5], [0, 0, 3, 4]]
    assert first.labels.boxes.class_ids.tolist() == [2, 1]
    assert (first.labels.tags, second.labels.is_ok, first.mask_path) == ({1, 2}, True, None)


def test_polygons_become_masks_and_images_without_object_masks_of_background(read_lines):
    dataset, _ = read_lines("1 0 0 0.5 0 0.5 0.5 0 0.5")
    first, second = dataset.samples
    assert read_mask(first.mask_path).tolist() == [[2, 2, 2, 0, 0, 0]] * 2 + [[0] * 6] * 2
    assert first.labels.boxes is None
    assert not read_mask(second.mask_path).any()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.5 0.5", 'class "2" is not a number from 0 to 1'),
        ("dent 0.5 0.5 0.5 0.5", 'class "dent" is not a number'),
        ("0 0.5 0.5 0.5", "has 3 numbers after the class"),
        ("0 0.5 0.5 0.5 0.5 0.9", "A sixth is a confidence"),
        ("0 0.5 0.5 0.5 x", "holds what is no number"),
        ("0 0.5 nan 0.5 0.5", "holds what is no number"),
        ("0 320 240 100 50", "They look like pixels"),
        ("0 0.5 0.5 -0.2 0.5", "is inverted"),
        ("0 0.5 0.5 0 0.5", "has no area"),
        ("0 0 0 0.1 0.1 0.2 0.2", "has no area"),
    ],
)
def test_a_bad_line_is_named_and_its_image_left_out(read_lines, line, said):
    dataset, problems = read_lines("0 0.5 0.5 0.5 0.5", line)
    assert [sample.id for sample in dataset] == ["b"]
    (problem,) = problems.errors
    assert problem.file.startswith("labels/a.txt")
    assert "line 2" in problem.file
    assert said in str(problem)


def test_an_image_without_label_file_is_not_labelled(read_lines, tmp_path):
    read_lines("0 0.5 0.5 0.5 0.5")
    (tmp_path / "labels" / "b.txt").unlink()
    dataset, problems = read_dataset(tmp_path)
    assert dataset.by_id("b").labels.is_untagged
    (warning,) = problems.warnings
    assert "images/b.png: and 0 more image(s) have no annotation file" in str(warning)


def test_split_folders_and_names_by_number_as_ultralytics_writes_them(
    tmp_path, add_image, add_text
):
    add_text(
        tmp_path / "coco8.yaml",
        "path: ../datasets/coco8\ntrain: images/train\nval: images/val\n"
        "names:\n  0: dent\n  1: x\n",
    )
    for name in ("train/1", "val/2", "other/3"):
        add_image(tmp_path / "images" / f"{name}.png")
        add_text(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    dataset = open_dataset(tmp_path)
    assert [(s.id, s.split) for s in dataset] == [("train/1", "train"), ("val/2", "val")]
    assert dataset.notes[0] == "1 image(s) in no split of coco8.yaml left out."


def test_roboflow_layout_with_paths_that_climb_finds_the_folders_inside(
    tmp_path, add_image, add_text
):
    text = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['dent']\n"
    add_text(tmp_path / "data.yaml", text)
    for name in ("train", "valid"):
        add_image(tmp_path / name / "images" / "1.jpg")
        add_text(tmp_path / name / "labels" / "1.txt", "0 0.5 0.5 0.5 0.5\n")
    dataset = open_dataset(tmp_path)
    assert [(s.id, s.split) for s in dataset] == [
        ("train/images/1", "train"),
        ("valid/images/1", "val"),
    ]


def test_labels_beside_images_with_classes_txt_as_labelimg_writes_them(
    tmp_path, add_image, add_text
):
    add_image(tmp_path / "1.png")
    add_text(tmp_path / "1.txt", "0 0.5 0.5 0.5 0.5\n")
    add_text(tmp_path / "classes.txt", "dent\n")
    assert find_format(tmp_path) == "yolo"
    assert open_dataset(tmp_path).samples[0].labels.tags == {1}


def test_an_image_in_two_splits_is_an_error(tmp_path, add_image, add_text):
    add_image(tmp_path / "images" / "1.png")
    add_text(tmp_path / "labels" / "1.txt", "")
    add_text(tmp_path / "list.txt", "./images/1.png\n/somewhere/else/images/1.png\n")
    add_text(tmp_path / "data.yaml", "train: images\nval: list.txt\nnames: [x]\n")
    with pytest.raises(DataError, match="is in train and in val"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("names:\n  1: a\n  2: b\n", "Number them from 0"),
        ("names:\n", "has no list of names"),
        ("names: [a]\ntrain: nowhere\n", "neither a folder with images nor a list"),
        ("names: [a]\ntrain: /etc\n", "must lie inside of the data folder"),
        ("names: [a]\ntrain: [\n", "cannot be read as YAML"),
        ("names: ['a;b']\n", 'contains ";"'),
        ("names: !!python/object/apply:os.system [ls]\n", "cannot be read as YAML"),
    ],
)
def test_a_bad_yaml_file_is_explained(tmp_path, add_image, add_text, yaml, said):
    add_image(tmp_path / "images" / "1.png")
    add_text(tmp_path / "data.yaml", yaml)
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path, add_image, add_text):
    add_image(tmp_path / "in" / "images" / "1.png")
    add_text(tmp_path / "in" / "data.yaml", "names: [x]\n")
    secret = add_text(tmp_path / "secret.txt", "0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "in" / "labels").mkdir()
    (tmp_path / "in" / "labels" / "1.txt").symlink_to(secret)
    _, problems = read_dataset(tmp_path / "in")
    assert "labels/1.txt: is a link out of the data folder" in str(problems.errors[0])


@pytest.mark.parametrize("seed", range(6))
def test_masks_come_back_exactly(random_dataset, round_trip, masks_of, seed):
    dataset = random_dataset(seed, kinds=("masks",), splits=("train", "test"))
    back, notes = round_trip(dataset, "yolo")
    assert notes == ()
    assert back.classes == dataset.classes
    assert masks_of(back) == masks_of(dataset)
    assert {s.id: s.split for s in back} == {s.id: s.split for s in dataset}


@pytest.mark.parametrize("seed", range(6))
def test_boxes_come_back_exactly(random_dataset, round_trip, seed):
    dataset = random_dataset(seed, kinds=("boxes",))
    back, _ = round_trip(dataset, "yolo")
    assert {s.id: s.labels for s in back} == {s.id: s.labels for s in dataset}
