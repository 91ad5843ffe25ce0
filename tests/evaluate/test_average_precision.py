from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg.evaluate.average_precision import average_precision, classifier_entry


def test_a_perfect_order_scores_one_and_the_reverse_scores_least():
    tags = np.array([[True], [True], [False], [False]])
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    assert average_precision(scores, tags).tolist() == [1.0]
    # Hits at ranks 3 and 4: (1/3 + 2/4) / 2.
    assert average_precision(-scores, tags)[0] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_equal_scores_enter_together_whatever_their_order():
    scores = np.full((4, 1), 0.5)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        tags = np.array([[True], [False], [False], [False]])[order]
        assert average_precision(scores, tags)[0] == 0.25


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 100_000))
def test_it_equals_torchmetrics_with_and_without_ties(seed):
    import torch
    from torchmetrics.classification import MultilabelAveragePrecision

    rng = np.random.default_rng(seed)
    scores = np.round(rng.random((25, 3)), int(rng.integers(1, 7))).astype(np.float32)
    tags = rng.random((25, 3)) < 0.4
    tags[0] = True
    oracle = MultilabelAveragePrecision(num_labels=3, average="none")
    expected = oracle(torch.from_numpy(scores), torch.from_numpy(tags).long()).numpy()
    np.testing.assert_allclose(average_precision(scores, tags), expected, atol=1e-5)


def test_a_class_that_no_image_shows_has_no_precision_and_leaves_the_mean_alone():
    scores = np.array([[0.9, 0.5], [0.1, 0.4]])
    tags = np.array([[True, False], [False, False]])
    entry = classifier_entry(scores, tags, ["dent", "stain"], split="val")
    assert entry == {
        "split": "val",
        "map": 1.0,
        "ap": {"dent": 1.0, "stain": None},
        "num_images": 2,
    }


def test_no_image_at_all_gives_null():
    empty = np.zeros((0, 1))
    assert classifier_entry(empty, empty.astype(bool), ["dent"], split="val")["map"] is None


def test_shapes_that_differ_and_nan_are_refused():
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        average_precision(np.zeros((2, 2)), np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="NaN"):
        average_precision(np.array([[np.nan]]), np.array([[True]]))
