from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.labels import Boxes, WeakLabels
from wsseg.localize.boxes.windows import (
    BoxWindow,
    box_window,
    boxed_classes,
    front_last,
    outside_of_boxes,
)
from wsseg.localize.direct import LocalizeContext

SIZE = (10, 20)


@pytest.mark.parametrize(
    ("xyxy", "expected"),
    [
        ([2, 3, 6, 5], (3, 5, 2, 6)),
        ([2.4, 3.4, 6.4, 5.4], (3, 5, 2, 6)),
        ([2.6, 3.6, 6.6, 5.6], (4, 6, 3, 7)),
        ([-5, -5, 50, 50], (0, 10, 0, 20)),
        ([18, 8, 25, 12], (8, 10, 18, 20)),
        ([3.1, 4.1, 3.3, 4.2], (4, 5, 3, 4)),
        ([19.9, 9.9, 30, 30], (9, 10, 19, 20)),
    ],
)
def test_a_box_covers_the_pixels_whose_centres_it_holds(xyxy, expected):
    assert box_window(np.array(xyxy, float), 3, SIZE) == BoxWindow(3, *expected)


@pytest.mark.parametrize(
    "xyxy",
    [[25, 0, 30, 5], [-9, 0, 0, 5], [0, 10, 5, 12], [6, 3, 2, 5], [2, 5, 6, 3], [2, 3, 2, 5]],
    ids=["right of it", "left of it", "below it", "inverted", "upside down", "zero area"],
)
def test_boxes_without_a_pixel_of_the_image_are_none(xyxy):
    assert box_window(np.array(xyxy, float), 3, SIZE) is None


def test_every_pixel_centre_inside_and_no_other_is_covered():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:10, :20] + 0.5
    for _ in range(200):
        x0, y0 = rng.uniform(-3, 18, 2)
        x1, y1 = x0 + rng.uniform(1.01, 9), y0 + rng.uniform(1.01, 9)
        inside = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
        window = box_window(np.array([x0, y0, x1, y1]), 1, SIZE)
        found = np.zeros(SIZE, bool)
        if window is not None:
            found[window.slices] = True
        if inside.any():
            assert np.array_equal(found, inside)


def test_the_inner_part_is_centred_and_has_the_wanted_area():
    inner = BoxWindow(1, 10, 110, 20, 220).inner(0.2)
    assert inner.area == pytest.approx(0.2 * 100 * 200, rel=0.02)
    assert inner.top + inner.bottom == pytest.approx(120, abs=1)
    assert inner.left + inner.right == pytest.approx(240, abs=1)
    assert (inner.right - inner.left) / (inner.bottom - inner.top) == pytest.approx(2, rel=0.03)
    assert BoxWindow(1, 3, 4, 5, 6).inner(0.01) == BoxWindow(1, 3, 4, 5, 6)


def test_small_boxes_come_last_and_those_outside_are_told():
    boxes = Boxes([[0, 0, 2, 2], [0, 0, 9, 9], [30, 0, 40, 9], [1, 1, 4, 4]], [1, 2, 3, 4])
    context = LocalizeContext()
    windows = front_last(WeakLabels(boxes=boxes), SIZE, context)
    assert [window.class_id for window in windows] == [2, 4, 1]
    assert context.facts["notes"] == ["1 box(es) outside of the image were left out"]
    assert front_last(WeakLabels(), SIZE) == []


def test_the_outside_is_open_where_a_tagged_class_has_no_box():
    boxes = Boxes([[0, 0, 2, 2]], [1])
    context = LocalizeContext()
    assert outside_of_boxes(WeakLabels(boxes=boxes), SIZE) == 0
    assert outside_of_boxes(WeakLabels(tags={1}, boxes=boxes), SIZE) == 0
    assert not context.facts
    assert outside_of_boxes(WeakLabels(tags={1, 3}, boxes=boxes), SIZE, context) == 255
    assert "class(es) 3 have no box" in context.facts["notes"][0]


def test_a_box_off_the_image_is_no_box():
    off, on = [50, 0, 60, 9], [0, 0, 2, 2]
    context = LocalizeContext()
    assert outside_of_boxes(WeakLabels(boxes=Boxes([off], [1])), SIZE, context) == 255
    assert "no box lies in the image" in context.facts["notes"][0]
    assert outside_of_boxes(WeakLabels(tags={1}, boxes=Boxes([off], [1])), SIZE) == 255
    assert outside_of_boxes(WeakLabels(tags={1}, boxes=Boxes([off, on], [1, 1])), SIZE) == 0
    assert outside_of_boxes(WeakLabels(tags=(), boxes=Boxes([off], [1])), SIZE) == 0
    assert boxed_classes(WeakLabels(boxes=Boxes([off, on], [1, 2])), SIZE) == {2}
