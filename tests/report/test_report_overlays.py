from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from wsseg.data.labels import ClassList
from wsseg.report.overlays import contour, display_palette, heatmap, overlay, shrink_mask
from wsseg.report.pictures import picture, thumbnail

CLASSES = ClassList(("scratch", "dent"))


def grey(height: int, width: int, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_display_colours_keep_the_order_of_the_channels_of_the_mask_files():
    palette = CLASSES.palette().astype(int)
    shown = display_palette(CLASSES).astype(int)
    for channel_a, channel_b in ((0, 1), (1, 2), (0, 2)):
        stored = np.sign(palette[1:, channel_a] - palette[1:, channel_b])
        assert np.array_equal(stored, np.sign(shown[1:, channel_a] - shown[1:, channel_b]))


def test_display_colours_are_all_different_and_visible_on_black():
    shown = display_palette(CLASSES)
    assert len(np.unique(shown, axis=0)) == 256
    assert shown[1:].max(axis=1).min() >= 60


def test_background_pixels_of_a_grey_image_are_unchanged():
    mask = np.zeros((60, 80), np.uint8)
    mask[5:15, 5:15] = 1
    shown = overlay(grey(60, 80), mask, CLASSES)
    assert (shown[40:, 40:] == 128).all()


def test_the_inside_of_a_region_is_the_mix_of_image_and_class_colour():
    mask = np.full((200, 200), 2, np.uint8)
    shown = overlay(grey(200, 200), mask, CLASSES, alpha=0.5)
    expected = 0.5 * 128 + 0.5 * display_palette(CLASSES)[2].astype(float)
    assert np.abs(shown[190, 190].astype(float) - expected).max() <= 1


def test_ignored_pixels_are_hatched_and_never_tinted():
    mask = np.full((32, 32), 255, np.uint8)
    shown = overlay(grey(32, 32), mask, CLASSES).astype(int)
    assert 0.2 < (shown[..., 0] > 150).mean() < 0.6
    assert (shown[..., 0] == shown[..., 1]).all()
    assert (shown[..., 1] == shown[..., 2]).all()


def test_an_overlay_refuses_a_mask_of_another_size_and_names_both():
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
        overlay(grey(4, 5), np.zeros((5, 4), np.uint8), CLASSES)


def test_an_overlay_leaves_image_and_mask_as_they_were():
    image, mask = grey(30, 30), np.eye(30, dtype=np.uint8)
    overlay(image, mask, CLASSES)
    assert (image == 128).all()
    assert np.array_equal(mask, np.eye(30, dtype=np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1)])
def test_tiny_masks_of_any_class_can_be_drawn(shape: tuple[int, int]):
    for value in (0, 1, 254, 255):
        mask = np.full(shape, value, np.uint8)
        assert overlay(grey(*shape), mask, CLASSES).shape == (*shape, 3)


def test_a_thin_region_carries_its_number_beside_it_and_stays_visible():
    mask = np.zeros((400, 400), np.uint8)
    mask[200, 100:300] = 1
    shown = overlay(grey(400, 400), mask, CLASSES).astype(int)
    red = (shown[200, 100:300, 0] - shown[200, 100:300, 1]) > 50
    assert red.all()
    dark_plate = (shown < 40).all(axis=2)
    assert dark_plate.any()
    assert not dark_plate[200, 100:300].any()


def test_the_outline_of_a_square_is_its_border():
    mask = np.zeros((6, 6), np.uint8)
    mask[1:5, 1:5] = 3
    expected = mask.astype(bool)
    expected[2:4, 2:4] = False
    assert np.array_equal(contour(mask), expected)


def test_touching_classes_are_separated_by_outlines_on_both_sides():
    mask = np.array([[1, 1, 2, 2]], np.uint8)
    assert contour(mask).tolist() == [[False, True, True, False]]


def test_a_scratch_of_one_pixel_survives_shrinking_to_a_third():
    mask = np.zeros((300, 300), np.uint8)
    mask[:, 151] = 1
    small = shrink_mask(mask, (100, 100))
    assert (small == 1).any(axis=1).all()
    assert (small == 1).sum() == 100


def test_shrinking_keeps_ids_and_never_mixes_them():
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 2, 7, 255], np.uint8), (97, 61))
    small = shrink_mask(mask, (31, 20))
    assert small.shape == (31, 20)
    assert set(np.unique(small)) <= {0, 2, 7, 255}


def test_enlarging_a_mask_repeats_its_pixels():
    mask = np.array([[0, 3]], np.uint8)
    assert shrink_mask(mask, (2, 4)).tolist() == [[0, 0, 3, 3], [0, 0, 3, 3]]


def test_heat_grows_lighter_with_the_evidence():
    values = np.linspace(0, 1, 64, dtype=np.float32)[None]
    shown = heatmap(grey(1, 64), values).astype(float)
    luminance = shown @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance[0]) > -0.5).all()
    assert luminance[0, -1] - luminance[0, 0] > 100


def test_heat_does_not_depend_on_the_colour_of_the_image():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 100
    level = round(0.299 * 100)
    values = np.full((2, 2), 0.5, np.float32)
    difference = heatmap(red, values).astype(int) - heatmap(grey(4, 4, level), values)
    assert np.abs(difference).max() <= 1


def test_a_map_that_is_not_a_number_is_drawn_as_no_evidence():
    values = np.full((3, 3), np.nan, np.float32)
    assert np.array_equal(heatmap(grey(3, 3), values), heatmap(grey(3, 3), np.zeros((3, 3))))


def test_thumbnails_keep_the_aspect_ratio_within_a_pixel():
    assert thumbnail(grey(300, 1000)).shape == (120, 400, 3)
    assert thumbnail(grey(3000, 2)).shape == (400, 1, 3)


def test_tiny_images_are_enlarged_by_a_whole_factor_without_new_colours():
    image = np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    shown = thumbnail(image)
    assert shown.shape == (150, 200, 3)
    assert np.array_equal(shown[::5, ::5], image)


def test_a_picture_decodes_to_the_image_it_was_made_from():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (200, 40, 40)
    made = picture(image, max_bytes=20_000)
    head, _, body = made.uri.partition(",")
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))
    assert head in ("data:image/webp;base64", "data:image/jpeg;base64")
    assert decoded.shape == image.shape == (made.height, made.width, 3)
    assert np.abs(decoded[20, 50].astype(int) - image[20, 50]).max() < 25


@pytest.mark.parametrize("max_bytes", [12_000, 3_000, 800])
def test_noise_is_made_smaller_until_it_fits(max_bytes: int):
    noise = np.random.default_rng(2).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    made = picture(noise, max_bytes=max_bytes)
    assert len(base64.b64decode(made.uri.partition(",")[2])) <= max_bytes
    assert made.width == made.height
