from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg.data.scores import Scores
from wsseg.pseudo.doubt import MaskEvidence, doubt_scores, mask_evidence

FRACTIONS = st.floats(0, 1)
EVIDENCE = st.builds(
    MaskEvidence,
    uncertainty=FRACTIONS,
    ignored=FRACTIONS,
    missing=FRACTIONS,
    areas=st.dictionaries(st.integers(1, 3), st.floats(1e-6, 1), max_size=3),
)


def make_scores(rows, class_ids) -> Scores:
    values = np.asarray(rows, np.float32)
    return Scores(values, np.array([0, *class_ids], np.uint8), values.shape[1:])


def test_uncertainty_is_the_weighted_mean_of_one_minus_the_margin():
    scores = make_scores([[[0.2, 0.9, 0.5]], [[0.6, 0.1, 0.25]], [[0.2, 0.0, 0.25]]], [1, 2])
    # Shares (.2 .6 .2), (.9 .1 0), (.5 .25 .25): margins .4, .8, .25; foreground .8, .1, .5.
    expected = (0.8 * 0.6 + 0.1 * 0.2 + 0.5 * 0.75) / 1.4
    signs = mask_evidence(scores, np.array([[1, 0, 0]], np.uint8))
    assert signs.uncertainty == pytest.approx(expected, rel=1e-6)


def test_a_large_sure_background_does_not_hide_an_unsure_object():
    values = np.zeros((2, 50, 50), np.float32)
    values[0] = 1
    values[:, 20:24, 20:24] = 0.5
    signs = mask_evidence(make_scores(values, [1]), np.zeros((50, 50), np.uint8))
    assert signs.uncertainty == pytest.approx(1.0)


def test_shares_of_ignored_and_missing_are_counted():
    scores = make_scores(np.full((3, 1, 4), 0.5), [1, 2])
    mask = np.array([[0, 255, 1, 1]], np.uint8)
    signs = mask_evidence(scores, mask, frozenset({1, 2}))
    assert signs.ignored == pytest.approx(1 / 3)
    assert signs.missing == 0.5
    assert signs.areas == {1: 0.5}
    assert mask_evidence(scores, mask).missing == 0


def test_an_image_without_classes_or_without_evidence_has_no_doubt():
    ok = Scores(np.ones((1, 3, 3), np.float32), np.zeros(1, np.uint8), (3, 3))
    silent = make_scores(np.zeros((2, 3, 3)), [1])
    evidence = {
        "ok": mask_evidence(ok, np.zeros((3, 3), np.uint8), frozenset()),
        "silent": mask_evidence(silent, np.zeros((3, 3), np.uint8)),
    }
    assert doubt_scores(evidence) == {"ok": 0.0, "silent": 0.0}


def test_the_formula_combines_the_signs():
    doubt = doubt_scores({"a": MaskEvidence(0.4, 0.2, 0.5)})["a"]
    assert doubt == pytest.approx(1 - 0.8 * 0.9 * 0.5)


def test_a_tagged_class_that_is_altogether_missing_comes_first():
    evidence = {"a": MaskEvidence(1.0, 1.0, 0.0), "b": MaskEvidence(0.0, 0.0, 1.0)}
    doubts = doubt_scores(evidence)
    assert doubts["b"] == 1.0 > doubts["a"]


def of_areas(areas: list[float]) -> dict[str, MaskEvidence]:
    return {str(i): MaskEvidence(0, 0, 0, {1: area}) for i, area in enumerate(areas)}


def test_areas_far_from_the_usual_raise_the_doubt_on_both_sides():
    doubts = doubt_scores(of_areas([0.1, 0.11, 0.09, 0.1, 0.1, 0.1, 0.9, 0.001]))
    assert [doubts[str(i)] for i in range(6)] == [0.0] * 6
    assert doubts["6"] == doubts["7"] == 0.5


def test_a_class_of_few_images_has_no_usual_area():
    assert set(doubt_scores(of_areas([0.1, 0.1, 0.1, 0.9])).values()) == {0.0}


def test_evidence_survives_json_of_its_fields():
    signs = MaskEvidence(0.1, 0.2, 0.3, {1: 0.5})
    assert json.loads(json.dumps(asdict(signs)))["areas"] == {"1": 0.5}


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(max_size=3), EVIDENCE, max_size=8))
def test_doubt_is_a_fraction_in_the_order_of_the_input(evidence):
    doubts = doubt_scores(evidence)
    assert list(doubts) == list(evidence)
    assert all(0 <= value <= 1 for value in doubts.values())


@settings(max_examples=60, deadline=None)
@given(EVIDENCE, st.sampled_from(["uncertainty", "ignored", "missing"]), FRACTIONS)
def test_more_of_any_sign_never_lowers_the_doubt(signs, name, value):
    fields = asdict(signs)
    higher = MaskEvidence(**(fields | {name: max(fields[name], value)}))
    assert doubt_scores({"a": higher})["a"] >= doubt_scores({"a": signs})["a"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_evidence_of_any_scores_is_in_range(seed, num_classes):
    rng = np.random.default_rng(seed)
    values = rng.random((num_classes + 1, 4, 5)) * rng.integers(0, 2, (num_classes + 1, 4, 5))
    scores = make_scores(values, range(1, num_classes + 1))
    mask = rng.choice([0, 1, 255], (4, 5)).astype(np.uint8)
    signs = mask_evidence(scores, mask, frozenset({1, 2}))
    assert all(0 <= v <= 1 for v in (signs.uncertainty, signs.ignored, signs.missing))
