"""COCO, by files written by hand from the format's documentation and by round trips."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.image_io import read_mask
from wsseg.errors import DataError

CATEGORIES = [
    {"id": 7, "name": "dent", "supercategory": "defect"},
    {"id": 3, "name": "scratch", "supercategory": "defect"},
]


def annotation(image_id: int, category: int, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image_id, "category_id": category, "iscrowd": 0} | fields


def document(annotations: list[dict[str, Any]], names: tuple[str, ...] = ("a.png",)) -> str:
    images = [
        {"id": number, "file_name": name, "width": 6, "height": 4}
        for number, name in enumerate(names, start=1)
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})


@pytest.fixture
def read_one(tmp_path, add_image, add_text):
    """Read one image of 6 x 4 pixels with the given annotations."""

    def read(*annotations, names=("a.png",)):
        for name in names:
            add_image(tmp_path / "images" / name)
        add_text(tmp_path / "annotations.json", document(list(annotations), names))
        return read_dataset(tmp_path)

    return read


def whats(problems) -> list[str]:
    return [str(problem) for problem in problems]


def test_boxes_become_tags_and_half_open_corners_without_a_mask(read_one):
    dataset, problems = read_one(annotation(1, 3, bbox=[1, 0.5, 2, 3]))
    assert whats(problems) == []
    assert dataset.source == "coco"
    # Class ids follow the category ids: 3 before 7.
    assert dataset.classes.names == ("scratch", "dent")
    (sample,) = dataset.samples
    assert (sample.id, sample.labels.tags, sample.mask_path) == ("a", {1}, None)
    assert sample.labels.boxes.xyxy.tolist() == [[1, 0.5, 3, 3.5]]


def test_polygons_fill_the_pixels_whose_centres_they_hold(read_one):
    polygon = [[1, 1, 4, 1, 4, 3, 1, 3]]
    dataset, problems = read_one(annotation(1, 7, bbox=[1, 1, 3, 2], segmentation=polygon))
    assert whats(problems) == []
    expected = np.zeros((4, 6), np.uint8)
    expected[1:3, 1:4] = 2
    assert read_mask(dataset.samples[0].mask_path).tolist() == expected.tolist()
    assert dataset.samples[0].labels.boxes.xyxy.tolist() == [[1, 1, 4, 3]]


@pytest.mark.parametrize("is_text", [False, True])
def test_run_lengths_go_down_the_columns_as_in_pycocotools(read_one, is_text):
    mask = np.zeros((4, 6), np.uint8)
    mask[2:, 1] = 1
    mask[0, 3] = 1
    counts: Any = [6, 2, 4, 1, 11]
    if is_text:
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    segmentation = {"size": [4, 6], "counts": counts}
    dataset, problems = read_one(annotation(1, 7, bbox=[1, 0, 3, 4], segmentation=segmentation))
    assert whats(problems) == []
    assert read_mask(dataset.samples[0].mask_path).tolist() == (mask * 2).tolist()


def test_a_crowd_has_a_mask_but_no_box(read_one):
    crowd = {"size": [4, 6], "counts": [0, 4, 20]}
    dataset, _ = read_one(annotation(1, 7, bbox=[0, 0, 1, 4], segmentation=crowd, iscrowd=1))
    (sample,) = dataset.samples
    assert sample.labels.boxes is None
    assert (read_mask(sample.mask_path)[:, 0] == 2).all()


def test_an_image_without_annotation_shows_no_class_and_an_unnamed_one_is_left_out(
    read_one, tmp_path, add_image
):
    add_image(tmp_path / "images" / "other.png")
    polygon = [[0, 0, 2, 0, 2, 2]]
    dataset, problems = read_one(
        annotation(1, 7, bbox=[0, 0, 2, 2], segmentation=polygon), names=("a.png", "b.png")
    )
    assert whats(problems) == []
    first, second = dataset.samples
    assert second.labels.is_ok
    assert not read_mask(second.mask_path).any()
    assert first.labels.tags == {2}
    assert dataset.notes[-1] == "1 image(s) that no annotation file names left out."


def test_official_and_roboflow_layouts_give_splits(tmp_path, add_image, add_text):
    for split in ("train", "val"):
        add_image(tmp_path / "coco" / f"{split}2017" / "1.jpg")
        name = f"instances_{split}2017.json"
        add_text(tmp_path / "coco" / "annotations" / name, document([], ("1.jpg",)))
        add_text(tmp_path / "coco" / "annotations" / f"captions_{split}2017.json", '{"images": []}')
        folder = tmp_path / "robo" / {"val": "valid"}.get(split, split)
        add_image(folder / "1.jpg")
        add_text(folder / "_annotations.coco.json", document([], ("1.jpg",)))
    official, robo = (open_dataset(tmp_path / name) for name in ("coco", "robo"))
    assert [(s.id, s.split) for s in official] == [("train2017/1", "train"), ("val2017/1", "val")]
    assert [(s.id, s.split) for s in robo] == [("train/1", "train"), ("valid/1", "val")]


def test_a_box_without_mask_beside_a_polygon_is_ignored_in_the_mask(read_one):
    dataset, _ = read_one(
        annotation(1, 7, bbox=[0, 0, 2, 2], segmentation=[[0, 0, 2, 0, 2, 2, 0, 2]]),
        annotation(1, 3, bbox=[4, 1, 2, 2]),
    )
    mask = read_mask(dataset.samples[0].mask_path)
    assert mask.tolist() == [
        [2, 2, 0, 0, 0, 0],
        [2, 2, 0, 0, 255, 255],
        [0, 0, 0, 0, 255, 255],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_shape_on_another_is_on_top_and_a_disputed_strip_is_ignored(read_one):
    large = annotation(1, 7, bbox=[0, 0, 4, 4], segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])
    inner = annotation(1, 3, bbox=[1, 1, 1, 1], segmentation=[[1, 1, 2, 1, 2, 2, 1, 2]])
    beside = annotation(1, 3, bbox=[3, 3, 3, 1], segmentation=[[3, 3, 6, 3, 6, 4, 3, 4]])
    dataset, problems = read_one(inner, beside, large)
    mask = read_mask(dataset.samples[0].mask_path)
    assert mask.tolist() == [
        [2, 2, 2, 2, 0, 0],
        [2, 1, 2, 2, 0, 0],
        [2, 2, 2, 2, 0, 0],
        [2, 2, 2, 255, 1, 1],
    ]
    assert whats(problems) == [
        'annotations.json: image a: 1 pixels lie in shapes of two classes ("scratch" and "dent"); '
        "they become ignore (255). Draw them apart, or one inside the other."
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bbox": [9, 9, 2, 2]}, "lies outside of the image of 6 x 4 px"),
        ({"bbox": [3, 1, -2, 2]}, "is inverted. Draw it again"),
        ({"bbox": [3, 1, 0, 2]}, "has no area"),
        ({"bbox": [3, 1, 2]}, "bbox [3, 1, 2] is not four numbers"),
        ({"bbox": [0, 0, 1, 1e99]}, "is not four numbers"),
        ({"segmentation": [[0, 0, 1, 1]]}, "at least three corners"),
        ({"segmentation": [[0, 0, 1, 1, 2, 2, 3]]}, "at least three corners"),
        ({"segmentation": [[0, 0, 2, 2, 4, 4]]}, "has no area"),
        ({"segmentation": {"size": [4, 6], "counts": [1, 2]}}, "add up to 3, not to 24 pixels"),
        ({"segmentation": {"size": [4, 6], "counts": "\x7f"}}, "is not text of compressed run"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "the image has (4, 6)"),
        ({"category_id": 5}, "category_id 5 is not among the categories"),
    ],
)
def test_what_cannot_be_used_is_named_and_its_image_left_out(read_one, fields, said):
    good = annotation(2, 3, bbox=[0, 0, 2, 2])
    dataset, problems = read_one(annotation(1, 7) | fields, good, names=("a.png", "b.png"))
    assert [sample.id for sample in dataset] == ["b"]
    (text,) = whats(problems.errors)
    assert text.startswith("annotations.json: image a, annotation 1: ")
    assert said in text


def test_what_can_be_repaired_is_a_warning(read_one):
    bow_tie = [[0, 0, 4, 4, 4, 0, 0, 4]]
    dataset, problems = read_one(
        annotation(1, 7, bbox=[-3, 0, 5, 2]),
        annotation(1, 7, bbox=[0, 0, 6, 4]),
        annotation(1, 7, bbox=[0, 0, 4, 4], segmentation=bow_tie),
        annotation(1, 7, bbox=[0, 0, 1, 1], segmentation=[[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]),
    )
    assert problems.num_errors == 0
    text = "\n".join(whats(problems))
    for said in ("is cut", "covers the whole image", "crosses itself", "smaller than a pixel"):
        assert said in text
    (sample,) = dataset.samples
    assert sample.labels.boxes.xyxy[0].tolist() == [0, 0, 2, 2]


def test_missing_images_are_named_and_the_others_kept(read_one, tmp_path):
    read_one(names=("a.png", "b.png", "c.png"))
    (tmp_path / "images" / "b.png").unlink()
    dataset, problems = read_dataset(tmp_path)
    assert [sample.id for sample in dataset] == ["a", "c"]
    (text,) = whats(problems)
    assert text.startswith('annotations.json: image 2: file_name "b.png" is not in images/.')
    assert text.endswith("Add the image, or remove it from the file.")


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "C:\\a.png", "http://x/a.png"])
def test_names_that_leave_the_folder_are_refused(tmp_path, add_image, add_text, name):
    add_image(tmp_path.parent / "secret.png")
    add_image(tmp_path / "images" / "a.png")
    add_text(tmp_path / "coco.json", document([], ("a.png", name)))
    dataset, problems = read_dataset(tmp_path)
    assert [sample.id for sample in dataset] == ["a"]
    (text,) = whats(problems)
    assert "climbs out of the data folder" in text or "not a path inside the data folder" in text


def test_an_image_of_another_size_is_an_error(tmp_path, add_image, add_text):
    add_image(tmp_path / "a.png", size=(6, 4))
    add_text(tmp_path / "x.json", document([]))
    _, problems = read_dataset(tmp_path)
    assert "is annotated at 6 x 4 px (width x height), but the file is 4 x 6 px" in str(
        problems.errors[0]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": [], "annotations": [], "categories": [}', "not valid JSON"),
        ('{"images": [1], "annotations": [], "categories": []}', "not all lists of objects"),
        ('{"images": [], "annotations": [], "categories": [], "x": NaN}', "holds NaN"),
        ('{"images": [], "annotations": [], "categories": [], "x": ' + "[" * 99999, "too deeply"),
    ],
)
def test_malformed_files_are_errors(tmp_path, add_image, add_text, text, said):
    add_image(tmp_path / "a.png")
    add_text(tmp_path / "x.json", text)
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


def test_a_group_of_categories_that_annotates_nothing_is_no_class(tmp_path, add_image, add_text):
    add_image(tmp_path / "a.png")
    content = json.loads(document([annotation(1, 7, bbox=[0, 0, 2, 2])]))
    content["categories"].append({"id": 0, "name": "defect", "supercategory": "none"})
    add_text(tmp_path / "x.json", json.dumps(content))
    assert open_dataset(tmp_path).classes.names == ("scratch", "dent")


@pytest.mark.parametrize("seed", range(8))
def test_boxes_and_masks_come_back_exactly(random_dataset, round_trip, masks_of, seed):
    dataset = random_dataset(seed, kinds=("boxes", "masks"), splits=("train", "val"))
    back, notes = round_trip(dataset, "coco")
    assert notes == ()
    assert back.classes == dataset.classes
    assert masks_of(back) == masks_of(dataset)
    for before, after in zip(sorted(dataset, key=lambda s: s.id), back, strict=True):
        assert (before.id, before.split, before.labels) == (after.id, after.split, after.labels)


def test_regions_written_are_those_that_pycocotools_decodes(random_dataset, round_trip, masks_of):
    dataset = random_dataset(3, kinds=("masks",))
    back, _ = round_trip(dataset, "coco")
    content = json.loads((back.root / "annotations" / "instances_train.json").read_text())
    masks = {}
    for image in content["images"]:
        masks[image["id"]] = np.zeros((image["height"], image["width"]), np.uint8)
    for entry in content["annotations"]:
        shape = masks[entry["image_id"]].shape
        segmentation = entry["segmentation"]
        if isinstance(segmentation, list):
            rings = [[float(value) for value in ring] for ring in segmentation]
            segmentation = coco_mask.merge(coco_mask.frPyObjects(rings, *shape))
        with warnings.catch_warnings():
            # pycocotools 2.0 does not know NumPy 2's `copy` keyword yet; the result is right.
            warnings.simplefilter("ignore", DeprecationWarning)
            found = coco_mask.decode(segmentation).astype(bool)
        masks[entry["image_id"]][found] = entry["category_id"]
    by_name = {image["file_name"]: masks[image["id"]].tolist() for image in content["images"]}
    assert by_name == {f"{key}.png": mask for key, mask in masks_of(dataset).items()}


def test_what_coco_cannot_hold_is_told_and_never_turned_into_no_class(
    random_dataset, round_trip, tmp_path
):
    dataset = random_dataset(1, kinds=("points", "scribbles"))
    back, notes = round_trip(dataset, "coco")
    assert [sample.id for sample in back] == [s.id for s in dataset if s.labels.is_ok]
    text = " ".join(notes)
    assert "points" in text
    assert "lines" in text
    assert "images whose classes no box" in text
