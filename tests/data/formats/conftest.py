"""Random data sets with every kind of label, to send through a format and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsseg.data.convert import convert_dataset
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import read_dataset
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.labels import Boxes, ClassList, Points, Scribbles, WeakLabels

NAMES = ("dent", "scratch", "Kratzer ä/ö & <x>")


def _blobs(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Random rectangles of all classes with holes and lone pixels."""
    mask = np.zeros(size, np.uint8)
    for _ in range(4):
        top, left = (int(rng.integers(0, n - 2)) for n in size)
        height, width = rng.integers(1, 12, 2)
        mask[top : top + height, left : left + width] = rng.integers(0, 4)
    noise = rng.random(size) < 0.02
    mask[noise] = rng.integers(0, 4, int(noise.sum()))
    return mask


@pytest.fixture
def random_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Give a function that writes a data set of random labels.

    Boxes, points and lines lie on the classes of the mask where there is one, so that the mask is
    complete; and the tags are the classes that are drawn.
    """

    def make(seed: int, *, kinds: tuple[str, ...], splits: tuple[str, ...] = ("train",)) -> Dataset:
        rng = np.random.default_rng(seed)
        root = tmp_path / f"source-{seed}"
        samples = []
        for index in range(4):
            size = tuple(int(n) for n in rng.integers(15, 40, 2))
            name = f"line {index % 2}/ü {index}"
            path = root / "images" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path)
            mask = _blobs(rng, size) if index else np.zeros(size, np.uint8)
            labels = _labels(rng, mask, kinds)
            mask_path = None
            if "masks" in kinds:
                mask_path = root / "masks" / f"{name}.png"
                write_mask(mask_path, mask)
            split = splits[index % len(splits)]
            samples.append(Sample(name, path, labels, split, mask_path))
        return Dataset(root, ClassList(NAMES), tuple(samples))

    return make


def _labels(rng: np.random.Generator, mask: np.ndarray, kinds: tuple[str, ...]) -> WeakLabels:
    boxes, points, lines = [], [], []
    for class_id in np.unique(mask[mask > 0]).tolist():
        rows, columns = np.nonzero(mask == class_id)
        x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes.append(([x0 + 0.25 * (x1 - x0 > 1), y0, x1, y1], class_id))
        pick = rng.integers(len(rows), size=3)
        xy = np.stack([columns[pick], rows[pick]], axis=1) + rng.random((3, 2)) * 0.9
        points.append((xy[0], class_id))
        lines.append((xy.astype(np.float32), class_id))
    if lines:
        lines.append((np.float32([[0.5, 0.5], [3.25, 2]]), 0))
    shown = frozenset(class_id for _, class_id in boxes)
    return WeakLabels(
        tags=shown,
        boxes=Boxes(*zip(*boxes, strict=True)) if boxes and "boxes" in kinds else None,
        points=Points(*zip(*points, strict=True)) if points and "points" in kinds else None,
        scribbles=Scribbles(*zip(*lines, strict=True)) if lines and "scribbles" in kinds else None,
    )


@pytest.fixture
def round_trip(tmp_path: Path) -> Callable[..., tuple[Dataset, tuple[str, ...]]]:
    """Give a function that converts a data set, reads it back, and expects no problem."""

    def convert(dataset: Dataset, to: str, **options: Any) -> tuple[Dataset, tuple[str, ...]]:
        out = tmp_path / f"{to}-{dataset.root.name}"
        notes = convert_dataset(dataset, out, to=to).notes
        back, problems = read_dataset(out, **options)
        assert [str(problem) for problem in problems.errors] == []
        return back, notes

    return convert


@pytest.fixture
def masks_of() -> Callable[[Dataset], dict[str, list[list[int]] | None]]:
    """Give a function that loads all masks of a data set."""

    def load(dataset: Dataset) -> dict[str, list[list[int]] | None]:
        return {
            sample.id: None if sample.mask_path is None else read_mask(sample.mask_path).tolist()
            for sample in dataset
        }

    return load
