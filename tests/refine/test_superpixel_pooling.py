from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.refine.protocol import RefineContext
from wsseg.refine.superpixel_pooling import (
    SuperpixelPooling,
    pool,
    superpixel_pooling,
    superpixels,
)

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
    labels = superpixels(image, SuperpixelPooling(method=method, sigma_px=0, min_area_px=20))
    inside = np.zeros(image.shape[:2], bool)
    inside[15:45, 33:70] = True
    crossing = np.intersect1d(labels[inside], labels[~inside])
    assert len(crossing) == 0
    assert labels.min() == 0
    assert len(np.unique(labels)) == labels.max() + 1


@pytest.mark.parametrize("method", METHODS)
def test_a_blurred_map_gets_the_outline_of_the_object(method):
    import cv2

    image = two_tone()
    truth = np.zeros(image.shape[:2], np.float32)
    truth[15:45, 33:70] = 1
    blurred = cv2.GaussianBlur(truth, (0, 0), 4)[::4, ::4]
    values = np.stack([np.full_like(blurred, 0.5), blurred])
    scores = Scores(values, np.array([0, 1], np.uint8), truth.shape)
    config = SuperpixelPooling(method=method, area_px=60, sigma_px=0, min_area_px=20)
    refined = superpixel_pooling(image, scores, config=config)

    def iou(maps: np.ndarray) -> float:
        found = maps[1] > maps[0]
        return float((found & (truth > 0)).sum() / (found | (truth > 0)).sum())

    assert iou(refined.values) > iou(scores.resized()) + 0.02
    assert iou(refined.values) > 0.95


def test_the_area_sets_the_number_of_superpixels():
    ramp = np.linspace(0, 255, 100).astype(np.uint8)
    image = np.stack(
        [np.tile(ramp, (100, 1)), np.tile(ramp[:, None], (1, 100)), np.tile(ramp, (100, 1))], axis=2
    )
    fine, coarse = (
        superpixels(image, SuperpixelPooling(area_px=area)).max() + 1 for area in (50, 400)
    )
    assert 120 <= fine <= 280
    assert 12 <= coarse <= 36


def test_the_background_row_is_pooled_like_the_others():
    image = two_tone((20, 20))
    values = np.random.default_rng(0).random((2, 20, 20)).astype(np.float32)
    values[1] = values[0]
    scores = Scores(values, np.array([0, 1], np.uint8), (20, 20))
    refined = superpixel_pooling(image, scores)
    np.testing.assert_array_equal(refined.values[0], refined.values[1])


def test_superpixels_of_an_image_are_computed_once_per_setting():
    image = two_tone()
    scores = Scores(np.zeros((2, 60, 80), np.float32), np.array([0, 1], np.uint8), (60, 80))
    context = RefineContext()
    superpixel_pooling(image, scores, context=context)
    superpixel_pooling(image, scores, context=context)
    assert len(context.cache) == 1
    other = SuperpixelPooling(area_px=400)
    superpixel_pooling(image, scores, config=other, context=context)
    assert len(context.cache) == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (13, 15)])
def test_images_without_room_for_superpixels_keep_their_scores(method, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    values = rng.random((2, *size)).astype(np.float32)
    scores = Scores(values, np.array([0, 1], np.uint8), size)
    config = SuperpixelPooling(method=method, min_area_px=1, scale=1)
    refined = superpixel_pooling(image, scores, config=config)
    if method == "slic" or min(size) < 4:
        np.testing.assert_array_equal(refined.values, values)
    else:
        np.testing.assert_allclose(refined.values.mean((1, 2)), values.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_of_one_colour_is_cut_without_a_warning(method):
    image = np.full((30, 30, 3), 77, np.uint8)
    labels = superpixels(image, SuperpixelPooling(method=method))
    assert labels.shape == (30, 30)
    assert labels.min() == 0


def test_an_image_of_another_size_than_its_scores_is_refused():
    scores = Scores(np.zeros((2, 5, 5), np.float32), np.array([0, 1], np.uint8), (20, 20))
    with pytest.raises(DataError, match=r"30 x 10 px, but its scores were made for 20 x 20 px"):
        superpixel_pooling(np.zeros((10, 30, 3), np.uint8), scores)
    with pytest.raises(DataError, match=r"expected \(H, W, 3\) uint8"):
        superpixel_pooling(np.zeros((20, 20), np.uint8), scores)
