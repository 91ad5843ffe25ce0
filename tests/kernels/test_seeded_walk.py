"""Walks from seeds: edges count against the contrast of the image, whatever its range."""

from __future__ import annotations

import numpy as np
import pytest

from wsseg.kernels.seeded_walk import mean_contrast, seeded_walk


def two_halves(strength: float) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of two halves, and a seed in the outer corner of each."""
    image = np.random.default_rng(0).normal(0.4, 0.02, (12, 20, 3))
    image[:, 8:] += strength
    seeds = np.zeros((12, 20), np.int64)
    seeds[0, 0], seeds[11, 19] = 1, 2
    return image, seeds


def test_walkers_stay_on_their_side_of_an_edge():
    image, seeds = two_halves(0.3)
    walked = seeded_walk(image, seeds, 5.0)
    assert np.array_equal(walked.argmax(axis=0), np.tile(np.arange(20) >= 8, (12, 1)))


@pytest.mark.parametrize("factor", [0.1, 255.0])
def test_the_range_of_the_image_does_not_count(factor):
    image, seeds = two_halves(0.3)
    expected = seeded_walk(image, seeds, 5.0)
    np.testing.assert_allclose(seeded_walk(image * factor, seeds, 5.0), expected, atol=1e-6)


def test_without_beta_only_the_distance_counts():
    image, seeds = two_halves(0.3)
    flat = np.zeros_like(image)
    np.testing.assert_allclose(
        seeded_walk(image, seeds, 0.0), seeded_walk(flat, seeds, 5.0), atol=1e-6
    )


def test_contrast_is_the_mean_over_both_directions():
    image = np.array([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert mean_contrast(image) == pytest.approx((25 + 0 + 0 + 25) / 4)
    assert mean_contrast(np.zeros((1, 1, 3))) == 0
