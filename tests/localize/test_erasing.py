from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.localize.erasing import (
    RoundResult,
    StopRule,
    erased,
    joined,
    mean_pixel,
    mined_region,
    reason_to_stop,
)

RULE = StopRule(max_loss_ratio=2.0, min_probability=0.5, max_erased=0.6)
GOOD = RoundResult(loss=0.1, probability=0.95, erased=0.2)


def scores_of(*rows: list[float], ids: tuple[int, ...] = (1, 3)) -> Scores:
    values = np.array([[[0.0] * len(rows[0])], *([row] for row in rows)], np.float32)
    return Scores(values, np.array([0, *ids[: len(rows)]], np.uint8), (1, len(rows[0])))


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (RoundResult(0.19, 0.6, 0.5), None),
        (RoundResult(0.21, 0.6, 0.5), "training loss is 0.21, more than 2 times"),
        (RoundResult(0.19, 0.49, 0.5), "probability of 0.49"),
        (RoundResult(0.19, 0.6, 0.61), "61% of the images"),
    ],
)
def test_the_rule_triggers_where_a_limit_is_passed(last, words):
    reason = reason_to_stop([GOOD, last], RULE)
    assert reason is None if words is None else words in reason


def test_a_made_up_sequence_of_rounds_ends_where_evidence_runs_out():
    sequence = [
        GOOD,
        RoundResult(0.14, 0.85, 0.35),
        RoundResult(0.18, 0.7, 0.5),
        RoundResult(0.35, 0.45, 0.7),
    ]
    reasons = [reason_to_stop(sequence[:count], RULE) for count in range(1, 5)]
    assert [reason is None for reason in reasons] == [True, True, True, False]


def test_the_first_round_is_never_too_much():
    assert reason_to_stop([RoundResult(9.0, 0.0, 1.0)], RULE) is None


def test_rules_can_be_switched_off():
    off = StopRule(max_loss_ratio=None, min_probability=None, max_erased=None)
    assert reason_to_stop([GOOD, RoundResult(9.0, 0.0, 1.0)], off) is None


def test_pixels_above_the_threshold_of_any_class_are_mined():
    scores = scores_of([0.1, 0.2, 0.21, 1.0], [0.9, 0.0, 0.0, 0.0])
    assert mined_region(scores, 0.2).tolist() == [[True, False, True, True]]


def test_nothing_is_mined_where_no_class_is():
    scores = Scores(np.ones((1, 2, 2), np.float32), np.array([0], np.uint8), (4, 6))
    assert not mined_region(scores, 0.2).any()
    assert mined_region(scores, 0.2).shape == (4, 6)


def test_erased_pixels_get_the_colour_and_others_stay():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    before = image.copy()
    region = np.zeros((2, 4), bool)
    region[1, 2] = True
    found = erased(image, region, np.array([7, 8, 9], np.uint8))
    assert found[1, 2].tolist() == [7, 8, 9]
    found[1, 2] = image[1, 2]
    assert np.array_equal(found, image)
    assert np.array_equal(image, before)


def test_a_region_of_another_size_is_refused():
    with pytest.raises(DataError, match="changed after the run began"):
        erased(np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2), bool), np.zeros(3, np.uint8))


def test_the_mean_colour_weighs_pixels_and_not_images():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8) for side in (3, 9, 20)]
    flat = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    assert mean_pixel(images).tolist() == np.rint(flat.mean(axis=0)).astype(int).tolist()


def test_the_mean_colour_of_nothing_is_refused():
    with pytest.raises(DataError, match="no image"):
        mean_pixel([])


def test_the_highest_score_of_all_rounds_is_above_the_threshold_where_any_is():
    rounds = [scores_of([0.1, 0.5, 0.0]), scores_of([0.15, 0.1, 0.0]), scores_of([0.3, 0.2, 0.05])]
    found = joined(rounds, "max", 0.2)
    assert found.values[1, 0].tolist() == pytest.approx([0.3, 0.5, 0.05])
    union = np.logical_or.reduce([mined_region(one, 0.2) for one in rounds])
    assert np.array_equal(mined_region(found, 0.2), union)


def test_the_union_is_one_where_any_round_mined_the_class():
    rounds = [
        scores_of([0.1, 0.5, 0.0], [0.9, 0.0, 0.0]),
        scores_of([0.3, 0.0, 0.0], [0.2, 0.0, 0.3]),
    ]
    found = joined(rounds, "union", 0.2)
    assert found.values.tolist() == [[[0, 0, 0]], [[1, 1, 0]], [[1, 0, 1]]]
    assert found.class_ids.tolist() == [0, 1, 3]


def test_the_union_is_taken_at_the_size_of_the_image():
    values = np.zeros((2, 2, 2), np.float32)
    values[1, 0, 0] = 1
    found = joined([Scores(values, np.array([0, 1], np.uint8), (8, 8))], "union", 0.2)
    assert found.values.shape == (2, 8, 8)
    assert set(np.unique(found.values)) == {0.0, 1.0}


def test_rounds_of_different_classes_are_refused():
    with pytest.raises(DataError, match="different classes"):
        joined([scores_of([1.0]), scores_of([1.0], ids=(2,))], "max", 0.2)


def test_an_image_without_classes_stays_background():
    scores = Scores(np.ones((1, 2, 2), np.float32), np.array([0], np.uint8), (4, 4))
    assert joined([scores, scores], "union", 0.2) is scores
