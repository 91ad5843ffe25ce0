from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import Field

from wsseg import registry
from wsseg.context import RunContext
from wsseg.localize.config import TagLocalizerConfig
from wsseg.localize.rounds import RoundsLocalizer, rounds_method
from wsseg.localize.stage import train_localizer
from wsseg.localize.tags.cam import Cam, cam
from wsseg.rundir import StageDir


class Counting(TagLocalizerConfig):
    """Settings of rounds that only count."""

    name: Literal["counting"] = Field("counting", description="Rounds that count.")
    rounds: int = Field(3, description="Rounds.")
    stop_after: int | None = Field(None, description="The round that ends the training.")


class CountingLocalizer(RoundsLocalizer):
    """Trains a plain network per round and writes down what it was told."""

    config_class = Counting

    def __call__(self, *, config: Any = Counting(), num_classes: int, load_weights: bool = True):
        return cam(config=config, num_classes=num_classes, load_weights=load_weights)

    def numbers(self, config: Any) -> range:
        return range(1, config.rounds + 1)

    def after(self, this, net):
        facts = {"told": [one["mark"] for one in this.before], "mark": f"m{this.number}"}
        if this.number == this.inputs.config.stop_after:
            facts["stop"] = "enough"
        return facts


counting = CountingLocalizer()


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(sys.modules, "counting_localizer", sys.modules[__name__])
    monkeypatch.setitem(registry.TABLES["localizers"], "counting", "counting_localizer:counting")
    registry.table.cache_clear()
    yield
    registry.table.cache_clear()


@pytest.fixture
def dataset(make_dataset):
    return make_dataset(
        {
            **{f"{i}": {"tags": {1 + i % 2}, "size": (32, 40)} for i in range(4)},
            "ok": {"tags": set(), "size": (32, 32)},
            "val": {"tags": {1}, "size": (32, 32), "split": "val"},
        }
    )


def facts_of(folder: Path, number: int) -> dict[str, Any]:
    found = json.loads((folder / f"training/round_{number}/round.json").read_text())["facts"]
    assert isinstance(found, dict)
    return found


def test_every_round_sees_the_facts_of_the_rounds_before(runs, dataset, tmp_path):
    scores = runs.run_stage(dataset, runs.small("counting"), tmp_path / "run")
    assert facts_of(tmp_path / "run", 3) == {"told": ["m1", "m2"], "mark": "m3"}
    assert set(scores) == {"0", "1", "2", "3", "ok", "val"}
    for number in (1, 2, 3):
        assert (tmp_path / f"run/training/round_{number}/last.safetensors").is_file()


def test_the_maps_are_those_of_the_last_round(runs, dataset, tmp_path):
    config = runs.small("counting", rounds=2)
    runs.run_stage(dataset, config, tmp_path / "run")
    stage = StageDir(tmp_path / "run", "f")
    net = train_localizer(dataset, config, stage, RunContext())
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "run/training/round_2/last.safetensors")
    assert torch.equal(net.head.weight, kept["head.weight"])
    other = load_file(tmp_path / "run/training/round_1/last.safetensors")
    assert not torch.equal(net.head.weight, other["head.weight"])


def test_a_round_may_say_that_none_should_follow(runs, dataset, tmp_path):
    runs.run_stage(dataset, runs.small("counting", stop_after=2), tmp_path / "run")
    assert facts_of(tmp_path / "run", 2)["stop"] == "enough"
    assert not (tmp_path / "run/training/round_3").exists()


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        ("round_1/round.json", 1),
        ("round_2/checkpoint.safetensors", 1),
        ("round_2/done.json", 1),
        ("round_3/round.json", 1),
        ("scores/*.npz", 2),
    ],
)
def test_stopped_anywhere_it_ends_in_the_same_maps(
    pattern, number, runs, dataset, tmp_path, monkeypatch
):
    config = runs.small("counting")
    whole = runs.run_stage(dataset, config, tmp_path / "whole")
    with runs.stopped_at(pattern, number, monkeypatch):
        runs.run_stage(dataset, config, tmp_path / "cut")
    assert runs.same(runs.run_stage(dataset, config, tmp_path / "cut"), whole)


def test_rounds_that_are_done_are_not_done_again(runs, dataset, tmp_path, monkeypatch):
    config = runs.small("counting")
    runs.run_stage(dataset, config, tmp_path / "run")
    first = train_localizer(dataset, config, StageDir(tmp_path / "run", "f"), RunContext())
    monkeypatch.setattr("wsseg.training.loop._Loop", None)
    monkeypatch.setattr(CountingLocalizer, "after", None)
    again = train_localizer(dataset, config, StageDir(tmp_path / "run", "f"), RunContext())
    kept = again.state_dict()
    assert all(value.equal(kept[name]) for name, value in first.state_dict().items())


def test_facts_of_an_earlier_round_decide_about_later_ones(runs, dataset, tmp_path):
    config = runs.small("counting")
    runs.run_stage(dataset, config, tmp_path / "run")
    path = tmp_path / "run/training/round_1/round.json"
    content = json.loads(path.read_text())
    content["facts"]["mark"] = "changed"
    path.write_text(json.dumps(content))
    train_localizer(dataset, config, StageDir(tmp_path / "run", "f"), RunContext())
    assert facts_of(tmp_path / "run", 3)["told"] == ["changed", "m2"]


def test_localizers_of_one_training_have_no_rounds(runs, dataset, tmp_path):
    assert rounds_method(Cam()) is None
    runs.run_stage(dataset, runs.small("cam"), tmp_path / "run")
    assert not list((tmp_path / "run/training").glob("round_*"))


def test_regularisers_take_part_in_every_round(runs, dataset, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "wsseg.localize.regularise.hide_and_seek.HideAndSeekRegulariser.transform",
        lambda _self, batch: seen.append(len(batch["image"])) or batch,
    )
    config = runs.small(
        "counting", rounds=2, regularisers=[{"name": "hide_and_seek", "sizes_px": [8]}]
    )
    runs.run_stage(dataset, config, tmp_path / "run")
    assert seen == [4] * 4  # two rounds of two epochs of one update


def test_the_frame_loads_no_torch() -> None:
    code = "import sys, wsseg.localize.rounds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
