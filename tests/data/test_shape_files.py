"""Files with boxes, points and scribbles."""

import json
from pathlib import Path

import numpy as np

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import Boxes, ClassList, Points, Scribbles, WeakLabels
from wsseg.data.shape_files import csv_text, write_shapes

ROOT = Path("data")


def dataset_of(*labels):
    samples = (
        Sample(f"dir/{index}", ROOT / f"images/dir/{index}.JPG", label)
        for index, label in enumerate(labels)
    )
    return Dataset(ROOT, ClassList(("dent", "a,b")), tuple(samples))


def test_each_kind_has_its_file_and_names_are_quoted(tmp_path):
    third = np.float32(1 / 3)
    written = write_shapes(
        dataset_of(
            WeakLabels(boxes=Boxes([[0, 1, 2.5, third + 1]], [2])),
            WeakLabels(points=Points([[third, 4]], [1])),
            WeakLabels(scribbles=Scribbles(([[0.5, 0.5], [3.5, 1]], [[2, 2]]), [0, 1])),
        ),
        tmp_path,
    )
    assert [path.name for path in written] == ["boxes.csv", "points.csv", "scribbles.json"]
    assert (tmp_path / "boxes.csv").read_text().splitlines() == [
        "file,class,x0,y0,x1,y1",
        'dir/0.JPG,"a,b",0,1,2.5,1.3333334',
    ]
    last = (tmp_path / "points.csv").read_text().splitlines()[1].split(",")
    assert last[:2] == ["dir/1.JPG", "dent"]
    assert np.float32(last[2]) == third
    assert json.loads((tmp_path / "scribbles.json").read_text()) == {
        "images": {
            "dir/2.JPG": [
                {"class": "background", "line": [[0.5, 0.5], [3.5, 1.0]]},
                {"class": "dent", "line": [[2.0, 2.0]]},
            ]
        }
    }


def test_kinds_that_nobody_drew_are_not_written(tmp_path):
    assert write_shapes(dataset_of(WeakLabels(tags={1})), tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_an_image_with_no_boxes_in_it_still_makes_a_table(tmp_path):
    (path,) = write_shapes(dataset_of(WeakLabels(boxes=Boxes(np.zeros((0, 4)), []))), tmp_path)
    assert path.read_text() == "file,class,x0,y0,x1,y1\n"


def test_tables_have_line_feeds_and_quotes_where_needed():
    assert csv_text(("a", "b"), [("x;y", 'say "no"')]) == 'a,b\nx;y,"say ""no"""\n'
