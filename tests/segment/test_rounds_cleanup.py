"""Tests of wsseg.segment.draft and rounds_cleanup on hand-made predictions."""

from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.labels import Boxes, WeakLabels
from wsseg.segment.draft import (
    Draft,
    ImageFacts,
    box_pixels,
    carried_classes,
    enforce,
    scaled_labels,
)
from wsseg.segment.rounds_cleanup import boxes, clean, confidence, crf, keep_first, tags
from wsseg.segment.rounds_config import (
    BoxesCleanup,
    ConfidenceCleanup,
    CrfCleanup,
    KeepFirstCleanup,
    RoundsConfig,
)


def _draft(labels: list[list[int]], num: int = 3, sure: float = 0.8) -> Draft:
    """A prediction whose best classes are the given ones."""
    found = np.array(labels)
    values = np.full((num, *found.shape), (1 - sure) / (num - 1), np.float32)
    for class_id in range(num):
        values[class_id][found == class_id] = sure
    return Draft.of(values)


def _facts(labels: WeakLabels, first: list[list[int]]) -> ImageFacts:
    mask = np.array(first, np.uint8)
    image = np.zeros((*mask.shape, 3), np.uint8)
    return ImageFacts("a", image, labels, mask)


BOXED = WeakLabels(boxes=Boxes([[0, 0, 2, 2], [3, 0, 5, 2]], [1, 2]))


def test_a_class_outside_the_tags_gives_way_to_the_next_best():
    values = np.array([0.1, 0.6, 0.3], np.float32).reshape(3, 1, 1)
    facts = _facts(WeakLabels(tags={2}), [[0]])
    cleaned = tags(Draft.of(values), facts)
    np.testing.assert_allclose(cleaned.probabilities.ravel(), [0.25, 0, 0.75], atol=1e-6)
    assert cleaned.mask.tolist() == [[2]]
    assert values[1, 0, 0] == np.float32(0.6)


def test_an_untagged_image_keeps_all_classes():
    draft = _draft([[1, 2]])
    assert tags(draft, _facts(WeakLabels(), [[0, 0]])) is draft


def test_boxes_without_tags_say_which_classes_there_are():
    assert carried_classes(BOXED) == {1, 2}
    assert carried_classes(WeakLabels(tags=frozenset())) == frozenset()
    assert carried_classes(WeakLabels(tags={3}, boxes=BOXED.boxes)) == {1, 2, 3}


def test_what_lies_outside_of_every_box_of_its_class_becomes_background():
    draft = _draft([[1, 1, 1, 2, 2], [1, 1, 0, 1, 2]])
    cleaned = boxes(draft, _facts(BOXED, [[0] * 5] * 2))
    assert cleaned.mask.tolist() == [[1, 1, 0, 2, 2], [1, 1, 0, 0, 2]]


def test_a_box_that_is_less_than_half_full_is_reset_to_its_first_label():
    draft = _draft([[1, 0, 0, 2, 2], [0, 0, 0, 2, 0]])
    first = [[1, 255, 0, 2, 2], [1, 0, 0, 2, 2]]
    cleaned = boxes(draft, _facts(BOXED, first))
    assert cleaned.mask.tolist() == [[1, 255, 0, 2, 2], [1, 0, 0, 2, 0]]
    assert boxes(draft, _facts(BOXED, first), BoxesCleanup(min_iou=0.25)).mask[0, 1] == 0


def test_exactly_half_a_box_is_enough():
    draft = _draft([[1, 1, 0, 0, 0], [0, 0, 0, 2, 2]])
    cleaned = boxes(draft, _facts(BOXED, [[1, 1, 0, 2, 2]] * 2))
    assert cleaned.mask.tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 2, 2]]


def test_an_image_without_boxes_is_left_as_it_is():
    draft = _draft([[1, 2]])
    assert boxes(draft, _facts(WeakLabels(tags={1}), [[0, 0]])) is draft


def test_pixels_that_are_not_sure_are_ignored():
    values = np.array([[0.9, 0.45, 0.3], [0.05, 0.4, 0.65], [0.05, 0.15, 0.05]], np.float32)
    draft = Draft.of(values[:, None])
    facts = _facts(WeakLabels(), [[0, 0, 0]])
    assert confidence(draft, facts).mask.tolist() == [[0, 255, 1]]
    margin = ConfidenceCleanup(min_confidence=0, min_margin=0.4)
    assert confidence(draft, facts, margin).mask.tolist() == [[0, 255, 255]]
    band = ConfidenceCleanup(min_confidence=0, band_low=0.5, band_high=0.7)
    assert confidence(draft, facts, band).mask.tolist() == [[0, 0, 255]]


def test_a_class_that_vanished_gets_its_first_mask_back():
    draft = _draft([[0, 1, 1, 1], [0, 0, 0, 0]])
    facts = _facts(WeakLabels(), [[1, 1, 2, 2], [255, 2, 0, 0]])
    assert keep_first(draft, facts).mask.tolist() == [[0, 1, 2, 2], [0, 2, 0, 0]]


def test_a_class_that_almost_vanished_comes_back_where_asked_for():
    draft = _draft([[1, 0, 0, 0]])
    facts = _facts(WeakLabels(), [[0, 1, 1, 1]])
    assert keep_first(draft, facts).mask.tolist() == [[1, 0, 0, 0]]
    config = KeepFirstCleanup(min_frac=0.34)
    assert keep_first(draft, facts, config).mask.tolist() == [[1, 1, 1, 1]]


def test_the_crf_moves_a_prediction_to_the_edge_of_the_image_and_adds_no_class():
    image = np.zeros((6, 12, 3), np.uint8)
    image[:, 6:] = 220
    draft = _draft([[0] * 7 + [1] * 5] * 6, num=3, sure=0.7)
    draft.probabilities[2] = 0
    facts = ImageFacts("a", image, WeakLabels(), np.zeros((6, 12), np.uint8))
    cleaned = crf(draft, facts, CrfCleanup(gauss_compat=0, bilateral_sxy_px=20))
    assert cleaned.mask.tolist() == [[0] * 6 + [1] * 6] * 6
    assert not cleaned.probabilities[2].any()


def test_the_crf_equals_the_refiner_of_the_same_name():
    from wsseg.data.scores import Scores
    from wsseg.refine.dense_crf import dense_crf

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    values = rng.dirichlet(np.ones(3), (9, 11)).transpose(2, 0, 1).astype(np.float32)
    facts = ImageFacts("a", image, WeakLabels(), np.zeros((9, 11), np.uint8))
    expected = dense_crf(image, Scores(values, np.arange(3, dtype=np.uint8), (9, 11)))
    np.testing.assert_allclose(
        crf(Draft.of(values), facts).probabilities, expected.values, atol=1e-6
    )


def test_clean_ups_are_applied_in_the_order_given():
    draft = _draft([[0, 0, 0, 2, 2], [0, 0, 1, 2, 2]])
    facts = _facts(BOXED, [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]])
    config = RoundsConfig(count=1, cleanups=["boxes", "keep_first"])
    cleaned = clean(draft, facts, config.cleanups)
    assert cleaned.mask.tolist() == [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]]
    # The other way round class 1 has not vanished yet, and its box is reset all the same.
    other = RoundsConfig(count=1, cleanups=["keep_first", {"name": "boxes", "min_iou": 0}])
    assert clean(draft, facts, other.cleanups).mask.tolist() == [[0, 0, 0, 2, 2]] * 2


@pytest.mark.parametrize("seed", range(20))
def test_no_mask_ever_contradicts_tags_and_boxes(seed: int):
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.ones(4), (7, 9)).transpose(2, 0, 1).astype(np.float32)
    corner = rng.uniform(0, 5, (3, 2))
    xyxy = np.concatenate([corner, corner + rng.uniform(0.1, 4, (3, 2))], axis=1)
    owners = rng.integers(1, 3, 3)
    labels = WeakLabels(
        tags=frozenset(owners.tolist()) | {3} if seed % 2 else None,
        boxes=Boxes(xyxy, owners) if seed % 3 else None,
    )
    image = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    first = enforce(Draft.of(values[:, ::-1]), labels)
    facts = ImageFacts("a", image, labels, first, seed=seed)
    names = rng.permutation(["tags", "crf", "boxes", "confidence", "keep_first"]).tolist()
    draft = clean(Draft.of(values), facts, RoundsConfig(count=1, cleanups=names).cleanups)
    mask = enforce(draft, labels)
    carried = carried_classes(labels)
    seen = set(np.unique(mask).tolist()) - {0, 255}
    assert carried is None or seen <= carried
    if labels.boxes is not None:
        allowed = {c: np.zeros(mask.shape, bool) for c in owners.tolist()}
        for place, owner in zip(box_pixels(labels.boxes, (7, 9)), owners.tolist(), strict=True):
            allowed[owner][place] = True
        for owner, inside in allowed.items():
            assert not (mask[~inside] == owner).any()


def test_an_image_tagged_as_empty_is_background_even_where_pixels_are_ignored():
    draft = Draft(_draft([[1, 2]]).probabilities, np.array([[True, False]]))
    assert enforce(draft, WeakLabels(tags=())).tolist() == [[0, 0]]


def test_a_box_holds_the_pixels_whose_centres_it_holds_and_at_least_one():
    given = Boxes([[0.5, 0.6, 2.5, 1.6], [1.1, 1.1, 1.2, 1.3], [-5, -5, 99, 99]], [1, 1, 1])
    assert box_pixels(given, (3, 4)) == [
        (slice(1, 2), slice(0, 2)),
        (slice(1, 2), slice(1, 2)),
        (slice(0, 3), slice(0, 4)),
    ]


def test_boxes_shrink_with_their_image():
    scaled = scaled_labels(WeakLabels(boxes=Boxes([[2, 4, 6, 8]], [1])), (0.5, 0.25))
    assert scaled.boxes is not None
    assert scaled.boxes.xyxy.tolist() == [[0.5, 2, 1.5, 4]]
    assert scaled_labels(BOXED, (1.0, 1.0)) is BOXED


def test_a_draft_is_resized_before_its_classes_are_chosen():
    draft = Draft(_draft([[0, 1]]).probabilities, np.array([[True, False]]))
    assert draft.resized((2, 4)).mask.tolist() == [[255, 255, 1, 1]] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"uncertainty": {}}, "count must be at least 1"),
        ({"count": 1, "masks": "first"}, "would repeat the first training"),
        ({"count": 1, "cleanups": [{"name": "confidence", "band_low": 0.1}]}, "together"),
        (
            {"count": 1, "cleanups": [{"name": "confidence", "band_low": 0.9, "band_high": 0.1}]},
            "must not exceed",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        RoundsConfig.model_validate(content)
