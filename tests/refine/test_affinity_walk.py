from __future__ import annotations

import numpy as np
import pytest

from wsseg import console
from wsseg.data.scores import Scores
from wsseg.refine.affinity_config import AffinityNet
from wsseg.refine.affinity_walk import propagated


def dense_walk(values, features, *, radius, beta, steps, inner):
    """values · T^steps with the whole matrix, in float64."""
    _, height, width = features.shape
    matrix = np.eye(height * width)
    for y in range(height):
        for x in range(width):
            reaches = y <= height - radius and radius - 1 <= x <= width - radius
            if inner and not reaches:
                continue
            for dy in range(radius):
                for dx in range(-radius + 1, radius):
                    is_half = dy > 0 or dx > 0
                    target = (y + dy, x + dx)
                    if not is_half or dy * dy + dx * dx >= radius * radius:
                        continue
                    if not (target[0] < height and 0 <= target[1] < width):
                        continue
                    distance = np.abs(features[:, y, x] - features[:, *target]).mean()
                    one, other = y * width + x, target[0] * width + target[1]
                    matrix[one, other] = matrix[other, one] = np.exp(-distance)
    matrix **= beta
    matrix /= matrix.sum(axis=0)
    walked = values.reshape(len(values), -1) @ np.linalg.matrix_power(matrix, steps)
    return walked.reshape(values.shape)


def bilinear(cells: np.ndarray, stride: int) -> np.ndarray:
    """Interpolate with half-pixel centres, in float64."""
    for axis in (-2, -1):
        length = cells.shape[axis]
        place = np.clip((np.arange(length * stride) + 0.5) / stride - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        part = place - low
        part = part[:, None] if axis == -2 else part
        above = np.take(cells, np.minimum(low + 1, length - 1), axis)
        cells = np.take(cells, low, axis) * (1 - part) + above * part
    return cells


def reference(scores: Scores, features, config: AffinityNet) -> np.ndarray:
    stride = config.stride_px
    height, width = scores.size
    values = scores.resized().astype(np.float64)
    values[0] = (1 - values[1:].max(axis=0)) ** config.alpha_walk
    padded = np.pad(values, ((0, 0), (0, -height % stride), (0, -width % stride)))
    rows, columns = padded.shape[1] // stride, padded.shape[2] // stride
    cells = padded.reshape(len(values), rows, stride, columns, stride).mean(axis=(2, 4))
    walked = dense_walk(
        cells,
        features.astype(np.float64),
        radius=config.radius,
        beta=config.beta,
        steps=2**config.log2_steps,
        inner=config.links == "inner",
    )
    return bilinear(walked, stride)[:, :height, :width]


def make(seed: int = 0, size=(75, 107), map_size=(19, 27), stride: int = 8):
    rng = np.random.default_rng(seed)
    values = rng.random((3, *map_size)).astype(np.float32) ** 3
    scores = Scores(values, np.array([0, 9, 4], np.uint8), size)
    grid = (-(-size[0] // stride), -(-size[1] // stride))
    features = rng.normal(size=(6, *grid)).astype(np.float32)
    features[:, :, grid[1] // 2 :] += 1
    return scores, features


@pytest.mark.parametrize("links", ["inner", "all"])
@pytest.mark.parametrize("walk", ["chebyshev", "exact"])
def test_walk_agrees_with_the_whole_matrix(links, walk):
    scores, features = make()
    config = AffinityNet(links=links, walk=walk)
    walked = propagated(scores, features, config=config)
    assert walked.values.dtype == np.float32
    assert walked.class_ids.tolist() == [0, 9, 4]
    np.testing.assert_allclose(walked.values, reference(scores, features, config), atol=1e-4)


def test_every_setting_of_the_walk_is_used():
    scores, features = make(stride=4)
    config = AffinityNet(
        stride_px=4, radius=3, beta=3, log2_steps=3, alpha_walk=4, links="all", walk="exact"
    )
    walked = propagated(scores, features, config=config)
    np.testing.assert_allclose(walked.values, reference(scores, features, config), atol=1e-4)


def test_row_zero_of_the_input_does_not_matter():
    scores, features = make()
    other = scores.with_background(np.ones_like(scores.values[0]))
    np.testing.assert_array_equal(
        propagated(scores, features).values, propagated(other, features).values
    )


def test_on_a_grid_smaller_than_the_neighbourhood_nothing_moves_and_it_is_said(caplog):
    console._said.clear()
    scores, features = make(size=(30, 40), map_size=(30, 40))
    with caplog.at_level("INFO", logger=console.logger.name):
        console.logger.propagate = True
        still = propagated(scores, features)
    np.testing.assert_allclose(
        still.values, reference(scores, features, AffinityNet(log2_steps=0)), atol=1e-5
    )
    assert "links=all" in caplog.text
    moved = propagated(scores, features, config=AffinityNet(links="all"))
    assert np.abs(moved.values - still.values).max() > 0.05


def test_one_pixel_keeps_its_scores():
    scores = Scores(np.full((2, 1, 1), 0.5, np.float32), np.array([0, 3], np.uint8), (1, 1))
    walked = propagated(scores, np.zeros((4, 1, 1), np.float32))
    # A cell that is mostly padding holds the mean of one pixel and 63 zeros.
    assert walked.values[:, 0, 0].tolist() == pytest.approx([0.5**16 / 64, 0.5 / 64], rel=1e-4)


def test_features_of_another_grid_are_refused():
    scores, features = make()
    with pytest.raises(ValueError, match="shape"):
        propagated(scores, features[:, 1:])
