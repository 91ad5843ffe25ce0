"""Tests of wsseg.segment.uncertainty against the published formula in float64."""

from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.labels import WeakLabels
from wsseg.kernels.dense_crf import CrfConfig, dense_crf
from wsseg.segment.draft import ImageFacts
from wsseg.segment.rounds_config import Urn
from wsseg.segment.uncertainty import loss_weights, scaled, uncertainty, weight_bytes

STILL = CrfConfig(gauss_compat=0, bilateral_compat=0)


def _facts(size: tuple[int, int], tags: set[int] | None = None) -> ImageFacts:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = WeakLabels(tags=None if tags is None else frozenset(tags))
    return ImageFacts("a", image, labels, np.zeros(size, np.uint8))


def test_without_edges_a_pixel_is_doubtful_where_the_factor_decides():
    # Odds of the class against the background: 9, 1 / 4.5 and 1 / 9; factors from 0.15 to 6.
    values = np.array([[0.1, 0.818, 0.9], [0.9, 0.182, 0.1]], np.float32).reshape(2, 1, 3)
    doubt = uncertainty(values, _facts((1, 3), {1}), Urn(crf=STILL))
    # Class wins with: 0.15*9, 0.2*9, 0.25*9, ... all six; 5 and 6 of six; none of six.
    share = 2 / 6
    assert share * (1 - share) > 0
    np.testing.assert_allclose(doubt, [[0, 1, 0]], atol=1e-6)


def test_uncertainty_is_the_scaled_maximum_of_variances_over_classes():
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(3), (6, 8)).transpose(2, 0, 1).astype(np.float32)
    facts = _facts((6, 8), {1, 2})
    config = Urn(crf=CrfConfig(iterations=3, bilateral_sxy_px=5))
    variances = []
    for class_id in (1, 2):
        masks = []
        for power in config.powers:
            changed = values.astype(np.float64)
            changed[class_id] *= power
            energy = -np.log(np.clip(changed / changed.sum(axis=0), 1e-5, 1)).astype(np.float32)
            q = dense_crf(facts.image, energy, config=config.crf)
            masks.append((q.argmax(axis=0) == class_id).astype(np.float64))
        mean = sum(masks) / len(masks)
        variances.append(sum((m - mean) ** 2 for m in masks) / len(masks))
    highest = np.maximum(*variances)
    expected = (highest - highest.min()) / (highest.max() - highest.min())
    np.testing.assert_allclose(uncertainty(values, facts, config), expected, atol=1e-6)


def test_only_classes_that_are_present_raise_doubt():
    # The first pixel is certain, class 1 is doubtful in the second, class 2 in the third.
    values = np.array([[0.98, 0.6, 0.6], [0.01, 0.4, 0.0], [0.01, 0.0, 0.4]], np.float32)
    values = values.reshape(3, 1, 3)
    both = uncertainty(values, _facts((1, 3), {1, 2}), Urn(crf=STILL))
    one = uncertainty(values, _facts((1, 3), {2}), Urn(crf=STILL))
    np.testing.assert_array_equal(both, [[0, 1, 1]])
    np.testing.assert_array_equal(one, [[0, 0, 1]])


def test_without_tags_the_predicted_classes_are_present():
    values = np.array([[0.98, 0.4], [0.01, 0.6], [0.01, 0.0]], np.float32).reshape(3, 1, 2)
    found = uncertainty(values, _facts((1, 2)), Urn(crf=STILL))
    np.testing.assert_array_equal(found, uncertainty(values, _facts((1, 2), {1}), Urn(crf=STILL)))
    assert found.max() == 1


def test_an_image_without_classes_is_certain():
    values = np.zeros((3, 4, 5), np.float32)
    values[0] = 1
    assert not uncertainty(values, _facts((4, 5), set()), Urn()).any()


def test_scaling_a_response_changes_the_odds_of_its_class_alone():
    values = np.array([0.2, 0.3, 0.5]).reshape(3, 1, 1).astype(np.float32)
    found = scaled(values, 1, 4.0).ravel()
    np.testing.assert_allclose(found, np.array([0.2, 1.2, 0.5]) / 1.9, rtol=1e-6)
    assert values[1] == np.float32(0.3)


def test_weights_survive_their_file_within_half_a_step():
    doubt = np.linspace(0, 1, 1001, dtype=np.float32)[None]
    read = loss_weights(weight_bytes(doubt), Urn(binary=False, max_weight=0, floor=0))
    assert np.abs(read - (1 - doubt)).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(("binary", "kept"), [(True, 1.0), (False, 128 / 255)])
def test_uncertain_pixels_count_little_and_others_fully_or_as_they_are(binary: bool, kept: float):
    stored = np.array([[0, 12, 128]], np.uint8)  # 12 / 255 = 0.047
    found = loss_weights(stored, Urn(binary=binary))
    np.testing.assert_allclose(found, [[0.05, 0.05, kept]], rtol=1e-6)
