"""The whole run in two processes, as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from wsseg.data.image_io import read_mask
from wsseg.pipeline import run

# A localizer without batch statistics and dropout: two halves of a batch train it like the whole.
# Every decoder for segmentation has one or the other, so its weights cannot be compared.
OVERRIDES = (
    "localize.backbone=test_convnext",
    "localize.output_stride=32",
    "localize.dropout=0",
    # Adam would blow rounding of tiny gradients up to whole steps.
    "localize.training.optimiser=sgd",
)


def _launch(arguments: list[str]) -> list[tuple[int, str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "wsseg", *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=240) for process in running]
    return [(p.returncode, *texts) for p, texts in zip(running, told, strict=True)]


def _numbers(metrics: dict[str, Any]) -> dict[tuple[str, str], float]:
    """The numbers of everything that comes from the localizer."""
    stages = [stage for stage in metrics["stages"] if stage["stage"] != "segment"]
    return {(stage["label"], stage["split"]): stage["miou"] for stage in stages}


@pytest.mark.slow
def test_two_processes_come_to_the_results_of_one(template, recipe_path, tmp_path):
    one = run(template, recipe=recipe_path, out=tmp_path / "one", overrides=OVERRIDES)
    sets = [text for override in OVERRIDES for text in ("--set", override)]
    arguments = ["run", str(template), "--recipe", str(recipe_path), *sets]
    first, second = _launch([*arguments, "--out", str(tmp_path / "two")])
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "Report:" in first[1]
    assert "localize: maps" in first[2]
    assert second[1] == ""
    assert "localize" not in second[2]
    two = run(template, recipe=recipe_path, out=tmp_path / "two", overrides=OVERRIDES)
    assert _numbers(two.metrics) == pytest.approx(_numbers(one.metrics), abs=1e-3)
    assert any(stage["stage"] == "segment" for stage in two.metrics["stages"])
    name = "localize/training/last.safetensors"
    expected, found = (safetensors.numpy.load_file(tmp_path / run / name) for run in ("one", "two"))
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=1e-5, err_msg=key)
    paths = sorted((tmp_path / "one" / "masks").rglob("*.png"))
    twins = [tmp_path / "two" / path.relative_to(tmp_path / "one") for path in paths]
    pairs = zip(paths, twins, strict=True)
    assert np.mean([read_mask(path) == read_mask(twin) for path, twin in pairs]) > 0.999
    manifest = (tmp_path / "two" / "masks" / "manifest.jsonl").read_text().splitlines()
    assert len(manifest) == 16


@pytest.mark.slow
def test_a_fault_of_the_first_process_ends_both(template, recipe_path, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    told = _launch(["run", str(template), "--recipe", str(recipe_path), "--out",
                    str(tmp_path / "run")])  # fmt: skip
    assert [code for code, _, _ in told] == [3, 3]
    assert "Cannot write" in told[0][2]
    assert told[1][1:] == ("", "")


def test_work_of_the_first_process_is_a_plain_call_without_others(monkeypatch: Any) -> None:
    from wsseg.processes import from_main_process, is_main_process, num_processes

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert (num_processes(), is_main_process()) == (1, True)
    assert from_main_process(lambda: Path("x")) == Path("x")
