from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wsseg import compare as module
from wsseg.compare import compare
from wsseg.errors import RecipeError
from wsseg.finished import Finished
from wsseg.memory import Peak
from wsseg.recipe import Recipe
from wsseg.rundir import RunDir, StageDir


class Runs:
    """Stands for `wsseg.pipeline.run`: numbers by recipe and seed, without any work."""

    def __init__(self, miou: dict[tuple[str, int], float | None]) -> None:
        self.miou = miou
        self.calls: list[dict[str, Any]] = []

    def __call__(self, dataset: Any, *, recipe: Recipe, out: Path, use_masks: bool) -> Finished:
        self.calls.append(
            {"recipe": recipe, "out": out, "use_masks": use_masks, "samples": len(dataset)}
        )
        key = (recipe.name, recipe.seed)
        stages = []
        if key in self.miou:
            for stage, label, tuned in (
                ("localize", "Maps, best threshold", True),
                ("segment", "Segmenter", False),
            ):
                stages.append(
                    {
                        "stage": stage,
                        "label": label,
                        "split": "val",
                        "tuned_on_masks": tuned,
                        "miou": self.miou[key],
                    }
                )
        out.mkdir(parents=True, exist_ok=True)
        return Finished(RunDir(out), {"stages": stages, "classifier": None}, {})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("dent/1", "ok/2"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(path)
    return root


def stub(monkeypatch: pytest.MonkeyPatch, miou: dict[tuple[str, int], float | None]) -> Runs:
    runs = Runs(miou)
    monkeypatch.setattr(module, "run", runs)
    return runs


def test_the_table_holds_mean_and_deviation_over_seeds(data, tmp_path, monkeypatch):
    miou = {("cam", 0): 0.5, ("cam", 1): 0.7, ("defects", 0): 0.8, ("defects", 1): 0.8}
    stub(monkeypatch, miou)
    table = compare(data, ["cam", "defects"], num_seeds=2, out=tmp_path / "out")
    assert [(row["recipe"], row["stage"]) for row in table.rows] == [
        ("cam", "Maps, best threshold"),
        ("cam", "Segmenter"),
        ("defects", "Maps, best threshold"),
        ("defects", "Segmenter"),
    ]
    first, *_, last = table.rows
    assert first["miou_mean"] == pytest.approx(0.6)
    assert first["miou_deviation"] == pytest.approx(0.1 * 2**0.5)
    assert first["num_seeds"] == 2
    assert first["tuned_on_masks"] is True
    assert last["miou_deviation"] == 0
    lines = table.text().splitlines()
    assert "60.0 ± 14.1" in lines[2]
    assert lines[2].endswith("  tuned on masks")
    assert lines[5].endswith("80.0 ± 0.0     +20.0 ± 14.1")
    assert last["gain_mean"] == pytest.approx(0.2)
    assert last["gain_deviation"] == pytest.approx(0.1 * 2**0.5)
    assert first["gain_mean"] is None
    assert lines[6].startswith("cam: 0 s and up to ")


def test_gains_are_against_the_same_seed_of_the_first_recipe(data, tmp_path, monkeypatch):
    miou = {("defects", 0): 0.5, ("cam", 0): 0.75, ("cam", 1): 0.25}
    stub(monkeypatch, miou)
    table = compare(data, ["defects", "cam"], num_seeds=2, out=tmp_path / "out")
    row = table.rows[-1]
    assert (row["recipe"], row["miou_mean"], row["num_seeds"]) == ("cam", 0.5, 2)
    # The first recipe has no number for seed 1.
    assert (row["gain_mean"], row["gain_deviation"]) == (0.25, 0.0)


def test_memory_of_the_run_that_did_the_work_is_kept(data, tmp_path, monkeypatch):
    stub(monkeypatch, {("cam", 0): 0.5})
    held = []

    @contextmanager
    def watched() -> Iterator[Peak]:
        yield Peak(held.pop(0))

    monkeypatch.setattr(module, "peak_memory", watched)
    out = tmp_path / "out"
    held[:] = [3 * 10**9, 10**9]
    assert compare(data, ["cam"], out=out).memory_gb == {"cam": 3.0}
    # The second call finds the run finished and holds little.
    assert compare(data, ["cam"], out=out).memory_gb == {"cam": 3.0}
    held[:] = [2 * 10**9]
    changed = compare(data, ["cam"], overrides=["localize.training.epochs=2"], out=out)
    assert changed.memory_gb == {"cam": 2.0}


def test_seconds_are_those_of_the_stages(data, tmp_path, monkeypatch):
    stub(monkeypatch, {("cam", 0): 0.5, ("cam", 1): 0.5})
    for seed, seconds in enumerate((4.0, 5.0)):
        StageDir(tmp_path / f"out/cam-seed{seed}/localize", "mark").finish(seconds=seconds)
    assert compare(data, ["cam"], num_seeds=2, out=tmp_path / "out").seconds == {"cam": 4.5}


def test_every_recipe_runs_once_per_seed_in_a_folder_of_its_own(data, tmp_path, monkeypatch):
    runs = stub(monkeypatch, {})
    changes = ["localize.training.epochs=2", "seed=9"]
    compare(data, ["cam", "defects"], num_seeds=2, overrides=changes, out=tmp_path, use_masks=True)
    assert [call["out"].name for call in runs.calls] == [
        "cam-seed0",
        "cam-seed1",
        "defects-seed0",
        "defects-seed1",
    ]
    assert [call["recipe"].seed for call in runs.calls] == [0, 1, 0, 1]
    assert {call["recipe"].localize.training.epochs for call in runs.calls} == {2}
    assert {call["use_masks"] for call in runs.calls} == {True}
    assert {call["samples"] for call in runs.calls} == {2}


def test_one_seed_has_no_deviation(data, tmp_path, monkeypatch):
    stub(monkeypatch, {("cam", 0): 0.25})
    (row, _) = compare(data, ["cam"], out=tmp_path / "out").rows
    assert (row["miou_mean"], row["miou_deviation"], row["num_seeds"]) == (0.25, 0.0, 1)


def test_a_stage_without_a_number_is_left_out_of_the_mean(data, tmp_path, monkeypatch):
    stub(monkeypatch, {("cam", 0): None, ("cam", 1): 0.5, ("defects", 0): None})
    rows = compare(data, ["cam", "defects"], num_seeds=2, out=tmp_path / "out").rows
    assert {row["recipe"] for row in rows} == {"cam"}
    assert rows[0]["miou_mean"] == 0.5
    assert rows[0]["num_seeds"] == 1


def test_table_and_plot_are_written(data, tmp_path, monkeypatch):
    stub(monkeypatch, {("cam", 0): 0.5, ("defects", 0): 0.75})
    out = tmp_path / "out"
    table = compare(data, ["cam", "defects"], out=out)
    with (out / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["recipe"] for row in rows] == ["cam", "cam", "defects", "defects"]
    assert float(rows[3]["miou_mean"]) == 0.75
    assert json.loads((out / "comparison.json").read_text()) == table.as_dict()
    with Image.open(out / "comparison.png") as plot:
        assert plot.width > 400
        assert len(plot.convert("L").getcolors(256) or []) > 3


def test_without_ground_truth_there_is_nothing_to_compare_by(data, tmp_path, monkeypatch, caplog):
    stub(monkeypatch, {})
    table = compare(data, ["cam"], out=tmp_path / "out")
    assert table.rows == ()
    assert list(table.seconds) == ["cam"]
    assert "No ground-truth masks" in caplog.text
    assert not (tmp_path / "out" / "comparison.csv").exists()


@pytest.mark.parametrize("names", [["cam", "cam"], ["cam", "other/cam.yaml"], []])
def test_recipes_must_have_different_names(names, data, tmp_path, monkeypatch):
    runs = stub(monkeypatch, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cam.yaml").write_text("localize: cam\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="needs different names"):
        compare(data, names, out=tmp_path / "out")
    assert runs.calls == []


def test_a_wrong_recipe_is_found_before_the_first_run(data, tmp_path, monkeypatch):
    runs = stub(monkeypatch, {})
    with pytest.raises(RecipeError, match='Unknown recipe "defect"'):
        compare(data, ["cam", "defect"], out=tmp_path / "out")
    assert runs.calls == []
