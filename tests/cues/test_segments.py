from __future__ import annotations

import numpy as np
import pytest

from wsseg import registry
from wsseg.cues.segments import (
    Prompt,
    Segments,
    open_segments,
)
from wsseg.cues.segments_files import load_segments, save_segments
from wsseg.errors import DataError, RecipeError


def random_segments(count=5, size=(7, 9), logits=None):
    masks = np.random.default_rng(0).random((count, *size)) < 0.4
    return masks, Segments.of_masks(masks, np.linspace(1, 0, count), logits)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 16)])
def test_masks_come_out_as_they_went_in(size):
    masks, segments = random_segments(size=size)
    np.testing.assert_array_equal(segments.masks, masks)
    np.testing.assert_array_equal(segments.mask(3), masks[3])
    np.testing.assert_array_equal(segments.areas(), masks.sum(axis=(1, 2)))
    assert segments.packed.nbytes == 5 * -(-size[0] * size[1] // 8)
    assert segments.masks.dtype == bool


def test_overlaps_count_the_pixels_that_are_shared():
    masks, segments = random_segments()
    wanted = np.random.default_rng(1).random((7, 9)) < 0.5
    np.testing.assert_array_equal(segments.overlaps(wanted), (masks & wanted).sum(axis=(1, 2)))
    with pytest.raises(ValueError, match=r"shape \(9, 7\); expected \(7, 9\)"):
        segments.overlaps(wanted.T)


def test_an_image_may_have_no_segment_at_all(tmp_path):
    none = Segments.of_masks(np.zeros((0, 4, 5), bool), np.zeros(0))
    assert len(none) == 0
    assert none.masks.shape == (0, 4, 5)
    assert not none.label_map().any()
    assert none.overlaps(np.ones((4, 5), bool)).tolist() == []
    save_segments(tmp_path / "none.npz", none)
    assert load_segments(tmp_path / "none.npz").size == (4, 5)


def test_more_than_255_segments_keep_their_numbers():
    masks = np.zeros((400, 20, 20), bool)
    masks.reshape(400, 400)[np.arange(400), np.arange(400)] = True
    labels = Segments.of_masks(masks, np.ones(400)).label_map()
    np.testing.assert_array_equal(labels.ravel(), np.arange(1, 401))


def test_the_first_segment_lies_on_top_unless_an_order_is_given():
    masks = np.ones((2, 1, 3), bool)
    masks[1, 0, 0] = False
    segments = Segments.of_masks(masks, np.array([0.5, 0.9]))
    assert segments.label_map().tolist() == [[1, 1, 1]]
    by_area = np.argsort(-segments.areas())
    assert segments.label_map(by_area.tolist()).tolist() == [[1, 2, 2]]


def test_segments_are_stored_with_their_soft_masks(tmp_path):
    logits = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    _, segments = random_segments(logits=logits)
    path = tmp_path / "sub" / "a.npz"
    save_segments(path, segments)
    loaded = load_segments(path)
    np.testing.assert_array_equal(loaded.masks, segments.masks)
    np.testing.assert_array_equal(loaded.scores, segments.scores)
    np.testing.assert_allclose(loaded.logits, logits, atol=2e-3)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=r"a\.npz: no such file"):
        load_segments(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not a valid segments file"):
        load_segments(path)


def test_a_file_whose_sizes_contradict_each_other_is_damaged(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, packed=np.zeros((2, 9), np.uint8), scores=np.zeros(3), size=np.array([7, 9]))
    with pytest.raises(DataError, match="not a valid segments file"):
        load_segments(path)


def test_masks_of_another_shape_or_type_are_refused():
    with pytest.raises(ValueError, match=r"expected \(S, H, W\) bool"):
        Segments.of_masks(np.zeros((2, 3, 4), np.uint8), np.zeros(2))
    with pytest.raises(ValueError, match=r"expected \(3, 2\) uint8"):
        Segments(np.zeros((3, 5), np.uint8), np.zeros(3, np.float32), (3, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither"),
        ({"points": [(1, 2)], "positive": [False]}, "neither"),
        ({"points": [(1, 2)], "positive": [True, False]}, r"expected \(1,\)"),
        ({"box": (5, 5, 5, 9)}, "x0 < x1"),
        ({"box": (5, 5, 7)}, "x0 < x1"),
    ],
)
def test_a_prompt_that_asks_nothing_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**settings)


def test_a_backend_is_opened_by_name_or_settings():
    image = np.zeros((6, 6, 3), np.uint8)
    config = registry.config_class("segments", "superpixels")(max_segments=1)
    assert config.name == "superpixels"
    assert open_segments(image, config).size == open_segments(image).size == (6, 6)
    with pytest.raises(RecipeError, match='Unknown segment "superpixel"'):
        open_segments(image, "superpixel")
