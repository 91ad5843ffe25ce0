from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.kernels.dense_crf_config import PSA, CrfConfig
from wsseg.refine import confident
from wsseg.refine.confident import (
    affinity_labels_two_alphas,
    affinity_labels_two_thresholds,
    labels_from_marginals,
    two_alpha_marginals,
)

# Without messages the marginals are the scores, divided by their sum.
NO_MESSAGES = CrfConfig(gauss_compat=0, bilateral_compat=0)


def make_scores(seed: int = 0, num_classes: int = 2, size=(13, 17), map_size=None) -> Scores:
    rng = np.random.default_rng(seed)
    grid = map_size or size
    # A strength per pixel, so that every number of classes leaves pixels of each kind.
    values = rng.random((num_classes + 1, *grid)) * rng.random(grid)
    values = values.astype(np.float32)
    ids = np.array([0, *rng.permutation(np.arange(1, 81))[:num_classes]], np.uint8)
    return Scores(values, ids, size)


def make_image(size=(13, 17), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3)).astype(np.uint8)
    image[size[0] // 3 :, size[1] // 3 :] += 150
    return image


def label_by_psa(classes: list[float], ids: list[int], low: float, high: float) -> int:
    """One pixel by the words of the paper, in float64."""
    strongest = max(classes)
    label = 255
    if strongest > (1 - strongest) ** low:
        label = ids[classes.index(strongest)]
    if strongest <= (1 - strongest) ** high:
        label = 0
    return label


def label_by_irn(classes: list[float], ids: list[int], low: float, high: float) -> int:
    strongest = max(classes)
    if strongest > high:
        return ids[classes.index(strongest)]
    return 255 if strongest > low else 0


def by_pixel(scores: Scores, rule, low: float, high: float) -> list[list[int]]:
    ids = scores.class_ids[1:].tolist()
    pixels = scores.values[1:].astype(np.float64).transpose(1, 2, 0).tolist()
    return [[rule(classes, ids, low, high) for classes in row] for row in pixels]


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_without_messages_two_alphas_cut_the_scores_where_the_background_equals_them(num_classes):
    scores = make_scores(num_classes=num_classes)
    found = affinity_labels_two_alphas(make_image(), scores, crf=NO_MESSAGES)
    expected = by_pixel(scores, label_by_psa, 4, 32)
    assert found.dtype == np.uint8
    assert found.tolist() == expected
    assert {0, 255} < set(np.unique(found).tolist())


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_without_messages_two_thresholds_cut_the_scores_at_them(num_classes):
    scores = make_scores(num_classes=num_classes)
    found = affinity_labels_two_thresholds(make_image(), scores, crf=NO_MESSAGES)
    assert found.dtype == np.uint8
    assert found.tolist() == by_pixel(scores, label_by_irn, 0.05, 0.30)
    assert {0, 255} < set(np.unique(found).tolist())


def test_alphas_cut_at_the_published_scores():
    # (1 - s)^alpha = s at 0.276 for 4 and at 0.077 for 32.
    ramp = np.array([0.05, 0.076, 0.078, 0.15, 0.275, 0.277, 0.9], np.float32)
    values = np.stack([np.zeros_like(ramp), ramp])[:, None]
    scores = Scores(values, np.array([0, 9], np.uint8), (1, 7))
    image = np.zeros((1, 7, 3), np.uint8)
    found = affinity_labels_two_alphas(image, scores, crf=NO_MESSAGES)
    assert found.tolist() == [[0, 0, 255, 255, 255, 9, 9]]


def test_a_pixel_that_both_rules_claim_is_background_in_psa():
    low = np.array([[[0.1]], [[0.9]]], np.float32)
    high = np.array([[[0.9]], [[0.1]]], np.float32)
    assert labels_from_marginals(low, high, np.array([0, 4], np.uint8)).tolist() == [[0]]


def test_a_pixel_that_both_rules_claim_is_foreground_in_irn(monkeypatch):
    # The CRF may smooth the generous map away where the strict one stays.
    winners = iter([1, 0])

    def fake_crf(_image, scores, *, config, context):
        values = np.zeros_like(scores.values)
        values[next(winners)] = 1
        assert config.gt_prob == 0.7
        assert (config.bilateral_sxy_px, config.bilateral_srgb) == (50, 5)
        return replace(scores, values=values)

    monkeypatch.setattr(confident, "dense_crf", fake_crf)
    scores = make_scores(num_classes=1)
    assert (affinity_labels_two_thresholds(make_image(), scores) == scores.class_ids[1]).all()


def test_where_every_score_is_zero_there_is_padding_and_no_label():
    low = np.zeros((2, 1, 3), np.float32)
    high = np.zeros((2, 1, 3), np.float32)
    low[0, 0, 1], high[0, 0, 1] = 1, 1
    low[1, 0, 2], high[1, 0, 2] = 2e-5, 2e-5
    assert labels_from_marginals(low, high, np.array([0, 4], np.uint8)).tolist() == [[255, 0, 4]]


def test_labels_are_those_of_two_separate_crfs():
    from wsseg.kernels.dense_crf import dense_crf, unary_from_scores

    image, scores = make_image(), make_scores()
    crf = CrfConfig(bilateral_sxy_px=10, bilateral_srgb=20)
    classes = scores.values[1:].astype(np.float64)
    winners = []
    for alpha in (4, 24):
        background = (1 - classes.max(axis=0)) ** alpha
        unary = unary_from_scores(np.concatenate([background[None], classes]))
        winners.append(scores.class_ids[dense_crf(image, unary, config=crf).argmax(axis=0)])
    expected = np.where(winners[0] == 0, 255, winners[0])
    expected[winners[1] == 0] = 0
    found = affinity_labels_two_alphas(image, scores, alpha_high=24, crf=crf)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rule", [affinity_labels_two_alphas, affinity_labels_two_thresholds])
def test_the_background_row_is_not_used_and_nothing_is_changed(rule):
    image, scores = make_image(), make_scores(map_size=(4, 5))
    image_before, values_before = image.copy(), scores.values.copy()
    without = scores.with_background(np.zeros((4, 5), np.float32))
    found = rule(image, scores)
    assert found.shape == (13, 17)
    np.testing.assert_array_equal(found, rule(image, without))
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(scores.values, values_before)


@pytest.mark.parametrize("rule", [affinity_labels_two_alphas, affinity_labels_two_thresholds])
def test_an_image_without_classes_is_confident_background(rule):
    scores = Scores(np.ones((1, 4, 5), np.float32), np.array([0], np.uint8), (13, 17))
    found = rule(make_image(), scores)
    assert found.shape == (13, 17)
    assert (found == 0).all()


@pytest.mark.parametrize("rule", [affinity_labels_two_alphas, affinity_labels_two_thresholds])
def test_one_pixel_has_a_label(rule):
    values = np.array([[[0.0]], [[0.9]]], np.float32)
    scores = Scores(values, np.array([0, 3], np.uint8), (1, 1))
    assert rule(np.zeros((1, 1, 3), np.uint8), scores).tolist() == [[3]]


def test_both_crfs_and_later_ones_share_the_lattices(monkeypatch):
    from wsseg.kernels import dense_crf as kernel

    built = []
    build = kernel.build_crf_lattices

    def counted(*args, **options):
        built.append(args)
        return build(*args, **options)

    monkeypatch.setattr(kernel, "build_crf_lattices", counted)
    image, scores, cache = make_image(), make_scores(), {}
    first = affinity_labels_two_alphas(image, scores, cache=cache)
    assert len(built) == 1
    again = affinity_labels_two_alphas(image, scores, cache=cache)
    assert len(built) == 1
    np.testing.assert_array_equal(first, again)
    affinity_labels_two_alphas(image, scores)
    assert len(built) == 2


def test_marginals_have_the_size_of_the_image_and_sum_to_one():
    scores = make_scores(map_size=(4, 5))
    low, high = two_alpha_marginals(make_image(), scores, crf=PSA)
    assert low.values.shape == high.values.shape == (3, 13, 17)
    assert low.values.sum(axis=0) == pytest.approx(np.ones((13, 17)), abs=1e-5)
    assert low.values[0].mean() > high.values[0].mean()


@pytest.mark.parametrize(("low", "high"), [(4, 4), (8, 4), (0, 4)])
def test_exponents_in_the_wrong_order_are_refused(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        affinity_labels_two_alphas(make_image(), make_scores(), alpha_low=low, alpha_high=high)


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="0 <= background <= foreground"):
        affinity_labels_two_thresholds(
            make_image(), make_scores(), fg_threshold=0.1, bg_threshold=0.3
        )


@pytest.mark.parametrize("rule", [affinity_labels_two_alphas, affinity_labels_two_thresholds])
def test_an_image_of_another_size_is_refused(rule):
    with pytest.raises(DataError, match="scores were made for 17 x 13 px"):
        rule(make_image((8, 8)), make_scores())
