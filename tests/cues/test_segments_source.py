from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from wsseg import registry
from wsseg.cues.segments import Segments, SegmentsContext
from wsseg.cues.segments_folder import FolderSegments
from wsseg.cues.segments_source import (
    SegmentMaps,
    all_segments,
    check_configured,
    painting_order,
)
from wsseg.cues.segments_tree import Superpixels
from wsseg.data.working import read_working_image
from wsseg.errors import DataError


def make_image(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 20, (40, 60, 3)).astype(np.uint8)
    image[8:25, 10:30] += 180
    image[20:36, 40:55, 0] += 200
    return image


def test_segments_are_made_once_per_image_and_setting(tmp_path, monkeypatch):
    context = SegmentsContext(folder=tmp_path)
    first = all_segments(make_image(), Superpixels(), context)
    other = all_segments(make_image(), Superpixels(min_stability=0.9), context)
    assert 0 < len(other) < len(first)
    monkeypatch.setattr("wsseg.cues.segments_source.open_kept", None)
    again = all_segments(make_image(), Superpixels(), context)
    np.testing.assert_array_equal(first.masks, again.masks)
    np.testing.assert_array_equal(first.scores, again.scores)
    with pytest.raises(TypeError):
        all_segments(make_image(1), Superpixels(), context)


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("refiners", "map_prompts"),
        ("refiners", "segment_merge"),
        ("regularisers", "s2c"),
        ("localizers", "point_prompts"),
        ("localizers", "box_prompts"),
    ],
)
def test_a_recipe_that_says_null_names_the_backend_that_it_means(group, name, make_dataset, caplog):
    settings = registry.settings(group, {"name": name, "segments": None})
    assert settings.model_dump(mode="json")["segments"] == Superpixels().model_dump(mode="json")
    assert settings == registry.settings(group, name)
    caplog.set_level(logging.INFO)
    check_configured(settings, make_dataset({"a": {"tags": {1}}}))
    assert f"{name} takes segments of: superpixels" in caplog.text


def test_damaged_segments_are_made_anew(tmp_path):
    context = SegmentsContext(folder=tmp_path)
    first = all_segments(make_image(), Superpixels(), context)
    [path] = tmp_path.rglob("*.npz")
    path.write_bytes(b"torn")
    again = all_segments(make_image(), Superpixels(), context)
    np.testing.assert_array_equal(first.masks, again.masks)


def test_overlaps_go_to_the_better_or_to_the_smaller_segment():
    masks = np.zeros((3, 1, 4), bool)
    masks[0, 0, :3] = masks[1, 0, 2:] = masks[2, 0, :1] = True
    segments = Segments.of_masks(masks, np.array([0.9, 0.8, 0.7]))
    assert segments.label_map(painting_order(segments, "score")).tolist() == [[1, 1, 1, 2]]
    assert segments.label_map(painting_order(segments, "area")).tolist() == [[3, 1, 2, 2]]


@pytest.fixture
def dataset(make_dataset):
    made = make_dataset({n: {"tags": {1}, "size": (40, 60)} for n in ("a", "b")})
    for seed, sample in enumerate(made.samples):
        Image.fromarray(make_image(seed)).save(sample.image_path)
    return made


def test_maps_for_the_training_are_made_first_and_only_read_in_loading_processes(
    dataset, tmp_path, monkeypatch
):
    maps = SegmentMaps(Superpixels(), tmp_path / "kept", shared={"network": lambda: None})
    maps.prepare(dataset.samples)
    copy = pickle.loads(pickle.dumps(maps))
    monkeypatch.setattr("wsseg.cues.segments_source.open_kept", None)
    for sample in dataset.samples:
        image = read_working_image(sample.image_path, None)
        labels = copy.map(sample, image)
        expected = all_segments(image, Superpixels(), SegmentsContext(folder=tmp_path / "kept"))
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, expected.label_map())


def test_images_without_segments_are_told_and_if_there_are_only_those_refused(
    dataset, tmp_path, caplog
):
    for name, count in (("a", 0), ("b", 3)):
        numbers = np.zeros((40, 60), np.uint8)
        numbers[:, :count] = 1
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(numbers).save(tmp_path / "pictures" / f"{name}.png")
    config = FolderSegments(path=str(tmp_path / "pictures"))
    maps = SegmentMaps(config, tmp_path / "kept")
    with caplog.at_level(logging.WARNING, logger="wsseg"):
        maps.prepare(dataset.samples)
    assert "1 of 2 images have no segment and teach nothing about segments (a)" in caplog.text
    # What lies in a folder anyway is not kept a second time.
    assert not (tmp_path / "kept").exists()
    with pytest.raises(DataError, match="None of the 1 training images has a segment"):
        maps.prepare(dataset.samples[:1])
    (tmp_path / "pictures" / "b.png").unlink()
    with pytest.raises(DataError, match=r"cannot be had:\n  - .*b\.png"):
        maps.prepare(dataset.samples)
