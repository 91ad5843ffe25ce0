"""Sharing out images with several labels."""

import numpy as np
import pytest

from wsseg.data.stratify import iterative_stratification


def shares_of(counts, subset, index):
    return counts[subset == index].sum(axis=0) / counts.sum(axis=0)


def test_every_label_gets_its_share_even_where_labels_overlap():
    rng = np.random.default_rng(0)
    counts = (rng.random((2000, 6)) < [0.5, 0.3, 0.1, 0.05, 0.02, 0.2]).astype(np.int64)
    sizes = np.ones(2000, np.int64)
    subset = iterative_stratification(counts, sizes, np.array([0.7, 0.2, 0.1]), rng)
    for index, share in enumerate((0.7, 0.2, 0.1)):
        # Half an image more or less would be perfect for the rarest label (about 40 images).
        np.testing.assert_allclose(shares_of(counts, subset, index), share, atol=0.04)
        assert np.mean(subset == index) == pytest.approx(share, abs=0.02)


def test_rare_labels_are_shared_better_than_by_chance():
    rng = np.random.default_rng(1)
    counts = (rng.random((500, 8)) < 0.02).astype(np.int64)
    sizes = np.ones(500, np.int64)
    fractions = np.array([0.8, 0.2])
    error = {"stratified": [], "random": []}
    for seed in range(5):
        chosen = iterative_stratification(counts, sizes, fractions, np.random.default_rng(seed))
        error["stratified"].append(np.abs(shares_of(counts, chosen, 1) - 0.2).mean())
        chance = (np.random.default_rng(seed).random(500) < 0.2).astype(int)
        error["random"].append(np.abs(shares_of(counts, chance, 1) - 0.2).mean())
    assert np.mean(error["stratified"]) < 0.5 * np.mean(error["random"])


def test_the_first_unit_of_every_label_goes_to_subset_0():
    counts = np.eye(6, dtype=np.int64)
    fractions = np.array([0.3, 0.7])
    subset = iterative_stratification(
        counts, np.ones(6, np.int64), fractions, np.random.default_rng(0)
    )
    assert (subset == 0).all()


def test_a_subset_without_share_stays_empty():
    counts = np.ones((20, 1), np.int64)
    subset = iterative_stratification(
        counts, np.ones(20, np.int64), np.array([0.5, 0.0, 0.5]), np.random.default_rng(0)
    )
    assert set(subset.tolist()) == {0, 2}
    assert np.count_nonzero(subset == 0) == 10


def test_large_groups_do_not_spoil_the_shares():
    sizes = np.array([40, 10, 10, 10, 10, 5, 5, 5, 5])
    counts = sizes[:, None]
    subset = iterative_stratification(counts, sizes, np.array([0.6, 0.4]), np.random.default_rng(0))
    assert sizes[subset == 0].sum() == pytest.approx(60, abs=5)
