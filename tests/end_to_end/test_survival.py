"""Kill -9, Ctrl-C and a full disk at many places: run again, and the results are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9 and fork are POSIX")

SCRIPT = Path(__file__).with_name("interrupted_run.py")
KILLED = -signal.SIGKILL

EARLY = (
    ("before", "images/stage.json", 1),
    ("torn", "localize/manifest.jsonl", 3),
    ("after", "masks/train/07.png", 1),
    ("before", "segment/training/checkpoint.safetensors", 2),
)
EVERYWHERE = (
    ("before", "recipe.yaml", 1),
    ("torn", "images/manifest.jsonl", 5),
    ("before", "localize/stage.json", 1),
    ("before", "localize/training/checkpoint.safetensors", 1),
    ("after", "localize/training/checkpoint.safetensors", 1),
    ("torn", "localize/training/metrics.jsonl", 1),
    ("before", "localize/training/done.json", 1),
    ("before", "localize/scores/*.npz", 1),
    ("after", "localize/scores/*.npz", 4),
    ("before", "localize/stage.json", 1),
    ("after", "refine/1_background_constant/stage.json", 1),
    ("torn", "refine/2_dense_crf/manifest.jsonl", 6),
    ("before", "masks/train/03.png", 1),
    ("before", "masks/doubt.jsonl", 1),
    ("after", "segment/training/best.safetensors", 1),
    ("after", "segment/training/last.safetensors", 1),
    ("before", "segment/model/model.json", 1),
    ("after", "predictions/val/01.png", 1),
    ("before", "metrics.json", 1),
    ("after", "metrics.json", 1),
    ("before", "report.html", 1),
)


def _run_with_stops(folder: Path, run: Path, stops: Any, *arguments: str, **more: Any) -> Any:
    plan = {"run": str(run), "stops": stops, "arguments": ["run", *arguments], **more}
    (folder / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "plan.json")],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "plan.out").read_text())
    assert [entry["broken"] for entry in told] == [[]] * len(told)
    assert told[-1]["code"] == 0, done.stderr
    return [entry["code"] for entry in told[:-1]], done.stderr


def _leftovers(run: Path) -> list[str]:
    return [str(path) for path in run.rglob(".*") if path.name != ".lock"]


def _same(run: Path, finished: Any, results_of: Any) -> None:
    """Compare file by file, so that a difference is named."""
    expected, found = results_of(finished), results_of(run)
    assert found.keys() == expected.keys()
    assert [name for name, content in found.items() if content != expected[name]] == []
    assert _leftovers(run) == []


@pytest.mark.parametrize(
    "stops", [EARLY, pytest.param(EVERYWHERE, marks=pytest.mark.slow)], ids=["early", "everywhere"]
)
def test_a_killed_run_goes_on_to_the_same_results(
    stops, template, recipe_path, finished, tmp_path, results_of
):
    run = tmp_path / "run"
    arguments = (str(template), "--recipe", str(recipe_path), "--out", str(run))
    codes, _ = _run_with_stops(tmp_path, run, stops, *arguments)
    assert codes == [KILLED] * len(stops)
    _same(run, finished.run.path, results_of)


@pytest.mark.slow
def test_killed_while_outdated_results_are_cleared(
    template, recipe_path, finished_copy, tmp_path, results_of
):
    from wsseg.pipeline import run

    change = "localize.inference.flip=true"
    expected = tmp_path / "expected"
    run(template, recipe=recipe_path, out=expected, overrides=[change])
    stops = [
        ("clearing", "localize/training", 1),
        ("clearing", "localize/scores", 1),
        ("clearing", "masks/train", 1),
        ("clearing", "segment/model", 1),
    ]
    arguments = (str(template), "--recipe", str(recipe_path), "--out", str(finished_copy))
    codes, _ = _run_with_stops(tmp_path, finished_copy, stops, *arguments, "--set", change)
    assert codes == [KILLED] * len(stops)
    _same(finished_copy, expected, results_of)


@pytest.mark.slow
def test_a_full_disk_is_told_and_loses_nothing(
    template, recipe_path, finished, tmp_path, results_of
):
    run = tmp_path / "run"
    stops = [
        ("full", "samples.jsonl", 1),
        ("full", "localize/training/checkpoint.safetensors", 2),
        ("full", "localize/scores/val/02.npz", 1),
        ("full", "masks/train/05.png", 1),
        ("full", "segment/model/README.md", 1),
        ("full", "report.html", 1),
    ]
    arguments = (str(template), "--recipe", str(recipe_path), "--out", str(run))
    codes, told = _run_with_stops(tmp_path, run, stops, *arguments)
    assert codes == [3] * len(stops)
    assert told.count("the disk is full; free some space and run the same command again") == 6
    assert "Traceback" not in told
    assert str(run / "masks" / "train" / "05.png") in told
    _same(run, finished.run.path, results_of)


@pytest.mark.slow
def test_files_that_cannot_grow_are_told_and_lose_nothing(
    template, recipe_path, finished, tmp_path, results_of
):
    """A limit of the system on the size of files stops a write in its middle."""
    run = tmp_path / "run"
    arguments = (str(template), "--recipe", str(recipe_path), "--out", str(run))
    codes, told = _run_with_stops(
        tmp_path, run, [["limit", "", 0]], *arguments, max_file_bytes=300_000
    )
    assert codes == [3]
    assert "checkpoint.safetensors" in told
    assert "Traceback" not in told
    _same(run, finished.run.path, results_of)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(template, recipe_path, finished, tmp_path, results_of):
    run = tmp_path / "run"
    stops = [
        ("interrupt", "localize/training/checkpoint.safetensors", 1),
        ("interrupt", "refine/2_dense_crf/scores/train/05.npz", 1),
        ("interrupt", "segment/training/checkpoint.safetensors", 1),
    ]
    arguments = (str(template), "--recipe", str(recipe_path), "--out", str(run))
    codes, told = _run_with_stops(tmp_path, run, stops, *arguments)
    assert codes == [130] * 3
    assert told.count("run the same command again to continue") == 3
    assert "Traceback" not in told
    _same(run, finished.run.path, results_of)
