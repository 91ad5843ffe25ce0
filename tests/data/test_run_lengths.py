from __future__ import annotations

import warnings

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from wsseg.data.run_lengths import (
    coco_text,
    decode_brush,
    decode_runs,
    encode_brush,
    encode_runs,
    parse_coco_text,
)


def random_mask(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 60, 2)
    # Few changes give long runs, many give short ones.
    return np.repeat(rng.random(size) < 0.5, rng.integers(1, 9), axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_runs_give_their_mask_back(seed):
    mask = random_mask(seed)
    counts = encode_runs(mask)
    assert sum(counts) == mask.size
    np.testing.assert_array_equal(decode_runs(counts, mask.size), mask.ravel())


@pytest.mark.parametrize("seed", range(20))
def test_compressed_text_is_that_of_pycocotools(seed):
    mask = random_mask(seed)
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    counts = encode_runs(mask.T)
    assert coco_text(counts) == expected
    assert parse_coco_text(expected) == counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        decoded = coco_mask.decode({"size": list(mask.shape), "counts": coco_text(counts)})
    np.testing.assert_array_equal(decoded.astype(bool), mask)


@pytest.mark.parametrize("seed", range(20))
def test_brush_gives_its_mask_back(seed):
    mask = random_mask(seed)
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


def test_brush_of_a_run_longer_than_16_bits_comes_back():
    mask = np.zeros((200, 300), bool)
    mask[199, 299] = True
    data = encode_brush(mask)
    np.testing.assert_array_equal(decode_brush(data, mask.shape), mask)
    assert len(data) < 60


def brush_bytes(text: str) -> list[int]:
    text = text.replace(" ", "")
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def test_brush_bits_are_read_as_label_studio_defines_them():
    # Two pixels: 8 values of 8 bits; sizes 3, 4, 8, 16; the first pixel in four single values with
    # alpha 5 at their end, the second as a run of four zeros.
    head = f"{8:032b} {7:05b} {2:04b} {3:04b} {7:04b} {15:04b}"
    singles = f"0 00 {3:03b} {9:08b} {8:08b} {7:08b} {5:08b}"
    run = f"1 01 {3:04b} {0:08b}"
    assert decode_brush(brush_bytes(head + singles + run), (1, 2)).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "end too early"),
        ([0, 0, 0], "end too early"),
        (brush_bytes(f"{16:032b}" + "0" * 40), "hold 16 values, not 2 x 1 x 4"),
        ([256], "not bytes"),
        ([True], "not bytes"),
        (brush_bytes(f"{8:032b} {31:05b} {0:016b}"), "32 bits"),
        (
            brush_bytes(f"{8:032b} {7:05b} {15:04b}{15:04b}{15:04b}{15:04b} 1 00 {99:016b}"),
            "beyond",
        ),
    ],
)
def test_malformed_brushes_are_refused_before_memory_is_taken(data, said):
    with pytest.raises(ValueError, match=said):
        decode_brush(data, (1, 2))


@pytest.mark.parametrize("counts", [[1, 2], [-1, 5], [2.0, 2], [True, 3], [10**12]])
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        decode_runs(counts, 4)


@pytest.mark.parametrize("text", ["é", "o", "ooooooooooooo0", " "])
def test_text_that_is_no_run_lengths_is_refused(text):
    with pytest.raises(ValueError, match=r"not text|ends in the middle"):
        parse_coco_text(text)
