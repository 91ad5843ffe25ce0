import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from wsseg.data.image_io import (
    image_size,
    read_image,
    read_mask,
    to_stored_orientation,
    write_mask,
)
from wsseg.data.labels import ClassList, voc_palette
from wsseg.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
CLASSES = ClassList(("a", "b", "c"))


def read_or_fault(path):
    try:
        return read_image(path)
    except DataError as fault:
        return str(fault)


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "tga"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    path = save(tmp_path / f"한글 이름.{suffix}", RGB)
    image = read_image(path)
    np.testing.assert_array_equal(image, RGB)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert image_size(path) == (5, 7)


def test_lossless_webp_comes_back_exactly(tmp_path):
    path = save(tmp_path / "a.webp", RGB, lossless=True, exact=True)
    np.testing.assert_array_equal(read_image(path), RGB)


def test_one_pixel_image_is_read(tmp_path):
    path = save(tmp_path / "a.png", np.full((1, 1, 3), 9, np.uint8))
    assert read_image(path).tolist() == [[[9, 9, 9]]]
    assert image_size(path) == (1, 1)


def test_grey_image_has_three_equal_channels(tmp_path):
    grey = RGB[:, :, 0]
    image = read_image(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


def test_one_bit_image_becomes_black_and_white(tmp_path):
    bits = np.array([[0, 255, 0], [255, 0, 255]], np.uint8)
    image = read_image(save(tmp_path / "a.png", bits, "1"))
    np.testing.assert_array_equal(image[:, :, 1], bits)


@pytest.mark.parametrize(
    ("maximum", "full"),
    [(200, 255), (1000, 1023), (1023, 1023), (4095, 4095), (4096, 16383), (65535, 65535)],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_image_is_scaled_by_the_smallest_depth_that_holds_it(
    tmp_path, maximum, full, suffix
):
    values = np.array([[0, maximum // 3, maximum]], np.uint16)
    image = read_image(save(tmp_path / f"a.{suffix}", values))
    expected = np.rint(values / full * 255)
    np.testing.assert_array_equal(image[:, :, 0], expected)


def test_dark_16_bit_tiff_is_not_black(tmp_path):
    values = np.tile(np.linspace(0, 4000, 64, dtype=np.uint16), (3, 1))
    image = read_image(save(tmp_path / "a.tif", values))
    assert image.max() == round(4000 / 4095 * 255)
    assert len(np.unique(image)) > 60


def test_16_bit_black_image_stays_black(tmp_path):
    path = save(tmp_path / "a.tif", np.zeros((2, 2), np.uint16))
    assert read_image(path).max() == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 50_000.0, 100_000.0], [0, 128, 255]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
    ],
)
def test_float_tiff_follows_its_range(tmp_path, values, expected):
    path = save(tmp_path / "a.tif", np.array([values], np.float32))
    np.testing.assert_allclose(read_image(path)[0, :, 0].astype(int), expected, atol=1)


def test_float_tiff_with_nan_is_a_data_error(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(DataError, match=r"a\.tif: the image holds NaN"):
        read_image(path)


def test_32_bit_integers_are_stretched(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[0, 100_000, 200_000]], np.int32))
    assert read_image(path)[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 128, 255]
    image = read_image(save(tmp_path / "a.png", rgba))
    assert image[0, :, 0].tolist() == [255, 127, 0]


def test_opaque_alpha_changes_nothing(tmp_path):
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), RGB)


def test_palette_image_shows_its_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[0].tolist() == [[10, 20, 30], [200, 100, 50]]


def test_transparent_palette_colour_becomes_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / "a.gif", transparency=0)
    assert read_image(tmp_path / "a.gif")[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_cmyk_image_is_read_as_rgb(tmp_path):
    cmyk = np.zeros((1, 2, 4), np.uint8)
    cmyk[0, 1] = [0, 255, 255, 0]
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[255, 255, 255], [255, 0, 0]]


def test_first_page_of_a_multi_page_tiff_is_read(tmp_path):
    pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_image_comes_back_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", RGB, exif=exif)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    assert image_size(path) == ((5, 7) if orientation < 5 else (7, 5))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_can_be_turned_back_to_the_stored_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", RGB, exif=exif)
    upright = read_image(path)[:, :, 0]
    np.testing.assert_array_equal(to_stored_orientation(upright, path), RGB[:, :, 0])


def test_16_bit_rotated_image_is_scaled_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", np.array([[0, 65535]], np.uint16), exif=exif)
    assert read_image(path)[:, :, 0].tolist() == [[0], [255]]


def test_broken_exif_is_read_as_stored(tmp_path):
    path = save(tmp_path / "a.jpg", RGB, exif=b"Exif\0\0garbage garbage")
    assert read_image(path).shape == RGB.shape


def test_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.png: no such file"):
        read_image(tmp_path / "nothing.png")


def test_empty_file_says_so(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for read in (read_image, image_size, read_mask):
        with pytest.raises(DataError, match=r"a\.png: the file is empty \(0 bytes\)"):
            read(tmp_path / "a.png")


def test_text_file_is_not_an_image(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(DataError, match=r"a\.png: not an image.*Convert it"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
def test_truncated_file_is_never_read_as_half_an_image(tmp_path, suffix):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"a\.{suffix}"):
        read_image(path)


def test_wrong_checksum_is_a_data_error(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    content = bytearray(path.read_bytes())
    content[50] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)


@given(
    position=st.integers(0, 10_000),
    value=st.integers(0, 255),
    suffix=st.sampled_from(["png", "tif", "bmp", "gif", "jpg"]),
)
def test_a_flipped_byte_gives_an_image_or_a_data_error(tmp_path_factory, position, value, suffix):
    path = save(tmp_path_factory.mktemp("flip") / f"a.{suffix}", RGB)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = read_or_fault(path)
    if isinstance(outcome, str):
        assert outcome.startswith(str(path))
    else:
        assert outcome.ndim == 3
        assert outcome.dtype == np.uint8


def test_decompression_bomb_is_refused_with_a_remedy(tmp_path):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    (tmp_path / "a.png").write_bytes(content + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"a\.png: the image is too large .*3600000000 pixels.*Cut"):
        read_image(tmp_path / "a.png")


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.booleans())
def test_mask_round_trip_is_exact(tmp_path_factory, mask, palette):
    path = tmp_path_factory.mktemp("mask") / "sub dir" / "마스크.png"
    write_mask(path, mask, palette)
    np.testing.assert_array_equal(read_mask(path), mask)


def test_written_mask_is_a_palette_png_with_voc_colours(tmp_path):
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    write_mask(tmp_path / "m.png", mask)
    with Image.open(tmp_path / "m.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), voc_palette()[mask])


def test_mask_without_palette_is_a_grey_png(tmp_path):
    write_mask(tmp_path / "m.png", np.zeros((2, 2), np.uint8), palette=False)
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "L"


def test_write_mask_refuses_other_shapes_and_types(tmp_path):
    for bad in (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int64)):
        with pytest.raises(ValueError, match=r"\(H, W\) uint8"):
            write_mask(tmp_path / "m.png", bad)
    assert list(tmp_path.iterdir()) == []


def test_16_bit_mask_with_small_values_is_read(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 3]], np.uint16))
    assert read_mask(path, CLASSES).tolist() == [[0, 3]]


def test_instance_mask_with_large_values_is_explained(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 300]], np.uint16))
    with pytest.raises(DataError, match=r"m\.png: mask values reach from 0 to 300.*instance"):
        read_mask(path)


def test_one_bit_mask_marks_class_one(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 255]], np.uint8), "1")
    assert read_mask(path, CLASSES).tolist() == [[0, 1]]


def test_values_outside_the_class_list_are_named_with_the_file(tmp_path):
    path = save(tmp_path / "0012.png", np.array([[0, 38, 75, 255]], np.uint8))
    with pytest.raises(DataError, match=r"0012\.png: .* values 38, 75, .* 0 to 3 and 255"):
        read_mask(path, CLASSES)
    assert read_mask(path).tolist() == [[0, 38, 75, 255]]


def test_colour_mask_is_explained_with_its_colours(tmp_path):
    path = save(tmp_path / "m.png", voc_palette()[np.array([[0, 1]])])
    with pytest.raises(DataError) as caught:
        read_mask(path)
    text = str(caught.value)
    assert "m.png: a mask stores class ids, but this is a RGB picture with 2 colours" in text
    assert "(0, 0, 0), (128, 0, 0)" in text
    assert "PASCAL VOC colour map" in text


def test_jpeg_mask_is_refused(tmp_path):
    path = save(tmp_path / "m.jpg", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"m\.jpg: a mask must not be a JPEG"):
        read_mask(path)
