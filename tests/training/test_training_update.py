from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.training.optim import build_optimizer
from wsseg.training.update import Updater


class OverflowingAccelerator:
    """Behaves like float16 training whose gradients overflow in chosen updates."""

    device = torch.device("cpu")
    num_processes = 1
    process_index = 0
    scaler = "any"

    def __init__(self, overflows):
        self.overflows = iter(overflows)
        self.step_was_skipped = False

    def prepare(self, module, optimizer):
        self.optimizer = optimizer
        return module, self

    def no_sync(self, module):
        return contextlib.nullcontext()

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, parameters, max_norm):
        self.step_was_skipped = next(self.overflows)
        return torch.tensor(float("inf") if self.step_was_skipped else 2.0)

    def step(self):
        if not self.step_was_skipped:
            self.optimizer.step()

    def zero_grad(self):
        self.optimizer.zero_grad()


def _updater(tiny, overflows):
    config, net = tiny.config(), tiny.net()
    accelerator = OverflowingAccelerator(overflows)
    updater = Updater(
        accelerator, net, build_optimizer(net, config), config, total_steps=100, seed=0
    )
    batch = {"image": torch.ones(2, 2, 4, 4), "target": torch.ones(2)}
    return updater, itertools.repeat(batch)


def test_updates_that_float16_leaves_out_are_counted_not_hidden(tiny):
    updater, batches = _updater(tiny, [True, False])
    skipped, _ = updater.update(batches, 1, epoch=0, step=0)
    taken, _ = updater.update(batches, 1, epoch=0, step=1)
    assert (skipped["skipped"], skipped["grad_norm"]) == (1.0, 0.0)
    assert (taken["skipped"], taken["grad_norm"]) == (0.0, 2.0)


def test_float16_that_never_finds_its_scale_is_an_error(tiny):
    updater, batches = _updater(tiny, itertools.repeat(True))
    for step in range(49):
        updater.update(batches, 1, epoch=0, step=step)
    with pytest.raises(RecipeError, match="float16 gradient became inf in epoch 1, update 50"):
        updater.update(batches, 1, epoch=0, step=49)


def test_notes_come_back_and_are_not_logged(tiny):
    updater, batches = _updater(tiny, [False])
    values, note = updater.update(batches, 3, epoch=0, step=0, note=1.0)
    assert note == 1.0
    assert values.keys() == {"loss", "mse", "grad_norm", "skipped"}
