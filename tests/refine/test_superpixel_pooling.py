from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.refine.protocol import RefineContext
from wsseg.refine.superpixel_pooling import SuperpixelPooling, superpixel_pooling

METHODS = ["slic", "felzenszwalb"]


def two_tone(size=(60, 80), colours=((30, 40, 50), (200, 180, 60))) -> np.ndarray:
    """A dark ground with a bright rectangle whose left edge is at column 33."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = colours[0]
    image[15:45, 33:70] = colours[1]
    return image


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


def test_an_image_of_another_size_than_its_scores_is_refused():
    scores = Scores(np.zeros((2, 5, 5), np.float32), np.array([0, 1], np.uint8), (20, 20))
    with pytest.raises(DataError, match=r"30 x 10 px, but its scores were made for 20 x 20 px"):
        superpixel_pooling(np.zeros((10, 30, 3), np.uint8), scores)
    with pytest.raises(DataError, match=r"expected \(H, W, 3\) uint8"):
        superpixel_pooling(np.zeros((20, 20), np.uint8), scores)
