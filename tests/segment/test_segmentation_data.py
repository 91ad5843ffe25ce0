"""Tests of wsseg.segment.data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.image_io import write_mask
from wsseg.data.transforms import IDENTITY, AugmentConfig, normalise
from wsseg.errors import DataError
from wsseg.segment.config import Smp
from wsseg.segment.data import SegmentationData, count_pixels, foreground_point, read_pair


def _pair(folder: Path, name: str, mask: np.ndarray, seed: int = 0) -> tuple[Path, Path]:
    image = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / f"{name}.png")
    write_mask(folder / f"{name}_mask.png", mask)
    return folder / f"{name}.png", folder / f"{name}_mask.png"


def _mask_with_spot(height: int = 100, width: int = 140) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[90:93, 130:134] = 2
    return mask


def test_items_without_augmentation_are_the_files(tmp_path: Path):
    mask = _mask_with_spot()
    pair = _pair(tmp_path, "a", mask)
    data = SegmentationData([pair], Smp(augment=IDENTITY))
    item = data.item(0, np.random.default_rng(0))
    np.testing.assert_array_equal(item["mask"], mask)
    np.testing.assert_array_equal(item["image"], normalise(np.asarray(Image.open(pair[0]))))
    assert len(data) == 1
    assert data.sample_id(0) == str(pair[0])


def test_foreground_crops_always_show_foreground(tmp_path: Path):
    pair = _pair(tmp_path, "a", _mask_with_spot())
    augment = AugmentConfig(crop_px=32, scale=(0.8, 1.2), vflip=0.5, rot90=0.5)
    always = SegmentationData([pair], Smp(augment=augment, foreground_crops=1.0))
    never = SegmentationData([pair], Smp(augment=augment, foreground_crops=0.0))
    shown = [(always.item(0, np.random.default_rng(s))["mask"] == 2).any() for s in range(30)]
    by_chance = [(never.item(0, np.random.default_rng(s))["mask"] == 2).any() for s in range(30)]
    assert all(shown)
    assert np.mean(by_chance) < 0.5


def test_items_depend_on_the_generator_only(tmp_path: Path):
    data = SegmentationData(
        [_pair(tmp_path, "a", _mask_with_spot())], Smp(augment=AugmentConfig(crop_px=32))
    )
    first, second = (data.item(0, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(first["mask"], second["mask"])


def test_grey_segmenters_get_one_channel(tmp_path: Path):
    data = SegmentationData(
        [_pair(tmp_path, "a", _mask_with_spot())],
        Smp(in_channels=1, augment=AugmentConfig(crop_px=32)),
    )
    assert data.item(0, np.random.default_rng(0))["image"].shape == (1, 32, 32)


def test_image_and_mask_are_shrunk_together(tmp_path: Path):
    mask = np.repeat(np.repeat(np.array([[0, 1], [2, 255]], np.uint8), 40, 0), 60, 1)
    image, small = read_pair(*_pair(tmp_path, "a", mask), max_side_px=60)
    assert image.shape == (40, 60, 3)
    np.testing.assert_array_equal(small, mask[::2, ::2])


def test_mask_of_another_size_names_both_files_and_sizes(tmp_path: Path):
    image_path, _ = _pair(tmp_path, "a", _mask_with_spot())
    _, mask_path = _pair(tmp_path, "b", np.zeros((10, 20), np.uint8))
    with pytest.raises(DataError, match=r"b_mask.png: the mask is 20 x 10 px.*a.png.*140 x 100"):
        read_pair(image_path, mask_path)


def test_no_items_are_refused():
    with pytest.raises(DataError, match="no mask to train a segmenter on"):
        SegmentationData([], Smp())


def test_foreground_point_meets_small_classes_as_often_as_large_ones():
    mask = np.full((50, 50), 1, np.uint8)
    mask[10, 20] = 3
    mask[:5] = 0
    mask[45:] = 255
    rng = np.random.default_rng(0)
    points = [foreground_point(mask, rng) for _ in range(400)]
    classes = [mask[int(y), int(x)] for x, y in points]
    assert set(classes) == {1, 3}
    assert 150 < classes.count(3) < 250
    assert (20.5, 10.5) in points


def test_foreground_point_of_pure_background_is_none():
    mask = np.array([[0, 255]], np.uint8)
    assert foreground_point(mask, np.random.default_rng(0)) is None


def test_pixels_are_counted_per_class_without_the_ignored(tmp_path: Path):
    paths = [
        _pair(tmp_path, "a", np.array([[0, 1], [2, 255]], np.uint8))[1],
        _pair(tmp_path, "b", np.array([[0, 0], [2, 2]], np.uint8))[1],
    ]
    assert count_pixels(paths, 3).tolist() == [3, 1, 3, 0]


def test_class_id_beyond_the_class_list_names_file_and_value(tmp_path: Path):
    path = _pair(tmp_path, "a", np.array([[0, 7]], np.uint8))[1]
    with pytest.raises(DataError, match=r"a_mask.png: class ids \[7\] are beyond"):
        count_pixels([path], 3)


def test_sample_weights_draw_classes_and_empty_images_equally(tmp_path: Path):
    masks = [[1], [1], [1], [2], [1, 2], [0], [0]]
    pairs = [
        _pair(tmp_path, str(n), np.array([[0, *ids]], np.uint8)) for n, ids in enumerate(masks)
    ]
    weights = SegmentationData(pairs, Smp()).sample_weights()
    # Class 1 is in 4 images, class 2 in 2, nothing in 2; image 4 counts for its rarer class.
    expected = np.array([1 / 4, 1 / 4, 1 / 4, 1 / 2, 1 / 2, 1 / 2, 1 / 2])
    np.testing.assert_allclose(weights, expected / expected.sum())
