"""Tests of wsseg.data.transforms and wsseg.data.geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg.data.colour import (
    GREY_MEAN,
    GREY_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
from wsseg.data.geometry import crop_geometry, identity, mirror_and_turn
from wsseg.data.transforms import IDENTITY, AugmentConfig, augment, normalise

EVERYTHING = AugmentConfig(
    scale=(0.5, 2.0),
    crop_px=48,
    hflip=0.5,
    vflip=0.5,
    rot90=0.7,
    hue_deg=10,
    grey=0.3,
    noise=0.05,
    blur_px=1.0,
)


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _gradient(height: int, width: int) -> np.ndarray:
    """Red grows with x, green with y: a view shows where each pixel came from."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


def _denormalised(view: np.ndarray) -> np.ndarray:
    mean = np.array(IMAGENET_MEAN)[:, None, None]
    std = np.array(IMAGENET_STD)[:, None, None]
    return 255 * (view * std + mean)


def test_normalise_follows_the_formula_in_float64():
    image = _picture(7, 5)
    expected = (image / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    result = normalise(image)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-6)


def test_grey_normalise_is_luma_with_one_mean_and_deviation():
    image = _picture(7, 5)
    luma = image @ np.array([0.299, 0.587, 0.114])
    expected = (luma / 255 - GREY_MEAN) / GREY_STD
    result = normalise(image, in_channels=1)
    assert result.shape == (1, 7, 5)
    # The luma is rounded to 8 bits on the way.
    np.testing.assert_allclose(result[0], expected, atol=0.51 / 255 / GREY_STD)


def test_identity_configuration_returns_the_normalised_source():
    image = _picture(9, 13)
    mask = np.arange(9 * 13, dtype=np.uint8).reshape(9, 13)
    view, new_mask, valid, geometry = augment(image, mask, np.random.default_rng(0), IDENTITY)
    np.testing.assert_array_equal(view, normalise(image))
    np.testing.assert_array_equal(new_mask, mask)
    assert valid.all()
    np.testing.assert_array_equal(geometry.matrix, np.eye(2, 3))


def test_same_generator_state_gives_the_same_sample_and_another_state_another():
    image, mask = _picture(60, 80), np.ones((60, 80), np.uint8)
    first = augment(image, mask, np.random.default_rng(3), EVERYTHING)
    second = augment(image, mask, np.random.default_rng(3), EVERYTHING)
    other = augment(image, mask, np.random.default_rng(4), EVERYTHING)
    for one, two in zip(first[:3], second[:3], strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


def test_augment_leaves_its_inputs_unchanged():
    image, mask = _picture(30, 40), np.ones((30, 40), np.uint8)
    before = image.copy(), mask.copy()
    augment(image, mask, np.random.default_rng(0), EVERYTHING)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_small_image_is_padded_with_zeros_and_ignored_there():
    config = AugmentConfig(scale=None, crop_px=32, hflip=0)
    image, mask = np.full((10, 20, 3), 255, np.uint8), np.ones((10, 20), np.uint8)
    view, new_mask, valid, _ = augment(image, mask, np.random.default_rng(1), config)
    assert view.shape == (3, 32, 32)
    assert valid.sum() == 200
    assert (view[:, ~valid] == 0).all()
    assert (view[:, valid] != 0).all()
    np.testing.assert_array_equal(new_mask, np.where(valid, 1, 255))


def test_small_images_are_placed_at_random():
    config = AugmentConfig(scale=None, crop_px=32, hflip=0)
    image = _picture(10, 20)
    corners = {
        tuple(np.argwhere(augment(image, None, np.random.default_rng(seed), config)[2])[0])
        for seed in range(20)
    }
    assert len(corners) > 10


def test_long_side_is_resized_into_the_range():
    config = AugmentConfig(long_side_px=(40, 60), crop_px=None)
    lengths = set()
    for seed in range(30):
        view, _, _, geometry = augment(_picture(30, 20), None, np.random.default_rng(seed), config)
        assert view.shape[1:] == geometry.size
        lengths.add(view.shape[1])
        assert view.shape[2] == round(20 * view.shape[1] / 30)
    assert min(lengths) >= 40
    assert max(lengths) <= 60
    assert len(lengths) > 8


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_geometry_says_where_each_pixel_came_from(height: int, width: int, seed: int):
    config = AugmentConfig(
        scale=(0.7, 2.5),
        crop_px=40,
        vflip=0.5,
        rot90=0.7,
        brightness=0,
        contrast=0,
        saturation=0,
    )
    image = _gradient(height, width)
    mask = (image[..., 0] % 7).astype(np.uint8)
    view, new_mask, valid, geometry = augment(image, mask, np.random.default_rng(seed), config)
    rows, columns = np.nonzero(valid)
    source = geometry.inverse().points(np.stack([columns + 0.5, rows + 0.5], axis=1))
    colours = _denormalised(view)[:, rows, columns]
    expected_x = np.clip(source[:, 0] - 0.5, 0, width - 1)
    expected_y = np.clip(source[:, 1] - 0.5, 0, height - 1)
    # Rounding to 8 bits; when one axis shrinks and the other not, half a pixel of the box filter.
    np.testing.assert_allclose(colours[0], expected_x, atol=1.01)
    np.testing.assert_allclose(colours[1], expected_y, atol=1.01)
    nearest = np.clip(np.floor(source + 1e-3), 0, [width - 1, height - 1]).astype(int)
    lower = np.clip(np.floor(source - 1e-3), 0, [width - 1, height - 1]).astype(int)
    found = new_mask[rows, columns]
    assert ((found == nearest[:, 0] % 7) | (found == lower[:, 0] % 7)).all()
    assert (new_mask[~valid] == 255).all()


def test_crop_contains_the_focus():
    config = AugmentConfig(scale=(1.0, 2.0), crop_px=32, rot90=0.5, vflip=0.5)
    image = _picture(200, 300)
    for seed in range(40):
        focus = (280.5, 3.5) if seed % 2 else (17.5, 190.5)
        _, _, valid, geometry = augment(
            image, None, np.random.default_rng(seed), config, focus=focus
        )
        x, y = np.floor(geometry.points(np.array([focus]))[0]).astype(int)
        assert valid[y, x]


def test_mirror_and_turn_agree_with_numpy():
    image = _gradient(5, 8)
    for hflip in (False, True):
        for vflip in (False, True):
            for turns in range(4):
                expected = image[:, ::-1] if hflip else image
                expected = expected[::-1] if vflip else expected
                expected = np.rot90(expected, turns)
                geometry = mirror_and_turn(identity((5, 8)), hflip=hflip, vflip=vflip, turns=turns)
                assert geometry.size == expected.shape[:2]
                points = geometry.points(np.array([[2.5, 1.5]]))
                column, row = np.floor(points[0]).astype(int)
                assert expected[row, column].tolist() == [2, 1, 0]


def test_boxes_are_mirrored_scaled_and_clipped():
    geometry = mirror_and_turn(
        crop_geometry((10, 10), (0, 0, 10, 10), (0, 0, 20, 20), (20, 20)), hflip=True
    )
    boxes = geometry.boxes(np.array([[1, 2, 4, 6], [8, 8, 14, 12]], np.float32))
    np.testing.assert_array_equal(boxes, [[12, 4, 18, 12], [0, 16, 4, 20]])
    unclipped = geometry.boxes(np.array([[8, 8, 14, 12]]), clip=False)
    np.testing.assert_array_equal(unclipped, [[-8, 16, 4, 24]])


def test_box_outside_the_view_becomes_empty():
    geometry = crop_geometry((10, 10), (0, 0, 5, 5), (0, 0, 5, 5), (5, 5))
    left, top, right, bottom = geometry.boxes(np.array([[6, 6, 9, 9]]))[0]
    assert (right - left) * (bottom - top) == 0


def test_no_boxes_and_no_points_stay_empty():
    geometry = identity((4, 4))
    assert geometry.boxes(np.zeros((0, 4))).shape == (0, 4)
    assert geometry.points(np.zeros((0, 2))).shape == (0, 2)
    assert geometry.scribbles([]) == ()


def test_inverse_undoes_the_geometry():
    geometry = mirror_and_turn(
        crop_geometry((30, 40), (3, 5, 23, 25), (2, 1, 34, 29), (36, 40)), vflip=True, turns=3
    )
    points = np.array([[4.0, 6.0], [20.5, 11.25]])
    there = geometry.points(points)
    np.testing.assert_allclose(geometry.inverse().points(there), points, atol=1e-4)


def test_maps_return_to_the_source_for_mirrors_and_turns():
    source = np.random.default_rng(0).random((2, 5, 8)).astype(np.float32)
    for turns in range(4):
        view = np.rot90(source[..., ::-1], turns, axes=(1, 2))
        geometry = mirror_and_turn(identity((5, 8)), hflip=True, turns=turns)
        back, seen = geometry.maps_to_source(view)
        np.testing.assert_allclose(back, source, atol=1e-5)
        assert seen.all()


def test_coarse_maps_of_a_ramp_return_as_the_same_ramp():
    # A view of twice the size, seen by a network of stride 4: cell c has its centre at 4c + 2
    # view pixels, 2c + 1 source pixels.
    geometry = crop_geometry((16, 24), (4, 0, 20, 16), (0, 0, 32, 32), (32, 32))
    cells = 4 + 2 * np.arange(8) + 1.0
    maps = np.broadcast_to(cells, (1, 8, 8)).astype(np.float32)
    back, seen = geometry.maps_to_source(maps)
    columns = np.arange(24) + 0.5
    np.testing.assert_array_equal(seen[0], (columns > 4) & (columns < 20))
    inner = slice(5, 19)
    np.testing.assert_allclose(back[0, 7, inner], columns[inner], atol=1e-4)
    assert (back[0][~seen] == 0).all()


def test_colour_jitter_is_the_stated_linear_map():
    config = AugmentConfig(
        scale=None, crop_px=None, hflip=0, brightness=0.5, contrast=0.5, saturation=0.5
    )
    image = _picture(6, 9) // 4 + 90
    view = augment(image, None, np.random.default_rng(5), config)[0]
    rng = np.random.default_rng(5)
    rng.random(3)  # two mirrors, one turn
    b, c, s = (rng.uniform(0.5, 1.5) for _ in range(3))
    luma = np.array([0.299, 0.587, 0.114])
    bright = b * image.astype(np.float64)
    contrasted = c * bright + (1 - c) * (bright @ luma).mean()
    expected = s * contrasted + (1 - s) * (contrasted @ luma)[..., None]
    np.testing.assert_allclose(
        # Half a step of rounding and OpenCV's fixed-point factors.
        _denormalised(view),
        np.clip(expected, 0, 255).transpose(2, 0, 1),
        atol=0.8,
    )


def test_grey_removes_all_colour():
    config = AugmentConfig(scale=None, crop_px=None, hflip=0, grey=1.0, saturation=0)
    view = _denormalised(augment(_picture(8, 8), None, np.random.default_rng(0), config)[0])
    np.testing.assert_allclose(view[0], view[1], atol=1e-3)
    np.testing.assert_allclose(view[0], view[2], atol=1e-3)


def test_noise_has_at_most_the_stated_deviation_and_no_bias():
    config = AugmentConfig(
        scale=None, crop_px=None, hflip=0, brightness=0, contrast=0, saturation=0, noise=0.1
    )
    image = np.full((200, 200, 3), 128, np.uint8)
    view = _denormalised(augment(image, None, np.random.default_rng(2), config)[0])
    assert 1 < view.std() < 25.5
    assert abs(view.mean() - 128) < 0.5


def test_hue_turn_by_a_third_of_the_circle_moves_red_to_green_or_blue():
    config = AugmentConfig(
        scale=None, crop_px=None, hflip=0, brightness=0, contrast=0, saturation=0, hue_deg=180
    )
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200
    view = _denormalised(augment(image, None, np.random.default_rng(0), config)[0])[:, 0, 0]
    # A pure colour stays pure: value and saturation do not change.
    assert max(view) == pytest.approx(200, abs=1)
    assert min(view) == pytest.approx(0, abs=1)
    assert view[0] < 199


def test_blur_keeps_the_mean_and_lowers_the_contrast():
    config = AugmentConfig(
        scale=None, crop_px=None, hflip=0, brightness=0, contrast=0, saturation=0, blur_px=3
    )
    image = _picture(64, 64)
    view = _denormalised(augment(image, None, np.random.default_rng(5), config)[0])
    assert view.std() < 0.7 * image.std()
    assert view.mean() == pytest.approx(image.mean(), abs=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (501, 3)])
def test_extreme_sizes_give_full_crops(size: tuple[int, int]):
    view, mask, valid, _ = augment(
        _picture(*size), np.zeros(size, np.uint8), np.random.default_rng(0), EVERYTHING
    )
    assert view.shape == (3, 48, 48)
    assert mask.shape == valid.shape == (48, 48)
    assert valid.any()


def test_one_channel_views_have_one_channel():
    view, *_ = augment(_picture(60, 60), None, np.random.default_rng(0), EVERYTHING, in_channels=1)
    assert view.shape == (1, 48, 48)


def test_reversed_ranges_are_refused():
    with pytest.raises(ValueError, match=r"scale is \[2.0, 1.0\]; expected \[low, high\]"):
        AugmentConfig(scale=(2.0, 1.0))
    with pytest.raises(ValueError, match="long_side_px"):
        AugmentConfig(long_side_px=(0, 10))
