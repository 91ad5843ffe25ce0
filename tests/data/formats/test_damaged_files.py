"""Whatever a file holds, reading it ends with a data set or a DataError, never with a crash."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from wsseg.data.convert import convert_dataset
from wsseg.data.discover import read_dataset
from wsseg.errors import DataError

JUNK = (None, -1, 1e300, True, "", "x", "../../x", [], {}, [[]], [1, "a"], {"a": None}, 10**30)
KINDS = ("boxes", "points", "scribbles", "masks")


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all nodes of a JSON document, but few of long lists of numbers."""
    found = [path] if path else []
    if not isinstance(value, dict | list):
        return found
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items)[:8]:
        found += _nodes(inner, (*path, key))
    return found


def _damaged(document: Any, rng: random.Random) -> Any:
    """Replace or remove one node."""
    path = rng.choice(_nodes(document))
    broken = copy.deepcopy(document)
    parent = broken
    for key in path[:-1]:
        parent = parent[key]
    if rng.random() < 0.2:
        del parent[path[-1]]
    else:
        parent[path[-1]] = rng.choice(JUNK)
    return broken


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("coco", "annotations/instances_train.json"),
        ("labelme", "images/line 1/ü 1.json"),
        ("label-studio", "label_studio.json"),
        ("csv", "scribbles.json"),
    ],
)
def test_damaged_json_never_crashes(random_dataset, tmp_path, to, name):
    convert_dataset(random_dataset(1, kinds=KINDS), tmp_path / "out", to=to)
    file = tmp_path / "out" / name
    document = json.loads(file.read_text())
    assert _read(tmp_path / "out", to), "it must be sound before it is damaged"
    rng = random.Random(0)
    for _ in range(60):
        file.write_text(json.dumps(_damaged(document, rng)))
        _read(tmp_path / "out", to)


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("cvat", "annotations.xml"),
        ("yolo", "labels/line 1/ü 1.txt"),
        ("yolo", "data.yaml"),
        ("voc", "Annotations/line 1__ü 1.xml"),
        ("voc", "Scribbles/line 1__ü 1.xml"),
        ("csv", "boxes.csv"),
        ("coco", "annotations/instances_train.json"),
    ],
)
def test_damaged_text_never_crashes(random_dataset, tmp_path, to, name):
    convert_dataset(random_dataset(1, kinds=KINDS), tmp_path / "out", to=to)
    file = tmp_path / "out" / name
    content = file.read_bytes()
    assert _read(tmp_path / "out", to), "it must be sound before it is damaged"
    rng = random.Random(0)
    for _ in range(40):
        at, length = rng.randrange(len(content)), rng.randrange(6)
        junk = bytes(rng.choice(b"0123456789-.,;<>/\"'x[]{}:e \n\x00\xff") for _ in range(3))
        file.write_bytes(content[:at] + junk + content[at + length :])
        _read(tmp_path / "out", to)


def _read(folder: Path, to: str) -> bool:
    """Tell whether the folder is a data set; a `DataError` that says why is the other way out."""
    name = {"csv": "labels_csv"}.get(to, to)
    try:
        dataset, problems = read_dataset(folder, format=name)
    except DataError:
        return False
    assert len(dataset) <= 4
    assert all(str(problem) for problem in problems)
    return True
