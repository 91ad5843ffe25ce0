"""Tests of wsseg.segment.losses.noisy against float64 formulas written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wsseg.segment.config import LossConfig
from wsseg.segment.losses.cross_entropy import balanced_cross_entropy, cross_entropy
from wsseg.segment.losses.noisy import PixelRule, underfitted
from wsseg.segment.noise_config import Bootstrap, Underfit
from wsseg.segment.task import SegmenterTask


def _batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 4, 5, 6)).astype(np.float32))
    target = rng.integers(0, 4, (2, 5, 6)).astype(np.uint8)
    target[rng.random(target.shape) < 0.2] = 255
    return logits.requires_grad_(), torch.from_numpy(target)


def _columns(logits: torch.Tensor, target: torch.Tensor) -> list[tuple[int, list[float]]]:
    """Label and log-probabilities of every counted pixel, in float64."""
    values = logits.detach().double().numpy()
    found = []
    for n, y, x in np.ndindex(*target.shape):
        if int(target[n, y, x]) != 255:
            column = [float(v) for v in values[n, :, y, x]]
            log_sum = math.log(sum(math.exp(v) for v in column))
            found.append((int(target[n, y, x]), [v - log_sum for v in column]))
    return found


def test_soft_bootstrapping_mixes_the_target_with_the_probabilities():
    logits, target = _batch()
    expected = np.mean(
        [
            -sum((0.9 * (k == y) + 0.1 * math.exp(lp)) * lp for k, lp in enumerate(column))
            for y, column in _columns(logits, target)
        ]
    )
    rule = PixelRule(Bootstrap(form="soft", share=0.9))
    assert cross_entropy(logits, target, rule=rule).item() == pytest.approx(expected, abs=1e-6)


def test_hard_bootstrapping_mixes_the_target_with_the_best_class():
    logits, target = _batch()
    expected = np.mean([-0.8 * c[y] - 0.2 * max(c) for y, c in _columns(logits, target)])
    rule = PixelRule(Bootstrap(form="hard"))
    assert cross_entropy(logits, target, rule=rule).item() == pytest.approx(expected, abs=1e-6)


def test_published_shares_are_the_defaults_of_each_form():
    assert (Bootstrap().share, Bootstrap(form="hard").share) == (0.95, 0.8)
    assert Bootstrap(form="hard", share=0.5).share == 0.5
    assert Bootstrap.model_validate(Bootstrap(form="soft").model_dump()).share == 0.95


@pytest.mark.parametrize(("form", "expected"), [("power", 0.2**0.5), ("clamp", 0.2), ("drop", 0.2)])
def test_large_losses_weaken_once_the_mean_is_small(form: str, expected: float):
    losses = torch.tensor([[[0.2, 0.2, 0.9, 7.0]]])
    counted = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])  # mean 0.433
    large = {"power": 0.9**0.5, "clamp": 0.5, "drop": 0.0}[form]
    found = underfitted(losses, counted, Underfit(form=form))
    torch.testing.assert_close(found[0, 0, :3], torch.tensor([expected, expected, large]))


@pytest.mark.parametrize("form", ["power", "clamp", "drop"])
def test_nothing_weakens_while_the_mean_is_large(form: str):
    losses = torch.tensor([[[0.2, 0.2, 1.2]]])  # mean 0.533
    assert underfitted(losses, torch.ones(1, 1, 3), Underfit(form=form)).equal(losses)


def test_a_loss_of_zero_has_a_finite_gradient_under_every_rule():
    for form in ("power", "clamp", "drop"):
        losses = torch.zeros(1, 2, 2, requires_grad=True)
        underfitted(losses, torch.ones(1, 2, 2), Underfit(form=form)).sum().backward()
        assert losses.grad is not None
        assert losses.grad.isfinite().all()


def test_weights_multiply_losses_and_not_the_divisor():
    logits, target = _batch()
    weights = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    kept = [float(w) for w, y in zip(weights.flatten(), target.flatten(), strict=True) if y != 255]
    pixels = [w * -c[y] for w, (y, c) in zip(kept, _columns(logits, target), strict=True)]
    found = cross_entropy(logits, target, rule=PixelRule(weights=weights))
    assert found.item() == pytest.approx(sum(pixels) / len(pixels), abs=1e-6)


def test_the_balanced_form_weighs_pixels_within_its_halves():
    logits, target = _batch()
    weights = torch.full(target.shape, 0.25)
    plain = balanced_cross_entropy(logits, target)
    found = balanced_cross_entropy(logits, target, rule=PixelRule(weights=weights))
    torch.testing.assert_close(found, 0.25 * plain)


def test_rules_of_the_settings_and_weights_of_the_batch_reach_the_loss():
    config = LossConfig.model_validate({"bootstrap": {}, "underfit": {"form": "drop"}})
    task = SegmenterTask(torch.nn.Conv2d(3, 4, 1), config, 3)
    _, mask = _batch()
    batch = {"image": torch.randn(2, 3, 5, 6), "mask": mask, "weight": torch.rand(mask.shape)}
    rule = PixelRule(config.bootstrap, config.underfit, batch["weight"])
    expected = cross_entropy(task(batch["image"]), mask, rule=rule)
    torch.testing.assert_close(task.loss(batch)["loss"], expected)


def test_rules_that_are_not_set_leave_no_trace_in_the_settings():
    assert not {"bootstrap", "underfit"} & set(LossConfig().model_dump())
    config = LossConfig.model_validate({"bootstrap": {"form": "hard"}})
    assert LossConfig.model_validate(config.model_dump()) == config
