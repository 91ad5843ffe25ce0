"""Write a data set for YOLO: ``images/``, ``labels/``, lists of the splits and ``data.yaml``.

Regions become polygons along pixel edges, a hole being joined to the outline by a line walked there
and back. A box that a region of its class fills out is left to the region.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsseg.data.dataset import SPLITS, Dataset
from wsseg.data.formats.compose import is_outlined
from wsseg.data.formats.outgoing import (
    IGNORE_NAME,
    FileTransfer,
    Losses,
    Outgoing,
    bridged_outlines,
    copy_image,
    hides_a_class,
    outgoing,
)
from wsseg.data.labels import ClassList


def write_yolo(
    dataset: Dataset,
    out_dir: Path,
    *,
    files: FileTransfer = "copy",
    pre_annotations: bool = False,
) -> tuple[str, ...]:
    """Write a data set in the layout of Ultralytics.

    Args:
        dataset: What to write.
        out_dir: Folder to write to; ``data.yaml`` comes last.
        files: "copy" copies the images; "none" writes the labels only.
        pre_annotations: Whether the masks are guesses, whose pixels to ignore say nothing.

    Returns:
        What YOLO has no place for, one sentence each. Images whose classes no box or region shows
        are left out: without a line they would say "no class".

    Raises:
        DataError: When an image or mask cannot be read.
        OutputError: When a file cannot be written.
    """
    import yaml

    from wsseg.atomic import write_text

    losses = Losses("YOLO")
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    for item in outgoing(dataset, keep_ignore=not pre_annotations):
        losses.count("points", len(item.points))
        losses.count("lines", len(item.lines))
        losses.count("regions to ignore", sum(name == IGNORE_NAME for name, _ in item.regions))
        losses.count("groups of images", item.sample.group is not None)
        if item.is_unseen or hides_a_class(item):
            losses.count("images whose classes no box or region shows")
            continue
        if files == "copy":
            copy_image(item.sample, out_dir / "images" / item.file_name)
        text = "".join(f"{line}\n" for line in _lines(item, dataset.classes))
        write_text(out_dir / "labels" / f"{item.sample.id}.txt", text)
        lists[item.sample.split].append(f"./images/{item.file_name}")
    settings: dict[str, object] = {}
    for split, names in lists.items():
        if names:
            write_text(out_dir / f"{split}.txt", "".join(f"{name}\n" for name in names))
            settings[split] = f"{split}.txt"
    settings["names"] = dict(enumerate(dataset.classes.names))
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    write_text(out_dir / "data.yaml", text)
    return losses.notes()


def _lines(item: Outgoing, classes: ClassList) -> list[str]:
    lines = []
    size = np.array(item.size[::-1], np.float64)
    drawn = {name: np.zeros(item.size, np.bool_) for name, _ in item.regions}
    for name, region in item.regions:
        drawn[name][region.window] |= region.pixels
        if name != IGNORE_NAME:
            rings = bridged_outlines(region)
            lines += [_line(classes.id_of(name), (ring / size).ravel()) for ring in rings]
    for name, xyxy in item.boxes:
        if name not in drawn or not is_outlined(drawn[name], xyxy):
            low, high = xyxy[:2] / size, xyxy[2:] / size
            numbers = np.concatenate([(low + high) / 2, high - low])
            lines.append(_line(classes.id_of(name), numbers))
    return lines


def _line(class_id: int, shares: np.ndarray) -> str:
    return " ".join([str(class_id - 1), *(f"{value:.10g}" for value in shares)])
