from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wsseg.errors import DataError
from wsseg.evaluate.confusion import ConfusionMatrix, pair_counts
from wsseg.evaluate.metrics import metrics_from_counts


def label_maps(num_classes: int) -> st.SearchStrategy[np.ndarray]:
    values = st.sampled_from([*range(num_classes + 1), 255])
    return npst.arrays(np.uint8, (5, 7), elements=values)


def counted_by_hand(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes + 1, num_classes + 2), np.int64)
    for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != 255:
            counts[t, num_classes + 1 if p == 255 else p] += 1
    return counts


def test_every_pair_of_a_small_map_is_counted_in_its_cell():
    truth = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
    prediction = np.array([[0, 1, 1], [255, 2, 0]], np.uint8)
    assert pair_counts(prediction, truth, 2).tolist() == [
        [1, 1, 0, 0],
        [0, 1, 0, 1],
        [0, 0, 1, 0],
    ]


@settings(max_examples=60, deadline=None)
@given(label_maps(3), label_maps(3))
def test_counts_equal_those_of_a_plain_loop(prediction, truth):
    expected = counted_by_hand(prediction, truth, 3)
    np.testing.assert_array_equal(pair_counts(prediction, truth, 3), expected)


@pytest.mark.parametrize("num_pixels", [1, 2, 3, 4, 5, 8, 1001])
def test_no_pixel_is_lost_at_the_end_of_the_unrolled_loop(num_pixels):
    truth = np.arange(num_pixels, dtype=np.uint8).reshape(1, -1) % 3
    assert pair_counts(truth, truth, 2).sum() == num_pixels


def test_all_254_classes_fit_beside_ignore():
    truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    counts = pair_counts(truth, truth, 254)
    assert counts.shape == (255, 256)
    np.testing.assert_array_equal(counts[:, :-1], np.eye(255))


def test_views_that_are_not_contiguous_are_counted_right():
    truth = (np.arange(40, dtype=np.uint8).reshape(5, 8) % 4)[:, ::2]
    prediction = np.asfortranarray(truth)
    np.testing.assert_array_equal(
        pair_counts(prediction, truth, 3), counted_by_hand(prediction, truth, 3)
    )


def test_iou_equals_that_of_torchmetrics_over_the_whole_set():
    import torch
    from torchmetrics.classification import MulticlassJaccardIndex

    rng = np.random.default_rng(3)
    oracle = MulticlassJaccardIndex(num_classes=5, ignore_index=255, average="none")
    matrix = ConfusionMatrix(num_classes=4)
    for _ in range(4):
        truth = rng.choice([0, 1, 2, 3, 4, 255], size=(30, 20)).astype(np.uint8)
        prediction = rng.integers(0, 5, (30, 20)).astype(np.uint8)
        matrix.add(prediction, truth)
        oracle.update(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    np.testing.assert_allclose(
        metrics_from_counts(matrix.counts).iou, oracle.compute().numpy(), atol=1e-6
    )
    assert matrix.num_images == 4


def test_leaving_pixels_open_never_raises_the_iou():
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    answered = metrics_from_counts(pair_counts(np.array([[0, 0, 1, 0]], np.uint8), truth, 1))
    refused = metrics_from_counts(pair_counts(np.array([[0, 0, 1, 255]], np.uint8), truth, 1))
    assert refused.iou[1] == answered.iou[1] == 0.5
    assert refused.recall[1] == 0.5
    assert refused.iou[0] == 1.0
    assert refused.ignored == 0.25
    assert refused.pixel_accuracy == 0.75


def test_matrices_of_two_halves_add_up_to_that_of_the_whole():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (4, 2, 6, 6)).astype(np.uint8)
    whole, first, second = (ConfusionMatrix(2) for _ in range(3))
    for i, (prediction, truth) in enumerate(masks):
        whole.add(prediction, truth)
        (first if i < 2 else second).add(prediction, truth)
    first.merge(second)
    np.testing.assert_array_equal(first.counts, whole.counts)
    assert first.num_images == 4
    with pytest.raises(ValueError, match="2 and 3 classes"):
        first.merge(ConfusionMatrix(3))


def test_a_value_outside_the_class_list_is_named():
    truth = np.array([[0, 7, 9]], np.uint8)
    with pytest.raises(DataError, match=r"ground truth has the values 7, 9; expected.*0 to 2"):
        pair_counts(np.zeros((1, 3), np.uint8), truth, 2)
    with pytest.raises(DataError, match="prediction has the values 7, 9"):
        pair_counts(truth, np.zeros((1, 3), np.uint8), 2)


def test_an_outside_value_in_the_prediction_is_found_under_ignored_truth_too():
    with pytest.raises(DataError, match="the values 9"):
        pair_counts(np.array([[9]], np.uint8), np.array([[255]], np.uint8), 2)


def test_sizes_that_differ_are_both_named():
    with pytest.raises(DataError, match=r"3 x 2 px .* 4 x 2 px"):
        pair_counts(np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8), 1)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 3), np.uint8)])
def test_anything_but_a_uint8_label_map_is_refused(wrong):
    with pytest.raises(DataError, match=r"expected a label map \(H, W\) of type uint8"):
        pair_counts(wrong, np.zeros((2, 2), np.uint8), 1)


def test_more_classes_than_fit_are_refused():
    mask = np.zeros((1, 1), np.uint8)
    with pytest.raises(DataError, match="0 to 254 classes, not 255"):
        pair_counts(mask, mask, 255)
