"""Tags, boxes and points from masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsseg.data.mask_labels import boxes_from_mask, components, points_from_mask, tags_from_mask

MASKS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 1, 2, 255]),
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_tags_leave_out_background_ignore_and_small_classes():
    mask = np.array([[0, 255, 3], [7, 7, 255]], np.uint8)
    assert tags_from_mask(mask) == {3, 7}
    assert tags_from_mask(mask, min_area_px=2) == {7}
    assert tags_from_mask(np.full((2, 2), 255, np.uint8)) == frozenset()


def test_diagonal_neighbours_are_one_object_and_gaps_make_two():
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1]], np.uint8)
    found = [(class_id, window, pixels.sum()) for class_id, window, pixels in components(mask)]
    assert found == [
        (1, (slice(0, 2), slice(0, 2)), 2),
        (1, (slice(0, 2), slice(3, 4)), 2),
    ]


def test_instances_separate_touching_objects_and_join_cut_ones():
    mask = np.array([[1, 1, 2, 1, 1]], np.uint8)
    instances = np.array([[900, 4, 7, 900, 900]])
    boxes = boxes_from_mask(mask, rng=rng(), instances=instances)
    assert boxes.xyxy.tolist() == [[1, 0, 2, 1], [0, 0, 5, 1], [2, 0, 3, 1]]
    assert boxes.class_ids.tolist() == [1, 1, 2]


def test_small_objects_are_left_out():
    mask = np.array([[1, 0, 1, 1]], np.uint8)
    assert boxes_from_mask(mask, rng=rng(), min_area_px=2).xyxy.tolist() == [[2, 0, 4, 1]]
    assert len(points_from_mask(mask, rng=rng(), min_area_px=3)) == 0


@settings(max_examples=60, deadline=None)
@given(mask=MASKS)
def test_boxes_are_tight(mask):
    boxes = boxes_from_mask(mask, rng=rng())
    for (x0, y0, x1, y1), class_id in zip(boxes.xyxy.astype(int), boxes.class_ids, strict=True):
        inside = mask[y0:y1, x0:x1] == class_id
        assert inside.any(axis=1)[[0, -1]].all()
        assert inside.any(axis=0)[[0, -1]].all()
    covered = np.zeros(mask.shape, bool)
    for x0, y0, x1, y1 in boxes.xyxy.astype(int):
        covered[y0:y1, x0:x1] = True
    assert covered[(mask == 1) | (mask == 2)].all()


@settings(max_examples=60, deadline=None)
@given(mask=MASKS, placement=st.sampled_from(["centre", "random"]), seed=st.integers(0, 5))
def test_points_lie_in_their_class(mask, placement, seed):
    points = points_from_mask(mask, rng=rng(seed), placement=placement, per_object=3)
    columns, rows = np.floor(points.xy).astype(int).T
    np.testing.assert_array_equal(mask[rows, columns], points.class_ids)
    assert set(points.class_ids.tolist()) == tags_from_mask(mask)
    assert len(np.unique(points.xy, axis=0)) == len(points)


def test_jittered_boxes_stay_close_and_in_the_image():
    mask = np.zeros((60, 80), np.uint8)
    mask[0:40, 30:80] = 1
    for seed in range(50):
        box = boxes_from_mask(mask, rng=rng(seed), jitter_frac=0.2).xyxy[0]
        assert abs(box - [30, 0, 80, 40]).max() <= 10
        assert (box >= 0).all()
        assert (box <= [80, 60, 80, 60]).all()
    moved = [boxes_from_mask(mask, rng=rng(s), jitter_frac=0.2).xyxy[0, 0] for s in range(50)]
    assert np.ptp(moved) > 10


def test_centre_points_are_deep_and_random_ones_are_anywhere():
    y, x = np.mgrid[:41, :41]
    mask = (np.hypot(x - 20, y - 20) <= 18).astype(np.uint8)
    depth = {}
    for placement in ("centre", "random"):
        xy = points_from_mask(mask, rng=rng(), placement=placement, per_object=50).xy
        depth[placement] = np.hypot(*(xy - 20.5).T)
    assert depth["centre"].max() <= 0.32 * 19
    assert depth["random"].max() > 14


def test_number_of_points_per_object_and_class():
    mask = np.zeros((10, 40), np.uint8)
    for start in (0, 10, 20, 30):
        mask[2:8, start : start + 8] = 1
    assert len(points_from_mask(mask, rng=rng(), per_object=2)) == 8
    assert len(points_from_mask(mask, rng=rng(), per_object=2, per_class=3)) == 3
    assert len(points_from_mask(mask[:1], rng=rng())) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_an_object_that_fills_the_image(shape):
    mask = np.full(shape, 2, np.uint8)
    assert boxes_from_mask(mask, rng=rng()).xyxy.tolist() == [[0, 0, shape[1], shape[0]]]
    assert points_from_mask(mask, rng=rng()).class_ids.tolist() == [2]
