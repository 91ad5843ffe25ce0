"""Small data sets on disk, made of arrays; and a console that each test finds untouched."""

from __future__ import annotations

import os

# Parallel test processes share the cores: a pool of threads in each would only wait for the others.
# OpenMP reads this when torch or OpenCV is first imported, so it stands before all imports.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsseg import console
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import write_mask
from wsseg.data.labels import ClassList, WeakLabels

MakeDataset = Callable[..., Dataset]


@pytest.fixture(autouse=True)
def _untouched_console() -> Iterator[None]:
    """Give the process its logging back: a test's stderr is closed when the test has ended."""
    logger = console.logger
    kept = (dict(console._state), logger.handlers[:], logger.propagate, logger.level)
    said = set(console._said)
    yield
    console._state.update(kept[0])
    logger.handlers[:], logger.propagate = kept[1], kept[2]
    logger.setLevel(kept[3])
    console._said.clear()
    console._said.update(said)


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Give a function that writes images and masks and returns their data set."""

    def make(
        items: Mapping[str, Mapping[str, Any]], classes: Sequence[str] = ("dent", "stain")
    ) -> Dataset:
        """Write a data set.

        Args:
            items: By image id: ``mask`` (H, W) or None, ``image`` (H, W, 3) or noise of the
                mask's size, ``tags`` (a set, or None for untagged; else what the mask shows),
                ``split``, ``size``.
            classes: Names of the classes.
        """
        root = tmp_path / "data"
        rng = np.random.default_rng(0)
        samples = []
        for name, item in items.items():
            mask = item.get("mask")
            size = item.get("size", (8, 8) if mask is None else np.shape(mask))
            image = item.get("image")
            if image is None:
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            path = root / "images" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            mask_path = None
            shown: set[int] = set()
            if mask is not None:
                mask_path = root / "masks" / f"{name}.png"
                write_mask(mask_path, np.asarray(mask, np.uint8))
                shown = set(np.unique(mask).tolist()) - {0, 255}
            tags = item.get("tags", shown)
            labels = WeakLabels(tags=None if tags is None else frozenset(tags))
            samples.append(Sample(name, path, labels, item.get("split", "train"), mask_path))
        return Dataset(root, ClassList(tuple(classes)), tuple(samples))

    return make
