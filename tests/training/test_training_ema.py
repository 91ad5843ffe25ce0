from __future__ import annotations

import pytest
import torch
from torch import nn

from wsseg.training.ema import WeightAverage


def _one_weight(value: float) -> nn.Module:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, value)
    return net


def test_average_follows_the_formula_with_its_growing_decay():
    net = _one_weight(1.0)
    average = WeightAverage(net, 0.3)
    expected = 1.0
    for step, value in enumerate([2.0, -1.0, 4.0, 0.0], start=1):
        nn.init.constant_(net.weight, value)
        average.update(step)
        kept = min(0.3, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
        assert average.tensors["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_counters_are_copied_and_running_statistics_averaged():
    net = nn.BatchNorm1d(1)
    average = WeightAverage(net, 0.99)
    net.num_batches_tracked.fill_(7)
    net.running_mean.fill_(11.0)
    average.update(1)
    assert average.tensors["num_batches_tracked"].item() == 7
    assert average.tensors["running_mean"].item() == pytest.approx(9.0)


def test_weights_come_back_bit_by_bit_even_after_an_error():
    net = _one_weight(0.1)
    average = WeightAverage(net, 0.5)
    nn.init.constant_(net.weight, 0.7)
    before = net.weight.detach().clone()
    seen = []

    def fail_inside() -> None:
        with average.applied():
            seen.append(net.weight.item())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert seen == pytest.approx([0.1])
    assert torch.equal(net.weight, before)
