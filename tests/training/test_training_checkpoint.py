from __future__ import annotations

import os
import resource

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from wsseg.errors import MissingWeightsError, OutputError
from wsseg.training.checkpoint import (
    Position,
    Trained,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from wsseg.training.config import TrainingConfig
from wsseg.training.ema import WeightAverage
from wsseg.training.optim import build_optimizer


def _trained(optimiser, *, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.to(memory_format=torch.channels_last)
    config = TrainingConfig(optimiser=optimiser, lr=0.1)
    return Trained(net, build_optimizer(net, config), WeightAverage(net, 0.9))


def _step(trained, seed):
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    trained.optimizer.zero_grad()
    trained.module(images).square().mean().backward()
    trained.optimizer.step()
    trained.ema.update(seed + 1)


def _state(trained):
    state = {f"net.{k}": v for k, v in trained.module.state_dict().items()}
    return state | {f"ema.{k}": v for k, v in trained.ema.tensors.items()}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "psa_poly"])
def test_training_continues_from_a_checkpoint_to_the_last_bit(tmp_path, optimiser):
    path = tmp_path / "c.safetensors"
    straight = _trained(optimiser)
    _step(straight, 0)
    _step(straight, 1)
    position = Position(epoch=1, step=2, sums={"loss": 0.1 + 0.2}, best_value=-0.25, best_epoch=1)
    save_checkpoint(path, straight, position, "f")
    resumed = _trained(optimiser, seed=9)
    assert load_checkpoint(path, resumed, "f") == position
    for trained in (straight, resumed):
        _step(trained, 2)
    first, second = _state(straight), _state(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_restored_optimiser_state_is_laid_out_as_the_weights(tmp_path):
    path = tmp_path / "c.safetensors"
    straight = _trained("adamw")
    _step(straight, 0)
    save_checkpoint(path, straight, Position(), "f")
    resumed = _trained("adamw", seed=9)
    load_checkpoint(path, resumed, "f")
    weight = resumed.module[0].weight
    average = resumed.optimizer.state[weight]["exp_avg"]
    assert weight.stride() == average.stride()
    assert average.is_contiguous(memory_format=torch.channels_last)


def test_checkpoint_of_another_training_is_not_read(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, _trained("sgd"), Position(step=3), "one")
    other = _trained("sgd", seed=9)
    before = {name: value.clone() for name, value in _state(other).items()}
    assert load_checkpoint(path, other, "two") is None
    assert load_checkpoint(tmp_path / "none.safetensors", other, "one") is None
    assert all(torch.equal(value, _state(other)[name]) for name, value in before.items())


def test_scaler_state_travels_along(tmp_path):
    class Scaler:
        def __init__(self, scale):
            self.scale = scale

        def state_dict(self):
            return {"scale": self.scale, "growth": 3}

        def load_state_dict(self, state):
            self.scale = state["scale"]

    path = tmp_path / "c.safetensors"
    base = _trained("sgd")
    save_checkpoint(
        path, Trained(base.module, base.optimizer, None, Scaler(1024.0)), Position(), "f"
    )
    fresh = Scaler(1.0)
    load_checkpoint(path, Trained(base.module, base.optimizer, None, fresh), "f")
    assert fresh.scale == 1024.0


def test_file_holds_tensors_and_json_only(tmp_path):
    path = tmp_path / "c.safetensors"
    trained = _trained("adamw")
    _step(trained, 0)
    save_checkpoint(path, trained, Position(), "f")
    tensors = safetensors.torch.load_file(path)
    assert {name.partition("/")[0] for name in tensors} == {"model", "ema", "optimizer"}
    assert b"pickle" not in path.read_bytes()


def test_weights_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "folder" / "w.safetensors"
    source, target = _trained("sgd").module, _trained("sgd", seed=9).module
    save_weights(path, source, {"classes": "scratch"})
    assert load_weights(path, target) == {"classes": "scratch"}
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
    assert target[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_shared_weights_can_be_saved(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    save_weights(tmp_path / "w.safetensors", net)
    assert "1.weight" in safetensors.torch.load_file(tmp_path / "w.safetensors")


def test_weights_of_another_network_are_refused_with_both_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, nn.Linear(2, 2))
    with pytest.raises(MissingWeightsError, match=r"w\.safetensors belong to another network"):
        load_weights(path, nn.Linear(3, 2))


@pytest.mark.parametrize("content", [None, b"", b"no safetensors file at all"])
def test_missing_and_broken_weights_are_named(tmp_path, content):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MissingWeightsError, match=r"Cannot read the weights .*w\.safetensors"):
        load_weights(path, nn.Linear(2, 2))


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"rounds": 2}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match="_extra_state"):
        save_weights(tmp_path / "w.safetensors", Odd(1, 1))


def _full_disk(*args, **options):
    raise OSError(28, "No space left on device")


def _full_disk_in_safetensors(*args, **options):
    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (os, "replace", _full_disk),
        (safetensors.torch, "save_file", _full_disk),
        (safetensors.torch, "save_file", _full_disk_in_safetensors),
    ],
)
def test_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, owner, name, fault):
    path = tmp_path / "c.safetensors"
    trained = _trained("sgd")
    save_checkpoint(path, trained, Position(step=1), "f")
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fault)
        with pytest.raises(OutputError, match=r"Cannot write .*c\.safetensors.*space"):
            save_checkpoint(path, trained, Position(step=2), "f")
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    assert load_checkpoint(path, trained, "f") == Position(step=1)


def test_write_that_the_system_really_cuts_off_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "c.safetensors"
    trained = _trained("sgd")
    save_checkpoint(path, trained, Position(step=1), "f")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*c\.safetensors"):
            save_checkpoint(path, trained, Position(step=2), "f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path, trained, "f") == Position(step=1)
