"""A data set of a few pictures, the smallest recipe, and runs of it."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from wsseg.data.image_io import write_mask
from wsseg.finished import Finished

CLASSES = ("red", "green")
SIZE = (40, 48)
_COLOURS = {1: (220, 30, 30), 2: (30, 200, 40)}

_TRAINING = {
    "epochs": 2, "batch_size": 4, "optimiser": "adamw", "lr": 1e-3, "num_workers": 0,
    "precision": "float32",
}  # fmt: skip
_AUGMENT = {"scale": None, "crop_px": 48, "hflip": 0.5}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "localize": {
        "name": "cam",
        "backbone": "test_resnet",
        "weights": "none",
        "output_stride": 8,
        "training": _TRAINING,
        "augment": _AUGMENT,
        "inference": {"scales": [1.0], "flip": False},
    },
    "refine": {
        "steps": [
            {"name": "background_constant", "value": 0.3},
            {"name": "dense_crf", "iterations": 2},
        ]
    },
    "segment": {
        "name": "smp",
        "architecture": "unet",
        "encoder": "tu-test_resnet",
        "weights": "none",
        "training": _TRAINING,
        "augment": _AUGMENT,
    },
}


def picture(
    tags: frozenset[int], seed: int, size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a coloured rectangle per tag on noise: image (H, W, 3) and mask (H, W)."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
    mask = np.zeros(size, np.uint8)
    for number, tag in enumerate(sorted(tags)):
        top = int(rng.integers(2, max(3, height // 2)))
        left = number * (width // 2) + int(rng.integers(0, max(1, width // 5)))
        place = np.s_[top : top + height // 3, left : left + width // 4]
        image[place], mask[place] = _COLOURS[tag], tag
    return image, mask


@dataclass(frozen=True)
class Row:
    """One image of the data set: id, tags (None: untagged), split."""

    id: str
    tags: frozenset[int] | None
    split: str


ROWS = tuple(
    Row(f"{split}/{number:02d}", tags, split)
    for split, count in (("train", 12), ("val", 4))
    for number in range(count)
    for tags in [(frozenset({1}), frozenset({2}), frozenset({1, 2}), frozenset())[number % 4]]
)


def tag_cell(tags: frozenset[int] | None) -> str:
    """Write tags as labels.csv does."""
    return "?" if tags is None else ";".join(CLASSES[tag - 1] for tag in sorted(tags))


def write_table(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write labels.csv and classes.csv."""
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file", "tags", "split"), *rows])
    lines = ["id,name", *(f"{number},{name}" for number, name in enumerate(CLASSES, start=1))]
    (folder / "classes.csv").write_text("\n".join(lines) + "\n")


def write_data(folder: Path) -> Path:
    """Write the data set in the layout of labels.csv."""
    for seed, row in enumerate(ROWS):
        image, mask = picture(row.tags or frozenset(), seed)
        path = folder / "images" / f"{row.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        write_mask(folder / "masks" / f"{row.id}.png", mask)
    write_table(folder, [(f"{row.id}.png", tag_cell(row.tags), row.split) for row in ROWS])
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, not to be changed."""
    return write_data(tmp_path_factory.mktemp("template") / "data")


@pytest.fixture
def data(template: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be changed."""
    return Path(shutil.copytree(template, tmp_path / "data"))


@pytest.fixture(scope="session")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def finished(
    template: Path, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """A finished run on the data set, not to be changed."""
    from wsseg.pipeline import run

    return run(template, recipe=recipe_path, out=tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def finished_copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to be changed."""
    return Path(shutil.copytree(finished.run.path, tmp_path / "run"))


@pytest.fixture
def wsseg() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own."""

    def call(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wsseg", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
        )  # fmt: skip

    return call


@pytest.fixture
def cli() -> Iterator[Callable[..., Any]]:
    """Run the command line in this process; has ``exit_code``, ``stdout`` and ``stderr``."""
    from typer.testing import CliRunner

    import wsseg.cli
    from wsseg import console
    from wsseg.cli import data, export, recipes, run

    del data, export, recipes, run
    handlers, state = list(console.logger.handlers), dict(console._state)

    def call(*arguments: Any) -> Any:
        result = CliRunner().invoke(wsseg.cli.app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    yield call
    console.logger.handlers[:] = handlers
    console.logger.propagate = True
    console._state.update(state)


def results(run: Path) -> Iterator[tuple[str, bytes]]:
    """Give the files that must not depend on how often a run was interrupted."""
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.suffix in {".png", ".npz", ".safetensors"} or path.name in {
            "metrics.json", "doubt.jsonl", "state.json", "model.json", "recipe.yaml",
            "samples.jsonl",
        }:  # fmt: skip
            yield name, path.read_bytes()


@pytest.fixture
def results_of() -> Callable[[Path], dict[str, bytes]]:
    """Read the results of a run, for comparison."""
    return lambda run: dict(results(run))


@pytest.fixture
def write_rows() -> Callable[[Path, list[tuple[str, str, str]]], None]:
    """Write ``labels.csv`` from (file, tags, split)."""
    return write_table


@pytest.fixture
def paint() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Paint a picture with its mask."""
    return picture
