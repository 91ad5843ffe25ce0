from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from wsseg.errors import DataError, WssegError
from wsseg.training.config import TrainingConfig
from wsseg.training.data import BatchPlan
from wsseg.training.loader import BatchLoader, choose_num_workers


class Faulty:
    """Items of which one goes wrong in a chosen way."""

    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 8

    def item(self, index, rng):
        if index == 3 and self.fault == "data":
            raise DataError("cannot read x.png: it is empty")
        if index == 3 and self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 3 and self.fault == "bug":
            raise RuntimeError("a bug")
        return {"image": rng.random((3, 2, 2)).astype(np.float32), "index": np.int64(index)}


def _load(num_workers, *, fault=None, epochs=(0, 1), first=0):
    config = TrainingConfig(num_workers=num_workers, batch_size=2)
    loader = BatchLoader(Faulty(fault), BatchPlan(8, 2), config, seed=4, device=torch.device("cpu"))
    return [batch for epoch in epochs for batch in loader.batches(epoch, first)]


def test_number_of_loading_processes_changes_nothing():
    alone = _load(0)
    for helped in (_load(1), _load(2)):
        assert len(helped) == len(alone) == 8
        for first, second in zip(alone, helped, strict=True):
            assert torch.equal(first["image"], second["image"])
            assert torch.equal(first["index"], second["index"])


def test_images_are_laid_out_channels_last():
    batch = _load(0)[0]
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)


def test_loading_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    _load(0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_item_with_bad_data_is_named_whoever_loads_it(num_workers):
    with pytest.raises(DataError, match=r"item 3: cannot read x\.png: it is empty"):
        _load(num_workers, fault="data")


def test_killed_loading_process_says_what_to_do():
    with pytest.raises(WssegError, match="Set num_workers=0 or a smaller batch_size"):
        _load(1, fault="kill")


def test_workers_are_chosen_by_cores_and_size(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    auto = TrainingConfig()
    assert choose_num_workers(auto, BatchPlan(1000, 10)) == 5
    assert choose_num_workers(auto, BatchPlan(40, 10)) == 4
    assert choose_num_workers(auto, BatchPlan(30, 10)) == 0
    assert choose_num_workers(TrainingConfig(num_workers=3), BatchPlan(30, 10)) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert choose_num_workers(auto, BatchPlan(1000, 10)) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert choose_num_workers(auto, BatchPlan(1000, 10)) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bug_in_an_item_is_not_taken_for_a_killed_process(num_workers):
    with pytest.raises(RuntimeError, match="a bug"):
        _load(num_workers, fault="bug")
