from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from wsseg.pseudo.cleanup import fill_holes, peak_region, remove_small

MASKS = npst.arrays(np.uint8, (8, 9), elements=st.sampled_from([0, 0, 1, 2, 255]))


@settings(max_examples=60, deadline=None)
@given(MASKS, st.integers(1, 6), st.sampled_from([0, 255]))
def test_removal_equals_labelling_class_by_class(mask, min_area_px, replacement):
    expected = mask.copy()
    for class_id in (1, 2):
        labels, count = ndimage.label(mask == class_id, np.ones((3, 3)))
        for label in range(1, count + 1):
            if (labels == label).sum() < min_area_px:
                expected[labels == label] = replacement
    np.testing.assert_array_equal(remove_small(mask, min_area_px, replacement), expected)


@settings(max_examples=100, deadline=None)
@given(MASKS, st.integers(1, 10))
def test_filling_equals_a_search_over_all_regions(mask, max_area_px):
    expected = mask.copy()
    labels, count = ndimage.label((mask == 0) | (mask == 255))
    frame = np.ones(mask.shape, bool)
    frame[1:-1, 1:-1] = False
    for label in range(1, count + 1):
        hole = labels == label
        ring = ndimage.binary_dilation(hole) & ~hole
        classes = np.unique(mask[ring])
        if not (hole & frame).any() and hole.sum() <= max_area_px and len(classes) == 1:
            expected[hole] = classes[0]
    np.testing.assert_array_equal(fill_holes(mask, max_area_px), expected)


def test_a_hole_between_two_classes_stays_open():
    mask = np.array([[1, 1, 2], [1, 0, 2], [1, 1, 2]], np.uint8)
    np.testing.assert_array_equal(fill_holes(mask, 5), mask)


def test_the_peak_region_is_connected_and_holds_the_peak():
    values = np.array([[0.5, 0.1, 0.9], [0.1, 0.8, 0.1], [0.7, 0.1, 0.0]], np.float32)
    expected = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(peak_region(values, 0.85), expected)
    assert peak_region(np.zeros((2, 2), np.float32), 0.5) is None
