"""Backbones pre-trained on tags of other scenes: what ImageNet is to the papers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from _small import BASE, part, small
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.labels import ClassList, WeakLabels
from wsseg.data.scenes import CLASSES, make_dataset
from wsseg.localize.stage import train_localizer
from wsseg.rundir import StageDir, fingerprint
from wsseg.training.checkpoint import save_weights

FAMILIES = ("parts", "cooccurrence", "instances", "defects")
# Draws scenes that no seed of a table draws.
SEED = 100_000


def pretrained(folder: Path, recipe: str, *, scenes: int, epochs: int, size_px: int) -> Path:
    """Train the small network of a recipe to tell the classes of all families of scenes.

    Args:
        folder: Where scenes and weights are kept; what is there is not made again.
        recipe: A shipped recipe; its small network is trained, with the head of plain CAM.
        scenes: Of each family.
        epochs: Of the training.
        size_px: Side of the scenes.

    Returns:
        A safetensors file of the backbone's weights.
    """
    content = small(BASE, epochs=epochs, size_px=size_px, seed=0)
    own = small(recipe, epochs=epochs, size_px=size_px, seed=0)["localize"]
    content["localize"] |= {key: own[key] for key in ("backbone", "last_stage", "output_stride")}
    chosen = part(content, "maps")
    dataset = _all_families(folder / f"scenes-{scenes}-{size_px}", scenes, size_px)
    mark = fingerprint(dataset.fingerprint(), chosen.model_dump(mode="json"))
    path = folder / f"{chosen.localize.backbone}-{mark[:12]}.safetensors"
    if not path.exists():
        stage = StageDir(folder / path.stem, mark)
        stage.begin()
        net = train_localizer(dataset, chosen.localize, stage, RunContext(chosen.seed))
        save_weights(path, net.backbone.trunk)
    return path


def _all_families(root: Path, scenes: int, size_px: int) -> Dataset:
    names = [name for family in FAMILIES for name in CLASSES[family]]
    return Dataset(root, ClassList(names), tuple(_samples(root, scenes, size_px)))


def _samples(root: Path, scenes: int, size_px: int) -> Iterator[Sample]:
    offset = 0
    for family in FAMILIES:
        if not (root / family / "labels.csv").exists():
            numbers = {"num_train": scenes, "num_val": 0, "seed": SEED}
            make_dataset(family, root / family, **numbers, size=(size_px, size_px))
        for sample in open_dataset(root / family).samples:
            tags = frozenset(class_id + offset for class_id in sample.labels.tags or ())
            yield replace(sample, id=f"{family}-{sample.id}", labels=WeakLabels(tags=tags))
        offset += len(CLASSES[family])
