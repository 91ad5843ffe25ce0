from __future__ import annotations

import numpy as np
import pytest

from wsseg.evaluate.bootstrap import bootstrap_miou_difference
from wsseg.evaluate.metrics import metrics_from_counts


def image_counts(rng: np.random.Generator, num_images: int, right: float) -> np.ndarray:
    """Two-class images of 100 pixels of which a share is right."""
    counts = np.zeros((num_images, 2, 3), np.int64)
    for i in range(num_images):
        hits = rng.binomial(50, right, 2)
        counts[i, :, :2] = [[hits[0], 50 - hits[0]], [50 - hits[1], hits[1]]]
    return counts


def test_the_difference_is_that_of_the_summed_counts():
    rng = np.random.default_rng(0)
    a, b = image_counts(rng, 20, 0.7), image_counts(rng, 20, 0.8)
    result = bootstrap_miou_difference(a, b, num_resamples=50)
    expected = metrics_from_counts(b.sum(0)).miou - metrics_from_counts(a.sum(0)).miou
    assert result.difference == pytest.approx(expected)
    assert result.num_images == 20


def test_the_interval_equals_that_of_a_plain_loop_over_drawn_images():
    rng = np.random.default_rng(1)
    a, b = image_counts(rng, 15, 0.6), image_counts(rng, 15, 0.65)
    result = bootstrap_miou_difference(a, b, num_resamples=3000, seed=4, confidence=0.9)
    draw = np.random.default_rng(99)
    differences = []
    for _ in range(3000):
        chosen = draw.integers(0, 15, 15)
        differences.append(
            metrics_from_counts(b[chosen].sum(0)).miou - metrics_from_counts(a[chosen].sum(0)).miou
        )
    low, high = np.percentile(differences, [5, 95])
    assert result.low == pytest.approx(low, abs=0.004)
    assert result.high == pytest.approx(high, abs=0.004)
    assert result.share_better == pytest.approx(np.mean(np.array(differences) > 0), abs=0.03)


def test_a_method_compared_with_itself_gives_exactly_zero():
    counts = image_counts(np.random.default_rng(2), 10, 0.5)
    result = bootstrap_miou_difference(counts, counts, num_resamples=300)
    assert (result.difference, result.low, result.high, result.share_better) == (0, 0, 0, 0)


def test_pairing_gives_a_narrow_interval_where_images_differ_but_methods_do_not():
    rng = np.random.default_rng(3)
    a = np.concatenate([image_counts(rng, 10, 0.2), image_counts(rng, 10, 0.95)])
    b = a.copy()
    b[:, 1, 1] += 1
    result = bootstrap_miou_difference(a, b)
    assert 0 < result.low < result.high < 0.02
    assert result.share_better == 1.0


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(3)
    a, b = image_counts(rng, 8, 0.5), image_counts(rng, 8, 0.6)
    first, second = (bootstrap_miou_difference(a, b, seed=1) for _ in range(2))
    assert first == second
    assert bootstrap_miou_difference(a, b, seed=2).low != first.low


def test_foreground_only_leaves_the_background_out():
    a = np.array([[[0, 8, 0], [0, 8, 0]]])
    b = np.array([[[8, 0, 0], [0, 8, 0]]])
    both = bootstrap_miou_difference(a, b, num_resamples=5)
    foreground = bootstrap_miou_difference(a, b, num_resamples=5, foreground_only=True)
    assert both.difference == pytest.approx(0.75)
    assert foreground.difference == pytest.approx(0.5)


def test_settings_and_shapes_that_make_no_sense_are_refused():
    counts = np.ones((2, 2, 3), np.int64)
    with pytest.raises(ValueError, match="same n >= 1 images"):
        bootstrap_miou_difference(counts, counts[:1])
    with pytest.raises(ValueError, match="same n >= 1 images"):
        bootstrap_miou_difference(counts[:0], counts[:0])
    with pytest.raises(ValueError, match="confidence inside"):
        bootstrap_miou_difference(counts, counts, confidence=1.0)
    with pytest.raises(ValueError, match="num_resamples"):
        bootstrap_miou_difference(counts, counts, num_resamples=0)
