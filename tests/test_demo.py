from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsseg import demo as module
from wsseg.data.discover import open_dataset
from wsseg.demo import demo, make_demo_data
from wsseg.recipe import load_recipe


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_TRAIN", 3)
    monkeypatch.setattr(module, "NUM_VAL", 2)
    monkeypatch.setattr(module, "SIDE_PX", 48)


def times(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted((folder / "images").rglob("*.png"))]


def test_the_pictures_are_drawn_once(tmp_path: Path) -> None:
    folder = make_demo_data(tmp_path / "data", seed=1)
    before = times(folder)
    dataset = open_dataset(folder)
    assert [len(dataset.split(name)) for name in ("train", "val")] == [3, 2]
    assert times(make_demo_data(folder, seed=1)) == before


def test_drawing_that_was_interrupted_is_done_again(tmp_path: Path) -> None:
    folder = make_demo_data(tmp_path / "data")
    missing = sorted((folder / "images").rglob("*.png"))[0]
    missing.unlink()
    (folder / "scenes.json").unlink()
    make_demo_data(folder)
    assert missing.exists()


def test_the_seed_of_the_demo_is_that_of_scenes_and_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def run(data: Path, **options: Any) -> str:
        calls.append({"data": data, **options})
        return "finished"

    monkeypatch.setattr(module, "run", run)
    assert demo(tmp_path / "out", seed=7) == "finished"
    (call,) = calls
    assert call["data"] == tmp_path / "out" / "data"
    assert call["out"] == tmp_path / "out"
    assert json.loads((call["data"] / "scenes.json").read_text())["seed"] == 7
    recipe = load_recipe(call["recipe"], call["overrides"])
    assert recipe.seed == 7
    assert recipe.localize.weights == "none"
