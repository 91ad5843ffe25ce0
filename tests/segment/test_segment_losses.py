"""Tests of wsseg.segment.losses against float64 formulas written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wsseg.segment.losses.cross_entropy import (
    balanced_cross_entropy,
    cross_entropy,
    inverse_sqrt_weights,
)
from wsseg.segment.losses.dice import dice


def _batch(seed: int = 0, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 4, 5, 6)).astype(np.float32))
    target = rng.integers(0, 4, (2, 5, 6)).astype(np.uint8)
    target[rng.random(target.shape) < ignored] = 255
    return logits.requires_grad_(), torch.from_numpy(target)


def _pixel_losses(
    logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0
) -> list[tuple[int, float]]:
    """The class and the loss of every pixel that is not ignored, in float64."""
    values = logits.detach().double().numpy()
    found = []
    for n, y, x in np.ndindex(*target.shape):
        label = int(target[n, y, x])
        if label == 255:
            continue
        column = values[n, :, y, x]
        log_p = column - math.log(sum(math.exp(v) for v in column))
        found.append((label, -(1 - smoothing) * log_p[label] - smoothing * log_p.mean()))
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_mean_over_pixels_that_count(smoothing: float):
    logits, target = _batch()
    expected = np.mean([loss for _, loss in _pixel_losses(logits, target, smoothing)])
    found = cross_entropy(logits, target, label_smoothing=smoothing)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_class_weights_weigh_sum_and_divisor():
    logits, target = _batch()
    weights = [0.5, 2.0, 0.0, 3.0]
    pixels = _pixel_losses(logits, target)
    expected = sum(weights[c] * loss for c, loss in pixels) / sum(weights[c] for c, _ in pixels)
    found = cross_entropy(logits, target, class_weights=torch.tensor(weights))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_balanced_cross_entropy_gives_background_and_foreground_half_each():
    logits, target = _batch()
    pixels = _pixel_losses(logits, target)
    background = np.mean([loss for c, loss in pixels if c == 0])
    foreground = np.mean([loss for c, loss in pixels if c > 0])
    found = balanced_cross_entropy(logits, target)
    assert found.item() == pytest.approx((background + foreground) / 2, abs=1e-6)


@pytest.mark.parametrize("kept", ["background", "foreground"])
def test_balanced_cross_entropy_of_an_empty_set_is_half_the_other(kept: str):
    logits, target = _batch()
    is_background = target == 0
    target[~is_background if kept == "background" else is_background] = 255
    expected = np.mean([loss for _, loss in _pixel_losses(logits, target)]) / 2
    assert balanced_cross_entropy(logits, target).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, balanced_cross_entropy, dice])
def test_all_ignored_crop_gives_zero_with_zero_gradient(loss):
    logits, target = _batch(ignored=1.0)
    value = loss(logits, target)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", [cross_entropy, balanced_cross_entropy, dice])
def test_ignored_pixels_have_no_gradient_and_the_others_have(loss):
    logits, target = _batch()
    loss(logits, target).backward()
    size = logits.grad.abs().sum(dim=1)
    assert (size[target == 255] == 0).all()
    assert (size[target != 255] > 0).all()


def test_inverse_sqrt_weights_have_mean_one_over_pixels():
    counts = torch.tensor([90_000, 400, 0, 9_600])
    weights = inverse_sqrt_weights(counts).double()
    assert weights[2] == 0
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(math.sqrt(90_000 / 400))


def test_dice_follows_the_formula_over_present_classes():
    logits, target = _batch()
    target[target == 3] = 1  # class 3 is absent and must not count
    p = logits.detach().double().softmax(dim=1).numpy()
    counted = (target != 255).numpy()
    parts = []
    for c in range(3):
        g = (target == c).numpy() & counted
        q = p[:, c] * counted
        parts.append(1 - 2 * (q * g).sum() / ((q**2).sum() + g.sum()))
    assert dice(logits, target).item() == pytest.approx(np.mean(parts), abs=1e-6)


def test_perfect_prediction_has_no_dice_loss():
    target = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0, 0] = 50
    logits[0, 1, 0, 1] = logits[0, 1, 1, 0] = 50
    assert dice(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_logits_are_summed_in_float32():
    logits, target = _batch()
    half = logits.detach().bfloat16()
    assert cross_entropy(half, target).dtype == torch.float32
    assert cross_entropy(half, target).item() == pytest.approx(
        cross_entropy(half.float(), target).item(), abs=1e-7
    )
