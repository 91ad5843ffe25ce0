from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wsseg.data.scores import Scores
from wsseg.pseudo.masks import PseudoMaskConfig, pseudo_mask


def make_scores(rows, class_ids, size=None) -> Scores:
    values = np.asarray(rows, np.float32)
    return Scores(values, np.array([0, *class_ids], np.uint8), size or values.shape[1:])


# Six pixels: background, a narrow win of 3, a clear 3, a narrow win of 8, a clear 8, a tie of all.
ROW = make_scores(
    [
        [[0.50, 0.40, 0.20, 0.30, 0.10, 0.3]],
        [[0.10, 0.45, 0.90, 0.20, 0.05, 0.3]],
        [[0.05, 0.10, 0.10, 0.35, 0.80, 0.3]],
    ],
    [3, 8],
)


def test_the_strongest_row_wins_and_ties_are_background():
    mask = pseudo_mask(ROW)
    assert mask.tolist() == [[0, 3, 3, 8, 8, 0]]
    assert mask.dtype == np.uint8


def test_a_small_lead_is_ignored_between_background_and_classes_and_among_classes():
    config = PseudoMaskConfig(min_margin=0.1)
    assert pseudo_mask(ROW, config).tolist() == [[0, 255, 3, 255, 8, 255]]
    two = make_scores([[[0.1, 0.1]], [[0.6, 0.9]], [[0.58, 0.2]]], [1, 2])
    assert pseudo_mask(two, config).tolist() == [[255, 1]]


def test_weak_foreground_is_ignored_and_weak_background_is_not():
    config = PseudoMaskConfig(min_confidence=0.6)
    assert pseudo_mask(ROW, config).tolist() == [[0, 255, 3, 255, 8, 0]]


def test_scores_inside_the_band_are_ignored_with_both_ends():
    row = make_scores([[[0.25] * 5], [[0.1, 0.15, 0.2, 0.3, 0.31]]], [1])
    config = PseudoMaskConfig(band_low=float(np.float32(0.15)), band_high=float(np.float32(0.3)))
    assert pseudo_mask(row, config).tolist() == [[0, 255, 255, 255, 1]]


def test_the_band_is_where_a_low_and_a_high_threshold_disagree():
    rng = np.random.default_rng(0)
    values = rng.random((3, 20, 20)).astype(np.float32)
    masks = []
    for level in (0.4, 0.6):
        values[0] = level
        masks.append(pseudo_mask(make_scores(values, [1, 2])))
    values[0] = 0.5
    banded = pseudo_mask(make_scores(values, [1, 2]), PseudoMaskConfig(band_low=0.4, band_high=0.6))
    np.testing.assert_array_equal(banded, np.where(masks[0] == masks[1], masks[0], 255))


def test_an_image_tagged_as_empty_is_background_whatever_the_scores():
    assert pseudo_mask(ROW, PseudoMaskConfig(min_margin=0.5), frozenset()).tolist() == [[0] * 6]


def test_an_image_without_classes_is_background_at_the_size_of_the_image():
    empty = Scores(np.ones((1, 2, 3), np.float32), np.zeros(1, np.uint8), (8, 12))
    mask = pseudo_mask(empty)
    assert mask.shape == (8, 12)
    assert not mask.any()


def test_classes_outside_the_tags_never_appear():
    assert pseudo_mask(ROW, tags=frozenset({3})).tolist() == [[0, 3, 3, 0, 0, 0]]
    assert pseudo_mask(ROW, tags=frozenset({7})).tolist() == [[0] * 6]


def test_small_maps_are_decided_at_the_size_of_the_image():
    scores = make_scores([[[0.5, 0.5]], [[0.0, 1.0]]], [2], size=(1, 8))
    assert pseudo_mask(scores).tolist() == [[0, 0, 0, 0, 2, 2, 2, 2]]


def blobs() -> Scores:
    """A 5x5 square with a hole of one pixel, and a single pixel elsewhere, both class 4."""
    row = np.zeros((12, 12), np.float32)
    row[1:6, 1:6] = 0.9
    row[3, 3] = 0
    row[9, 9] = 0.9
    return make_scores(np.stack([np.full_like(row, 0.5), row]), [4])


def test_small_components_go_by_pixels_or_by_fraction():
    for config in (PseudoMaskConfig(min_area_px=2), PseudoMaskConfig(min_area_frac=2 / 144)):
        mask = pseudo_mask(blobs(), config)
        assert (mask == 4).sum() == 24
        assert mask[9, 9] == 0
    ignoring = pseudo_mask(blobs(), PseudoMaskConfig(min_area_px=2, removed_to="ignore"))
    assert ignoring[9, 9] == 255


def test_holes_are_filled_up_to_their_size():
    assert pseudo_mask(blobs(), PseudoMaskConfig(max_hole_frac=1 / 144))[3, 3] == 4
    assert pseudo_mask(blobs(), PseudoMaskConfig(max_hole_frac=0.5 / 144))[3, 3] == 0


def weak_class() -> Scores:
    """Class 1 wins a square; class 2 peaks at two pixels elsewhere but stays below background."""
    values = np.zeros((3, 10, 10), np.float32)
    values[0] = 0.5
    values[1, 1:5, 1:5] = 0.9
    values[2, 7, 7:9] = [0.3, 0.28]
    values[2, 0, 9] = 0.29
    return make_scores(values, [1, 2])


@pytest.mark.parametrize(("keep", "value"), [("none", 0), ("ignore", 255), ("seed", 2)])
def test_a_tagged_class_without_pixels_gets_its_strongest_region_back(keep, value):
    config = PseudoMaskConfig(keep_tagged=keep)
    mask = pseudo_mask(weak_class(), config, frozenset({1, 2}))
    assert mask[7, 7:9].tolist() == [value, value]
    # Only the region that holds the peak, not one of nearly the same height.
    assert mask[0, 9] == 0
    assert (mask == 1).sum() == 16


def test_without_tags_nobody_says_that_a_class_is_missing():
    config = PseudoMaskConfig(keep_tagged="seed")
    assert not (pseudo_mask(weak_class(), config) == 2).any()


def test_a_class_without_any_evidence_gets_nothing():
    values = np.zeros((3, 4, 4), np.float32)
    values[0] = 0.5
    mask = pseudo_mask(
        make_scores(values, [1, 2]), PseudoMaskConfig(keep_tagged="seed"), frozenset({1, 2})
    )
    assert not mask.any()


def test_a_component_lost_in_clean_up_comes_back_as_a_seed():
    values = np.zeros((2, 9, 9), np.float32)
    values[0] = 0.5
    values[1, 4, 4] = 0.9
    config = PseudoMaskConfig(min_area_px=5, keep_tagged="seed")
    mask = pseudo_mask(make_scores(values, [6]), config, frozenset({6}))
    assert np.argwhere(mask == 6).tolist() == [[4, 4]]


def overlapping(width: int) -> Scores:
    """Class 2 peaks inside the object of class 1, which is ``width`` pixels wide, and beside it."""
    values = np.zeros((3, 12, 12), np.float32)
    values[0] = 0.5
    values[1, 4, 4 : 4 + width] = 0.9
    values[2, 4, 3:6] = 0.4
    return make_scores(values, [1, 2])


def test_pixels_that_two_tagged_classes_claim_become_ignore():
    config = PseudoMaskConfig(keep_tagged="seed")
    mask = pseudo_mask(overlapping(5), config, frozenset({1, 2}))
    assert mask[4, 2:10].tolist() == [0, 2, 255, 255, 1, 1, 1, 0]


def test_the_last_pixels_of_another_class_are_not_taken():
    config = PseudoMaskConfig(keep_tagged="seed")
    mask = pseudo_mask(overlapping(2), config, frozenset({1, 2}))
    assert mask[4, 2:10].tolist() == [0, 2, 1, 1, 0, 0, 0, 0]


def test_a_region_as_large_as_the_image_is_ignored_but_no_seed():
    values = np.stack([np.full((6, 6), 0.5, np.float32), np.full((6, 6), 0.2, np.float32)])
    config = PseudoMaskConfig(keep_tagged="seed")
    mask = pseudo_mask(make_scores(values, [1]), config, frozenset({1}))
    assert (mask == 255).all()


CONFIGS = st.builds(
    PseudoMaskConfig,
    min_margin=st.sampled_from([0.0, 0.2]),
    min_confidence=st.sampled_from([0.0, 0.6]),
    min_area_px=st.sampled_from([0, 3]),
    removed_to=st.sampled_from(["background", "ignore"]),
    max_hole_frac=st.sampled_from([0.0, 0.1]),
    keep_tagged=st.sampled_from(["none", "ignore", "seed"]),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), CONFIGS, st.sets(st.sampled_from([2, 5, 9])))
def test_only_background_tagged_classes_and_ignore_appear(seed, config, tags):
    rng = np.random.default_rng(seed)
    values = rng.random((4, 5, 6)).astype(np.float32)
    scores = make_scores(values, [2, 5, 9], size=(13, 17))
    before = scores.values.copy()
    mask = pseudo_mask(scores, config, frozenset(tags))
    assert mask.shape == (13, 17)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask).tolist()) <= {0, 255} | tags
    np.testing.assert_array_equal(scores.values, before)
    np.testing.assert_array_equal(mask, pseudo_mask(scores, config, frozenset(tags)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_mirrored_image_has_the_mirrored_mask(seed):
    values = np.random.default_rng(seed).random((3, 8, 8)).astype(np.float32)
    config = PseudoMaskConfig(min_margin=0.1, min_area_px=3, max_hole_frac=0.05)
    plain = pseudo_mask(make_scores(values, [1, 2]), config)
    mirrored = pseudo_mask(make_scores(values[:, :, ::-1].copy(), [1, 2]), config)
    np.testing.assert_array_equal(mirrored[:, ::-1], plain)


@pytest.mark.parametrize(
    ("band", "message"),
    [
        ({"band_low": 0.2}, "given together"),
        ({"band_high": 0.2}, "given together"),
        ({"band_low": 0.5, "band_high": 0.2}, "must not exceed band_high, got 0.5 > 0.2"),
    ],
)
def test_half_a_band_or_a_band_upside_down_is_refused(band, message):
    with pytest.raises(ValidationError, match=message):
        PseudoMaskConfig(**band)
