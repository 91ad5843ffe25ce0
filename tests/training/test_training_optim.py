from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsseg.training.config import TrainingConfig
from wsseg.training.optim import build_optimizer, lr_factor, parameter_groups, set_lr


class Parts(nn.Module):
    """A convolution and a norm as the backbone, a linear head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 1, 1)
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(1, 1)

    def head_parameters(self):
        return self.head.parameters()


def _table(module, config):
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(module, config)
        for parameter in group["params"]
    }


def test_psa_poly_has_the_four_groups_of_the_field():
    config = TrainingConfig(
        optimiser="psa_poly", lr=0.1, head_lr_factor=10, weight_decay=5e-4, momentum=0.9
    )
    assert _table(Parts(), config) == {
        "body.weight": (0.1, 5e-4),
        "norm.weight": (0.1, 5e-4),
        "body.bias": (0.2, 0.0),
        "norm.bias": (0.2, 0.0),
        "head.weight": (1.0, 5e-4),
        "head.bias": (2.0, 0.0),
    }


def test_psa_poly_is_plain_gradient_descent_under_the_poly_schedule():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    config = TrainingConfig(
        optimiser="psa_poly", lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=True
    )
    optimizer = build_optimizer(net, config)
    expected, total = 2.0, 5
    for step in range(total):
        set_lr(optimizer, lr_factor(step, total, config))
        optimizer.zero_grad()
        (3.0 * net.weight).sum().backward()
        optimizer.step()
        expected -= 0.1 * (1 - step / total) ** 0.9 * (3.0 + 0.01 * expected)
        assert net.weight.item() == pytest.approx(expected, rel=1e-6)


def test_biases_and_norms_do_not_decay_by_default():
    config = TrainingConfig(optimiser="adamw", lr=1.0, head_lr_factor=3, weight_decay=0.5)
    table = _table(Parts(), config)
    assert table["body.weight"] == (1.0, 0.5)
    assert table["norm.weight"] == table["body.bias"] == (1.0, 0.0)
    assert table["head.weight"] == (3.0, 0.5)
    assert table["head.bias"] == (3.0, 0.0)


def test_biases_can_be_treated_like_weights():
    config = TrainingConfig(optimiser="psa_poly", lr=1.0, bias_rule="same", weight_decay=0.5)
    assert set(_table(Parts(), config).values()) == {(1.0, 0.5)}


def test_frozen_weights_are_left_out():
    module = Parts()
    module.body.requires_grad_(False)
    assert not any(name.startswith("body") for name in _table(module, TrainingConfig()))


def test_module_can_make_its_own_groups_and_the_rest_is_filled_in():
    module = Parts()
    module.parameter_groups = lambda config: [
        {"params": list(module.head_parameters()), "lr": 7.0},
        {"params": [*module.body.parameters(), *module.norm.parameters()], "weight_decay": 0.0},
    ]
    optimizer = build_optimizer(module, TrainingConfig(lr=0.5, weight_decay=0.25))
    first, second = optimizer.param_groups
    assert (first["initial_lr"], first["weight_decay"]) == (7.0, 0.25)
    assert (second["initial_lr"], second["weight_decay"]) == (0.5, 0.0)
    set_lr(optimizer, 0.5)
    assert (first["lr"], second["lr"]) == (3.5, 0.25)


def test_forgotten_weights_are_named():
    module = Parts()
    module.parameter_groups = lambda config: [{"params": list(module.head_parameters())}]
    with pytest.raises(ValueError, match=r"body\.weight.*4 in all"):
        build_optimizer(module, TrainingConfig())


def test_module_without_trainable_weights_is_refused():
    module = Parts().requires_grad_(False)
    with pytest.raises(ValueError, match="all are frozen"):
        build_optimizer(module, TrainingConfig())


def test_optimisers_are_what_they_are_called():
    sgd = build_optimizer(Parts(), TrainingConfig(optimiser="sgd", momentum=0.8, nesterov=True))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.8
    assert sgd.param_groups[0]["nesterov"]
    assert isinstance(build_optimizer(Parts(), TrainingConfig()), torch.optim.AdamW)
    plain = build_optimizer(Parts(), TrainingConfig(optimiser="psa_poly"))
    assert type(plain) is torch.optim.SGD
    assert plain.param_groups[0]["momentum"] == 0.0


def test_schedules_start_at_one_and_fall_as_their_formula_says():
    steps = np.arange(10)
    poly = [lr_factor(s, 10, TrainingConfig(poly_power=0.9)) for s in steps]
    cosine = [lr_factor(s, 10, TrainingConfig(schedule="cosine")) for s in steps]
    constant = [lr_factor(s, 10, TrainingConfig(schedule="constant")) for s in steps]
    np.testing.assert_allclose(poly, (1 - steps / 10) ** 0.9)
    np.testing.assert_allclose(cosine, (1 + np.cos(np.pi * steps / 10)) / 2)
    assert set(constant) == {1.0}


def test_warmup_rises_to_one_and_the_schedule_follows():
    config = TrainingConfig(warmup_frac=0.4, poly_power=1.0)
    factors = [lr_factor(step, 10, config) for step in range(10)]
    np.testing.assert_allclose(factors[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(factors[4:], [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
