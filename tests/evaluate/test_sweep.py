from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.evaluate.confusion import pair_counts
from wsseg.evaluate.sweep import DEFAULT_THRESHOLDS, ThresholdSweep, sweep_thresholds

NUM_CLASSES = 5


def random_image(rng: np.random.Generator, class_ids: list[int]) -> tuple[Scores, np.ndarray]:
    values = rng.random((len(class_ids) + 1, 4, 5)).astype(np.float32)
    # Scores that lie exactly on thresholds, as scores read from files do.
    values[1:] = np.round(values[1:], 2)
    scores = Scores(values, np.array([0, *class_ids], np.uint8), (12, 15))
    truth = rng.choice([0, 1, 2, 3, 4, 5, 255], size=(12, 15)).astype(np.uint8)
    return scores, truth


def by_argmax(pairs: list[tuple[Scores, np.ndarray]], thresholds: np.ndarray) -> np.ndarray:
    result = []
    for threshold in thresholds:
        total = np.zeros((NUM_CLASSES + 1, NUM_CLASSES + 2), np.int64)
        for scores, truth in pairs:
            values = scores.resized()
            values[0] = np.float32(threshold)
            if len(scores.class_ids) == 1:
                values[0] = 1
            total += pair_counts(scores.class_ids[values.argmax(axis=0)], truth, NUM_CLASSES)
        result.append(total)
    return np.stack(result)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=7),
)
def test_one_pass_equals_one_argmax_per_threshold(seed, thresholds):
    rng = np.random.default_rng(seed)
    pairs = [random_image(rng, ids) for ids in ([1, 4], [5, 2, 3], [2], [])]
    curve = sweep_thresholds(pairs, NUM_CLASSES, thresholds)
    np.testing.assert_array_equal(curve.counts, by_argmax(pairs, curve.thresholds))


def test_the_usual_sixty_thresholds_equal_sixty_argmaxes():
    rng = np.random.default_rng(7)
    pairs = [random_image(rng, ids) for ids in ([1, 2], [3])]
    curve = sweep_thresholds(pairs, NUM_CLASSES)
    assert len(DEFAULT_THRESHOLDS) == 60
    assert curve.thresholds[0] == 0.0
    assert curve.thresholds[-1] == 0.59
    np.testing.assert_array_equal(curve.counts, by_argmax(pairs, curve.thresholds))
    best = curve.miou.max()
    assert curve.miou[curve.best_index] == best
    assert curve.best_threshold == curve.thresholds[np.argmax(curve.miou)]


def test_scores_at_map_stride_are_compared_at_full_size():
    values = np.zeros((2, 1, 2), np.float32)
    values[1] = [[0.0, 1.0]]
    scores = Scores(values, np.array([0, 1], np.uint8), (1, 8))
    truth = (scores.resized()[1] > 0.5).astype(np.uint8)
    curve = sweep_thresholds([(scores, truth)], 1, [0.1, 0.5, 0.9])
    assert curve.best_threshold == 0.5
    assert curve.miou.max() == 1.0


def test_the_curve_says_that_masks_chose_the_threshold():
    rng = np.random.default_rng(0)
    curve = sweep_thresholds([random_image(rng, [1])], NUM_CLASSES, [0.5, 0.2, 0.2])
    content = curve.to_json()
    assert content["tuned_on_masks"] is True
    assert content["thresholds"] == [0.2, 0.5]
    assert content["num_images"] == 1
    assert content["best_miou"] == max(content["miou"])
    assert curve.nearest_index(0.45) == 1


def test_images_without_classes_are_background_at_every_threshold():
    empty = Scores(np.zeros((1, 2, 2), np.float32), np.zeros(1, np.uint8), (4, 4))
    truth = np.zeros((4, 4), np.uint8)
    truth[0] = 2
    curve = sweep_thresholds([(empty, truth)], 2, [0.0, 0.9])
    assert curve.counts[:, :, 0].tolist() == [[12, 0, 4], [12, 0, 4]]
    assert curve.counts[:, :, 1:].sum() == 0


def test_sweeps_of_two_halves_add_up():
    rng = np.random.default_rng(5)
    pairs = [random_image(rng, [1, 2]) for _ in range(4)]
    first, second = ThresholdSweep(NUM_CLASSES), ThresholdSweep(NUM_CLASSES)
    for i, pair in enumerate(pairs):
        (first if i % 2 else second).add(*pair)
    first.merge(second)
    expected = sweep_thresholds(pairs, NUM_CLASSES)
    np.testing.assert_array_equal(first.curve().counts, expected.counts)
    assert first.curve().num_images == 4
    with pytest.raises(ValueError, match="same classes and thresholds"):
        first.merge(ThresholdSweep(NUM_CLASSES, [0.1]))


@pytest.mark.parametrize("thresholds", [[], [-0.1], [0.5, 1.5], [float("nan")]])
def test_thresholds_outside_zero_to_one_are_refused(thresholds):
    with pytest.raises(ValueError, match=r"numbers in \[0, 1\]"):
        ThresholdSweep(1, thresholds)


def test_a_sweep_without_masks_says_what_to_do():
    with pytest.raises(DataError, match="Add masks, or choose the threshold without labels"):
        sweep_thresholds([], 1)


def test_masks_of_another_size_or_class_list_are_refused():
    scores, truth = random_image(np.random.default_rng(0), [1])
    with pytest.raises(DataError, match="15 x 12 px"):
        ThresholdSweep(NUM_CLASSES).add(scores, truth[:5])
    with pytest.raises(DataError, match=r"ground truth have the class id 5; expected 0 to 2"):
        ThresholdSweep(2).add(scores, truth)
    with pytest.raises(DataError, match="scores have the class id 4"):
        ThresholdSweep(2).add(random_image(np.random.default_rng(0), [4])[0], truth * 0)
