"""Label Studio, by exports written by hand from its documentation and by round trips."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.image_io import read_mask
from wsseg.data.run_lengths import encode_brush
from wsseg.errors import DataError


def result(kind: str, label: str | None, **value: Any) -> dict[str, Any]:
    """One result as Label Studio exports it."""
    labels = {} if label is None else {kind: [label]}
    return {
        "id": "x1",
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": 6,
        "original_height": 4,
        "image_rotation": 0,
        "value": value | labels,
    }


def task(*results: Any, image: str = "/data/upload/3/1f00ba11-a.png") -> dict[str, Any]:
    annotation = {"id": 5, "result": list(results), "was_cancelled": False, "ground_truth": False}
    return {"id": 1, "data": {"image": image}, "annotations": [annotation], "predictions": []}


@pytest.fixture
def read_tasks(tmp_path, add_image, add_text):
    """Read a.png and b.png (6 x 4 pixels) with the given tasks."""

    def read(*tasks):
        for name in ("a", "b"):
            add_image(tmp_path / "images" / f"{name}.png")
        add_text(tmp_path / "project-1-at-2026.json", json.dumps(tasks))
        return read_dataset(tmp_path)

    return read


def test_every_result_becomes_its_kind_of_label(read_tasks):
    dataset, problems = read_tasks(
        task(
            result("rectanglelabels", "dent", x=50, y=25, width=50, height=50, rotation=0),
            result("keypointlabels", "dent", x=25, y=50, width=0.5),
            result("polygonlabels", "scratch", points=[[0, 0], [50, 100]], closed=False),
            {"type": "choices", "value": {"choices": ["scratch", "stain"]}},
            {"type": "relation", "from_id": "a", "to_id": "b"},
            {"type": "textarea", "value": {"text": ["note"]}},
        ),
        task(image="s3://bucket/parts/b.png"),
    )
    assert [str(problem) for problem in problems] == []
    assert dataset.source == "label_studio"
    assert dataset.classes.names == ("dent", "scratch", "stain")
    first, second = dataset.samples
    assert first.labels.boxes.xyxy.tolist() == [[3, 1, 6, 3]]
    assert first.labels.points.xy.tolist() == [[1.5, 2]]
    assert [line.tolist() for line in first.labels.scribbles.lines] == [[[0, 0], [3, 4]]]
    assert (first.labels.tags, first.mask_path) == ({1, 2, 3}, None)
    assert second.labels.is_ok


def test_polygons_ellipses_and_brushes_fill_pixels(read_tasks):
    stroke = np.zeros((4, 6), bool)
    stroke[3] = stroke[2, 5] = True
    dataset, problems = read_tasks(
        task(
            result(
                "polygonlabels", "dent", points=[[0, 0], [50, 0], [50, 50], [0, 50]], closed=True
            ),
            result("brushlabels", "scratch", format="rle", rle=encode_brush(stroke)),
            result("ellipselabels", "dent", x=75, y=25, radiusX=10, radiusY=15, rotation=0),
        )
    )
    assert [str(problem) for problem in problems] == []
    assert read_mask(dataset.samples[0].mask_path).tolist() == [
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 2],
        [2, 2, 2, 2, 2, 2],
    ]


def test_shapes_and_labels_apart_are_joined_by_their_id(read_tasks):
    shape = result("rectangle", None, x=0, y=0, width=50, height=50, rotation=0)
    shape["type"] = "rectangle"
    dataset, problems = read_tasks(task(shape, result("labels", "dent")))
    assert len(problems) == 0
    assert dataset.samples[0].labels.boxes.xyxy.tolist() == [[0, 0, 3, 2]]


def test_a_turned_rectangle_becomes_the_upright_box_around_it(read_tasks):
    # Turned by 90 degrees about its left top corner, (4, 1) in pixels.
    turned = result(
        "rectanglelabels", "dent", x=100 * 4 / 6, y=25, width=100 / 6, height=50, rotation=90
    )
    dataset, _ = read_tasks(task(turned))
    assert dataset.samples[0].labels.boxes.xyxy[0] == pytest.approx([2, 1, 4, 2])


def test_skipped_and_predicted_results_do_not_count_and_ground_truth_leads(read_tasks):
    box = {"x": 0, "y": 0, "width": 50, "height": 50}
    skipped = task(result("rectanglelabels", "dent", **box))
    skipped["annotations"][0]["was_cancelled"] = True
    skipped["predictions"] = [{"result": [result("rectanglelabels", "dent", **box)]}]
    several = task(result("rectanglelabels", "dent", **box), image="images/b.png")
    truth = {"result": [result("rectanglelabels", "stain", **box)], "ground_truth": True}
    several["annotations"].append(truth)
    dataset, _ = read_tasks(skipped, several)
    assert dataset.by_id("a").labels.is_untagged
    assert dataset.classes.names == ("stain",)
    assert dataset.by_id("b").labels.tags == {1}
    assert dataset.notes == (
        "project-1-at-2026.json: 1 task(s) have several annotations; the ground truth, else the "
        "first is used.",
        "1 task(s) without annotation count as not labelled.",
    )


@pytest.mark.parametrize(
    "image",
    [
        "/data/local-files/?d=parts%2Fimages%2Fa.png",
        "https://example.com/x/a.png?token=1",
        "gs://bucket/a.png",
        "images\\a.png",
        "a.png",
    ],
)
def test_images_are_found_by_the_end_of_their_address(read_tasks, image):
    dataset, problems = read_tasks(task(image=image))
    assert [str(problem) for problem in problems] == []
    assert [sample.id for sample in dataset] == ["a"]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("/data/upload/3/1f00ba11-other.png", "is not in images/"),
        ("/data/local-files/?d=../../etc/a.png", "climbs out of the data folder"),
        ("", "there is no path of an image"),
        ("http://[bad/a.png", "there is no path of an image"),
    ],
)
def test_a_foreign_image_is_named_and_the_other_tasks_kept(read_tasks, image, said):
    dataset, problems = read_tasks(task(image=image), task(image="b.png"))
    assert [sample.id for sample in dataset] == ["b"]
    (text,) = [str(problem) for problem in problems.errors]
    assert text.startswith("project-1-at-2026.json: task 1: data: ")
    assert said in text


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (result("rectanglelabels", "dent", x=120, y=0, width=10, height=10), "lies outside"),
        (result("rectanglelabels", "dent", x=20, y=0, width=-10, height=10), "is inverted"),
        (result("rectanglelabels", "dent", x="?", y=0, width=10, height=10), "x=?"),
        (result("rectanglelabels", None, x=0, y=0, width=10, height=10), "has 0 labels"),
        (result("keypointlabels", "dent", x=150, y=50), "is off the image"),
        (result("polygonlabels", "dent", points=[[0, 0], [1, 1]]), "too few points"),
        (result("brushlabels", "dent", format="rle", rle=[1, 2, 3]), "end too early"),
        (result("brushlabels", "dent", format="png", rle=[]), "not rle"),
        (
            result("brushlabels", "dent", format="rle", rle=encode_brush(np.ones((4, 6), bool)))
            | {"original_width": 7},
            "hold 96 values",
        ),
        (
            result("keypointlabels", "dent", x=50, y=50) | {"image_rotation": 90},
            "turned in Label Studio",
        ),
        (7, "is not an object with a value"),
    ],
)
def test_what_cannot_be_used_is_named_and_its_image_left_out(read_tasks, bad, said):
    dataset, problems = read_tasks(task(bad), task(image="b.png"))
    assert [sample.id for sample in dataset] == ["b"]
    (text,) = [str(problem) for problem in problems.errors]
    assert "image a, result 1" in text
    assert said in text


def test_an_unknown_shape_keeps_its_class(read_tasks):
    dataset, problems = read_tasks(task(result("cuboidlabels", "dent", x=1)))
    assert dataset.samples[0].labels.tags == {1}
    assert 'the shape "cuboid" of "dent"' in str(problems.warnings[0])


def test_two_tasks_about_one_image_are_an_error(read_tasks):
    _, problems = read_tasks(task(), task())
    assert "is annotated twice" in str(problems.errors[0])


def test_tasks_that_are_no_objects_are_errors(tmp_path, add_image, add_text):
    add_image(tmp_path / "a.png")
    add_text(tmp_path / "x.json", '[1, {"data": 2}, {"annotations": []}]')
    with pytest.raises(DataError, match="is not an object with data"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_everything_comes_back_exactly(random_dataset, round_trip, masks_of, seed):
    dataset = random_dataset(
        seed, kinds=("boxes", "points", "scribbles", "masks"), splits=("train", "val", "test")
    )
    back, notes = round_trip(dataset, "label-studio")
    assert notes == ()
    assert back.classes == dataset.classes
    assert {s.id: (s.labels, s.split) for s in back} == {s.id: (s.labels, s.split) for s in dataset}
    assert masks_of(back) == masks_of(dataset)
