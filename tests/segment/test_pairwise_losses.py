"""Tests of the dense CRF loss and the normalised cut loss, and of the affinity they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.data.colour import normalise
from wsseg.errors import RecipeError
from wsseg.segment.losses.dense_crf import dense_crf_loss
from wsseg.segment.losses.grid import Grid
from wsseg.segment.losses.normalised_cut import cut, normalised_cut
from wsseg.segment.losses.quadratic import BilateralAffinity, quadratic_form
from wsseg.segment.term_config import DenseCrfLossConfig, NormalisedCutConfig

SXY, SRGB = 4.0, 30.0


def _images(height: int = 10, width: int = 12, seed: int = 0) -> np.ndarray:
    """Smooth scenes: a lattice is a poor approximation of kernels on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((height, width))
    images = []
    for _ in range(2):
        colour = rng.uniform(0, 200, (2, 3))
        side = (x * rng.uniform(0.5, 1) + y * rng.uniform(0, 1)) > width / 2
        images.append(np.where(side[..., None], *colour) + rng.uniform(0, 20, (height, width, 3)))
    return np.clip(images, 0, 255).astype(np.uint8)


def _exact(image: np.ndarray) -> np.ndarray:
    """The bilateral affinity of all pairs of cells (n, n), in float64."""
    height, width = image.shape[:2]
    place = np.stack(np.indices((height, width)), -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)
    near = ((place[:, None] - place[None]) ** 2).sum(-1)
    alike = ((colour[:, None] - colour[None]) ** 2).sum(-1)
    return np.exp(-near / (2 * SXY**2) - alike / (2 * SRGB**2))


def _grid(images: np.ndarray, classes: int = 3, seed: int = 1) -> Grid:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(images), classes, *images.shape[1:3])).astype(np.float32)
    return Grid(
        torch.from_numpy(logits),
        torch.from_numpy(images),
        torch.ones(images.shape[:3], dtype=torch.bool),
    )


def _lattice_matrix(affinity: BilateralAffinity, size: tuple[int, int]) -> np.ndarray:
    """Read the affinity of the first image, column by column."""
    count = size[0] * size[1]
    ones = torch.eye(count).reshape(1, count, *size)
    padded = torch.cat([ones, torch.zeros_like(ones)])
    return affinity(padded)[0].reshape(count, count).double().numpy().T


def test_affinity_is_a_fixed_part_of_the_exact_kernel():
    images = _images()
    grid = _grid(images)
    affinity = BilateralAffinity(grid, SXY, SRGB)
    found, exact = _lattice_matrix(affinity, (10, 12)), _exact(images[0])
    np.testing.assert_allclose(found.sum(1), affinity.row_sums[0].flatten(), rtol=1e-4)
    # The lattice's gain, about half, is much the same everywhere.
    gain = found.sum(1) / exact.sum(1)
    assert 0.35 < gain.mean() < 0.75
    assert gain.std() / gain.mean() < 0.15
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.97
    # Symmetric but for the order in which the lattice blurs its axes.
    assert np.abs(found - found.T).mean() < 0.1 * found.mean()


def test_gradient_of_the_form_follows_that_of_all_pairs():
    images = _images()
    affinity = BilateralAffinity(_grid(images), SXY, SRGB)
    p = _grid(images).logits.softmax(1).requires_grad_()
    quadratic_form(p, affinity).sum().backward()
    for image, values, found in zip(images, p.detach().double(), p.grad, strict=True):
        expected = 2 * values.flatten(1).numpy() @ _exact(image)
        found = found.flatten(1).numpy()
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97
        assert 0.35 < (found / expected).mean() < 0.75


def _batch(images: np.ndarray) -> dict[str, torch.Tensor]:
    return {"image": torch.from_numpy(np.stack([normalise(image) for image in images]))}


def _settings(cls, **more):
    return cls(grid_px=64, sxy_cells=SXY, srgb=SRGB, **more)


def test_the_published_sum_is_that_over_all_pairs_and_its_gradient_is_minus_2_a_s_over_b():
    images = _images()
    logits = _grid(images).logits.requires_grad_()
    config = _settings(DenseCrfLossConfig, scale="sum")
    loss = dense_crf_loss(logits, _batch(images), config)
    affinity = BilateralAffinity(_grid(images), SXY, SRGB)
    p = logits.detach().softmax(1).requires_grad_()
    value = 0.0
    for number in range(2):
        matrix = _lattice_matrix(affinity if number == 0 else _second(images), (10, 12))
        flat = p[number].detach().double().flatten(1).numpy()
        value += sum(s @ matrix @ (1 - s) for s in flat) / 2
    assert loss.item() == pytest.approx(value, rel=2e-3)
    (found,) = torch.autograd.grad(loss, logits)
    (through_softmax,) = torch.autograd.grad(
        logits.softmax(1), logits, grad_outputs=-2 / 2 * affinity(p)
    )
    torch.testing.assert_close(found, through_softmax, rtol=1e-4, atol=1e-5)


def _second(images: np.ndarray) -> BilateralAffinity:
    return BilateralAffinity(_grid(images[::-1].copy()), SXY, SRGB)


def test_the_share_divides_by_all_affinity_and_does_not_grow_with_the_size():
    images = _images()
    logits = _grid(images).logits
    total = dense_crf_loss(logits, _batch(images), _settings(DenseCrfLossConfig, scale="sum"))
    share = dense_crf_loss(logits, _batch(images), _settings(DenseCrfLossConfig))
    sums = BilateralAffinity(_grid(images), SXY, SRGB).row_sums.sum((1, 2, 3))
    assert 0 < share.item() < 1
    each = [
        dense_crf_loss(
            logits[n : n + 1],
            _batch(images[n : n + 1]),
            _settings(DenseCrfLossConfig, scale="sum"),
        )
        for n in range(2)
    ]
    expected = sum(part / whole for part, whole in zip(each, sums, strict=True)) / 2
    torch.testing.assert_close(share, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(total, sum(each) / 2, rtol=1e-4, atol=1e-4)


def test_normalised_cut_is_the_share_of_affinity_that_leaves_each_class():
    rng = np.random.default_rng(3)
    half = rng.random((12, 12))
    matrix = torch.from_numpy(half + half.T)
    segments = torch.from_numpy(rng.dirichlet(np.ones(3), (2, 4, 3)).transpose(0, 3, 1, 2).copy())
    expected = 0.0
    for values in segments.flatten(2).numpy():
        for s in values:
            expected += s @ matrix.numpy() @ (1 - s) / (matrix.numpy().sum(1) @ s) / 2
    degrees = matrix.sum(1).reshape(1, 1, 4, 3).expand(2, -1, -1, -1)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return cut(values, lambda s: (s.flatten(2) @ matrix).view_as(s), degrees)

    assert loss(segments).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(loss, (segments.requires_grad_(),))
    assert loss(torch.zeros_like(segments)).item() == 0


def test_normalised_cut_on_images_is_near_that_of_the_exact_kernel():
    images = _images()
    grid = _grid(images)
    found = normalised_cut(grid.logits, _batch(images), _settings(NormalisedCutConfig))
    expected = 0.0
    for image, values in zip(images, grid.logits.double().softmax(1), strict=True):
        matrix = _exact(image)
        for s in values.flatten(1).numpy():
            expected += s @ matrix @ (1 - s) / (matrix.sum(1) @ s) / 2
    assert found.item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("loss", "config"),
    [
        (dense_crf_loss, _settings(DenseCrfLossConfig)),
        (dense_crf_loss, _settings(DenseCrfLossConfig, scale="sum")),
        (normalised_cut, _settings(NormalisedCutConfig)),
    ],
)
def test_padding_counts_on_neither_side(loss, config):
    images = _images()
    logits, batch = _grid(images).logits.clone(), _batch(images)
    batch["valid"] = torch.zeros(2, 10, 12, dtype=torch.bool)
    batch["valid"][:, :7, 2:9] = True
    part = {"image": batch["image"][..., :7, 2:9]}
    given = logits.requires_grad_()
    found = loss(given, batch, config)
    torch.testing.assert_close(found, loss(logits[..., :7, 2:9], part, config))
    found.backward()
    assert given.grad[:, :, 7:].abs().max() == 0
    batch["valid"][:] = False
    assert loss(logits, batch, config).item() == 0


def test_edges_of_the_image_are_cheap_places_to_change():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255

    def split(loss, config, at: int) -> float:
        logits = torch.full((1, 2, 16, 16), 20.0)
        logits[:, 0, :, at:] = -20
        logits[:, 1, :, :at] = -20
        return loss(logits, _batch(image[None]), config).item()

    for loss, config in (
        (dense_crf_loss, _settings(DenseCrfLossConfig)),
        (normalised_cut, _settings(NormalisedCutConfig)),
    ):
        assert split(loss, config, 8) < 0.02
        assert split(loss, config, 5) > 5 * max(split(loss, config, 8), 1e-3)


def test_a_kernel_too_narrow_to_compute_is_refused():
    images = _images()
    config = DenseCrfLossConfig(grid_px=64, sxy_cells=SXY, srgb=1e-12)
    with pytest.raises(RecipeError):
        dense_crf_loss(_grid(images).logits, _batch(images), config)
