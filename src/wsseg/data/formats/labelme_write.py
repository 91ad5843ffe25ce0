"""Write a data set for LabelMe: ``images/`` with a JSON file beside each, split lists, classes.

Regions without holes become polygons along pixel edges, others masks.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsseg.data.dataset import SPLITS, Dataset
from wsseg.data.formats.labels_csv_write import write_class_table
from wsseg.data.formats.outgoing import (
    BACKGROUND_NAME,
    FileTransfer,
    Losses,
    Outgoing,
    copy_image,
    outgoing,
    plain,
)
from wsseg.data.outlines import outlines_and_holes
from wsseg.data.raster import Region

_VERSION = "5.5.0"
_BACKGROUND = "_background_"


def write_labelme(
    dataset: Dataset,
    out_dir: Path,
    *,
    files: FileTransfer = "copy",
    pre_annotations: bool = False,
) -> tuple[str, ...]:
    """Write a data set so that LabelMe opens its folder ``images/``.

    Args:
        dataset: What to write.
        out_dir: Folder to write to; ``classes.csv`` comes last.
        files: "copy" copies the images; "none" writes the annotations only.
        pre_annotations: Whether the masks are guesses, whose pixels to ignore say nothing.

    Returns:
        What LabelMe has no place for, one sentence each.

    Raises:
        DataError: When an image or mask cannot be read.
        OutputError: When a file cannot be written.
    """
    from wsseg.atomic import write_json, write_text

    losses = Losses("LabelMe")
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    for item in outgoing(dataset, keep_ignore=not pre_annotations):
        losses.count("groups of images", item.sample.group is not None)
        lists[item.sample.split].append(item.sample.id)
        if files == "copy":
            copy_image(item.sample, out_dir / "images" / item.file_name)
        if not item.is_unseen:
            write_json(out_dir / "images" / f"{item.sample.id}.json", _document(item))
    if lists["val"] or lists["test"]:
        for split, names in lists.items():
            if names:
                write_text(out_dir / f"{split}.txt", "".join(f"{name}\n" for name in names))
    write_class_table(dataset.classes, out_dir)
    return losses.notes()


def _document(item: Outgoing) -> dict[str, Any]:
    shapes = [_shape(name, "rectangle", box.reshape(2, 2)) for name, box in item.boxes]
    shapes += [_shape(name, "point", point[None]) for name, point in item.points]
    shapes += [_shape(name, "linestrip", line) for name, line in item.lines]
    for name, region in item.regions:
        shapes += _region(name, region)
    return {
        "version": _VERSION,
        "flags": dict.fromkeys(item.tags, True),
        "shapes": shapes,
        "imagePath": Path(item.file_name).name,
        "imageData": None,
        "imageHeight": item.size[0],
        "imageWidth": item.size[1],
    }


def _shape(name: str, kind: str, xy: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        "label": _BACKGROUND if name == BACKGROUND_NAME else name,
        "points": [[plain(value) for value in point] for point in xy],
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
    } | more


def _region(name: str, region: Region) -> list[dict[str, Any]]:
    outer, holes = outlines_and_holes(region.pixels)
    if not holes:
        corner = np.array([region.left, region.top])
        return [_shape(name, "polygon", ring + corner) for ring in outer]
    height, width = region.pixels.shape
    last = region.left + width - 1, region.top + height - 1
    corners = np.array([(region.left, region.top), last])
    stream = io.BytesIO()
    Image.fromarray(region.pixels).save(stream, format="PNG")
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return [_shape(name, "mask", corners, mask=text)]
