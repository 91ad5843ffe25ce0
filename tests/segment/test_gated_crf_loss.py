"""Tests of wsseg.segment.losses.gated_crf and of the quadratic form beneath it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.data.colour import normalise
from wsseg.segment.loss_config import LossConfig
from wsseg.segment.losses.gated_crf import disagreement, gated_crf, window_kernels
from wsseg.segment.losses.quadratic import quadratic_form
from wsseg.segment.task import SegmenterTask
from wsseg.segment.term_config import GatedCrfConfig

CONFIG = GatedCrfConfig(grid_px=64, radius_cells=2, sxy_cells=1.5, srgb=40.0)


def _pairs(colours: np.ndarray, gate: np.ndarray, config: GatedCrfConfig) -> np.ndarray:
    """Write the kernel of all pairs of cells (n, n) down, in float64."""
    height, width = gate.shape
    y, x = np.indices((height, width)).reshape(2, -1)
    dy, dx = (np.abs(a[:, None] - a[None]) for a in (y, x))
    flat = colours.reshape(3, -1).T.astype(float)
    apart = ((flat[:, None] - flat[None]) ** 2).sum(-1) / config.srgb**2
    kernel = np.exp(-0.5 * (apart + (dy**2 + dx**2) / config.sxy_cells**2))
    kernel[np.maximum(dy, dx) > config.radius_cells] = 0
    np.fill_diagonal(kernel, 0)
    return kernel * gate.reshape(-1, 1) * gate.reshape(1, -1)


def _case(height: int = 5, width: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    valid = np.ones((2, height, width), bool)
    valid[1, :, width - 1 :] = False
    logits = rng.normal(size=(2, 3, height, width))
    batch = {
        "image": torch.from_numpy(np.stack([normalise(image) for image in images])),
        "valid": torch.from_numpy(valid),
    }
    return images, valid, logits, batch


@pytest.mark.parametrize("size", [(5, 6), (1, 7), (4, 2), (1, 1)])
def test_loss_is_the_sum_over_all_pairs_divided_by_the_cells_that_count(size):
    images, valid, logits, batch = _case(*size)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = 0.0
    for image, gate, chance in zip(images, valid, p, strict=True):
        kernel = _pairs(image.transpose(2, 0, 1), gate.astype(float), CONFIG)
        flat = chance.reshape(3, -1)
        expected += (kernel * (1 - flat.T @ flat)).sum()
    found = gated_crf(torch.from_numpy(logits).float(), batch, CONFIG)
    assert found.item() == pytest.approx(expected / max(valid.sum(), 1), rel=1e-5, abs=1e-7)


def test_gradient_is_that_of_the_sum_over_all_pairs():
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (1, 3, 4, 3))
    gate = torch.ones(1, 1, 4, 3, dtype=torch.float64)
    gate[..., 0, 0] = 0
    kernels = window_kernels(torch.from_numpy(colours), gate, CONFIG)
    p = torch.from_numpy(rng.dirichlet(np.ones(3), (1, 4, 3)).transpose(0, 3, 1, 2).copy())
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: disagreement(v, kernels), (p,))
    dense = torch.from_numpy(_pairs(colours[0], gate[0, 0].numpy(), CONFIG))
    disagreement(p, kernels).backward()
    torch.testing.assert_close(p.grad[0].flatten(1), -2 * p.detach()[0].flatten(1) @ dense)


def test_the_form_has_the_gradient_2_a_s_and_no_gradient_of_the_affinity():
    rng = np.random.default_rng(2)
    half = torch.from_numpy(rng.random((12, 12)))
    affinity = (half + half.T).requires_grad_()
    values = torch.from_numpy(rng.normal(size=(2, 3, 4, 3))).requires_grad_()

    def form(v: torch.Tensor) -> torch.Tensor:
        return quadratic_form(v, lambda s: (s.flatten(2) @ affinity).view_as(s))

    expected = torch.einsum("nki,ij,nkj->nk", values.flatten(2), affinity, values.flatten(2))
    torch.testing.assert_close(form(values), expected)
    assert torch.autograd.gradcheck(form, (values,))
    form(values).sum().backward()
    assert affinity.grad is None


def test_cells_with_any_padding_count_on_neither_side():
    _, _, logits, batch = _case(6, 8)
    batch["valid"][:, :, 6:] = False
    cut = {name: values[..., :6] for name, values in batch.items()}
    full = torch.from_numpy(logits).float()
    torch.testing.assert_close(
        gated_crf(full, batch, CONFIG), gated_crf(full[..., :6], cut, CONFIG)
    )
    nothing = batch | {"valid": torch.zeros_like(batch["valid"])}
    assert gated_crf(full, nothing, CONFIG).item() == 0
    # Cells of 2 x 2 pixels that hold one column of padding are left out too.
    coarse = CONFIG.model_copy(update={"grid_px": 4})
    odd = batch | {"valid": torch.arange(8)[None, None].expand(2, 6, 8) < 5}
    even = batch | {"valid": torch.arange(8)[None, None].expand(2, 6, 8) < 4}
    torch.testing.assert_close(gated_crf(full, odd, coarse), gated_crf(full, even, coarse))


def test_one_class_everywhere_costs_nothing_and_edges_are_cheap_places_to_change():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    batch = {"image": torch.from_numpy(normalise(image))[None]}
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0] = 40
    assert gated_crf(logits, batch, CONFIG).item() == pytest.approx(0, abs=1e-5)

    def split(at: int) -> float:
        logits = torch.full((1, 2, 8, 8), 20.0)
        logits[:, 0, :, at:] = -20
        logits[:, 1, :, :at] = -20
        return gated_crf(logits, batch, CONFIG).item()

    assert split(4) < 1e-4
    assert split(3) > 0.05


def test_term_starts_after_its_fraction_of_the_training():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 1)
    batch = {
        "image": torch.randn(2, 3, 8, 8),
        "mask": torch.full((2, 8, 8), 255, dtype=torch.uint8),
    }
    batch["mask"][:, 4, 4] = 1
    task = SegmenterTask(net, LossConfig(gated_crf=GatedCrfConfig()), 2)
    outside = task.loss(batch)
    assert outside["gated_crf"] > 0
    torch.testing.assert_close(
        outside["loss"].detach(), outside["cross_entropy"] + 0.1 * outside["gated_crf"]
    )
    task.on_progress(0.004)
    before = task.loss(batch)
    assert before["gated_crf"] == 0
    torch.testing.assert_close(before["loss"].detach(), before["cross_entropy"])
    task.on_progress(0.005)
    torch.testing.assert_close(task.loss(batch)["loss"], outside["loss"])
