from __future__ import annotations

import pytest

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.simulate import simulate_dataset, simulate_folder


@pytest.fixture
def folder(tmp_path, add_image, add_text):
    """Two tagged images of 6 x 4 pixels."""
    for name in ("a", "b"):
        add_image(tmp_path / "images" / f"{name}.png")
    add_text(tmp_path / "labels.csv", "file,tags\na.png,dent\nb.png,?\n")
    add_text(tmp_path / "classes.csv", "id,name\n1,dent\n2,scratch\n")
    return tmp_path


def test_boxes_points_and_scribbles_beside_the_table_are_read(folder, add_text):
    add_text(folder / "boxes.csv", "file,class,x0,y0,x1,y1\na.png,dent,0,1,2.5,3\n")
    add_text(folder / "points.csv", "file;class;x;y\nb.png;scratch;5;3.5\nb.png;dent;1;1\n")
    add_text(
        folder / "scribbles.json",
        '{"images": {"b.png": [{"class": "background", "line": [[0, 0], [3, 0]]}]}}',
    )
    dataset, problems = read_dataset(folder)
    assert [str(problem) for problem in problems] == []
    first, second = dataset.samples
    assert first.labels.boxes.xyxy.tolist() == [[0, 1, 2.5, 3]]
    assert first.labels.tags == {1}
    assert second.labels.points.class_ids.tolist() == [2, 1]
    assert second.labels.scribbles.class_ids.tolist() == [0]
    # Tags are what the table says: nobody tagged this image.
    assert second.labels.is_untagged


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("boxes.csv", "a.png,dent,0,1,2.5,x", "boxes.csv line 2: x0, y0, x1, y1 are not numbers"),
        ("boxes.csv", "a.png,dent,3,1,2,3", "boxes.csv: image a, line 2: the box"),
        ("boxes.csv", "a.png,dent,9,1,12,3", "lies outside of the image of 6 x 4 px"),
        ("boxes.csv", "a.png,dint,0,1,2,3", 'Did you mean "dent"?'),
        ("boxes.csv", "../a.png,dent,0,1,2,3", "points out of the data folder"),
        ("points.csv", "a.png,dent,60,1", "is off the image"),
        ("scribbles.json", '{"images": {"a.png": [{"class": "dent", "line": []}]}}', "scribble 1"),
        ("scribbles.json", '{"images": {"x.png": []}}', '"x.png" is not in images/'),
        ("scribbles.json", "[]", 'has no object "images"'),
        ("scribbles.json", "{", "not valid JSON"),
    ],
)
def test_shapes_that_cannot_be_used_are_named(folder, add_text, file, text, said):
    heads = {"boxes.csv": "file,class,x0,y0,x1,y1\n", "points.csv": "file,class,x,y\n"}
    add_text(folder / file, heads.get(file, "") + text)
    dataset, problems = read_dataset(folder)
    (problem,) = problems.errors
    assert said in str(problem)
    # The image is left out where it is known which one it is.
    assert [s.id for s in dataset] in (["b"], ["a", "b"])


def test_a_class_that_the_tags_leave_out_is_a_warning(folder, add_text):
    add_text(folder / "points.csv", "file,class,x,y\na.png,scratch,5,3\n")
    dataset, problems = read_dataset(folder)
    assert "image a: is not tagged with scratch" in str(problems.warnings[0])
    assert dataset.samples[0].labels.tags == {1}


def test_what_simulate_writes_is_read_back(random_dataset, tmp_path):
    dataset = random_dataset(5, kinds=("masks",), splits=("train", "val"))
    expected = simulate_dataset(dataset)
    from wsseg.data.convert import convert_dataset

    convert_dataset(dataset, tmp_path / "plain")
    simulate_folder(tmp_path / "plain", tmp_path / "simulated")
    back = open_dataset(tmp_path / "simulated")
    for before, after in zip(
        sorted(expected, key=lambda s: s.id), sorted(back, key=lambda s: s.id), strict=True
    ):
        assert before.labels.tags == after.labels.tags
        for kind in ("boxes", "points", "scribbles"):
            # An image without any box has no row, so nobody can tell it from one without boxes.
            assert (getattr(before.labels, kind) or None) == getattr(after.labels, kind)


@pytest.mark.parametrize("seed", range(4))
def test_a_converted_data_set_keeps_everything(random_dataset, round_trip, masks_of, seed):
    dataset = random_dataset(
        seed, kinds=("boxes", "points", "scribbles", "masks"), splits=("train", "test")
    )
    back, notes = round_trip(dataset, "csv")
    assert notes == ()
    assert {s.id: (s.labels, s.split) for s in back} == {s.id: (s.labels, s.split) for s in dataset}
    assert masks_of(back) == masks_of(dataset)
