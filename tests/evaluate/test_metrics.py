from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wsseg.evaluate.metrics import iou_from_counts, metrics_from_counts, nan_mean, ratio

COUNTS = npst.arrays(np.int64, (4, 5), elements=st.integers(0, 50))


def test_known_counts_give_known_numbers():
    # class 0: TP 6, FP 1, FN 2; class 1: TP 3, FP 2, FN 2 (one of them ignored).
    result = metrics_from_counts(np.array([[6, 2, 0], [1, 3, 1]]))
    np.testing.assert_allclose(result.iou, [6 / 9, 3 / 7])
    np.testing.assert_allclose(result.precision, [6 / 7, 3 / 5])
    np.testing.assert_allclose(result.recall, [6 / 8, 3 / 5])
    assert result.pixel_accuracy == 9 / 13
    assert result.ignored == 1 / 13
    np.testing.assert_allclose(result.miou, (6 / 9 + 3 / 7) / 2)
    np.testing.assert_allclose(result.miou_foreground, 3 / 7)
    assert result.gt_pixels.tolist() == [8, 5]


def test_a_class_that_occurs_nowhere_is_nan_and_leaves_the_mean_alone():
    result = metrics_from_counts(np.array([[4, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]))
    assert np.isnan([result.iou[2], result.precision[2], result.recall[2]]).all()
    assert result.miou == 1.0
    assert result.miou_foreground == 1.0


def test_a_class_that_is_only_predicted_counts_as_zero():
    result = metrics_from_counts(np.array([[3, 1, 0], [0, 0, 0]]))
    assert result.iou[1] == 0
    assert result.precision[1] == 0
    assert np.isnan(result.recall[1])
    np.testing.assert_allclose(result.miou, 3 / 8)


def test_counts_without_pixels_give_nan_everywhere_and_no_warning():
    result = metrics_from_counts(np.zeros((3, 4), np.int64))
    assert np.isnan([result.miou, result.miou_foreground, result.pixel_accuracy]).all()


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_iou_is_a_fraction_and_below_precision_and_recall(counts):
    result = metrics_from_counts(counts)
    known = ~np.isnan(result.iou)
    assert ((result.iou[known] >= 0) & (result.iou[known] <= 1)).all()
    for other in (result.precision, result.recall):
        both = known & ~np.isnan(other)
        assert (result.iou[both] <= other[both] + 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.permutations(range(4)))
def test_renaming_classes_renames_the_numbers(counts, order):
    moved = counts[order][:, [*order, 4]]
    np.testing.assert_allclose(
        metrics_from_counts(moved).iou, metrics_from_counts(counts).iou[list(order)]
    )


def test_a_stack_of_matrices_is_handled_like_single_ones():
    counts = np.random.default_rng(0).integers(0, 9, (6, 3, 4))
    expected = np.stack([metrics_from_counts(single).iou for single in counts])
    np.testing.assert_allclose(iou_from_counts(counts), expected)


def test_means_and_ratios_skip_what_is_undefined():
    assert np.isnan(nan_mean(np.array([np.nan, np.nan])))
    assert nan_mean(np.array([[1.0, np.nan], [0.0, 1.0]])).tolist() == [1.0, 0.5]
    assert np.isnan(ratio(np.array(0), np.array(0)))
