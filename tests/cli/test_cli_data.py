from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.discover import open_dataset
from wsseg.data.image_io import write_mask


def paint(path: Path, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (value, 30, 60)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    for index in range(10):
        paint(root / ("dent" if index % 2 else "ok") / f"{index}.png", 10 * index)
    return root


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Images with masks, the layout of labels.csv."""
    root = tmp_path / "masked"
    mask = np.zeros((12, 16), np.uint8)
    mask[2:8, 3:10] = 1
    rows = ["file,tags"]
    for index in range(2):
        paint(root / "images" / f"{index}.png")
        write_mask(root / "masks" / f"{index}.png", mask * index)
        rows.append(f"{index}.png,{'dent' if index else ''}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.csv").write_text("id,name\n1,dent\n")
    return root


def test_sound_data_pass_the_check(folders, cli):
    done = cli("data", "check", folders)
    assert done.code == 0
    assert cli("data", "check", folders, "--json").code == 0


def test_an_error_in_the_data_exits_with_3_and_names_the_file(folders, cli):
    (folders / "dent" / "broken.png").write_bytes(b"no image")
    done = cli("data", "check", folders)
    assert done.code == 3
    assert "broken.png" in done.out
    document = cli("--json", "data", "check", folders)
    assert document.code == 3
    assert "broken.png" in str(document.json)


def test_without_deep_images_are_not_decoded(folders, cli):
    path = folders / "dent" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])  # its header is sound
    assert cli("data", "check", folders, "--no-deep").code == 0
    assert cli("data", "check", folders).code == 3


def test_a_data_set_is_converted(folders, tmp_path, cli):
    out = tmp_path / "out"
    done = cli("data", "convert", folders, "--out", out)
    assert (done.code, done.out) == (
        0,
        f"Wrote 10 images to {out}\nNext: wsseg run {out}\n",
    )
    assert len(open_dataset(out)) == 10
    again = cli("data", "convert", folders, "--out", out)
    assert again.code == 3
    assert cli("data", "convert", folders, "--out", out, "--to", "xyz").code == 2


def test_a_data_set_is_split(folders, tmp_path, cli):
    out = tmp_path / "out"
    cli("data", "convert", folders, "--out", out)
    done = cli("data", "split", out, "--val", "0.2", "--test", "0.2", "--json")
    assert done.code == 0
    dataset = open_dataset(out)
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [6, 2, 2]


def test_a_data_set_without_a_table_cannot_be_split(folders, cli):
    done = cli("data", "split", folders)
    assert done.code == 3
    assert "wsseg data convert" in done.err


def test_weak_labels_are_simulated_from_masks(masked, tmp_path, cli):
    out = tmp_path / "weak"
    done = cli("data", "simulate", masked, "--out", out, "--kinds", "tags, points")
    assert done.code == 0
    assert cli("data", "simulate", masked, "--out", tmp_path / "x", "--kinds", "dots").code != 0


def test_scenes_are_drawn_and_can_be_run_on(tmp_path, cli):
    out = tmp_path / "scenes"
    arguments = ["data", "scenes", "defects", "--out", out, "--train", 3, "--val", 1]
    done = cli(*arguments, "--size", 48, "--json")
    assert done.json == {"out": str(out), "train": 3, "val": 1}
    dataset = open_dataset(out)
    assert [len(dataset.split(name)) for name in ("train", "val")] == [3, 1]


def test_an_unknown_family_of_scenes_is_answered_with_the_known(tmp_path, cli):
    done = cli("data", "scenes", "defect", "--out", tmp_path / "scenes")
    assert done.code == 3
    assert 'Did you mean "defects"?' in done.err
