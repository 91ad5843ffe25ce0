"""Scribbles of ScribbleSup, alone and beside a VOC data set, and VOC by round trips."""

from __future__ import annotations

import pytest

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.formats.voc_xml import VOC_CLASSES
from wsseg.errors import DataError


def xml(*strokes: tuple[str, list[tuple[object, object]]], size: tuple[int, int] = (6, 4)) -> str:
    parts = []
    for tag, points in strokes:
        inside = "".join(f"<point><X>{x}</X><Y>{y}</Y></point>" for x, y in points)
        parts.append(f"<polygon><tag>{tag}</tag>{inside}</polygon>")
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation>{head}{''.join(parts)}</annotation>"


@pytest.fixture
def read_strokes(tmp_path, add_image, add_text):
    """Read a.png (6 x 4 pixels) with the given strokes, and b.png without file."""

    def read(text):
        for name in ("a", "b"):
            add_image(tmp_path / "images" / f"{name}.png")
        add_text(tmp_path / "Scribbles" / "a.xml", text)
        return read_dataset(tmp_path)

    return read


def test_strokes_are_open_lines_through_the_middles_of_pixels_counted_from_1(read_strokes):
    dataset, problems = read_strokes(
        xml(("dent", [(1, 1), (3, 4)]), ("background", [(5, 2)]), ("scratch", [(6, 1), (6, 4)]))
    )
    assert dataset.source == "voc_scribbles"
    assert dataset.classes.names == ("dent", "scratch")
    first, second = dataset.samples
    assert [line.tolist() for line in first.labels.scribbles.lines] == [
        [[0.5, 0.5], [2.5, 3.5]],
        [[4.5, 1.5]],
        [[5.5, 0.5], [5.5, 3.5]],
    ]
    assert first.labels.scribbles.class_ids.tolist() == [1, 0, 2]
    assert first.labels.tags == {1, 2}
    assert second.labels.is_untagged
    assert [problem.severity for problem in problems] == ["warning"]


def test_short_names_mean_the_classes_of_voc(read_strokes):
    dataset, _ = read_strokes(xml(("plane", [(1, 1), (2, 2)]), ("monitor", [(4, 1), (5, 1)])))
    assert dataset.classes.names == VOC_CLASSES
    assert dataset.samples[0].labels.tags == {1, 20}


def test_scribbles_of_two_classes_on_one_pixel_are_a_warning(read_strokes):
    _, problems = read_strokes(xml(("dent", [(1, 2), (6, 2)]), ("stain", [(3, 1), (3, 4)])))
    text = "\n".join(str(problem) for problem in problems)
    assert 'has scribbles of two classes, "dent" and "stain", on the pixel (2, 1)' in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (xml(("dent", [])), "has no points"),
        (xml(("dent", [("x", 1)])), "has no points <X>, <Y> that are numbers"),
        (xml(("", [(1, 1)])), "has no <tag>"),
        (xml(("dent", [(99, 99)])), "lies off the image"),
        (xml(("dent", [(1, 1)]), size=(5, 5)), "is annotated at 5 x 5 px"),
        (
            '<!DOCTYPE a [<!ENTITY b "b">]><annotation><polygon><tag>&b;</tag></polygon>'
            "</annotation>",
            "declares a document type",
        ),
    ],
)
def test_what_cannot_be_used_is_named_and_its_image_left_out(read_strokes, text, said):
    dataset, problems = read_strokes(text)
    assert [sample.id for sample in dataset] == ["b"]
    (problem,) = problems.errors
    assert problem.file.startswith("Scribbles/a.xml")
    assert said in str(problem)


def test_a_voc_data_set_takes_the_scribbles_beside_it(tmp_path, add_image, add_text):
    for name in ("1", "2", "3"):
        add_image(tmp_path / "JPEGImages" / f"{name}.jpg")
    text = xml(("table", [(1, 1), (2, 2)]), ("background", [(5, 2), (6, 2)]))
    add_text(tmp_path / "scribble_annotation" / "pascal_2012" / "1.xml", text)
    add_text(tmp_path / "scribble_annotation" / "pascal_2012" / "2.xml", text)
    objects = "<annotation><object><name>cat</name></object></annotation>"
    add_text(tmp_path / "Annotations" / "2.xml", objects)
    dataset = open_dataset(tmp_path)
    assert dataset.source == "voc"
    first, second, third = dataset.samples
    table, cat = VOC_CLASSES.index("diningtable") + 1, VOC_CLASSES.index("cat") + 1
    # Where a list of objects says the classes, the scribbles do not add to them.
    assert (first.labels.tags, second.labels.tags) == ({table}, {cat})
    assert first.labels.scribbles.class_ids.tolist() == [table, 0]
    assert third.labels.scribbles is None


def test_a_voc_image_with_bad_scribbles_is_left_out(tmp_path, add_image, add_text):
    for name in ("1", "2"):
        add_image(tmp_path / "JPEGImages" / f"{name}.jpg")
    add_text(tmp_path / "Scribbles" / "1.xml", xml(("cat", [(99, 99)])))
    dataset, problems = read_dataset(tmp_path)
    assert [sample.id for sample in dataset] == ["2"]
    assert problems.num_errors == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_data_set_comes_back_from_voc(random_dataset, round_trip, masks_of, seed):
    dataset = random_dataset(
        seed, kinds=("boxes", "scribbles", "masks"), splits=("train", "val", "test")
    )
    back, notes = round_trip(dataset, "voc")
    assert notes == ()
    assert back.classes == dataset.classes
    flat = {sample.id.replace("/", "__"): sample for sample in dataset}
    assert {s.id: (s.labels, s.split) for s in back} == {
        key: (sample.labels, sample.split) for key, sample in flat.items()
    }
    masks = masks_of(dataset)
    assert masks_of(back) == {key: masks[sample.id] for key, sample in flat.items()}


def test_points_have_no_place_in_voc_but_their_classes_stay(random_dataset, round_trip):
    dataset = random_dataset(2, kinds=("points",))
    back, notes = round_trip(dataset, "voc")
    assert [s.labels.tags for s in back] == [
        s.labels.tags for s in sorted(dataset, key=lambda s: s.id.replace("/", "__"))
    ]
    assert "VOC has no place for points" in notes[0]


def test_links_out_of_the_folder_are_refused(tmp_path, add_image, add_text):
    add_image(tmp_path / "in" / "images" / "a.png")
    add_text(tmp_path / "in" / "Scribbles" / "b.xml", xml(("dent", [(1, 1)])))
    secret = add_text(tmp_path / "secret.xml", xml(("dent", [(1, 1)])))
    (tmp_path / "in" / "Scribbles" / "a.xml").symlink_to(secret)
    with pytest.raises(DataError, match="is a link out of the data folder"):
        open_dataset(tmp_path / "in")
