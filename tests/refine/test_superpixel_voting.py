from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.refine.protocol import RefineContext
from wsseg.refine.superpixel_pooling import SuperpixelPooling, superpixel_pooling
from wsseg.refine.superpixel_voting import SuperpixelVoting, superpixel_voting
from wsseg.refine.superpixels import superpixels


def two_halves() -> np.ndarray:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    return image


TWO = {"method": "felzenszwalb", "sigma_px": 0, "min_area_px": 20}


@pytest.mark.parametrize("method", ["slic", "felzenszwalb"])
def test_each_superpixel_gets_the_shares_of_the_votes(method):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image[:, :20] //= 4
    values = rng.random((4, 30, 40)).astype(np.float32)
    scores = Scores(values, np.array([0, 2, 5, 9], np.uint8), (30, 40))
    config = SuperpixelVoting(method=method, area_px=60)
    refined = superpixel_voting(image, scores, config=config)
    regions = superpixels(image, config)
    for region in np.unique(regions):
        votes = Counter(
            int(np.argmax(values[:, y, x]))
            for y, x in zip(*np.nonzero(regions == region), strict=True)
        )
        shares = [votes[row] / votes.total() for row in range(4)]
        for y, x in zip(*np.nonzero(regions == region), strict=True):
            np.testing.assert_allclose(refined.values[:, y, x], shares, atol=1e-6)
    np.testing.assert_allclose(refined.values.sum(axis=0), 1, atol=1e-6)


def test_the_majority_wins_where_the_mean_follows_a_few_high_scores():
    values = np.full((2, 8, 8), 0.3, np.float32)
    values[1] = [0.2, 0.2, 0.2, 1.0, 0.0, 0.0, 0.0, 0.0]
    scores = Scores(values, np.array([0, 1], np.uint8), (8, 8))
    voted = superpixel_voting(two_halves(), scores, config=SuperpixelVoting(**TWO))
    pooled = superpixel_pooling(two_halves(), scores, config=SuperpixelPooling(**TWO))
    assert (voted.values.argmax(axis=0) == 0).all()
    assert (pooled.values.argmax(axis=0)[:, :4] == 1).all()


def test_equal_scores_vote_for_the_background():
    values = np.full((3, 8, 8), 0.5, np.float32)
    scores = Scores(values, np.array([0, 1, 2], np.uint8), (8, 8))
    voted = superpixel_voting(two_halves(), scores, config=SuperpixelVoting(**TWO))
    np.testing.assert_array_equal(voted.values[0], np.ones((8, 8), np.float32))


def test_a_small_map_votes_at_the_size_of_the_image():
    values = np.array([[[0.5, 0.5]], [[0.0, 1.0]]], np.float32)
    scores = Scores(values, np.array([0, 4], np.uint8), (8, 8))
    voted = superpixel_voting(two_halves(), scores, config=SuperpixelVoting(**TWO))
    assert voted.values.shape == (2, 8, 8)
    np.testing.assert_array_equal(voted.values.argmax(axis=0)[0], [0, 0, 0, 0, 1, 1, 1, 1])


def test_voting_again_changes_nothing():
    rng = np.random.default_rng(1)
    values = rng.random((3, 8, 8)).astype(np.float32)
    scores = Scores(values, np.array([0, 1, 2], np.uint8), (8, 8))
    config = SuperpixelVoting(**TWO)
    once = superpixel_voting(two_halves(), scores, config=config)
    twice = superpixel_voting(two_halves(), once, config=config)
    np.testing.assert_array_equal(once.values.argmax(axis=0), twice.values.argmax(axis=0))
    np.testing.assert_array_equal(twice.values.max(axis=0), np.ones((8, 8), np.float32))


def test_voting_and_pooling_share_the_superpixels_of_an_image():
    scores = Scores(np.zeros((2, 8, 8), np.float32), np.array([0, 1], np.uint8), (8, 8))
    context = RefineContext()
    superpixel_voting(two_halves(), scores, config=SuperpixelVoting(**TWO), context=context)
    superpixel_pooling(two_halves(), scores, config=SuperpixelPooling(**TWO), context=context)
    assert len(context.cache) == 1
    superpixel_voting(two_halves(), scores, config=SuperpixelVoting(area_px=9), context=context)
    assert len(context.cache) == 2


def test_an_image_of_another_size_than_its_scores_is_refused():
    scores = Scores(np.zeros((2, 5, 5), np.float32), np.array([0, 1], np.uint8), (20, 20))
    with pytest.raises(DataError, match=r"30 x 10 px, but its scores were made for 20 x 20 px"):
        superpixel_voting(np.zeros((10, 30, 3), np.uint8), scores)
