"""The random walker against a dense linear system in float64, and its rules for seeds."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from wsseg import console
from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.refine.random_walker import RandomWalker, find_seeds, random_walker


def slow_walk(image: np.ndarray, seeds: np.ndarray, num_rows: int, beta: float) -> np.ndarray:
    """Probabilities (K, H, W) of reaching each kind of seed first, by a dense matrix."""
    height, width = seeds.shape
    picture = image.astype(np.float64) / 255
    across = ((picture[:, 1:] - picture[:, :-1]) ** 2).sum(2).ravel()
    down = ((picture[1:] - picture[:-1]) ** 2).sum(2).ravel()
    contrast = np.concatenate([across, down]).mean()
    chances = np.zeros((height * width, height * width))
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    squared = ((picture[y, x] - picture[y + dy, x + dx]) ** 2).sum()
                    weight = np.exp(-beta * squared / contrast) + 1e-10
                    chances[y * width + x, (y + dy) * width + x + dx] = weight
    chances /= chances.sum(axis=1, keepdims=True)
    flat = seeds.reshape(-1)
    free = flat < 0
    reached = (flat[:, None] == np.arange(num_rows)).astype(np.float64)
    # h = T h on free pixels, h fixed on seeds.
    inner = np.eye(free.sum()) - chances[np.ix_(free, free)]
    reached[free] = np.linalg.solve(inner, chances[np.ix_(free, ~free)] @ reached[~free])
    return reached.T.reshape(num_rows, height, width)


def make_image(size=(9, 11), seed=0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 40, (*size, 3))
    image[size[0] // 2 :, size[1] // 2 :] += 150
    return image.astype(np.uint8)


def scores_of(values: np.ndarray) -> Scores:
    ids = np.arange(len(values), dtype=np.uint8)
    return Scores(values.astype(np.float32), ids, values.shape[1:])


def lines(*rows: list[float]) -> np.ndarray:
    """Values (K, 1, W) of rows, the background first."""
    return np.array(rows, np.float32)[:, None, :]


@pytest.mark.parametrize("num_rows", [2, 3, 5])
@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
def test_probabilities_are_those_of_the_random_walk(num_rows, beta):
    image = make_image()
    values = np.random.default_rng(num_rows).random((num_rows, 9, 11)) ** 3
    values[0] = 0
    config = RandomWalker(beta=beta, background_seed_max=0.05)
    seeds = find_seeds(values.astype(np.float32), config)
    assert (seeds == -1).sum() > 10
    assert len(np.unique(seeds)) == num_rows + 1
    refined = random_walker(image, scores_of(values), config=config)
    expected = slow_walk(image, seeds, num_rows, beta)
    np.testing.assert_allclose(refined.values, expected, atol=1e-5)
    np.testing.assert_allclose(refined.values.sum(axis=0), 1, atol=1e-5)


def test_in_an_image_of_one_colour_only_the_distance_counts():
    values = lines([0] * 5, [0, 0.3, 0.3, 0.3, 1])
    refined = random_walker(np.full((1, 5, 3), 90, np.uint8), scores_of(values))
    np.testing.assert_allclose(refined.values[1, 0], [0, 0.25, 0.5, 0.75, 1], atol=1e-6)


def test_a_few_sure_pixels_fill_the_object_up_to_its_edge():
    image = np.full((40, 50, 3), 30, np.uint8)
    image[10:30, 12:36] = (200, 180, 60)
    values = np.zeros((2, 40, 50), np.float32)
    values[1] = 0.3
    values[1, 18:22, 20:24] = 0.9
    values[1, :3] = 0.0
    refined = random_walker(image, scores_of(values))
    inside = np.zeros((40, 50), bool)
    inside[10:30, 12:36] = True
    np.testing.assert_array_equal(refined.values.argmax(axis=0) == 1, inside)


def test_sure_pixels_are_seeds_of_their_strongest_class():
    values = lines([0, 0, 0, 0, 0], [0.05, 0.7, 0.7, 0.5, 0.11], [0.1, 0.65, 0.8, 0.2, 0.0])
    assert find_seeds(values).tolist() == [[0, 1, 2, -1, -1]]


def test_a_filled_background_row_makes_seeds_where_it_wins():
    values = lines([0.95, 0.8, 0.95, 0.7], [0.3, 0.3, 0.96, 0.65])
    # A class above its limit is no seed where the background is stronger.
    assert find_seeds(values).tolist() == [[0, -1, 1, -1]]


def test_a_weak_class_takes_the_pixels_near_its_peak():
    values = lines([0] * 5, [0.9, 0.0, 0.3, 0.2, 0.2], [0.0, 0.0, 0.2, 0.36, 0.4])
    assert find_seeds(values).tolist() == [[1, 0, -1, 2, 2]]
    sharp = RandomWalker(fallback_peak_frac=1.0)
    assert find_seeds(values, sharp).tolist() == [[1, 0, -1, -1, 2]]


def test_two_weak_classes_share_pixels_by_closeness_to_their_peaks():
    values = lines([0] * 4, [0.2, 0.19, 0.1, 0.0], [0.3, 0.4, 0.38, 0.0])
    assert find_seeds(values).tolist() == [[1, 2, 2, 0]]
    swapped = find_seeds(values[[0, 2, 1]])
    assert swapped.tolist() == [[2, 1, 1, 0]]


def test_a_class_without_evidence_has_probability_zero():
    values = lines([0] * 4, [0.9, 0.3, 0.0, 0.0], [0.0, 0.05, 0.1, 0.0])
    assert 2 not in find_seeds(values)
    image = make_image((1, 4))
    refined = random_walker(image, scores_of(values))
    assert (refined.values[2] == 0).all()
    # And where there is no evidence for any class, all is background.
    nothing = random_walker(image, scores_of(np.zeros((3, 1, 4))))
    assert (nothing.values[0] == 1).all()
    assert (nothing.values[1:] == 0).all()


def test_without_sure_background_the_weakest_pixels_are_taken():
    weak = np.linspace(0.2, 0.5, 20)
    values = lines([0] * 21, [0.9, *weak])
    assert (find_seeds(values) == 0).sum() == 1
    assert find_seeds(values)[0, 1] == 0
    more = find_seeds(values, RandomWalker(fallback_background_frac=0.2))
    assert np.flatnonzero(more[0] == 0).tolist() == [1, 2, 3, 4]
    none = RandomWalker(fallback_background_frac=0)
    assert 0 not in find_seeds(values, none)
    filled = random_walker(make_image((1, 21)), scores_of(values), config=none)
    assert (filled.values[1] == 1).all()
    assert (filled.values[0] == 0).all()


def test_an_image_that_one_class_fills_has_no_background():
    refined = random_walker(
        make_image((4, 4)), scores_of(np.stack([np.zeros((4, 4)), np.ones((4, 4))]))
    )
    assert (refined.values[1] == 1).all()
    assert (refined.values[0] == 0).all()


def test_seeds_everywhere_are_returned_as_they_are():
    values = lines([0, 0, 0], [1, 0, 0.05], [0, 0.9, 0.05])
    refined = random_walker(make_image((1, 3)), scores_of(values))
    np.testing.assert_array_equal(refined.values[:, 0], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_fallbacks_are_told_once(caplog):
    console.logger.propagate = True
    values = lines([0] * 4, [0.2, 0.3, 0.4, 0.35])
    with caplog.at_level(logging.INFO, logger="wsseg"):
        for _ in range(2):
            random_walker(make_image((1, 4)), scores_of(values))
    assert len(caplog.messages) == 2
    assert "foreground_seed_min" in caplog.messages[0]
    assert "without background seeds" in caplog.messages[1]


@pytest.mark.parametrize("map_size", [(60, 80), (15, 20), (120, 160)])
def test_a_reduced_walk_returns_the_size_of_the_image(map_size):
    inside = np.zeros((120, 160), bool)
    inside[30:90, 66:140] = True
    image = np.where(inside[..., None], (200, 180, 60), (30, 40, 50)).astype(np.uint8)
    foreground = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 9)
    small = cv2.resize(foreground, map_size[::-1], interpolation=cv2.INTER_AREA)
    values = np.stack([np.zeros_like(small), small])
    scores = Scores(values, np.array([0, 1], np.uint8), (120, 160))
    config = RandomWalker(max_side_px=80, foreground_seed_min=0.9)
    refined = random_walker(image, scores, config=config)
    assert refined.values.shape == (2, 120, 160)
    found = refined.values[1] > refined.values[0]
    assert (found & inside).sum() / (found | inside).sum() > 0.97


def test_limits_that_cross_and_other_images_are_refused():
    with pytest.raises(ValidationError, match="background_seed_max < foreground_seed_min"):
        RandomWalker(background_seed_max=0.6, foreground_seed_min=0.6)
    scores = Scores(np.zeros((2, 5, 5), np.float32), np.array([0, 1], np.uint8), (20, 20))
    with pytest.raises(DataError, match=r"30 x 10 px, but its scores were made for 20 x 20 px"):
        random_walker(np.zeros((10, 30, 3), np.uint8), scores)
