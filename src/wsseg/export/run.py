"""Hand a run's results to other tools: its model as ONNX, its masks as annotations.

Instances, where a refine step told them apart, become a COCO file of their own.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.formats.outgoing import FileTransfer
from wsseg.data.image_io import image_size, read_mask
from wsseg.data.labels import WeakLabels
from wsseg.errors import DataError, RecipeError, unknown_name
from wsseg.export.coco import MaskedImage, write_coco
from wsseg.export.instances import FOLDER, InstancesImage, find_step, write_instances
from wsseg.export.voc import VocItem, write_voc
from wsseg.rundir import RunDir, StageDir

_WRITERS: dict[str, tuple[str, FileTransfer]] = {
    "labelme": ("labelme_write:write_labelme", "copy"),
    "yolo": ("yolo_write:write_yolo", "copy"),
    # These tools have the images already and only want the annotations.
    "cvat": ("cvat_write:write_cvat", "none"),
    "label-studio": ("label_studio_write:write_label_studio", "none"),
}
TARGETS = ("onnx", "coco", "coco-instances", "voc", *_WRITERS)
MASKS: dict[str, str] = {"pseudo": "masks", "predicted": "predictions"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: The file or folder.
        facts: What was checked or counted.
    """

    path: Path
    facts: dict[str, Any]

    def text(self) -> str:
        """Say it for people."""
        told = ", ".join(f"{key} {value}" for key, value in self.facts.items())
        return f"Wrote {self.path} ({told})"

    def as_dict(self) -> dict[str, Any]:
        """Say it for machines."""
        return {"path": str(self.path), **self.facts}


def export_run(
    run_folder: Path,
    to: str,
    *,
    out: Path | None = None,
    masks: Literal["pseudo", "predicted"] | str = "pseudo",
) -> Exported:
    """Export a run.

    Args:
        run_folder: Folder of the run.
        to: One of `TARGETS`.
        out: File, or for formats of several files folder, to write; None writes into ``export/``
            in the run.
        masks: Which masks are written: ``"pseudo"`` or ``"predicted"``.

    Returns:
        What was written.

    Raises:
        RecipeError: When a name is unknown, or the folder is not a run.
        DataError: When the run has no such masks or instances.
        MissingWeightsError: When the run has no model.
        MissingExtraError: When onnx is not installed.
        OutputError: When the result cannot be written.
    """
    to = to.replace("_", "-")
    if to not in TARGETS:
        raise RecipeError(unknown_name("export format", to, TARGETS))
    if masks not in MASKS:
        raise RecipeError(unknown_name("kind of masks", masks, MASKS))
    folder = run_folder / "export"
    if to == "onnx":
        return _export_onnx(run_folder, out or folder / "model.onnx")
    dataset = Dataset.from_jsonl(RunDir(run_folder).require().samples_path)
    if to == "coco-instances":
        return _export_instances(dataset, find_step(run_folder), out or folder / f"{to}.json")
    stage = StageDir(run_folder / MASKS[masks], "")
    samples = stage.usable(dataset.samples)
    if not samples:
        raise DataError(
            f"{stage.path} holds no masks. Run `wsseg pseudo {run_folder}` or "
            f"`wsseg segment {run_folder}` first."
        )
    if to == "coco":
        path = out or folder / f"coco-{masks}.json"
        count = write_coco(path, _masked(dataset, samples, stage), dataset.classes)
        return Exported(path, {"images": len(samples), "annotations": count})
    path = out or folder / f"{to}-{masks}"
    if to in _WRITERS:
        return _export_annotations(dataset, samples, stage, to, path)
    items = (
        VocItem(s.id, s.image_path, read_mask(stage.path / f"{s.id}.png"), s.split) for s in samples
    )
    return Exported(path, {"images": write_voc(path, items, dataset.classes)})


def _export_annotations(
    dataset: Dataset, samples: list[Sample], stage: StageDir, to: str, path: Path
) -> Exported:
    """Write masks as annotations that a person corrects in an annotation tool."""
    from wsseg import console

    masked = tuple(
        dataclasses.replace(s, labels=WeakLabels(), mask_path=stage.path / f"{s.id}.png")
        for s in samples
    )
    name, files = _WRITERS[to]
    module, function = name.split(":")
    write = getattr(importlib.import_module(f"wsseg.data.formats.{module}"), function)
    guesses = dataclasses.replace(dataset, samples=masked)
    for note in write(guesses, path, files=files, pre_annotations=True):
        console.info(note)
    return Exported(path, {"images": len(samples)})


def _masked(dataset: Dataset, samples: list[Sample], stage: StageDir) -> Iterator[MaskedImage]:
    for sample in samples:
        yield MaskedImage(_file_name(dataset, sample), read_mask(stage.path / f"{sample.id}.png"))


def _file_name(dataset: Dataset, sample: Sample) -> str:
    path = sample.image_path
    inside = path.is_relative_to(dataset.root)
    return path.relative_to(dataset.root).as_posix() if inside else path.name


def _export_instances(dataset: Dataset, step: StageDir, path: Path) -> Exported:
    samples = step.usable(dataset.samples)
    images = (
        InstancesImage(
            _file_name(dataset, sample),
            image_size(sample.image_path),
            step.file(FOLDER, sample.id, ".json"),
        )
        for sample in samples
    )
    count = write_instances(path, images, dataset.classes)
    return Exported(path, {"images": len(samples), "annotations": count})


def _export_onnx(run_folder: Path, path: Path) -> Exported:
    from wsseg.export.bundle import find_bundle, load_bundle
    from wsseg.export.onnx import OnnxMetadata, export_onnx

    net, info = load_bundle(find_bundle(run_folder))
    metadata = OnnxMetadata(
        classes=info.classes, inference=info.inference, max_side_px=info.max_side_px
    )
    report = export_onnx(net, path, metadata, in_channels=info.in_channels)
    facts = {
        "size": "any" if report.is_dynamic else "fixed",
        "checked at": "x".join(map(str, report.checked_shape)),
        "largest difference": f"{report.max_difference:.1e}",
    }
    return Exported(path, facts)
