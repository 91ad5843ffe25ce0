"""Write a data set of any readable layout in wsseg's own or in that of an annotation tool."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wsseg.data.dataset import Dataset
from wsseg.data.discover import open_dataset
from wsseg.errors import OutputError, RecipeError, unknown_name

_FORMATS = "wsseg.data.formats"
_WRITERS = {
    "csv": (f"{_FORMATS}.labels_csv_write:write_labels_csv_and_shapes", "labels.csv"),
    "coco": (f"{_FORMATS}.coco_write:write_coco_dataset", "annotations"),
    "labelme": (f"{_FORMATS}.labelme_write:write_labelme", "classes.csv"),
    "cvat": (f"{_FORMATS}.cvat_write:write_cvat", "annotations.xml"),
    "label-studio": (f"{_FORMATS}.label_studio_write:write_label_studio", "label_studio.json"),
    "voc": ("wsseg.export.voc_dataset:write_voc_dataset", "ImageSets"),
    "yolo": (f"{_FORMATS}.yolo_write:write_yolo", "data.yaml"),
}
"""Writer by target, and the file or folder whose presence means that one is there already."""

TARGETS = tuple(_WRITERS)


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        out: The folder.
        images: Number of images that were read.
        notes: What the target has no place for, one sentence each.
    """

    out: Path
    images: int
    notes: tuple[str, ...]

    def text(self) -> str:
        """Say it for people."""
        notes = "".join(f"\nnote: {note}" for note in self.notes)
        return f"Wrote {self.images} images to {self.out}{notes}\nNext: wsseg run {self.out}"

    def as_dict(self) -> dict[str, object]:
        """Say it for machines."""
        return {"images": self.images, "out": str(self.out), "notes": list(self.notes)}


def convert_dataset(
    data: Path | Dataset,
    out: Path,
    *,
    to: str = "csv",
    format: str | None = None,  # noqa: A002 - the word the command line uses
) -> Converted:
    """Write a copy of a data set in another format.

    Args:
        data: Folder in any layout that wsseg reads, or a data set.
        out: Folder to write.
        to: One of `TARGETS`.
        format: Name of the format of ``data``, where several fit.

    Returns:
        How much was written, and what the target has no place for.

    Raises:
        RecipeError: When the target is unknown.
        DataError: When the data have errors.
        OutputError: When ``out`` holds such a data set already, or cannot be written.
    """
    target = to.replace("_", "-")
    if target not in _WRITERS:
        raise RecipeError(unknown_name("target format", to, TARGETS))
    name, marker = _WRITERS[target]
    if (out / marker).exists():
        raise OutputError(f"{out} has a {marker} already; write to a new folder.")
    dataset = data if isinstance(data, Dataset) else open_dataset(data, format=format)
    module, function = name.split(":")
    write: Callable[[Dataset, Path], tuple[str, ...]]
    write = getattr(importlib.import_module(module), function)
    return Converted(out, len(dataset), write(dataset, out))
