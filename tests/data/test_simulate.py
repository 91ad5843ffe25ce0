"""Weak labels made from masks, for samples, data sets and folders."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from wsseg.data.discover import open_dataset
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.scenes import make_dataset, make_scene
from wsseg.data.simulate import (
    KINDS,
    Simulate,
    sample_rng,
    simulate_dataset,
    simulate_folder,
    simulate_labels,
)
from wsseg.errors import DataError, OutputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes")
    return make_dataset("defects", path, num_train=6, num_val=3, seed=2, size=(64, 64))


def test_only_the_kinds_asked_for_are_made():
    mask = make_scene("instances", 0, (64, 64)).mask
    for kind in KINDS:
        assert simulate_labels(mask, "a", Simulate(kinds=(kind,))).kinds == (kind,)
    assert simulate_labels(mask, "a").kinds == KINDS


def test_labels_of_one_kind_do_not_depend_on_the_other_kinds():
    mask = make_scene("instances", 1, (64, 64)).mask
    everything = simulate_labels(mask, "a", Simulate(box_jitter_frac=0.1))
    for kind in KINDS:
        alone = simulate_labels(mask, "a", Simulate(kinds=(kind,), box_jitter_frac=0.1))
        assert getattr(alone, kind) == getattr(everything, kind)


def test_seed_and_sample_decide_all_that_is_random():
    mask = make_scene("instances", 2, (64, 64)).mask
    config = Simulate(point_placement="random")
    assert simulate_labels(mask, "a", config) == simulate_labels(mask, "a", config)
    other_sample = simulate_labels(mask, "b", config)
    other_seed = simulate_labels(mask, "a", Simulate(point_placement="random", seed=1))
    first = simulate_labels(mask, "a", config)
    assert first.points != other_sample.points
    assert first.points != other_seed.points
    assert first.tags == other_sample.tags == other_seed.tags


def test_streams_of_samples_and_kinds_differ():
    draws = {
        sample_rng(seed, name, kind).random()
        for seed in (0, 1)
        for name in ("a", "ab", "b")
        for kind in ("points", "boxes")
    }
    assert len(draws) == 12


def test_small_classes_go_untagged():
    mask = np.zeros((20, 20), np.uint8)
    mask[0, :2] = 1
    mask[5:10, :] = 2
    assert simulate_labels(mask, "a", Simulate(min_tag_area_frac=0.01)).tags == {2}
    assert simulate_labels(mask, "a", Simulate(min_tag_area_frac=0.005)).tags == {1, 2}
    assert simulate_labels(mask, "a").boxes.class_ids.tolist() == [2]


def test_settings_outside_their_range_are_refused():
    for bad in ({"box_jitter_frac": 0.9}, {"kinds": ()}, {"kinds": ("dots",)}, {"seed": -1}):
        with pytest.raises(ValidationError):
            Simulate(**bad)


def test_order_of_samples_is_irrelevant(folder):
    dataset = open_dataset(folder)
    forward = simulate_dataset(dataset)
    backward = simulate_dataset(replace(dataset, samples=dataset.samples[::-1]))
    assert {s.id: s.labels for s in forward} == {s.id: s.labels for s in backward}
    assert [s.id for s in forward] == [s.id for s in dataset]
    assert any("simulated from masks with seed 0" in note for note in forward.notes)


def test_simulated_tags_are_those_of_the_scenes(folder):
    dataset = open_dataset(folder)
    made = simulate_dataset(dataset, Simulate(kinds=("tags",)))
    assert [s.labels.tags for s in made] == [s.labels.tags for s in dataset]


def test_samples_without_mask_are_left_out_and_none_at_all_is_an_error(folder):
    dataset = open_dataset(folder)
    bare = replace(dataset.samples[0], mask_path=None)
    made = simulate_dataset(replace(dataset, samples=(bare, *dataset.samples[1:])))
    assert len(made) == len(dataset) - 1
    with pytest.raises(DataError, match="no image has a mask"):
        simulate_dataset(replace(dataset, samples=(bare,)))


def test_written_files_say_what_was_simulated(folder, tmp_path):
    summary = simulate_folder(folder, tmp_path / "weak", seed=3)
    out = tmp_path / "weak"
    made = simulate_dataset(open_dataset(folder), Simulate(seed=3))
    assert summary.images == 9
    assert summary.counts["boxes"] == sum(len(s.labels.boxes) for s in made)
    assert [s.labels.tags for s in open_dataset(out)] == [s.labels.tags for s in made]
    boxes, points = (
        list(csv.DictReader((out / name).read_text().splitlines()))
        for name in ("boxes.csv", "points.csv")
    )
    scribbles = json.loads((out / "scribbles.json").read_text())["images"]
    for sample in made:
        file = f"{sample.id}.png"
        mine = [row for row in boxes if row["file"] == file]
        xyxy = [[float(row[key]) for key in ("x0", "y0", "x1", "y1")] for row in mine]
        assert xyxy == sample.labels.boxes.xyxy.tolist()
        names = [made.classes.name_of(c) for c in sample.labels.boxes.class_ids.tolist()]
        assert [row["class"] for row in mine] == names
        xy = [[float(r["x"]), float(r["y"])] for r in points if r["file"] == file]
        assert xy == sample.labels.points.xy.tolist()
        lines = [item["line"] for item in scribbles[file]]
        assert lines == [line.tolist() for line in sample.labels.scribbles.lines]
        assert "background" in {item["class"] for item in scribbles[file]}
        np.testing.assert_array_equal(
            read_mask(out / "masks" / file), read_mask(folder / "masks" / file)
        )
    assert f"Next: wsseg run {out}" in summary.text()
    assert summary.as_dict()["without_mask"] == 0


def test_a_complete_folder_is_not_overwritten(folder, tmp_path):
    simulate_folder(folder, tmp_path / "weak", kinds=("points",))
    assert not (tmp_path / "weak" / "boxes.csv").exists()
    with pytest.raises(OutputError, match=r"labels\.csv already"):
        simulate_folder(folder, tmp_path / "weak")


def test_unknown_kinds_are_named(folder, tmp_path):
    with pytest.raises(DataError, match=r'"point".*Did you mean "points"'):
        simulate_folder(folder, tmp_path / "weak", kinds=("point",))


def test_an_instance_map_beside_the_masks_separates_touching_objects(tmp_path):
    for name in ("images", "masks", "instances"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (12, 12)).save(tmp_path / "images" / "a.png")
    mask = np.zeros((12, 12), np.uint8)
    mask[2:10, 2:10] = 1
    write_mask(tmp_path / "masks" / "a.png", mask)
    (tmp_path / "labels.csv").write_text("file,tags\na.png,cell\n")
    instances = np.where(np.arange(12) < 6, 300, 400).astype(np.uint16) * np.ones(
        (12, 1), np.uint16
    )
    Image.fromarray(instances * (mask > 0)).save(tmp_path / "instances" / "a.png")
    boxes = simulate_dataset(open_dataset(tmp_path)).samples[0].labels.boxes
    assert boxes.xyxy.tolist() == [[2, 2, 6, 10], [6, 2, 10, 10]]
    Image.fromarray(instances[:5]).save(tmp_path / "instances" / "a.png")
    with pytest.raises(DataError, match="size of the mask"):
        simulate_dataset(open_dataset(tmp_path))
    (tmp_path / "instances" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="instance map is damaged"):
        simulate_dataset(open_dataset(tmp_path))
