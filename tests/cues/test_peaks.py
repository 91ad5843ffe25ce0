from __future__ import annotations

import numpy as np
import pytest

from wsseg.cues.peaks import map_boxes, map_peaks


def test_the_highest_peak_comes_first_however_low_it_is():
    values = np.full((40, 50), 0.1)
    values[10, 12] = 0.2
    assert map_peaks(values).tolist() == [[12.5, 10.5]]


@pytest.mark.parametrize("seed", range(5))
def test_peaks_are_local_maxima_that_are_high_and_apart(seed):
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(seed).random((90, 120)), 4)
    values = (values - values.min()) / np.ptp(values)
    peaks = map_peaks(values, 15, 0.5)
    rows, columns = (peaks[:, 1] - 0.5).astype(int), (peaks[:, 0] - 0.5).astype(int)
    assert len(peaks) > 1
    assert values[rows[0], columns[0]] == 1
    for row, column in zip(rows, columns, strict=True):
        assert values[row, column] > 0.5
        around = values[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        assert values[row, column] == around.max()
    apart = np.abs(np.stack([rows[:, None] - rows, columns[:, None] - columns])).max(axis=0)
    assert apart[~np.eye(len(rows), dtype=bool)].min() > 15
    # Nothing that is higher than all within the distance is left out.
    for row in range(90):
        for column in range(120):
            window = values[max(0, row - 31) : row + 32, max(0, column - 31) : column + 32]
            if values[row, column] > 0.5 and values[row, column] == window.max():
                assert [column, row] in np.stack([columns, rows], axis=1).tolist()


def test_a_map_without_evidence_has_no_peak():
    assert map_peaks(np.zeros((5, 4))).shape == (0, 2)
    assert map_peaks(np.full((1, 1), 0.3)).tolist() == [[0.5, 0.5]]


def test_boxes_leave_out_small_areas():
    values = np.zeros((9, 9))
    values[0:3, 0:3] = 0.4
    values[6, 6] = 0.9
    values[7, 7] = 0.9
    assert map_boxes(values, 0.4, 2).tolist() == [[0, 0, 3, 3], [6, 6, 8, 8]]
    assert map_boxes(values, 0.4, 3).tolist() == [[0, 0, 3, 3]]
    assert map_boxes(values, 0.95).shape == (0, 4)
    assert map_boxes(np.zeros((2, 2)), 0.0).shape == (0, 4)
