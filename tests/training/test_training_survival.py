from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from wsseg import console
from wsseg.atomic import read_jsonl
from wsseg.errors import OutputError
from wsseg.training import loop
from wsseg.training.loop import fit


class Kill(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


class KilledData:
    """Items of which the nth that is made never returns."""

    def __init__(self, data, after, fault=Kill):
        self.data, self.left, self.fault = data, after, fault

    def __len__(self):
        return len(self.data)

    def item(self, index, rng):
        if self.left == 0:
            raise self.fault
        self.left -= 1
        return self.data.item(index, rng)


def _validate(module):
    return {"size": float(module.head.weight.abs().sum())}


def _run(tiny, folder, data=None, net=None, **changes):
    settings = {"ema_decay": 0.8, "optimiser": "adamw", "accumulate_steps": 2, "batch_size": 2}
    return fit(
        net or tiny.net(batch_norm=True),
        data or tiny.Data(),
        tiny.config(**{**settings, **changes}),
        folder,
        seed=3,
        title="tiny",
        validate=_validate,
        monitor="-size",
    )


def _lines(folder):
    lines = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("every_s", [None, 0.0])
@pytest.mark.parametrize("after", [0, 1, 5, 11, 12, 17, 30, 35])
def test_training_killed_anywhere_ends_as_if_it_had_not_been(tiny, tmp_path, after, every_s):
    whole = _run(tiny, tmp_path / "whole")
    with pytest.raises(Kill):
        _run(tiny, tmp_path / "cut", KilledData(tiny.Data(), after), checkpoint_every_s=every_s)
    continued = tiny.Data()
    resumed = _run(tiny, tmp_path / "cut", continued, checkpoint_every_s=every_s)
    assert tiny.same(tiny.weights(whole.module), tiny.weights(resumed.module))
    assert _lines(tmp_path / "cut") == _lines(tmp_path / "whole")
    assert (resumed.best_epoch, resumed.best_value) == (whole.best_epoch, whole.best_value)
    # Nothing that a checkpoint covers is computed again.
    covered = after // 12 * 12 if every_s is None else after // 4 * 4
    assert len(continued.served) == 36 - covered


def test_training_killed_several_times_still_arrives(tiny, tmp_path):
    whole = _run(tiny, tmp_path / "whole")
    for after in (13, 14, 5):
        with pytest.raises(Kill):
            _run(tiny, tmp_path / "cut", KilledData(tiny.Data(), after))
    resumed = _run(tiny, tmp_path / "cut")
    assert tiny.same(tiny.weights(whole.module), tiny.weights(resumed.module))


@pytest.mark.parametrize("name", ["log", "save", "write_done"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_training_killed_around_its_writes_ends_the_same(tiny, tmp_path, monkeypatch, name, when):
    whole = _run(tiny, tmp_path / "whole")
    original = getattr(loop.TrainingFolder, name)
    calls = []

    def killed(self, *args):
        calls.append(name)
        is_fatal = len(calls) == (1 if name == "write_done" else 2)
        if is_fatal and when == "before":
            raise Kill
        original(self, *args)
        if is_fatal:
            raise Kill

    with monkeypatch.context() as patched:
        patched.setattr(loop.TrainingFolder, name, killed)
        with pytest.raises(Kill):
            _run(tiny, tmp_path / "cut")
    resumed = _run(tiny, tmp_path / "cut")
    assert tiny.same(tiny.weights(whole.module), tiny.weights(resumed.module))
    assert _lines(tmp_path / "cut") == _lines(tmp_path / "whole")
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "metrics.jsonl", "done.json"}


def test_ctrl_c_leaves_a_training_that_can_be_continued(tiny, tmp_path):
    whole = _run(tiny, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _run(tiny, tmp_path / "cut", KilledData(tiny.Data(), 20, KeyboardInterrupt))
    assert len(_lines(tmp_path / "cut")) == 1
    resumed = _run(tiny, tmp_path / "cut")
    assert tiny.same(tiny.weights(whole.module), tiny.weights(resumed.module))


def test_full_disk_is_reported_and_the_checkpoint_before_it_continues(tiny, tmp_path, monkeypatch):
    whole = _run(tiny, tmp_path / "whole")
    replace, calls = os.replace, []

    def full(*args):
        calls.append(args)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        replace(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OutputError, match="free some space"):
            _run(tiny, tmp_path / "cut")
    assert not list((tmp_path / "cut").glob(".tmp-*"))
    resumed = _run(tiny, tmp_path / "cut")
    assert tiny.same(tiny.weights(whole.module), tiny.weights(resumed.module))


def test_folder_that_cannot_be_made_is_reported(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        _run(tiny, tmp_path / "file" / "run")


def test_torn_log_line_and_leftover_files_are_cleared_away(tiny, tmp_path):
    folder = tmp_path / "cut"
    with pytest.raises(Kill):
        _run(tiny, folder, KilledData(tiny.Data(), 14))
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "lo')
    (folder / ".tmp-0123456789ab.safetensors").write_bytes(b"half")
    _run(tiny, folder)
    assert [line["epoch"] for line in _lines(folder)] == [1, 2, 3]
    assert (folder / "metrics.jsonl").read_text().count("\n") == 3
    assert not list(folder.glob(".tmp-*"))


def test_broken_checkpoint_is_said_and_training_starts_over(tiny, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(console, "warning", warnings.append)
    whole = _run(tiny, tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(Kill):
        _run(tiny, folder, KilledData(tiny.Data(), 14))
    checkpoint = folder / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    resumed = _run(tiny, folder)
    assert len(warnings) == 1
    assert "checkpoint.safetensors is broken" in warnings[0]
    assert tiny.same(tiny.weights(whole.module), tiny.weights(resumed.module))
    assert len(_lines(folder)) == 3


_SCRIPT = """
import os, signal, sys
from pathlib import Path
import accelerate, torch
import numpy as np
from torch import nn
from wsseg.training import checkpoint, loop
from wsseg.training.config import TrainingConfig

torch.set_num_threads(1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3))
        self.head = nn.Linear(4, 1)

    def loss(self, batch):
        out = self.head(self.body(batch["image"]).mean((2, 3)))
        return {"loss": (out ** 2 + out).mean()}

class Data:
    def __init__(self, kill_at):
        self.left = kill_at

    def __len__(self):
        return 8

    def item(self, index, rng):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return {"image": rng.normal(size=(1, 5, 5)).astype(np.float32)}

def kill_in_save(number):
    save_file, calls = checkpoint.safetensors.torch.save_file, []

    def half_written(tensors, path, metadata):
        calls.append(path)
        if len(calls) == number:
            Path(path).write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        save_file(tensors, path, metadata=metadata)

    checkpoint.safetensors.torch.save_file = half_written

def train(out, kill_item=-1, kill_save=0):
    if os.fork() == 0:
        if kill_save:
            kill_in_save(kill_save)
        torch.manual_seed(0)
        config = TrainingConfig(
            epochs=3, batch_size=2, lr=0.1, num_workers=0, checkpoint_every_s=0, ema_decay=0.9
        )
        loop.fit(Net(), Data(kill_item), config, out, seed=0, title="kill")
        os._exit(0)
    return os.wait()[1]

root = Path(sys.argv[1])
assert train(root / "whole") == 0
whole = (root / "whole" / "last.safetensors").read_bytes()
for item, save in [(0, 0), (3, 0), (9, 0), (23, 0), (-1, 1), (-1, 4), (-1, 9), (-1, 13)]:
    out = root / f"killed_{item}_{save}"
    assert os.WTERMSIG(train(out, item, save)) == signal.SIGKILL, (item, save)
    assert not (out / "done.json").exists()
    assert train(out) == 0
    assert (out / "last.safetensors").read_bytes() == whole, (item, save)
    assert not list(out.glob(".tmp-*"))
print("same")
"""


@pytest.mark.slow
def test_kill_9_at_several_points_ends_with_the_same_file(tmp_path):
    script = tmp_path / "kill.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "same", done.stderr
