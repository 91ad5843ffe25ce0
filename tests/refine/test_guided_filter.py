"""The guided filter against ridge regressions in explicit windows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.refine.guided_filter import GuidedFilter, filter_maps, guided_filter


def slow_filter(target: np.ndarray, guide: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """One regression per window, solved by least squares; then the mean of all that cover a pixel.

    The penalty n * eps * |a|² on a window of n pixels is one row sqrt(n * eps) per colour.
    """
    height, width = target.shape
    total, count = np.zeros(target.shape), np.zeros(target.shape)
    for y in range(height):
        for x in range(width):
            window = (
                slice(max(0, y - radius), y + radius + 1),
                slice(max(0, x - radius), x + radius + 1),
            )
            colours = guide[window].reshape(-1, 3)
            wanted = target[window].reshape(-1)
            design = np.hstack([colours, np.ones((len(colours), 1))])
            penalty = np.sqrt(len(colours) * eps) * np.eye(3, 4)
            line, *_ = np.linalg.lstsq(
                np.vstack([design, penalty]), np.append(wanted, np.zeros(3)), rcond=None
            )
            total[window] += guide[window] @ line[:3] + line[3]
            count[window] += 1
    return total / count


def make_guide(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    guide = 0.2 * rng.random((*size, 3))
    guide[size[0] // 2 :, size[1] // 3 :] += (0.6, 0.4, 0.1)
    return guide


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (9, 1), (7, 6), (12, 15)])
@pytest.mark.parametrize(("radius", "eps"), [(1, 1e-2), (3, 1e-4), (40, 1e-3)])
def test_it_is_a_ridge_regression_in_every_window(size, radius, eps):
    guide = make_guide(size)
    values = np.random.default_rng(1).random((2, *size)).astype(np.float32)
    found = filter_maps(values, guide, radius, eps)
    for row, target in zip(found, values, strict=True):
        expected = slow_filter(target.astype(np.float64), guide, radius, eps)
        np.testing.assert_allclose(row, np.clip(expected, 0, 1), atol=1e-6)


def test_a_map_that_is_a_linear_function_of_the_colours_is_kept():
    guide = make_guide((14, 17))
    target = (guide @ np.array([0.3, 0.2, -0.1]) + 0.2).astype(np.float32)
    np.testing.assert_allclose(filter_maps(target[None], guide, 3, 1e-8)[0], target, atol=1e-4)


def test_a_constant_map_is_kept_and_sums_are_kept():
    guide = make_guide((14, 17))
    constant = np.full((1, 14, 17), 0.4, np.float32)
    np.testing.assert_allclose(filter_maps(constant, guide, 4, 1e-3), constant, atol=1e-6)
    shares = 0.2 + 0.4 * np.random.default_rng(0).dirichlet(np.ones(3), (14, 17)).transpose(2, 0, 1)
    found = filter_maps(shares.astype(np.float32), guide, 4, 1e-2)
    np.testing.assert_allclose(found.sum(axis=0), shares.sum(axis=0), atol=1e-5)


def test_a_flat_image_blurs_with_two_boxes():
    values = np.random.default_rng(0).random((1, 20, 20)).astype(np.float32)
    found = filter_maps(values, np.full((20, 20, 3), 0.5), 2, 1e-3)
    twice = cv2.blur(cv2.blur(values[0], (5, 5)), (5, 5))
    np.testing.assert_allclose(found[0, 4:-4, 4:-4], twice[4:-4, 4:-4], atol=1e-5)


def test_a_blurred_map_gets_the_outline_of_the_object():
    inside = np.zeros((60, 80), bool)
    inside[15:45, 33:70] = True
    image = np.where(inside[..., None], (200, 180, 60), (30, 40, 50))
    image = (image + np.random.default_rng(0).integers(-8, 9, image.shape)).astype(np.uint8)
    blurred = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 4)[::4, ::4]
    values = np.stack([np.full_like(blurred, 0.5), blurred])
    scores = Scores(values, np.array([0, 1], np.uint8), inside.shape)

    def iou(maps: np.ndarray) -> float:
        found = maps[1] > maps[0]
        return float((found & inside).sum() / (found | inside).sum())

    refined = guided_filter(image, scores, config=GuidedFilter(radius_px=6, eps=1e-3))
    assert iou(refined.values) > iou(scores.resized()) + 0.02
    assert iou(refined.values) > 0.97
    np.testing.assert_allclose(refined.values[0], 0.5, atol=1e-5)


def test_the_radius_is_a_share_of_the_longer_side_or_pixels():
    image = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    values = np.random.default_rng(1).random((2, 20, 50)).astype(np.float32)
    scores = Scores(values, np.array([0, 1], np.uint8), (20, 50))
    by_share = guided_filter(image, scores, config=GuidedFilter(radius_frac=0.1)).values
    in_px = guided_filter(image, scores, config=GuidedFilter(radius_px=5, radius_frac=0.5)).values
    np.testing.assert_array_equal(by_share, in_px)
    tiny = guided_filter(image, scores, config=GuidedFilter(radius_frac=1e-6)).values
    one = guided_filter(image, scores, config=GuidedFilter(radius_px=1)).values
    np.testing.assert_array_equal(tiny, one)


def test_settings_out_of_range_and_other_images_are_refused():
    for settings in ({"radius_px": 0}, {"radius_frac": 0}, {"eps": 0}):
        with pytest.raises(ValidationError):
            GuidedFilter(**settings)
    scores = Scores(np.zeros((2, 5, 5), np.float32), np.array([0, 1], np.uint8), (20, 20))
    with pytest.raises(DataError, match=r"30 x 10 px, but its scores were made for 20 x 20 px"):
        guided_filter(np.zeros((10, 30, 3), np.uint8), scores)
