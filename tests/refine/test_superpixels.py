from __future__ import annotations

import numpy as np
import pytest

from wsseg.refine.superpixels import SuperpixelConfig, pool, superpixels

METHODS = ["slic", "felzenszwalb"]


def two_tone(size=(60, 80), colours=((30, 40, 50), (200, 180, 60))) -> np.ndarray:
    """A dark ground with a bright rectangle whose left edge is at column 33."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = colours[0]
    image[15:45, 33:70] = colours[1]
    return image


def test_pooling_is_the_mean_of_each_region():
    rng = np.random.default_rng(0)
    values = rng.random((3, 6, 7)).astype(np.float32)
    labels = rng.integers(0, 5, (6, 7))
    pooled = pool(values, labels)
    for region in range(5):
        inside = labels == region
        for row in range(3):
            expected = values[row].astype(np.float64)[inside].mean()
            np.testing.assert_allclose(pooled[row][inside], expected, rtol=1e-6)


def test_pooling_keeps_the_mean_of_every_map_and_a_second_time_changes_nothing():
    rng = np.random.default_rng(1)
    values = rng.random((2, 9, 9)).astype(np.float32)
    labels = rng.integers(0, 4, (9, 9))
    pooled = pool(values, labels)
    np.testing.assert_allclose(pooled.mean((1, 2)), values.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(pool(pooled, labels), pooled, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colours", [((30, 40, 50), (200, 180, 60)), ((40,) * 3, (190,) * 3)])
def test_superpixels_do_not_cross_a_strong_edge_in_colour_and_in_grey(method, colours):
    image = two_tone(colours=colours)
    labels = superpixels(image, SuperpixelConfig(method=method, sigma_px=0, min_area_px=20))
    inside = np.zeros(image.shape[:2], bool)
    inside[15:45, 33:70] = True
    crossing = np.intersect1d(labels[inside], labels[~inside])
    assert len(crossing) == 0
    assert labels.min() == 0
    assert len(np.unique(labels)) == labels.max() + 1


def test_the_area_sets_the_number_of_superpixels():
    ramp = np.linspace(0, 255, 100).astype(np.uint8)
    image = np.stack(
        [np.tile(ramp, (100, 1)), np.tile(ramp[:, None], (1, 100)), np.tile(ramp, (100, 1))], axis=2
    )
    fine, coarse = (
        superpixels(image, SuperpixelConfig(area_px=area)).max() + 1 for area in (50, 400)
    )
    assert 120 <= fine <= 280
    assert 12 <= coarse <= 36


@pytest.mark.parametrize("method", METHODS)
def test_an_image_of_one_colour_is_cut_without_a_warning(method):
    image = np.full((30, 30, 3), 77, np.uint8)
    labels = superpixels(image, SuperpixelConfig(method=method))
    assert labels.shape == (30, 30)
    assert labels.min() == 0
