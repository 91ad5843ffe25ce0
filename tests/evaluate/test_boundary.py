from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wsseg.errors import DataError
from wsseg.evaluate.boundary import BoundaryIou, band_width_px, boundary_counts, inner_band


def band_by_definition(mask: np.ndarray, width_px: int) -> np.ndarray:
    """A pixel is in the band when some pixel within the window is outside its region."""
    padded = np.pad(mask.astype(int), width_px, constant_values=-1)
    band = np.zeros(mask.shape, bool)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            window = padded[y : y + 2 * width_px + 1, x : x + 2 * width_px + 1]
            band[y, x] = (window != mask[y, x]).any()
    return band


def counts_by_definition(prediction, truth, num_classes, width_px):
    prediction = np.where(truth == 255, 255, prediction)
    result = np.zeros((2, num_classes + 1), np.int64)
    for class_id in range(num_classes + 1):
        # Two-valued maps per class, as the paper has it.
        in_truth = (truth == class_id) & band_by_definition(truth == class_id, width_px)
        in_prediction = (prediction == class_id) & band_by_definition(
            prediction == class_id, width_px
        )
        result[0, class_id] = (in_truth & in_prediction).sum()
        result[1, class_id] = (in_truth | in_prediction).sum()
    return result


def test_the_band_is_two_percent_of_the_diagonal_and_at_least_one_pixel():
    assert band_width_px((300, 400)) == 10
    assert band_width_px((1, 1)) == 1
    assert band_width_px((30, 40), width_frac=0.1) == 5


def test_the_band_of_a_square_is_its_rim():
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    band = inner_band(mask, 1)
    assert band[mask == 1].sum() == 25 - 9
    assert not band[3:6, 3:6].any()


@settings(max_examples=40, deadline=None)
@given(
    npst.arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 1, 2, 255])),
    npst.arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 1, 2, 255])),
    st.sampled_from([0.05, 0.1, 0.2]),
)
def test_counts_equal_those_of_single_classes_by_definition(prediction, truth, width_frac):
    width_px = band_width_px((9, 11), width_frac)
    np.testing.assert_array_equal(
        boundary_counts(prediction, truth, 2, width_frac),
        counts_by_definition(prediction, truth, 2, width_px),
    )


def test_blocks_of_labels_equal_the_definition_too():
    rng = np.random.default_rng(1)
    truth = np.kron(rng.choice([0, 1, 2, 255], (4, 5)), np.ones((7, 7), int)).astype(np.uint8)
    prediction = np.roll(truth, 2, axis=1)
    np.testing.assert_array_equal(
        boundary_counts(prediction, truth, 2, 0.05), counts_by_definition(prediction, truth, 2, 2)
    )


def test_a_prediction_that_is_right_wherever_truth_is_known_scores_one():
    truth = np.zeros((40, 40), np.uint8)
    truth[8:32, 8:32] = 255
    truth[10:30, 10:30] = 1
    prediction = np.zeros_like(truth)
    prediction[9:31, 9:32] = 1
    boundary = BoundaryIou(num_classes=1)
    boundary.add(prediction, truth)
    assert boundary.iou().tolist() == [1.0, 1.0]
    assert boundary.mean() == 1.0


def test_a_shifted_outline_costs_far_more_than_plain_iou_shows():
    truth = np.zeros((200, 200), np.uint8)
    truth[20:180, 20:180] = 1
    prediction = np.roll(truth, 4, axis=0)
    boundary = BoundaryIou(num_classes=1)
    boundary.add(prediction, truth)
    iou = (160 - 4) / (160 + 4)
    assert boundary.iou()[1] < 0.6 < 0.95 < iou


def test_counts_are_summed_over_images_before_dividing():
    square = np.zeros((20, 20), np.uint8)
    square[5:15, 5:15] = 1
    boundary = BoundaryIou(num_classes=2, width_frac=0.04)
    boundary.add(square, square)
    boundary.add(np.zeros_like(square), square)
    # One image is all hit, the other all missed: the union is twice the intersection.
    assert boundary.iou()[1] == 0.5
    assert np.isnan(boundary.iou()[2])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
def test_tiny_images_are_all_boundary(shape):
    mask = np.ones(shape, np.uint8)
    assert boundary_counts(mask, mask, 1)[:, 1].tolist() == [mask.size, mask.size]


def test_sizes_that_differ_are_an_error():
    with pytest.raises(DataError, match="2 x 1 px"):
        boundary_counts(np.zeros((1, 2), np.uint8), np.zeros((2, 2), np.uint8), 1)
