from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.labels import Boxes, Points, Scribbles, WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.localize.boxes.fill import FilledBoxes
from wsseg.localize.direct import (
    all_background,
    has_kind,
    is_empty,
    scaled_labels,
    scores_of_mask,
    trained_part,
)
from wsseg.localize.tags.cam import Cam
from wsseg.pseudo.masks import PseudoMaskConfig, pseudo_mask
from wsseg.refine.background import BackgroundConstant, background_constant
from wsseg.refine.dense_crf import DenseCrf, dense_crf

BOX = Boxes([[0, 0, 4, 2]], [1])


def test_hard_labels_become_rows_and_unknown_pixels_have_none() -> None:
    scores = scores_of_mask(np.array([[0, 5, 255], [2, 2, 0]], np.uint8), class_ids=[7])
    assert scores.class_ids.tolist() == [0, 2, 5, 7]
    expected = [
        [[1, 0, 0], [0, 0, 1]],
        [[0, 0, 0], [1, 1, 0]],
        [[0, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]
    assert scores.values.tolist() == expected
    assert scores.unknown.tolist() == [[False, False, True], [False, False, False]]


def test_labels_follow_their_image_when_it_is_shrunk() -> None:
    labels = WeakLabels(
        tags={1, 3},
        boxes=Boxes([[10, 20, 30, 40]], [1]),
        points=Points([[9, 6]], [3]),
        scribbles=Scribbles(([[0, 0], [40, 20]],), [0]),
    )
    small = scaled_labels(labels, (80, 40), (40, 10))
    assert small.tags == {1, 3}
    assert small.boxes.xyxy.tolist() == [[2.5, 10, 7.5, 20]]
    assert small.points.xy.tolist() == [[2.25, 3]]
    assert small.scribbles.lines[0].tolist() == [[0, 0], [10, 10]]
    assert scaled_labels(labels, (5, 5), (5, 5)) is labels


def test_an_image_is_empty_only_where_somebody_looked_and_drew_nothing() -> None:
    assert is_empty(WeakLabels(tags=()))
    assert is_empty(WeakLabels(tags=(), boxes=Boxes(np.zeros((0, 4)), [])))
    assert not is_empty(WeakLabels())
    assert not is_empty(WeakLabels(tags={1}))
    assert not is_empty(WeakLabels(tags=(), boxes=BOX))


def test_a_kind_without_any_shape_is_not_there() -> None:
    assert has_kind(WeakLabels(boxes=BOX), ("points", "boxes"))
    assert not has_kind(WeakLabels(boxes=BOX), ("points", "scribbles"))
    assert not has_kind(WeakLabels(boxes=Boxes(np.zeros((0, 4)), [])), ("boxes",))
    assert has_kind(WeakLabels(tags=()), ("tags",))


def test_only_localizers_from_tags_train_something() -> None:
    config = Cam()
    assert trained_part(config) is config
    assert trained_part(FilledBoxes()) is None


def test_a_data_set_without_the_kind_is_refused_with_what_is_there(make_dataset) -> None:
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}, "mask": np.ones((4, 4))}})
    with pytest.raises(DataError) as caught:
        FilledBoxes().check(dataset, allow_masks=False)
    text = str(caught.value)
    for part in ('"filled_boxes" works from boxes', "2 with tags", "1 with painted masks"):
        assert part in text


def test_pixels_without_evidence_are_ignored_in_the_mask() -> None:
    scores = scores_of_mask(np.array([[0, 3, 255]], np.uint8))
    assert pseudo_mask(scores).tolist() == [[0, 3, 255]]
    assert pseudo_mask(scores, tags=frozenset({3})).tolist() == [[0, 3, 255]]
    as_background = PseudoMaskConfig(no_evidence="background")
    assert pseudo_mask(scores, as_background).tolist() == [[0, 3, 0]]


def test_a_class_that_the_tags_rule_out_leaves_background_and_not_an_open_pixel() -> None:
    scores = scores_of_mask(np.array([[0, 3, 5, 255]], np.uint8))
    assert pseudo_mask(scores, tags=frozenset({3})).tolist() == [[0, 3, 0, 255]]
    assert pseudo_mask(scores, tags=frozenset()).tolist() == [[0, 0, 0, 0]]


def test_an_image_with_background_alone_keeps_its_open_pixels_unless_it_is_tagged_ok() -> None:
    scores = scores_of_mask(np.array([[0, 255]], np.uint8))
    assert pseudo_mask(scores).tolist() == [[0, 255]]
    assert pseudo_mask(scores, tags=frozenset()).tolist() == [[0, 0]]
    assert pseudo_mask(all_background((1, 2))).tolist() == [[0, 0]]


@pytest.mark.parametrize("rule", ["auto", "ignore", "background"])
def test_maps_with_a_background_rule_give_the_same_mask_whatever_the_setting(rule: str) -> None:
    rng = np.random.default_rng(0)
    values = np.clip(rng.random((3, 16, 16)) - 0.5, 0, 1).astype(np.float32)
    values[0] = 0
    maps = Scores(values, np.array([0, 1, 2], np.uint8), (32, 32))
    image = np.zeros((32, 32, 3), np.uint8)
    ruled = background_constant(image, maps, config=BackgroundConstant(value=0.2))
    found = pseudo_mask(ruled, PseudoMaskConfig(no_evidence=rule))
    full = ruled.resized()
    assert found.tolist() == full.argmax(axis=0).tolist()


@pytest.mark.parametrize("gt_prob", [None, 0.7])
def test_the_dense_crf_lets_neighbours_decide_open_pixels(gt_prob: float | None) -> None:
    """All labels cost the same there, so without any pairwise term all are as likely."""
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, 4:] = 220
    mask = np.full((6, 8), 255, np.uint8)
    mask[2, 1], mask[3, 6] = 0, 2
    scores = scores_of_mask(mask)
    alone = DenseCrf(gauss_compat=0, bilateral_compat=0, gt_prob=gt_prob)
    open_pixel = dense_crf(image, scores, config=alone).values[:, 0, 0]
    np.testing.assert_allclose(open_pixel, [0.5, 0.5], atol=1e-6)
    joined = DenseCrf(gauss_compat=0, bilateral_sxy_px=20, gt_prob=gt_prob)
    filled = dense_crf(image, scores, config=joined)
    expected = np.where(np.arange(8) < 4, 0, 2)
    assert (filled.class_ids[filled.values.argmax(axis=0)] == expected).all()
