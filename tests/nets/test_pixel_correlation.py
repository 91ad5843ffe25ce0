from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.nets import pixel_correlation
from wsseg.nets.build import build_backbone
from wsseg.nets.pixel_correlation import (
    PixelCorrelation,
    lateral_modules,
    run_with_laterals,
    spread,
)


def reference_spread(scores: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Loops over pairs of cells, in float64."""
    count, num_rows, height, width = scores.shape
    result = np.zeros((count, num_rows, height * width))
    for image in range(count):
        f = vectors[image].reshape(vectors.shape[1], -1).astype(np.float64)
        f = f / (np.sqrt((f**2).sum(axis=0)) + 1e-5)
        s = scores[image].reshape(num_rows, -1).astype(np.float64)
        for j in range(height * width):
            k = np.array([max(0.0, float(f[:, i] @ f[:, j])) for i in range(height * width)])
            result[image, :, j] = (s * k).sum(axis=1) / (k.sum() + 1e-5)
    return result.reshape(scores.shape)


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 3, 4, 5, generator=generator)
    return scores, torch.randn(2, 6, 4, 5, generator=generator)


def test_scores_spread_as_the_formula_in_float64(tensors):
    expected = reference_spread(*(one.numpy() for one in tensors))
    np.testing.assert_allclose(spread(*tensors).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_scores_spread_in_blocks_are_the_same(tensors, monkeypatch):
    whole = spread(*tensors)
    monkeypatch.setattr(pixel_correlation, "_MAX_CORRELATIONS", 60)
    with torch.no_grad():
        torch.testing.assert_close(spread(*tensors), whole)


def test_cells_share_with_their_like_alone_by_hand() -> None:
    # Two kinds of cells, at right angles and opposite: nothing crosses.
    vectors = torch.tensor([[[[1.0, 5.0, 0.0, -1.0]], [[0.0, 0.0, 2.0, 0.0]]]])
    scores = torch.tensor([[[[0.2, 0.8, 0.5, 1.0]]]])
    assert spread(scores, vectors)[0, 0, 0].tolist() == pytest.approx(
        [0.5, 0.5, 0.5, 1.0], abs=1e-4
    )


def test_the_scale_of_vectors_does_not_matter_and_constants_stay(tensors):
    scores, vectors = tensors
    torch.testing.assert_close(
        spread(scores, 100 * vectors), spread(scores, vectors), rtol=1e-3, atol=1e-4
    )
    constant = spread(torch.ones_like(scores), vectors)
    torch.testing.assert_close(constant, torch.ones_like(scores), rtol=0, atol=1e-4)


def test_only_the_module_learns(tensors):
    backbone = build_backbone("test_resnet")
    module = PixelCorrelation(backbone)
    images = torch.randn(2, 3, 32, 40, requires_grad=True)
    _, grids = run_with_laterals(backbone, images, lateral_modules(backbone))
    scores = tensors[0].clone().requires_grad_(True)
    module(scores, images.detach(), grids)[:, 1].sum().backward()
    assert scores.grad is None
    assert images.grad is None
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(bool(parameter.grad.any()) for parameter in module.parameters())


def test_the_module_is_its_formula(tensors):
    backbone = build_backbone("test_resnet").eval()
    module = PixelCorrelation(backbone)
    images = torch.randn(2, 3, 4, 5)
    generator = torch.Generator().manual_seed(3)
    widths = [layer.in_channels for layer in module.laterals]
    grids = [torch.randn(2, width, 4, 5, generator=generator) for width in widths]
    parts = [images.double().numpy()]
    for layer, grid in zip(module.laterals, grids, strict=True):
        weight = layer.weight[:, :, 0, 0].detach().double().numpy()
        parts.append(np.maximum(np.einsum("kd,ndhw->nkhw", weight, grid.double().numpy()), 0))
    weight = module.vectors.weight[:, :, 0, 0].detach().double().numpy()
    vectors = np.einsum("kd,ndhw->nkhw", weight, np.concatenate(parts, axis=1))
    expected = reference_spread(tensors[0].numpy(), vectors)
    found = module(tensors[0], images, grids).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_sizes_are_those_of_the_published_code_on_its_network() -> None:
    backbone = build_backbone("resnet38d").eval()
    module = PixelCorrelation(backbone)
    shapes = [tuple(layer.weight.shape[:2]) for layer in (*module.laterals, module.vectors)]
    assert shapes == [(64, 512), (128, 1024), (192, 195)]
    assert all(layer.bias is None for layer in (*module.laterals, module.vectors))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features, grids = run_with_laterals(backbone, images, lateral_modules(backbone))
        named = backbone.trunk(images)
    torch.testing.assert_close(features, named["conv6"])
    torch.testing.assert_close(grids[0], named["conv4"])
    torch.testing.assert_close(grids[1], named["conv5"])


def test_the_two_stages_before_the_last_are_looked_at() -> None:
    backbone = build_backbone("test_resnet")
    stages = backbone.stage_modules()
    chosen = [lateral.module for lateral in lateral_modules(backbone)]
    assert chosen == [stages[number] for number in sorted(stages)[-3:-1]]
    one = lateral_modules(backbone, (1,))
    assert [lateral.module for lateral in one] == [stages[1]]


def test_layers_of_other_sizes_and_grey_images_are_resized() -> None:
    backbone = build_backbone("test_resnet", output_stride=16, in_channels=1)
    module = PixelCorrelation(backbone, (0, 1))
    images = torch.randn(1, 1, 64, 64)
    _, grids = run_with_laterals(backbone, images, lateral_modules(backbone, (0, 1)))
    assert grids[0].shape[2] > 4
    assert module(torch.rand(1, 2, 4, 4), images, grids).shape == (1, 2, 4, 4)


def test_a_transformer_has_stages_too() -> None:
    backbone = build_backbone("test_vit", output_stride=16)
    module = PixelCorrelation(backbone)
    images = torch.randn(1, 3, 64, 48)
    _, grids = run_with_laterals(backbone, images, lateral_modules(backbone))
    assert module(torch.rand(1, 2, 4, 3), images, grids).shape == (1, 2, 4, 3)


def test_stages_that_do_not_exist_are_named(monkeypatch) -> None:
    backbone = build_backbone("test_resnet")
    with pytest.raises(RecipeError, match=r"seam cannot look at stages \[1, 9\]"):
        lateral_modules(backbone, (1, 9))
    monkeypatch.setattr(type(backbone), "stage_modules", lambda _self: {})
    with pytest.raises(RecipeError, match="two before the last"):
        lateral_modules(backbone)


def test_a_map_without_vectors_stays_finite() -> None:
    scores = torch.rand(1, 2, 2, 2)
    vectors = torch.zeros(1, 3, 2, 2, requires_grad=True)
    spread(scores, vectors).sum().backward()
    assert bool(torch.isfinite(vectors.grad).all())
