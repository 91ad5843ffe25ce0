"""CVAT for images 1.1, by files written by hand from its documentation and by round trips."""

from __future__ import annotations

import pytest

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.image_io import read_mask
from wsseg.errors import DataError

META = (
    "<meta><task><name>parts</name><labels>"
    "<label><name>scratch</name><type>any</type><attributes></attributes></label>"
    "<label><name>dent</name></label></labels></task></meta>"
)


def document(*elements: str, meta: str = META, image: str = 'name="a.png"') -> str:
    return (
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}'
        f'<image id="0" {image} width="6" height="4">{"".join(elements)}</image>'
        '<image id="1" name="b.png" subset="Validation" width="6" height="4"></image>'
        "</annotations>"
    )


@pytest.fixture
def read_elements(tmp_path, add_image, add_text):
    """Read a.png (6 x 4 pixels) with the given elements, and b.png without any."""

    def read(*elements, **options):
        for name in ("a", "b"):
            add_image(tmp_path / "images" / f"{name}.png")
        add_text(tmp_path / "annotations.xml", document(*elements, **options))
        return read_dataset(tmp_path)

    return read


def test_every_element_becomes_its_kind_of_label(read_elements):
    dataset, problems = read_elements(
        '<box label="dent" source="manual" occluded="0" xtl="1.00" ytl="1.00" xbr="5.00" '
        'ybr="3.50" z_order="0"><attribute name="deep">yes</attribute></box>',
        '<points label="dent" points="2.5,1.5;3.5,1.5" z_order="0"></points>',
        '<polyline label="scratch" points="0.0,0.0;3.0,3.5;6.0,4.0"/>',
        '<tag label="scratch" source="manual"></tag>',
    )
    assert [str(problem) for problem in problems] == []
    assert dataset.source == "cvat"
    # In the order of the labels in the file.
    assert dataset.classes.names == ("scratch", "dent")
    first, second = dataset.samples
    assert first.labels.boxes.xyxy.tolist() == [[1, 1, 5, 3.5]]
    assert first.labels.points.xy.tolist() == [[2.5, 1.5], [3.5, 1.5]]
    assert [line.tolist() for line in first.labels.scribbles.lines] == [[[0, 0], [3, 3.5], [6, 4]]]
    assert (first.labels.tags, first.mask_path, first.split) == ({1, 2}, None, "train")
    assert (second.labels.is_ok, second.split) == (True, "val")


def test_masks_run_along_the_rows_of_their_rectangle_and_begin_with_zeros(read_elements):
    dataset, problems = read_elements(
        '<mask label="dent" rle="1, 2, 1, 2" left="2" top="1" width="3" height="2" z_order="0"/>',
        '<ellipse label="scratch" cx="0.5" cy="3.5" rx="0.6" ry="0.6"/>',
    )
    assert len(problems) == 0
    assert read_mask(dataset.samples[0].mask_path).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 2, 2, 0],
        [0, 0, 0, 2, 2, 0],
        [1, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize(("level", "expected"), [(0, 255), (1, 1), (-1, 2)])
def test_z_order_decides_which_shape_is_on_top(read_elements, level, expected):
    dataset, problems = read_elements(
        '<polygon label="dent" points="0,0;4,0;4,4;0,4" z_order="0"/>',
        f'<polygon label="scratch" points="2,0;6,0;6,4;2,4" z_order="{level}"/>',
    )
    mask = read_mask(dataset.samples[0].mask_path)
    assert mask.tolist() == [[2, 2, expected, expected, 1, 1]] * 4
    assert bool(len(problems)) == (expected == 255)


def test_a_turned_box_becomes_the_upright_box_around_it(read_elements):
    dataset, _ = read_elements(
        '<box label="dent" xtl="2" ytl="1" xbr="4" ybr="2" rotation="90.0"/>'
    )
    assert dataset.samples[0].labels.boxes.xyxy[0] == pytest.approx([2.5, 0.5, 3.5, 2.5])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('<box label="dent" xtl="5" ytl="1" xbr="1" ybr="3"/>', "is inverted"),
        ('<box label="dent" xtl="1" ytl="1" xbr="1" ybr="3"/>', "has no area"),
        ('<box label="dent" xtl="1" ytl="1" xbr="x" ybr="3"/>', "xbr=x"),
        ('<box label="dint" xtl="1" ytl="1" xbr="2" ybr="3"/>', 'Did you mean "dent"?'),
        ('<box xtl="1" ytl="1" xbr="2" ybr="3"/>', "has no label"),
        ('<points label="dent" points="60,1"/>', "is off the image"),
        ('<polygon label="dent" points="0,0;1,1"/>', "expected at least 3"),
        ('<polygon label="dent" points="0,0;1;1"/>', "expected at least 3"),
        ('<mask label="dent" rle="1, 2" left="0" top="0" width="2" height="2"/>', "add up to 3"),
        ('<mask label="dent" rle="-1, 5" left="0" top="0" width="2" height="2"/>', "whole numbers"),
        ('<mask label="dent" rle="0,4" left="50" top="0" width="2" height="2"/>', "no pixel in"),
        ('<mask label="dent" rle="0,4" left="0" top="0" width="0" height="2"/>', "0 x 2 pixels"),
        ('<mask label="dent" rle="0" left="0" top="0" width="9e6" height="9e6"/>', "add up to 0"),
    ],
)
def test_what_cannot_be_used_is_named_and_its_image_left_out(read_elements, bad, said):
    dataset, problems = read_elements('<tag label="dent"/>', bad)
    assert [sample.id for sample in dataset] == ["b"]
    (text,) = [str(problem) for problem in problems.errors]
    assert text.startswith("annotations.xml: image a, ")
    assert said in text


def test_an_unknown_element_keeps_its_class(read_elements):
    dataset, problems = read_elements('<cuboid label="dent" xtl1="1"/>')
    assert dataset.samples[0].labels.tags == {2}
    assert 'the shape "cuboid" of "dent"' in str(problems.warnings[0])


@pytest.mark.parametrize("name", ["../../a.png", "/etc/a.png"])
def test_image_names_that_leave_the_folder_are_refused(read_elements, name):
    _, problems = read_elements(image=f'name="{name}"')
    (problem,) = problems.errors
    assert problem.what.startswith("name ")
    assert "climbs out" in problem.what or "not a path inside" in problem.what


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotations><image/>&c;'
            "</annotations>",
            "declares a document type or entities",
        ),
        (
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotations><image/>'
            "</annotations>",
            "declares a document type or entities",
        ),
        ("<annotations><image></annotations>", "not valid XML"),
        ('<annotations><track id="0" label="dent"/></annotations>', "tracks of a video"),
    ],
)
def test_bombs_and_videos_and_torn_files_are_refused(tmp_path, add_image, add_text, text, said):
    add_image(tmp_path / "images" / "a.png")
    add_text(tmp_path / "annotations.xml", text)
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_everything_comes_back_exactly(random_dataset, round_trip, masks_of, seed):
    dataset = random_dataset(
        seed, kinds=("boxes", "points", "scribbles", "masks"), splits=("train", "val", "test")
    )
    back, notes = round_trip(dataset, "cvat")
    assert notes == ()
    assert back.classes == dataset.classes
    assert {s.id: (s.labels, s.split) for s in back} == {s.id: (s.labels, s.split) for s in dataset}
    assert masks_of(back) == masks_of(dataset)
