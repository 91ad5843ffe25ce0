from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsseg.localize.gradient import (
    class_gradients,
    fuse_stages,
    grad_cam_map,
    grad_cam_pp_map,
    layer_cam_map,
    run_with_layers,
)

FEATURES = np.array([[[1.0, 2.0], [0.5, 0.0]], [[3.0, 0.0], [1.0, 1.0]]])
GRADIENTS = np.array([[[0.4, -0.2], [0.0, 0.8]], [[-0.5, 0.1], [0.3, 0.0]]])


def as_batch(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)[None]


def test_grad_cam_agrees_with_its_formula() -> None:
    weights = GRADIENTS.mean(axis=(1, 2))
    expected = np.maximum((weights[:, None, None] * FEATURES).sum(axis=0), 0)
    found = grad_cam_map(as_batch(FEATURES), as_batch(GRADIENTS))
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-12)


def test_grad_cam_pp_agrees_with_the_published_form_computed_place_by_place() -> None:
    weights = np.zeros(2)
    for k in range(2):
        for i in range(2):
            for j in range(2):
                g = GRADIENTS[k, i, j]
                if g == 0:
                    continue
                alpha = g**2 / (2 * g**2 + FEATURES[k].sum() * g**3)
                weights[k] += alpha * max(g, 0)
    expected = np.maximum((weights[:, None, None] * FEATURES).sum(axis=0), 0)
    found = grad_cam_pp_map(as_batch(FEATURES), as_batch(GRADIENTS))
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-12)


def test_grad_cam_pp_of_tiny_and_of_no_gradients_is_finite() -> None:
    tiny = grad_cam_pp_map(as_batch(FEATURES).float(), as_batch(GRADIENTS).float() * 1e-20)
    assert torch.isfinite(tiny).all()
    assert tiny.max() > 0
    assert (grad_cam_pp_map(as_batch(FEATURES), as_batch(GRADIENTS) * 0) == 0).all()


def test_layer_cam_agrees_with_its_formula() -> None:
    expected = np.maximum((np.maximum(GRADIENTS, 0) * FEATURES).sum(axis=0), 0)
    found = layer_cam_map(as_batch(FEATURES), as_batch(GRADIENTS))
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-12)


def test_stages_are_fused_by_their_highest_value_with_shallow_ones_raised() -> None:
    deep = torch.tensor([[[4.0, 1.0]]], dtype=torch.float64)
    shallow = torch.tensor([[[0.1, 0.2]]], dtype=torch.float64)
    fused = fuse_stages([shallow, deep], [True, False], gamma=2.0)
    expected = [max(np.tanh(2 * 0.5), 1.0), max(np.tanh(2.0), 0.25)]
    np.testing.assert_allclose(fused[0, 0].numpy(), expected)


def test_fused_maps_have_the_finest_size_and_an_empty_map_stays_empty() -> None:
    fused = fuse_stages([torch.zeros(1, 8, 6), torch.zeros(1, 2, 2)], [True, False], 2.0)
    assert fused.shape == (1, 8, 6)
    assert (fused == 0).all()


class Tiny(nn.Module):
    """Two convolutions with an activation that writes in place, and a nonlinear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.fc = nn.Linear(5, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.act(self.first(images))).relu()
        logits: Tensor = self.fc(features.mean(dim=(2, 3)) ** 2)
        return logits


def test_gradients_are_those_of_a_full_backward_pass() -> None:
    torch.manual_seed(0)
    net, images = Tiny().eval(), torch.randn(2, 3, 6, 6)
    outputs, logits = run_with_layers(net, images, [net.first, net.second])
    found = class_gradients(logits, 1, outputs)
    first = net.first(images).detach().requires_grad_(True)
    second = net.second(first.relu())
    score = net.fc(second.relu().mean(dim=(2, 3)) ** 2)[:, 1].sum()
    expected = torch.autograd.grad(score, [first, second])
    torch.testing.assert_close(found, list(expected))
    torch.testing.assert_close(outputs[0], first)
    torch.testing.assert_close(logits, net(images))


def test_nothing_below_the_first_layer_is_recorded() -> None:
    net = Tiny().eval()
    outputs, logits = run_with_layers(net, torch.randn(1, 3, 6, 6), [net.second])
    assert outputs[0].is_leaf
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(logits.sum(), [net.first.weight])


def test_hooks_are_removed_and_gradient_mode_restored_even_after_an_error() -> None:
    net = Tiny().eval()
    with pytest.raises(RuntimeError):
        run_with_layers(net, torch.randn(1, 7, 6, 6), [net.first, net.second])
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks for module in net.modules())
    run_with_layers(net, torch.randn(1, 3, 6, 6), [net.first])
    assert torch.is_grad_enabled()


def test_fifty_calls_leave_no_tensor_behind() -> None:
    net, images = Tiny().eval(), torch.randn(1, 3, 6, 6)

    def once() -> None:
        outputs, logits = run_with_layers(net, images, [net.first, net.second])
        class_gradients(logits, 0, outputs)

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    once()
    before = count()
    for _ in range(50):
        once()
    assert count() == before
    assert all(parameter.grad is None for parameter in net.parameters())
