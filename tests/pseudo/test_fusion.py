from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wsseg.errors import DataError
from wsseg.pseudo.fusion import fuse_agreement, fuse_majority

STACKS = st.integers(1, 5).flatmap(
    lambda n: npst.arrays(np.uint8, (n, 2, 5), elements=st.sampled_from([0, 1, 2, 254, 255]))
)


def majority_by_counting(votes: list[int], min_votes: int) -> int:
    counts = Counter(vote for vote in votes if vote != 255).most_common()
    if not counts or counts[0][1] < min_votes:
        return 255
    is_tie = len(counts) > 1 and counts[1][1] == counts[0][1]
    return 255 if is_tie else counts[0][0]


@settings(max_examples=80, deadline=None)
@given(STACKS, st.integers(1, 3))
def test_majority_equals_counting_votes_pixel_by_pixel(stack, min_votes):
    fused = fuse_majority(list(stack), min_votes)
    votes = stack.reshape(len(stack), -1).T.tolist()
    assert fused.ravel().tolist() == [majority_by_counting(v, min_votes) for v in votes]


@settings(max_examples=80, deadline=None)
@given(STACKS, st.integers(1, 3))
def test_agreement_equals_looking_at_the_set_of_votes(stack, min_votes):
    fused = fuse_agreement(list(stack), min_votes)
    for y in range(2):
        for x in range(5):
            votes = [int(v) for v in stack[:, y, x] if v != 255]
            agree = len(set(votes)) == 1 and len(votes) >= min_votes
            assert fused[y, x] == (votes[0] if agree else 255)


@settings(max_examples=40, deadline=None)
@given(STACKS)
def test_the_order_of_the_masks_does_not_matter(stack):
    np.testing.assert_array_equal(fuse_majority(list(stack)), fuse_majority(list(stack[::-1])))


def test_a_single_mask_is_returned_as_it_is():
    mask = np.array([[0, 3, 255]], np.uint8)
    for fuse in (fuse_majority, fuse_agreement):
        np.testing.assert_array_equal(fuse([mask]), mask)


def test_a_late_winner_after_a_tie_wins():
    masks = [np.array([[v]], np.uint8) for v in (0, 1, 2, 2)]
    assert fuse_majority(masks).tolist() == [[2]]


def test_no_mask_or_masks_of_different_sizes_are_refused():
    with pytest.raises(DataError, match="at least one mask"):
        fuse_majority([])
    with pytest.raises(DataError, match=r"\(1, 1\) uint8 and \(1, 2\) uint8"):
        fuse_agreement([np.zeros((1, 1), np.uint8), np.zeros((1, 2), np.uint8)])
