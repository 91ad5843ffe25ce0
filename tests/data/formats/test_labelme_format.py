"""LabelMe, by files written by hand from the tool's format and by round trips."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.image_io import read_mask
from wsseg.errors import DataError


def shape(
    label: str, points: list[Any], kind: str | None = "polygon", **more: Any
) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind} | more


def document(*shapes: Any, image: str = "a.png", flags: Any = None) -> str:
    return json.dumps(
        {
            "version": "5.4.1",
            "flags": flags or {},
            "shapes": list(shapes),
            "imagePath": image,
            "imageData": "QUJD",
            "imageHeight": 4,
            "imageWidth": 6,
        }
    )


def png(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture
def read_shapes(tmp_path, add_image, add_text):
    """Read a.png (6 x 4 pixels) with the given shapes, and b.png without any."""

    def read(*shapes, flags=None):
        for name, content in (("a", shapes), ("b", ())):
            add_image(tmp_path / f"{name}.png")
            text = document(*content, image=f"{name}.png", flags=flags if name == "a" else None)
            add_text(tmp_path / f"{name}.json", text)
        return read_dataset(tmp_path)

    return read


def test_every_shape_becomes_its_kind_of_label(read_shapes):
    dataset, problems = read_shapes(
        shape("dent", [[5, 3], [1, 1]], "rectangle"),
        shape("dent", [[2.5, 1.5]], "point"),
        shape("scratch", [[0, 0], [3, 3.5], [6, 4]], "linestrip"),
        shape("_background_", [[4, 0.5], [5.5, 0.5]], "line"),
    )
    assert len(problems) == 0
    assert dataset.source == "labelme"
    assert dataset.classes.names == ("dent", "scratch")
    first, second = dataset.samples
    assert first.labels.boxes.xyxy.tolist() == [[1, 1, 5, 3]]
    assert first.labels.points.xy.tolist() == [[2.5, 1.5]]
    lines = [line.tolist() for line in first.labels.scribbles.lines]
    assert lines == [[[0, 0], [3, 3.5], [6, 4]], [[4, 0.5], [5.5, 0.5]]]
    assert first.labels.scribbles.class_ids.tolist() == [2, 0]
    assert (first.labels.tags, first.mask_path, second.labels.is_ok) == ({1, 2}, None, True)


def test_polygons_circles_and_masks_fill_pixels(read_shapes):
    hole = np.array([[1, 0], [0, 1]], np.uint8) * 255
    dataset, problems = read_shapes(
        shape("dent", [[0, 0], [2, 0], [2, 2], [0, 2]], None),
        shape("scratch", [[2, 2], [3, 3]], "mask", mask=png(hole)),
        shape("dent", [[5, 1], [5, 2]], "circle"),
        shape("__ignore__", [[0, 3], [1, 3], [1, 4], [0, 4]]),
    )
    assert len(problems) == 0
    assert read_mask(dataset.samples[0].mask_path).tolist() == [
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
        [0, 0, 2, 0, 0, 0],
        [255, 0, 0, 2, 0, 0],
    ]
    assert not read_mask(dataset.samples[1].mask_path).any()


def test_a_scribble_elsewhere_makes_the_rest_of_the_mask_unknown(read_shapes):
    dataset, _ = read_shapes(
        shape("dent", [[0, 0], [2, 0], [2, 2], [0, 2]]),
        shape("dent", [[4.5, 2], [5.5, 3]], "line"),
    )
    mask = read_mask(dataset.samples[0].mask_path)
    assert mask[:2, :2].tolist() == [[1, 1], [1, 1]]
    assert (mask == 255).sum() == 20


def test_flags_named_like_a_class_are_tags(read_shapes):
    dataset, _ = read_shapes(
        shape("dent", [[1, 1]], "point"),
        shape("scratch", [[3, 1]], "point"),
        flags={"scratch": True, "checked": True, "ok": False},
    )
    assert dataset.samples[0].labels.tags == {1, 2}
    dataset, _ = read_shapes(flags={"stain": True, "ok": False})
    assert dataset.classes.names == ("stain",)
    assert dataset.samples[0].labels.tags == {1}


def test_an_unknown_shape_keeps_its_class(read_shapes):
    dataset, problems = read_shapes(shape("dent", [[0, 0], [1, 1], [2, 2]], "oriented_rectangle"))
    assert dataset.samples[0].labels.tags == {1}
    (warning,) = problems
    assert 'the shape "oriented_rectangle" of "dent"' in str(warning)
    assert "a.json: image a, shape 1" in str(warning)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (shape("dent", [[9, 9]], "point"), "is off the image of 6 x 4 px"),
        (shape("dent", [[0, 0], [1, 1]]), "needs at least 3 point(s)"),
        (shape("dent", [[0, 0], ["x", 1]], "line"), "needs at least 2 point(s)"),
        (shape("dent", [[0, 0], [1, 1, 1]], "line"), "needs at least 2 point(s)"),
        (shape("dent", [[1, 1], [1, 3]], "rectangle"), "has no area"),
        (shape("dent", [[8, 0], [9, 3]], "rectangle"), "lies outside of the image"),
        (shape("dent", [[8, 0], [9, 3]], "line"), "lies off the image"),
        (shape("dent", [[0, 0], [1, 1]], "mask"), "is not a PNG in base64"),
        (shape("dent", [[0, 0], [1, 1]], "mask", mask="!"), "is not a PNG in base64"),
        (shape("dent", [[0, 0], [1, 1]], "mask", mask="QUJD"), "is not a PNG in base64"),
        (
            shape("dent", [[0, 0], [5, 1]], "mask", mask=png(np.ones((2, 2), bool))),
            "has 2 x 2 px, its rectangle 6 x 2",
        ),
        ({"points": [[0, 0]]}, "is not an object with a label"),
        (7, "is not an object with a label"),
    ],
)
def test_what_cannot_be_used_is_named_and_its_image_left_out(read_shapes, bad, said):
    dataset, problems = read_shapes(shape("dent", [[1, 1]], "point"), bad)
    assert [sample.id for sample in dataset] == ["b"]
    (text,) = [str(problem) for problem in problems.errors]
    assert text.startswith("a.json")
    assert "shape 2" in text
    assert said in text


def test_points_of_two_classes_on_one_pixel_are_an_error(read_shapes):
    _, problems = read_shapes(
        shape("dent", [[1.2, 1.2]], "point"), shape("scratch", [[1.7, 1.9]], "point")
    )
    assert 'points of two classes, "dent" and "scratch", on the pixel (1, 1)' in str(
        problems.errors[0]
    )


def test_files_in_a_folder_of_their_own_find_their_images(tmp_path, add_image, add_text):
    add_image(tmp_path / "images" / "x" / "a.png")
    add_image(tmp_path / "images" / "b.png")
    add_text(tmp_path / "labels" / "a.json", document(image="..\\images\\x\\a.png"))
    add_text(tmp_path / "labels" / "b.json", document(image="renamed.png"))
    add_text(tmp_path / "classes.csv", "id,name\n1,dent\n")
    dataset, problems = read_dataset(tmp_path)
    assert [str(problem) for problem in problems] == []
    assert [sample.id for sample in dataset] == ["b", "x/a"]


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "C:\\pictures\\a.png", ""])
def test_an_image_path_that_leaves_the_folder_is_refused(tmp_path, add_image, add_text, name):
    add_image(tmp_path / "a.png")
    add_text(tmp_path / "a.json", document(image=name))
    with pytest.raises(DataError, match=r"climbs out|not a path inside|is empty"):
        open_dataset(tmp_path)


def test_an_image_without_file_is_not_labelled(read_shapes, tmp_path):
    read_shapes(shape("dent", [[1, 1]], "point"))
    (tmp_path / "b.json").unlink()
    dataset, problems = read_dataset(tmp_path)
    assert dataset.by_id("b").labels.is_untagged
    assert "a LabelMe file without shapes" in str(problems.warnings[0])


@pytest.mark.parametrize("seed", range(6))
def test_everything_comes_back_exactly(random_dataset, round_trip, masks_of, seed):
    dataset = random_dataset(
        seed, kinds=("boxes", "points", "scribbles", "masks"), splits=("train", "val")
    )
    back, notes = round_trip(dataset, "labelme")
    assert notes == ()
    assert back.classes == dataset.classes
    assert {s.id: (s.labels, s.split) for s in back} == {s.id: (s.labels, s.split) for s in dataset}
    assert masks_of(back) == masks_of(dataset)
