from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.cues.segments import Segments
from wsseg.cues.segments_folder import FolderSegments
from wsseg.data.scores import Scores
from wsseg.refine.protocol import RefineContext
from wsseg.refine.segment_merge import SegmentMerge, merge, segment_merge


def reference(labels, masks, variant):
    """The published rule, class by class and mask by mask."""
    found = np.zeros_like(labels)
    covered = masks.any(axis=0)
    seen = [False] * len(masks)
    for class_id in sorted(set(labels.ravel().tolist()) - {0}):
        own = labels == class_id
        area = np.zeros(labels.shape, bool)
        for i, mask in enumerate(masks):
            if seen[i]:
                continue
            common = np.logical_and(own, mask).sum()
            takes = 2 * common - mask.sum() > 0
            if variant == "max_iou_imp2":
                takes = takes or common >= 0.85 * own.sum()
            if takes:
                area |= mask
                seen[i] = True
        if variant != "max_iou":
            area |= own & ~covered
        found[area] = class_id
    return found


def random_case(seed):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (4, 5)), np.ones((5, 5), int))
    masks = np.zeros((9, 20, 25), bool)
    for mask in masks:
        y, x = rng.integers(0, 18), rng.integers(0, 22)
        mask[y : y + rng.integers(2, 14), x : x + rng.integers(2, 18)] = True
    return labels, masks


@pytest.mark.parametrize("variant", ["max_iou", "max_iou_imp", "max_iou_imp2"])
@pytest.mark.parametrize("seed", range(20))
def test_classes_take_over_segments_as_published(seed, variant):
    labels, masks = random_case(seed)
    segments = Segments.of_masks(masks, np.linspace(1, 0, len(masks)))
    found = merge(labels, segments, SegmentMerge(variant=variant))
    np.testing.assert_array_equal(found, reference(labels, masks, variant))
    assert found.dtype == np.uint8


def test_by_overlap_the_numbers_of_the_classes_do_not_matter():
    for seed in range(20):
        labels, masks = random_case(seed)
        segments = Segments.of_masks(masks, np.ones(len(masks)))
        config = SegmentMerge(order="overlap")
        renumbered = np.array([0, 30, 20, 10])
        first = renumbered[merge(labels, segments, config)]
        second = merge(renumbered[labels], segments, config)
        assert (first == second).mean() > 0.98  # equal shares are decided by number


def test_by_overlap_a_segment_goes_to_the_class_with_the_larger_share():
    labels = np.array([[1, 0, 2, 2, 2, 2, 2, 0]])
    masks = np.ones((1, 1, 8), bool)
    segments = Segments.of_masks(masks, np.ones(1))
    # By the second rule class 1, which lies wholly in the segment, takes it first.
    assert set(merge(labels, segments, SegmentMerge()).ravel().tolist()) == {1}
    by_overlap = merge(labels, segments, SegmentMerge(order="overlap"))
    assert set(by_overlap.ravel().tolist()) == {2}


def scores_of(labels, class_ids, size):
    values = (labels[None] == np.array(class_ids)[:, None, None]).astype(np.float32)
    return Scores(values * np.float32(0.7), np.array(class_ids, np.uint8), size)


@pytest.fixture
def in_folder(tmp_path):
    def make(numbers):
        Image.fromarray(numbers).save(tmp_path / "a.png")
        return SegmentMerge(segments=FolderSegments(path=str(tmp_path)))

    return make


def test_scores_become_hard_and_pixels_without_evidence_stay_open(in_folder):
    numbers = np.array([[1, 1, 1, 0, 0, 2]], np.uint8)
    labels = np.array([[5, 5, 0, 0, 5, 0]])
    scores = scores_of(labels, [0, 5], (1, 6))
    scores.values[:, 0, 3] = 0
    scores.values[:, 0, 2] = 0
    context = RefineContext(sample_id="a")
    config = in_folder(numbers)
    found = segment_merge(np.zeros((1, 6, 3), np.uint8), scores, config=config, context=context)
    assert found.values[1, 0].tolist() == [1, 1, 1, 0, 1, 0]
    assert found.values[0, 0].tolist() == [0, 0, 0, 0, 0, 1]
    assert context.facts["segments"] == 2


@pytest.mark.parametrize("variant", ["max_iou", "max_iou_imp2"])
def test_an_image_without_segments_keeps_its_scores_and_says_so(in_folder, variant):
    labels = np.array([[5, 5, 0, 0, 5, 0]])
    scores = scores_of(labels, [0, 5], (1, 6))
    context = RefineContext(sample_id="a")
    config = in_folder(np.zeros((1, 6), np.uint8)).model_copy(update={"variant": variant})
    found = segment_merge(np.zeros((1, 6, 3), np.uint8), scores, config=config, context=context)
    np.testing.assert_array_equal(found.values, scores.values)
    assert context.facts["note"] == "no segment; scores kept"


def test_segments_are_kept_for_the_steps_that_follow(tmp_path):
    image = np.zeros((40, 50, 3), np.uint8)
    image[10:30, 10:30] = 200
    scores = scores_of(np.where(image[..., 0] > 0, 2, 0), [0, 2], (40, 50))
    context = RefineContext(sample_id="a", cues_dir=tmp_path)
    first = segment_merge(image, scores, context=context)
    [kept] = (tmp_path / "segments").rglob("*.npz")
    stamp = kept.stat().st_mtime_ns
    again = segment_merge(image, scores, context=context)
    assert kept.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(first.values, again.values)
    assert (first.values[1] == (image[..., 0] > 0)).mean() > 0.95
