"""Tests of wsseg.segment.proposals with segments that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wsseg.cues.segments import Segments
from wsseg.data.labels import Boxes, WeakLabels
from wsseg.segment import proposals as module
from wsseg.segment.draft import Draft, ImageFacts
from wsseg.segment.proposals import box_ious, network_costs, proposals, tight_boxes
from wsseg.segment.rounds_config import ProposalsCleanup

SIZE = (6, 8)


def _mask(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def segments(monkeypatch):
    """Set the segments that an image has."""

    def use(*masks: np.ndarray) -> None:
        stack = np.array(masks, bool).reshape(-1, *SIZE)
        found = Segments.of_masks(stack, np.ones(len(stack)))
        monkeypatch.setattr(module, "all_segments", lambda *_: found)

    return use


def _facts(boxes: Boxes, first: np.ndarray | None = None, seed: int = 0) -> ImageFacts:
    mask = np.zeros(SIZE, np.uint8) if first is None else first
    return ImageFacts("a", np.zeros((*SIZE, 3), np.uint8), WeakLabels(boxes=boxes), mask, seed)


def _flat(foreground: np.ndarray, sure: float = 0.9) -> Draft:
    """A prediction of class 1 on some pixels, of background on the others."""
    values = np.full((3, *SIZE), 0.0, np.float32)
    values[1] = np.where(foreground, sure, 1 - sure)
    values[0] = 1 - values[1]
    return Draft.of(values)


def test_the_network_decides_between_segments_that_fit_a_box_alike(segments):
    left, right = _mask(1, 1, 5, 6), _mask(1, 2, 5, 7)
    segments(left, right)
    facts = _facts(Boxes([[1, 1, 7, 5]], [1]))
    for wanted in (left, right):
        result = proposals(_flat(wanted), facts, ProposalsCleanup(top=1))
        np.testing.assert_array_equal(result.mask == 1, wanted)


def test_without_the_network_the_best_overlap_decides(segments):
    small, exact = _mask(2, 2, 4, 4), _mask(1, 1, 5, 7)
    segments(small, exact)
    facts = _facts(Boxes([[1, 1, 7, 5]], [1]))
    config = ProposalsCleanup(top=1, network_weight=0, min_overlap=0)
    np.testing.assert_array_equal(proposals(_flat(small), facts, config).mask == 1, exact)


def test_a_segment_is_cut_at_its_box_and_all_else_is_background(segments):
    segments(_mask(0, 0, 5, 7))
    result = proposals(_flat(_mask(0, 0, 6, 8)), _facts(Boxes([[1, 1, 7, 5]], [2]))).mask
    np.testing.assert_array_equal(result, 2 * _mask(1, 1, 5, 7))


def test_smaller_boxes_lie_in_front_whatever_their_order(segments):
    segments(_mask(0, 0, 6, 8), _mask(2, 2, 4, 4))
    boxes = Boxes([[2, 2, 4, 4], [0, 0, 8, 6]], [2, 1])
    result = proposals(_flat(_mask(0, 0, 6, 8)), _facts(boxes), ProposalsCleanup(top=1)).mask
    expected = np.where(_mask(2, 2, 4, 4), 2, 1)
    np.testing.assert_array_equal(result, expected)


def test_a_box_that_no_segment_fits_keeps_its_first_label(segments):
    segments(_mask(0, 0, 1, 1))
    first = np.zeros(SIZE, np.uint8)
    first[2, 2:5] = 1, 1, 255
    result = proposals(_flat(_mask(0, 0, 6, 8)), _facts(Boxes([[1, 1, 7, 5]], [1]), first)).mask
    np.testing.assert_array_equal(result, first)


def test_an_image_without_any_segment_keeps_its_first_labels(segments):
    segments()
    first = _mask(1, 1, 3, 3).astype(np.uint8)
    result = proposals(_flat(_mask(0, 0, 6, 8)), _facts(Boxes([[1, 1, 7, 5]], [1]), first)).mask
    np.testing.assert_array_equal(result, first)


def test_the_choice_falls_on_one_of_the_best_and_repeats_with_its_seed(segments):
    options = [_mask(1, 1, 5, 7 - cut) for cut in range(4)]
    segments(*options)
    boxes = Boxes([[1, 1, 7, 5]], [1])
    config = ProposalsCleanup(top=2, network_weight=0)

    def chosen(seed: int) -> int:
        result = proposals(_flat(options[0]), _facts(boxes, seed=seed), config).mask == 1
        return next(i for i, option in enumerate(options) if np.array_equal(option, result))

    found = [chosen(seed) for seed in range(20)]
    assert set(found) == {0, 1}
    assert found == [chosen(seed) for seed in range(20)]


def test_the_network_cost_is_the_mean_cross_entropy_in_the_box():
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(3), (4, 5)).transpose(2, 0, 1).astype(np.float32)
    inside = rng.random((3, 4, 5)) < 0.5
    for index, cost in enumerate(network_costs(values, inside, 2)):
        total = sum(
            -math.log(float(values[2 if inside[index, y, x] else 0, y, x]))
            for y in range(4)
            for x in range(5)
        )
        assert cost == pytest.approx(total / 20, rel=1e-5)


def test_tight_boxes_and_their_overlaps_are_counted_in_pixels():
    found = Segments.of_masks(np.array([_mask(1, 2, 4, 5), np.zeros(SIZE, bool)]), np.ones(2))
    tight = tight_boxes(found)
    assert tight.tolist() == [[2, 1, 5, 4], [0, 0, 0, 0]]
    np.testing.assert_allclose(box_ious(tight, np.array([2.0, 1, 5, 2])), [3 / 9, 0])


def test_segments_of_the_image_itself_are_found():
    image = np.full((60, 80, 3), 40, np.uint8)
    image[20:40, 30:60] = 220, 60, 40
    labels = WeakLabels(boxes=Boxes([[28, 18, 62, 42]], [1]))
    facts = ImageFacts("a", image, labels, np.zeros((60, 80), np.uint8))
    values = np.full((2, 60, 80), 0.5, np.float32)
    result = proposals(Draft.of(values), facts, ProposalsCleanup(top=1)).mask == 1
    truth = np.zeros((60, 80), bool)
    truth[20:40, 30:60] = True
    assert (result & truth).sum() / (result | truth).sum() > 0.8
