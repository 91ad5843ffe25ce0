"""Run the localize stage with tiny networks, and stop it at a given file."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsseg import registry
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset
from wsseg.data.scores import load_scores
from wsseg.localize.config import TagLocalizerConfig
from wsseg.localize.stage import localize
from wsseg.rundir import StageDir

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "output_stride": 8,
    "training": {
        "epochs": 2,
        "batch_size": 4,
        "num_workers": 0,
        "precision": "float32",
        "lr": 1e-3,
    },
    "augment": {"scale": None, "crop_px": 32},
    "inference": {"scales": [1.0], "flip": False},
}


class StoppedError(BaseException):
    """Stands for a kill: nothing in the program may catch it."""


def small(name: str, **changes: Any) -> TagLocalizerConfig:
    settings = registry.settings("localizers", {**SMALL, "name": name, **changes})
    assert isinstance(settings, TagLocalizerConfig)
    return settings


def run_stage(
    dataset: Dataset, config: TagLocalizerConfig, folder: Path, **context: Any
) -> dict[str, np.ndarray]:
    """Run the stage and return the values of all scores by image id."""
    stage = StageDir(folder, "f")
    localize(dataset, config, stage, RunContext(**context))
    return {
        sample.id: load_scores(stage.file("scores", sample.id, ".npz")).values
        for sample in stage.usable(dataset.samples)
    }


@contextmanager
def stopped_at(pattern: str, number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop just before the n-th file that fits gets its name; fails where none does."""
    real, left = os.replace, [number]

    def replace(source: Any, target: Any) -> None:
        if fnmatch.fnmatch(str(target), f"*/{pattern}"):
            left[0] -= 1
            if left[0] == 0:
                raise StoppedError
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(StoppedError):
            yield


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[key], second[key]) for key in first
    )
