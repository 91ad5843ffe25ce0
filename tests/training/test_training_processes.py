from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

from wsseg.atomic import read_jsonl
from wsseg.errors import RecipeError
from wsseg.training.processes import LossModule, is_main_process, start_accelerator

_SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from wsseg.training.config import TrainingConfig
from wsseg.training.loop import fit

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 1)
        self.unused = nn.Linear(2, 2)

    def loss(self, batch):
        out = self.head(torch.relu(self.body(batch["image"])).mean((2, 3)))[:, 0]
        return {"loss": ((out - batch["image"].mean((1, 2, 3))) ** 2).mean()}

class Data:
    def __len__(self):
        return 21

    def item(self, index, rng):
        return {"image": index % 3 + rng.normal(size=(1, 5, 5)).astype(np.float32)}

def validate(module):
    calls.append(1)
    return {"size": float(module.head.weight.abs().sum())}

calls = []
torch.manual_seed(0)
config = TrainingConfig(
    epochs=3, batch_size=4, accumulate_steps=2, lr=0.05, optimiser="sgd", precision="float32",
    num_workers=0, ema_decay=0.7, checkpoint_every_s=0, max_grad_norm=0.5,
    early_stop_patience_epochs=2,
)
result = fit(
    Net(), Data(), config, Path(sys.argv[1]), seed=0, title="ddp", validate=validate,
    monitor="size",
)
print("epochs", len(calls), result.was_done)
"""


def _environment(port, rank=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    if rank is not None:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    return environment


def _launch(script, folder, ranks):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env=_environment(port, rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    finished = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * len(ranks), finished
    return [out.strip() for out, _ in finished]


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(tmp_path):
    import safetensors.torch

    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    assert _launch(script, tmp_path / "one", [None]) == ["epochs 3 False"]
    assert _launch(script, tmp_path / "two", [0, 1]) == ["epochs 3 False"] * 2
    for name in ("last.safetensors", "best.safetensors"):
        one = safetensors.torch.load_file(tmp_path / "one" / name)
        two = safetensors.torch.load_file(tmp_path / "two" / name)
        assert one.keys() == two.keys()
        for key, expected in one.items():
            torch.testing.assert_close(two[key], expected, atol=1e-5, rtol=0)
    lines = [read_jsonl(tmp_path / folder / "metrics.jsonl") for folder in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 3
    for single, double in zip(*lines, strict=True):
        for name in ("epoch", "step", "lr", "loss", "grad_norm", "size"):
            assert double[name] == pytest.approx(single[name], rel=1e-5)
    assert _launch(script, tmp_path / "two", [0, 1]) == ["epochs 0 True"] * 2


@pytest.mark.parametrize(("rank", "expected"), [(None, True), ("0", True), ("1", False)])
def test_first_process_is_the_one_that_writes(monkeypatch, rank, expected):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_main_process() is expected


def test_precision_can_change_between_trainings():
    names = [start_accelerator(p).mixed_precision for p in ("float32", "bfloat16", "float32")]
    assert names == ["no", "bf16", "no"]


def test_launch_other_than_data_parallelism_is_refused(monkeypatch):
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(RecipeError, match="launched with FSDP; supported are one process"):
        start_accelerator("float32")


def test_only_the_total_carries_gradients(tiny):
    batch = {"image": torch.zeros(2, 2, 4, 4), "target": torch.ones(2)}
    terms = LossModule(tiny.net())(batch)
    assert terms["loss"].requires_grad
    assert not terms["mse"].requires_grad
    assert terms["loss"].shape == ()
