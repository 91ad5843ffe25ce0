from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wsseg.errors import DataError
from wsseg.refine.label_free import otsu_threshold


@settings(max_examples=60, deadline=None)
@given(npst.arrays(np.float64, 16, elements=st.integers(0, 20).map(float)))
def test_otsu_has_the_highest_variance_between_the_two_sides(histogram):
    if np.count_nonzero(histogram) < 2:
        return
    centres = (np.arange(16) + 0.5) / 16
    best = -1.0
    found = otsu_threshold(histogram)
    values = {}
    for edge in range(1, 16):
        low, high = histogram[:edge], histogram[edge:]
        if low.sum() and high.sum():
            means = [
                (h * c).sum() / h.sum() for h, c in ((low, centres[:edge]), (high, centres[edge:]))
            ]
            values[edge] = low.sum() * high.sum() * (means[0] - means[1]) ** 2
            best = max(best, values[edge])
    # The result may lie between two edges of a plateau; the lower edge is on the plateau.
    assert values[int(np.floor(found * 16))] == pytest.approx(best)


def test_otsu_agrees_with_scikit_image_on_a_photograph_like_histogram():
    from skimage.filters import threshold_otsu

    rng = np.random.default_rng(0)
    values = np.clip(
        np.concatenate([rng.normal(0.2, 0.08, 6000), rng.normal(0.7, 0.1, 2000)]), 0, 1
    )
    histogram, edges = np.histogram(values, 256, (0, 1))
    expected = threshold_otsu(hist=(histogram, (edges[1:] + edges[:-1]) / 2))
    assert otsu_threshold(histogram.astype(float)) == pytest.approx(expected, abs=1 / 256)


def test_otsu_of_two_separate_peaks_is_the_middle_of_the_gap():
    histogram = np.zeros(10)
    histogram[[1, 8]] = [30, 2]
    assert otsu_threshold(histogram) == pytest.approx(0.5)


def test_otsu_of_a_single_value_is_refused():
    with pytest.raises(DataError, match="has learnt nothing"):
        otsu_threshold(np.array([0.0, 5.0, 0.0]))
