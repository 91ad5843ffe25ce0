from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.transforms import IDENTITY, AugmentConfig
from wsseg.errors import DataError
from wsseg.localize.data import TagData

CROP = AugmentConfig(scale=None, crop_px=16, hflip=0, brightness=0, contrast=0, saturation=0)


@pytest.fixture
def samples(make_dataset):
    """A dent, two stains, one of them with a dent, and two images without any class."""
    dataset = make_dataset(
        {
            "dent": {"tags": {1}},
            "stain": {"tags": {2}},
            "both": {"tags": {1, 2}},
            "ok 1": {"tags": set()},
            "ok 2": {"tags": set()},
        }
    )
    return dataset.samples


def test_an_item_is_a_normalised_image_with_its_tags(samples):
    data = TagData(samples, 2, IDENTITY)
    item = data.item(2, np.random.default_rng(0))
    assert len(data) == 5
    assert item["image"].shape == (3, 8, 8)
    assert item["image"].dtype == np.float32
    assert item["tags"].tolist() == [1, 1]
    assert item["valid"].shape == (1, 8, 8)
    assert item["valid"].min() == 1
    assert data.item(3, np.random.default_rng(0))["tags"].tolist() == [0, 0]


def test_padding_is_marked_as_not_valid(samples):
    item = TagData(samples, 2, CROP).item(0, np.random.default_rng(0))
    assert item["image"].shape == (3, 16, 16)
    assert item["valid"].sum() == 64
    assert not item["image"][:, item["valid"][0] == 0].any()


def test_grey_networks_get_one_channel(samples):
    data = TagData(samples, 2, IDENTITY, in_channels=1)
    assert data.item(0, np.random.default_rng(0))["image"].shape == (1, 8, 8)


def test_large_images_are_shrunk_before_anything_else(samples):
    data = TagData(samples, 2, IDENTITY, max_side_px=4)
    assert data.item(0, np.random.default_rng(0))["image"].shape == (3, 4, 4)


def test_the_same_random_state_gives_the_same_item(samples):
    data = TagData(samples, 2, AugmentConfig(crop_px=16))
    one, other, third = (data.item(1, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one["image"], other["image"])
    assert not np.array_equal(one["image"], third["image"])


def test_every_class_and_images_without_one_are_drawn_equally_often(make_dataset):
    items = {f"dent {i}": {"tags": {1}} for i in range(6)}
    items |= {"stain": {"tags": {2}}} | {f"ok {i}": {"tags": set()} for i in range(3)}
    weights = TagData(make_dataset(items).samples, 2, IDENTITY).sample_weights()
    assert weights.dtype == np.float64
    assert weights.sum() == pytest.approx(1)
    assert weights[:6].sum() == pytest.approx(1 / 3)
    assert weights[6] == pytest.approx(1 / 3)
    assert weights[7:].sum() == pytest.approx(1 / 3)


def test_an_image_with_several_classes_counts_for_its_rarest(samples):
    weights = TagData(samples, 2, IDENTITY).sample_weights()
    # Both classes have two images, so have those without any: all five weigh the same.
    assert weights == pytest.approx(np.full(5, 0.2))


def test_a_class_without_images_changes_no_weight(samples):
    two = TagData(samples, 2, IDENTITY).sample_weights()
    three = TagData(samples, 3, IDENTITY).sample_weights()
    assert three == pytest.approx(two)


def test_untagged_images_are_named(make_dataset):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": None}})
    with pytest.raises(DataError, match=r"no tags and cannot train a classifier:\n  - b"):
        TagData(dataset.samples, 2, IDENTITY)


def test_no_images_at_all_are_refused():
    with pytest.raises(DataError, match="no tagged image"):
        TagData((), 2, IDENTITY)
