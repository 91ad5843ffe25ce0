"""A run folder made by hand: small synthetic images, every file a real run would have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import write_mask
from wsseg.data.labels import ClassList, WeakLabels
from wsseg.data.scores import Scores, save_scores

CLASSES = ClassList(("scratch", "dent", "흠집 <b>&"))
RECIPE = """\
# wsseg 0.1.0, Python 3.12, torch 2.9
name: defects
title: CAM with small-object settings
paper: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016
supervision: I
seed: 7
localize: {name: cam, backbone: resnet18, weights: none, pooling: gwrp, training: {epochs: 4}}
refine: {steps: [{name: background_power, alpha: 4.0}, {name: dense_crf, iterations: 10}]}
pseudo: {ignore_band_px: 2}
segment: {name: smp, encoder: resnet18, weights: imagenet, training: {epochs: 4}}
"""


@dataclass
class FakeRun:
    """Where a made-up run lies and what is in it."""

    path: Path
    dataset: Dataset
    doubt: dict[str, float] = field(default_factory=dict)


def drawing(seed: int, class_ids: tuple[int, ...], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw brushed metal with one defect per class, and its exact mask."""
    rng = np.random.default_rng(seed)
    height, width = side, side * 5 // 4
    grain = rng.normal(0, 9, (height, 1)) + rng.normal(0, 5, (height, width))
    image = np.repeat((150 + grain)[..., None], 3, axis=2)
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.indices(mask.shape)
    for class_id in class_ids:
        row, column = rng.uniform(0.25, 0.75, 2) * mask.shape
        slope = rng.uniform(-1, 1)
        along = (rows - row) - slope * (columns - column)
        near = np.hypot(rows - row, columns - column)
        shapes = {
            1: (np.abs(along) < side / 50) & (near < side / 3),
            2: near < side / 8,
            3: (np.abs(rows - row) < side / 9) & (np.abs(columns - column) < side / 6),
        }
        mask[shapes[class_id]] = class_id
    image[mask == 1] += 70
    image[mask == 2] -= 65
    image[mask == 3] *= np.array([0.9, 0.6, 0.45])
    return np.clip(image, 0, 255).astype(np.uint8), mask


def metrics_entry(stage: str, label: str, split: str, miou: float, **more: Any) -> dict[str, Any]:
    """Write one entry of metrics.json."""
    names = ("background", *CLASSES.names)
    confusion = np.diag([90_000, 800, 900, 700]) + np.array(
        [[0, 40, 120, 60], [300, 0, 10, 5], [200, 0, 0, 90], [260, 0, 30, 0]]
    )
    rows = [
        {
            "id": i,
            "name": name,
            "iou": None if i == 3 else min(1.0, miou + 0.1 - i / 10),
            "precision": 0.8,
            "recall": 0.6,
            "boundary_iou": 0.4,
            "gt_pixels": int(confusion[i].sum()),
        }
        for i, name in enumerate(names)
    ]
    entry = {
        "stage": stage,
        "label": label,
        "split": split,
        "tags": "oracle",
        "threshold": None,
        "tuned_on_masks": False,
        "num_images": 4,
        "miou": miou,
        "miou_foreground": miou - 0.08,
        "pixel_accuracy": 0.95,
        "boundary_iou": 0.41,
        "ignored": 0.02,
        "classes": rows,
        "confusion": confusion.tolist(),
    }
    return entry | more


def write_metrics(run_dir: Path) -> None:
    thresholds = np.linspace(0, 1, 21)
    curve = [[float(t), float(0.5 * np.exp(-(((t - 0.35) / 0.3) ** 2)))] for t in thresholds]
    stages = [
        metrics_entry(
            "localize",
            "CAM, best threshold",
            "val",
            0.5,
            threshold=0.35,
            tuned_on_masks=True,
            curve=curve,
        ),
        metrics_entry("localize", "CAM", "val", 0.42, threshold=0.25, curve=curve),
        metrics_entry("refine/2_dense_crf", "dense_crf", "val", 0.55),
        metrics_entry("pseudo", "Pseudo masks", "train", 0.58),
        metrics_entry("pseudo", "Pseudo masks", "val", 0.57),
        metrics_entry("segment", "Segmenter", "val", 0.63, tags=None),
    ]
    classifier = {"split": "val", "map": 0.91, "ap": dict.fromkeys(CLASSES.names, 0.91)}
    text = json.dumps({"stages": stages, "classifier": classifier})
    (run_dir / "metrics.json").write_text(text, "utf-8")


def write_curves(folder: Path, num_epochs: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "epoch": epoch,
            "step": epoch * 10,
            "lr": 0.1 * (1 - epoch / 10),
            "loss": 2 / epoch,
            "loss_ce": 1.5 / epoch,
            "val_miou": 1 - 1 / epoch,
            "seconds": 2.0,
        }
        for epoch in range(1, num_epochs + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, "utf-8")


def write_stage(folder: Path, ids: list[str], seconds: float, failed: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"fingerprint": "0", "progress": "done", "time": 1_795_000_000.0, "seconds": seconds}
    (folder / "stage.json").write_text(json.dumps(state), "utf-8")
    lines = [{"id": i, "status": "ok", "seconds": 0.1} for i in ids if i not in failed]
    lines += [{"id": i, "status": "failed", "reason": why} for i, why in failed.items()]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text, "utf-8")


def build(root: Path, *, num_images: int = 9, side: int = 48) -> FakeRun:
    data, run_dir = root / "data set", root / "run & 결과"
    run_dir.mkdir(parents=True)
    names = ["plain", "with space/part 1", "한국어/부품 2", "<img src=x onerror=alert(1)>&'\""]
    names += [f"part_{index:03d}" for index in range(4, num_images)]
    samples, doubt = [], {}
    for index, name in enumerate(names[:num_images]):
        class_ids = ((1,), (2, 3), (), (1, 2, 3), (2,))[index % 5]
        image, mask = drawing(index, class_ids, side)
        safe = name.replace("/", "_").replace("<", "(").replace(">", ")")
        image_path, mask_path = data / f"{safe}.png", data / f"{safe}_mask.png"
        data.mkdir(exist_ok=True)
        Image.fromarray(image).save(image_path)
        write_mask(mask_path, mask)
        split = "val" if index % 3 == 2 else "train"
        has_truth = split == "val" or index % 2 == 0
        labels = WeakLabels(tags=frozenset(class_ids))
        samples.append(Sample(name, image_path, labels, split, mask_path if has_truth else None))
        doubt[name] = round((index * 37 % 100) / 100, 2)
        _write_results(run_dir, name, mask, class_ids)
    dataset = Dataset(data, CLASSES, tuple(samples), "labels_csv", ("2 images have no row.",))
    dataset.to_jsonl(run_dir / "samples.jsonl")
    text = "".join(json.dumps({"id": k, "doubt": v}) + "\n" for k, v in doubt.items())
    (run_dir / "masks" / "doubt.jsonl").write_text(text, "utf-8")
    (run_dir / "recipe.yaml").write_text(RECIPE, "utf-8")
    write_metrics(run_dir)
    ids = list(doubt)
    failed = {"broken <1>": "broken <1>.png: the file is empty (0 bytes). Copy it again."}
    for number, stage in enumerate(("localize", "refine/2_dense_crf", "masks", "segment")):
        write_stage(run_dir / stage, ids, 12.0 * (number + 1), failed if number == 0 else {})
    write_curves(run_dir / "localize" / "training")
    write_curves(run_dir / "segment" / "training")
    return FakeRun(run_dir, dataset, doubt)


def _write_results(run_dir: Path, name: str, mask: np.ndarray, class_ids: tuple[int, ...]) -> None:
    small = mask[::2, ::2]
    rows = [np.ones(small.shape) * (not class_ids)]
    rows += [_blurred(small == class_id) for class_id in class_ids]
    values = np.stack(rows).astype(np.float32)
    scores = Scores(values, np.array((0, *class_ids), np.uint8), (mask.shape[0], mask.shape[1]))
    save_scores(run_dir / "localize" / "scores" / f"{name}.npz", scores)
    pseudo = mask.copy()
    pseudo[:, 1:][(mask[:, 1:] != mask[:, :-1])] = 255
    write_mask(run_dir / "masks" / f"{name}.png", pseudo)
    write_mask(run_dir / "predictions" / f"{name}.png", np.roll(mask, 2, axis=1))


def _blurred(region: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    soft = gaussian_filter(region.astype(np.float64), max(region.shape) / 16)
    return soft / max(soft.max(), 1e-9)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """Return a function that writes a run folder: ``make_run(num_images=9, side=48)``."""

    def make(**options: Any) -> FakeRun:
        return build(tmp_path, **options)

    return make
