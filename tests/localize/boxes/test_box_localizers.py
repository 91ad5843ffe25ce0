from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wsseg.data.labels import Boxes, WeakLabels
from wsseg.localize.boxes.crf import CrfBoxes, box_energies, crf_boxes
from wsseg.localize.boxes.fill import InnerBoxes, filled_boxes, inner_boxes
from wsseg.localize.boxes.grabcut import Grabcut, grabcut
from wsseg.localize.boxes.grabcut_jitter import GrabcutJitter, foreground_votes, grabcut_jitter
from wsseg.localize.boxes.windows import BoxWindow
from wsseg.localize.direct import LocalizeContext


def hard(scores) -> np.ndarray:
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


@pytest.fixture
def disc():
    """A red disc on grey noise, its mask, and a box around it."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :80]
    inside = (rows - 32) ** 2 + (columns - 40) ** 2 <= 15**2
    image = rng.integers(90, 120, (64, 80, 3)).astype(np.uint8)
    image[inside] = rng.integers(0, 25, (int(inside.sum()), 3)) + np.array([180, 20, 20])
    return image, inside, WeakLabels(boxes=Boxes([[22, 14, 58, 50]], [3]))


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_boxes_are_filled_with_the_smaller_in_front():
    boxes = Boxes([[1, 1, 3, 3], [0, 0, 4, 4], [2, 2, 7, 3]], [2, 1, 1])
    found = hard(filled_boxes(np.zeros((5, 7, 3), np.uint8), WeakLabels(boxes=boxes)))
    expected = [
        [1, 1, 1, 1, 0, 0, 0],
        [1, 2, 2, 1, 0, 0, 0],
        [1, 2, 2, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    assert found.tolist() == expected


def test_two_classes_on_the_same_pixels_leave_one_of_them():
    boxes = Boxes([[0, 0, 2, 2], [0, 0, 2, 2]], [1, 2])
    scores = filled_boxes(np.zeros((2, 2, 3), np.uint8), WeakLabels(boxes=boxes))
    assert scores.class_ids.tolist() == [0, 1, 2]
    assert (scores.values.sum(axis=0) == 1).all()
    assert (hard(scores) == 2).all()


def test_only_the_inner_part_of_a_box_is_sure_and_its_rest_is_open():
    boxes = Boxes([[0, 0, 10, 10], [10, 0, 20, 10]], [1, 2])
    config = InnerBoxes(inner_frac=0.16)
    labels = WeakLabels(boxes=boxes)
    found = hard(inner_boxes(np.zeros((10, 22, 3), np.uint8), labels, config=config))
    assert (found[3:7, 3:7] == 1).all()
    assert (found[3:7, 13:17] == 2).all()
    assert (found[:, 20:] == 0).all()
    assert np.bincount(found.ravel(), minlength=256)[[1, 2, 255]].tolist() == [16, 16, 168]


def test_a_box_that_covers_everything_is_the_class_everywhere():
    labels = WeakLabels(boxes=Boxes([[-10, -10, 90, 90]], [1]))
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    assert (hard(filled_boxes(image, labels)) == 1).all()
    context = LocalizeContext()
    assert (hard(grabcut(image, labels, context=context)) == 1).all()
    assert context.facts["fallback_boxes"] == 1
    assert context.facts["notes"] == ["1 of 1 box(es) are filled: GrabCut found nothing plausible"]


def test_grabcut_finds_the_object_in_its_box(disc):
    image, inside, labels = disc
    context = LocalizeContext()
    scores = grabcut(image, labels, context=context)
    assert scores.class_ids.tolist() == [0, 3]
    assert iou(hard(scores) == 3, inside) > 0.97
    assert context.facts == {"boxes": 1, "fallback_boxes": 0}


def test_grabcut_works_on_a_shrunk_crop(disc):
    image, inside, labels = disc
    found = hard(grabcut(image, labels, config=Grabcut(max_side_px=24)))
    assert iou(found == 3, inside) > 0.8


@pytest.mark.parametrize(("fallback", "share"), [("filled", 1.0), ("inner", 0.2)])
def test_a_box_that_cannot_be_cut_falls_back(fallback, share):
    """An image of one colour has nothing to cut along."""
    labels = WeakLabels(boxes=Boxes([[10, 10, 50, 40]], [2]))
    image = np.full((60, 70, 3), 128, np.uint8)
    context = LocalizeContext()
    config = Grabcut(fallback=fallback)
    found = hard(grabcut(image, labels, config=config, context=context))
    assert (found == 2).sum() == pytest.approx(share * 1200, rel=0.05)
    assert context.facts["fallback_boxes"] == 1
    assert (found[:10] == 0).all()


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.95), (0.01, 0.1)])
def test_a_foreground_of_an_implausible_size_is_not_believed(disc, low, high):
    image, _, labels = disc
    config = Grabcut(min_frac=low, max_frac=high)
    found = hard(grabcut(image, labels, config=config))
    assert (found == 3).sum() == 36 * 36


def test_grabcut_gives_the_same_whatever_ran_before(disc):
    import cv2

    image, _, labels = disc
    image = np.random.default_rng(1).integers(0, 255, image.shape).astype(np.uint8)
    config = Grabcut(min_frac=0, max_frac=1)
    first = hard(grabcut(image, labels, config=config))
    cv2.setRNGSeed(99)
    second = hard(grabcut(image, labels, config=config))
    assert np.array_equal(first, second)


def test_a_small_object_lies_in_front_of_a_large_one():
    image = np.full((60, 60, 3), 40, np.uint8)
    image[6:54, 6:54] = (200, 40, 40)
    image[22:38, 22:38] = (40, 200, 40)
    labels = WeakLabels(boxes=Boxes([[18, 18, 42, 42], [3, 3, 57, 57]], [1, 2]))
    found = hard(grabcut(image, labels))
    assert (found[24:36, 24:36] == 1).all()
    assert (found[8:16, 8:52] == 2).all()
    assert (found[:3] == 0).all()


def test_what_moved_boxes_disagree_on_is_open(disc, monkeypatch):
    """With a GrabCut that takes each box as it is, pixels near the edges lose some votes."""
    monkeypatch.setattr(
        "wsseg.localize.boxes.grabcut_jitter.segment_crop",
        lambda _crop, inside, **_settings: inside,
    )
    image, _, _ = disc
    labels = WeakLabels(boxes=Boxes([[10, 10, 70, 54]], [3]))
    config = GrabcutJitter(runs=200, jitter_frac=0.2, max_frac=1, max_side_px=512)
    found = hard(grabcut_jitter(image, labels, config=config))
    # An edge moves by up to 12 pixels in x. A pixel d inside of it is covered by (d + 12) / 24.
    across = found[32]
    assert (across[22:58] == 3).all()
    assert (across[:9] == 0).all()
    assert across[10] == 255
    first = int(np.flatnonzero(across == 3)[0])
    assert first - 10 == pytest.approx(0.7 * 24 - 12, abs=2)
    assert set(np.unique(found)) == {0, 3, 255}


def test_votes_are_those_of_an_independent_count(disc, monkeypatch):
    calls = []

    def remember(_crop, inside, **_settings):
        calls.append(inside.copy())
        return inside if len(calls) % 2 else None

    monkeypatch.setattr("wsseg.localize.boxes.grabcut_jitter.segment_crop", remember)
    image, _, _ = disc
    window = BoxWindow(3, 10, 54, 10, 70)
    config = GrabcutJitter(runs=8, max_side_px=512, margin_frac=0.1, jitter_frac=0.05)
    votes = foreground_votes(image, window, config, np.random.default_rng(0))
    top, left = 10 - max(0, 10 - round(44 * 0.15)), 10 - max(0, 10 - round(60 * 0.15))
    mean = np.mean([inside if k % 2 == 0 else 0 * inside for k, inside in enumerate(calls)], axis=0)
    expected = mean[top : top + 44, left : left + 60]
    np.testing.assert_allclose(votes, expected, atol=1e-6)
    assert len(calls) == 8


def test_moved_boxes_find_the_object_and_depend_on_the_seed_and_the_image(disc):
    image, inside, labels = disc
    config = GrabcutJitter(runs=6)
    contexts = [LocalizeContext(sample_id=name, seed=seed) for name, seed in (("a", 0),) * 2]
    first, second = (
        hard(grabcut_jitter(image, labels, config=config, context=c)) for c in contexts
    )
    assert np.array_equal(first, second)
    assert (first[inside] == 3).mean() > 0.9
    assert not (first[~inside] == 3).any() or (first[~inside] == 3).mean() < 0.02


def test_the_shares_of_votes_must_be_in_order():
    with pytest.raises(ValidationError, match="must not be above foreground"):
        GrabcutJitter(background=0.8, foreground=0.7)


def test_energies_allow_what_the_boxes_allow():
    windows = [BoxWindow(1, 0, 5, 0, 5), BoxWindow(2, 2, 5, 2, 9)]
    energies = box_energies(windows, np.array([0, 1, 2], np.uint8), (6, 10), 0.04)
    possible = np.isfinite(energies)
    assert possible[:, 5, 0].tolist() == [True, False, False]
    assert possible[:, 0, 0].tolist() == [True, True, False]
    assert possible[:, 4, 4].tolist() == [True, True, True]
    assert possible[:, 4, 8].tolist() == [True, False, True]
    # The centres, of 1 pixel each. The object of the box in front may hide the one behind.
    assert possible[:, 2, 2].tolist() == [False, True, True]
    assert possible[:, 3, 5].tolist() == [False, False, True]


def test_the_centre_of_a_box_is_not_certain_where_a_smaller_one_lies_in_front():
    windows = [BoxWindow(1, 0, 20, 0, 20), BoxWindow(2, 6, 14, 6, 14), BoxWindow(1, 9, 11, 7, 11)]
    possible = np.isfinite(box_energies(windows, np.array([0, 1, 2], np.uint8), (20, 20), 0.25))
    assert possible[:, 6, 6].tolist() == [False, True, True]
    assert possible[:, 10, 12].tolist() == [False, True, True]
    # A centre in front is certain, whatever lies behind; one of the same class changes nothing.
    assert possible[:, 11, 9].tolist() == [False, False, True]
    assert possible[:, 9, 9].tolist() == [False, True, False]


def test_what_the_crf_calls_background_is_open_where_a_tagged_class_has_no_box():
    image = np.full((40, 40, 3), 30, np.uint8)
    image[12:28, 12:28] = (220, 60, 60)
    boxes = Boxes([[8, 8, 32, 32]], [4])
    found = hard(crf_boxes(image, WeakLabels(tags={4, 5}, boxes=boxes)))
    truth = np.full((40, 40), 255)
    truth[12:28, 12:28] = 4
    assert np.array_equal(found, truth)


def test_the_crf_cuts_boxes_along_edges_and_keeps_its_constraints():
    image = np.full((40, 40, 3), 30, np.uint8)
    image[12:28, 12:28] = (220, 60, 60)
    labels = WeakLabels(boxes=Boxes([[8, 8, 32, 32]], [4]))
    scores = crf_boxes(image, labels)
    np.testing.assert_allclose(scores.values.sum(axis=0), 1, atol=1e-4)
    truth = np.zeros((40, 40), bool)
    truth[12:28, 12:28] = True
    assert np.array_equal(hard(scores) == 4, truth)
    assert (scores.values[1, :8] == 0).all()
    assert (scores.values[1, 16:24, 16:24] == 1).all()


def test_without_pairwise_terms_free_pixels_stay_undecided():
    from wsseg.kernels.dense_crf_config import CrfConfig

    config = CrfBoxes(centre_frac=0.25, crf=CrfConfig(gauss_compat=0, bilateral_compat=0))
    labels = WeakLabels(boxes=Boxes([[0, 0, 8, 8]], [1]))
    values = crf_boxes(np.zeros((8, 10, 3), np.uint8), labels, config=config).values
    assert values[:, 0, 0].tolist() == [0.5, 0.5]
    assert values[:, 4, 4].tolist() == [0, 1]
    assert values[:, 0, 9].tolist() == [1, 0]


@pytest.mark.parametrize("method", [filled_boxes, inner_boxes, grabcut, grabcut_jitter, crf_boxes])
def test_the_outside_is_open_where_a_tagged_class_has_no_box(method, disc):
    image, _, labels = disc
    labels = WeakLabels(tags={3, 5}, boxes=labels.boxes)
    found = hard(method(image, labels))
    assert (found[:14] == 255).all()
    assert (found == 3).any()


@pytest.mark.parametrize("method", [filled_boxes, inner_boxes, grabcut, grabcut_jitter, crf_boxes])
def test_a_box_off_the_image_tells_nothing_of_what_is_in_it(method):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    off = Boxes([[40, 2, 60, 12]], [3])
    for tags in (None, {3}):
        assert (hard(method(image, WeakLabels(tags=tags, boxes=off))) == 255).all()
    both = Boxes([[4, 4, 16, 16], [40, 2, 60, 12]], [1, 3])
    assert (hard(method(image, WeakLabels(tags={1, 3}, boxes=both)))[:4] == 255).all()
    assert (hard(method(image, WeakLabels(boxes=both)))[:4] == 0).all()
