from __future__ import annotations

import numpy as np
import pytest

from wsseg.cues.protocol import CueInputs
from wsseg.data.transforms import AugmentConfig
from wsseg.data.working import read_working_image
from wsseg.errors import DataError
from wsseg.localize.aligned import aligned_maps
from wsseg.localize.data import TagData


class Luminance:
    """Maps that are the image itself, so that crop and map can be compared."""

    def __init__(self, dtype) -> None:
        self.dtype = dtype
        self.prepared: list[str] = []

    def prepare(self, samples) -> None:
        self.prepared = [sample.id for sample in samples]

    def map(self, sample, image):
        red = image[..., 0].astype(np.int32) + 1000
        return red if self.dtype == np.int32 else red.astype(np.float32)


@pytest.fixture
def samples(make_dataset):
    return make_dataset({"a": {"tags": {1}, "size": (40, 56)}}).samples


def shown_red(item):
    """Undo the normalisation of the first channel."""
    return item["image"][0] * 0.229 * 255 + 0.485 * 255 + 1000


PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "hflip": 0.5, "vflip": 0.5, "rot90": 0.7}


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("crop", [24, 64])
def test_a_map_follows_crop_mirrors_and_turns_of_its_image(samples, dtype, crop):
    config = AugmentConfig(scale=None, crop_px=crop, **PLAIN)
    data = TagData(samples, 1, config, aligned={"grey": Luminance(dtype)})
    for seed in range(8):
        item = data.item(0, np.random.default_rng(seed))
        assert item["grey"].shape == (1, crop, crop)
        assert item["grey"].dtype == dtype
        inside = item["valid"][0] > 0
        np.testing.assert_allclose(item["grey"][0][inside], shown_red(item)[inside], atol=0.01)
        assert not item["grey"][0][~inside].any()


def test_ids_are_never_mixed_and_stay_large(samples):
    ids = read_working_image(samples[0].image_path, None)[..., 0].astype(np.int32) + 1000
    config = AugmentConfig(scale=(0.4, 1.9), crop_px=48, **PLAIN)
    data = TagData(samples, 1, config, aligned={"ids": Luminance(np.int32)})
    for seed in range(8):
        item = data.item(0, np.random.default_rng(seed))
        inside = item["valid"] > 0
        assert set(np.unique(item["ids"][inside])) <= set(np.unique(ids))
        # Padding shows no id, and nothing else is missing.
        np.testing.assert_array_equal(item["ids"] > 0, inside)


def test_maps_change_nothing_else_in_an_item(samples):
    config = AugmentConfig(crop_px=32)
    bare = TagData(samples, 1, config).item(0, np.random.default_rng(3))
    more = TagData(samples, 1, config, aligned={"grey": Luminance(np.float32)})
    item = more.item(0, np.random.default_rng(3))
    assert set(item) == {*bare, "grey"}
    for name, values in bare.items():
        np.testing.assert_array_equal(item[name], values)


def test_a_map_of_another_size_names_the_image(samples):
    class Wrong(Luminance):
        def map(self, sample, image):
            return np.zeros((3, 4), np.float32)

    data = TagData(samples, 1, AugmentConfig(), aligned={"grey": Wrong(np.float32)})
    with pytest.raises(DataError, match=r"a: its map has shape \(3, 4\)"):
        data.item(0, np.random.default_rng(0))


def test_the_network_and_its_regularisers_name_their_maps(make_dataset, tmp_path):
    inputs = CueInputs(make_dataset({"a": {"tags": {1}}}), tmp_path)

    class Owner:
        def __init__(self, names, regularisers=()):
            self.names, self.regularisers = names, regularisers

        def aligned_maps(self, given):
            assert given is inputs
            return dict.fromkeys(self.names, Luminance(np.float32))

    assert set(aligned_maps(Owner(["a"], (Owner(["b"]), Owner([]))), inputs)) == {"a", "b"}
    with pytest.raises(ValueError, match='"a"'):
        aligned_maps(Owner(["a"], (Owner(["a"]),)), inputs)
    with pytest.raises(ValueError, match='"image"'):
        aligned_maps(Owner(["image"]), inputs)
