"""Tests of wsseg.segment.losses.grid and wsseg.segment.losses.constrain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.data.colour import normalise
from wsseg.errors import RecipeError
from wsseg.segment.config import LossConfig, Smp
from wsseg.segment.loss_config import ConstrainConfig
from wsseg.segment.losses.constrain import constrain, crf_marginals, divergence
from wsseg.segment.losses.cross_entropy import cross_entropy
from wsseg.segment.losses.grid import (
    Grid,
    area_weights,
    at_centres,
    probabilities,
    to_grid,
)
from wsseg.segment.task import SegmenterTask

SMALL = ConstrainConfig(
    grid_px=6, gauss_sxy_cells=1.0, bilateral_sxy_cells=3.0, bilateral_srgb=20.0
)


def _grid(seed: int = 0, classes: int = 3, height: int = 5, width: int = 6) -> Grid:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, classes, height, width)).astype(np.float32))
    images = torch.from_numpy(rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    return Grid(logits.requires_grad_(), images, torch.ones(2, height, width, dtype=torch.bool))


def _exact_mean_field(logits: np.ndarray, image: np.ndarray, config: ConstrainConfig) -> np.ndarray:
    """Mean field of the fully connected CRF with all pairs of cells written out, in float64."""
    classes, height, width = logits.shape
    y, x = np.indices((height, width)).reshape(2, -1)
    place = np.stack([y, x], 1).astype(np.float64)
    colour = image.reshape(-1, 3).astype(np.float64)
    near = ((place[:, None] - place[None]) ** 2).sum(-1)
    alike = ((colour[:, None] - colour[None]) ** 2).sum(-1)
    kernels = [
        (config.gauss_compat, np.exp(-near / (2 * config.gauss_sxy_cells**2))),
        (
            config.bilateral_compat,
            np.exp(
                -near / (2 * config.bilateral_sxy_cells**2) - alike / (2 * config.bilateral_srgb**2)
            ),
        ),
    ]
    scores = logits.reshape(classes, -1).T.astype(np.float64)
    q = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    for _ in range(config.iterations):
        update = scores.copy()
        for compat, kernel in kernels:
            norm = 1 / np.sqrt(kernel.sum(1))
            update += compat * (norm[:, None] * kernel * norm[None]) @ q
        update -= update.max(1, keepdims=True)
        q = np.exp(update) / np.exp(update).sum(1, keepdims=True)
    return q.T.reshape(classes, height, width)


def test_cells_are_means_of_their_pixels_without_padding():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 2, 4, 4)).astype(np.float32)
    image = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[0, :, 3] = False
    batch = {"image": torch.from_numpy(normalise(image))[None], "valid": valid}
    grid = to_grid(torch.from_numpy(logits), batch, grid_px=2)
    wide = logits[0].reshape(2, 2, 2, 4)
    np.testing.assert_allclose(grid.logits[0, :, :, 0], wide[..., :2].mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(grid.logits[0, :, :, 1], wide[..., 2].mean(2), atol=1e-6)
    colour = image.reshape(2, 2, 4, 3)[:, :, :2].astype(np.float64).mean((1, 2))
    np.testing.assert_allclose(grid.images[0, :, 0].numpy(), colour, atol=0.51)
    # The centre of the right cells is the padded column.
    assert grid.valid[0].tolist() == [[True, False], [True, False]]


def test_a_view_that_is_smaller_than_the_grid_keeps_its_pixels():
    grid, image = _grid(), np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    batch = {"image": torch.from_numpy(np.stack([normalise(image)] * 2))}
    found = to_grid(grid.logits, batch, grid_px=41)
    torch.testing.assert_close(found.logits, grid.logits)
    np.testing.assert_array_equal(found.images[1], image)
    assert found.valid.all()


def test_grey_images_are_brought_back_to_grey_colours():
    image = np.full((4, 4, 3), 77, np.uint8)
    batch = {"image": torch.from_numpy(normalise(image, 1))[None]}
    found = to_grid(torch.zeros(1, 2, 4, 4), batch, grid_px=2)
    assert set(found.images.flatten().tolist()) == {77}


@pytest.mark.parametrize(("length", "cells"), [(7, 3), (41, 41), (321, 41)])
def test_every_pixel_is_shared_out_completely(length: int, cells: int):
    weights = area_weights(length, cells).double()
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(weights.sum(1), length / cells, atol=1e-4)


def test_seeds_are_read_at_the_centres_of_cells():
    mask = torch.arange(36, dtype=torch.uint8).reshape(1, 6, 6)
    assert at_centres(mask, 2)[0].tolist() == [[7, 10], [25, 28]]


def test_probabilities_are_floored_and_sum_to_one():
    found = probabilities(torch.tensor([[100.0, 0.0, 0.0]], dtype=torch.float64))
    np.testing.assert_allclose(found, [[1.0001 / 1.0003, 1e-4 / 1.0003, 1e-4 / 1.0003]])


def test_marginals_are_those_of_the_mean_field_over_all_pairs_of_cells():
    grid = _grid()
    found = crf_marginals(grid, SMALL)
    for logits, image, q in zip(grid.logits, grid.images, found, strict=True):
        expected = _exact_mean_field(logits.detach().numpy(), image.numpy(), SMALL)
        # The lattice approximates the kernels.
        assert np.abs(q.numpy() - expected).mean() < 0.05
        assert (q.numpy().argmax(0) == expected.argmax(0)).mean() > 0.8
    torch.testing.assert_close(found.sum(1), torch.ones(2, 5, 6))
    assert found.min() > 0.99e-4


def test_without_pairwise_terms_the_crf_returns_the_softmax_of_the_logits():
    config = SMALL.model_copy(update={"gauss_compat": 0.0, "bilateral_compat": 0.0})
    grid = _grid()
    torch.testing.assert_close(crf_marginals(grid, config), grid.logits.detach().softmax(1))


def test_padding_neither_votes_nor_is_voted_on():
    grid = _grid(height=6, width=8)
    grid.valid[0, :, 5:] = False
    grid.valid[0, :2] = False
    part = Grid(grid.logits[:1, :, 2:, :5], grid.images[:1, 2:, :5], grid.valid[:1, 2:, :5])
    found = crf_marginals(grid, SMALL)
    torch.testing.assert_close(found[:1, :, 2:, :5], crf_marginals(part, SMALL))
    torch.testing.assert_close(found[0, :, 0, 0], torch.full((3,), 1 / 3))
    assert crf_marginals(grid._replace(valid=torch.zeros_like(grid.valid)), SMALL).std() < 1e-6


def test_divergence_is_the_mean_over_valid_cells():
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.ones(3), (2, 4)), rng.dirichlet(np.ones(3), (2, 4))
    valid = rng.random((2, 4)) < 0.7
    cells = [
        sum(q[n, u, c] * np.log(q[n, u, c] / p[n, u, c]) for c in range(3))
        for n, u in zip(*np.nonzero(valid), strict=True)
    ]
    args = [torch.from_numpy(a).movedim(-1, 1)[..., None] for a in (p, q)]
    found = divergence(*args, torch.from_numpy(valid)[..., None])
    assert found.item() == pytest.approx(np.mean(cells), abs=1e-12)
    assert divergence(*args, torch.zeros(2, 4, 1, dtype=torch.bool)).item() == 0


def test_clipped_ratios_have_no_gradient():
    p = torch.tensor([[0.01, 0.29, 0.7]], dtype=torch.float64)[..., None, None].requires_grad_()
    q = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)[..., None, None]
    loss = divergence(p, q, torch.ones(1, 1, 1, dtype=torch.bool), max_ratio=20)
    expected = 0.6 * np.log(20) + 0.3 * np.log(0.3 / 0.29) + 0.1 * np.log(0.1 / 0.7)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    loss.backward()
    np.testing.assert_allclose(p.grad.flatten(), [0, -0.3 / 0.29, -0.1 / 0.7])


def test_the_gradient_stops_at_the_crf():
    """With q constant and no floor, d KL / d logits = (p - q) / cells."""
    grid = _grid()
    marginals = crf_marginals(grid, SMALL)
    assert not marginals.requires_grad
    images = np.stack([normalise(image.numpy()) for image in grid.images])
    constrain(grid.logits, {"image": torch.from_numpy(images)}, SMALL).backward()
    soft = grid.logits.detach().double().softmax(1)
    floored = (soft + 1e-4) / (soft + 1e-4).sum(1, keepdim=True)
    # d log floored_c / d logit_k through the floor, which shrinks it a little.
    q = marginals.double()
    pull = -q / (soft + 1e-4)
    expected = soft * (pull - (pull * soft).sum(1, keepdim=True)) / 60
    np.testing.assert_allclose(grid.logits.grad, expected, atol=1e-6)
    np.testing.assert_allclose(grid.logits.grad, (floored - q) / 60, atol=1e-4)


def test_the_term_can_be_added_to_cross_entropy():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 1)
    batch = {"image": torch.randn(2, 3, 12, 12), "mask": torch.randint(0, 3, (2, 12, 12))}
    config = SMALL.model_copy(update={"weight": 0.5})
    losses = SegmenterTask(net, LossConfig(constrain=config), 2).loss(batch)
    logits = net(batch["image"])
    expected = cross_entropy(logits, batch["mask"]) + 0.5 * constrain(logits, batch, config)
    torch.testing.assert_close(losses["loss"], expected)
    assert set(losses) == {"loss", "cross_entropy", "constrain"}
    off = config.model_copy(update={"weight": 0.0})
    assert set(SegmenterTask(net, LossConfig(constrain=off), 2).loss(batch)) == {"loss"}


def test_training_on_the_term_moves_a_boundary_to_the_edge_of_the_image():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    batch = {"image": torch.from_numpy(normalise(image))[None]}
    start = torch.zeros(1, 2, 16, 16)
    start[0, 1, :, 5:] = 1.0
    start[0, 0, :, :5] = 1.0
    logits = start.clone().requires_grad_()
    config = ConstrainConfig(grid_px=16, bilateral_sxy_cells=6.0)
    for _ in range(30):
        loss = constrain(logits, batch, config)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 200 * gradient).detach().requires_grad_()
    found = logits.detach().argmax(1)[0]
    assert (start.argmax(1)[0, :, 5:8] == 1).all()
    assert (found[:, :8] == 0).float().mean() > 0.95
    assert (found[:, 8:] == 1).float().mean() > 0.95


def test_a_kernel_too_narrow_to_compute_is_refused():
    with pytest.raises(RecipeError):
        crf_marginals(_grid(), SMALL.model_copy(update={"bilateral_srgb": 1e-12}))


def test_without_the_term_settings_read_as_they_did_before_there_was_one():
    assert LossConfig().model_dump(mode="json") == {
        "name": "cross_entropy",
        "class_balance": "none",
        "label_smoothing": 0.0,
        "dice": 0.0,
    }
    config = Smp.model_validate({"loss": {"constrain": {"weight": 2}}})
    assert config.model_dump()["loss"]["constrain"]["weight"] == 2
    assert Smp.model_validate(config.model_dump(mode="json")) == config
    assert Smp.model_validate({"loss": {"dice": 1}}).loss == LossConfig(dice=1)
