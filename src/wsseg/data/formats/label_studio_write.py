"""Write a data set for Label Studio: ``images/``, ``label_studio.json``, ``label_config.xml``.

Regions become brush strokes, exact to the pixel; scribbles open polygons; tags choices. The tasks
name their images as ``/data/local-files/?d=images/ID``, which Label Studio serves when
``LOCAL_FILES_SERVING_ENABLED`` is true and ``LOCAL_FILES_DOCUMENT_ROOT`` is the written folder, or,
where no images are copied, the data folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as Xml  # only writes; nothing is read

import numpy as np

from wsseg.data.dataset import Dataset
from wsseg.data.formats.labels_csv_write import write_class_table
from wsseg.data.formats.outgoing import (
    BACKGROUND_NAME,
    IGNORE_NAME,
    FileTransfer,
    Outgoing,
    copy_image,
    outgoing,
)
from wsseg.data.labels import ClassList
from wsseg.data.run_lengths import encode_brush

_TOOLS = {
    "box": ("RectangleLabels", "rectanglelabels"),
    "point": ("KeyPointLabels", "keypointlabels"),
    "scribble": ("PolygonLabels", "polygonlabels"),
    "mask": ("BrushLabels", "brushlabels"),
}
_OK = "ok"


def write_label_studio(
    dataset: Dataset,
    out_dir: Path,
    *,
    files: FileTransfer = "copy",
    pre_annotations: bool = False,
) -> tuple[str, ...]:
    """Write a data set as tasks to import.

    Args:
        dataset: What to write.
        out_dir: Folder to write to; ``label_studio.json`` comes last.
        files: "copy" copies the images; "none" writes the tasks only.
        pre_annotations: Whether the labels are guesses: they become predictions, which a person
            accepts or corrects, and pixels to ignore say nothing.

    Returns:
        Nothing: Label Studio has a place for all.

    Raises:
        DataError: When an image or mask cannot be read.
        OutputError: When a file cannot be written.
    """
    from wsseg.atomic import write_text

    tasks = []
    for number, item in enumerate(outgoing(dataset, keep_ignore=not pre_annotations), start=1):
        if files == "copy":
            copy_image(item.sample, out_dir / "images" / item.file_name)
        path = f"images/{item.file_name}"
        if files == "none" and item.sample.image_path.is_relative_to(dataset.root):
            path = item.sample.image_path.relative_to(dataset.root).as_posix()
        data = {"image": f"/data/local-files/?d={quote(path)}"}
        data |= {"split": item.sample.split}
        data |= {"group": item.sample.group} if item.sample.group is not None else {}
        task: dict[str, Any] = {"id": number, "data": data}
        if pre_annotations:
            guess = {"model_version": "wsseg", "result": _results(item)}
            task |= {"annotations": [], "predictions": [guess]}
        else:
            drawn = [{"result": _results(item), "was_cancelled": False}]
            task |= {"annotations": [] if item.is_unseen else drawn}
        tasks.append(task)
    write_text(out_dir / "label_config.xml", label_config(dataset.classes))
    write_class_table(dataset.classes, out_dir)
    write_text(out_dir / "label_studio.json", _json(tasks))
    return ()


def label_config(classes: ClassList) -> str:
    """Write the labelling interface that the tasks fit.

    Args:
        classes: The class list.

    Returns:
        XML for a project's labelling interface.
    """
    view = Xml.Element("View")
    Xml.SubElement(view, "Image", name="image", value="$image", zoom="true")
    for name, (tag, _) in _TOOLS.items():
        tool = Xml.SubElement(view, tag, name=name, toName="image")
        for label in (*classes.names, BACKGROUND_NAME, IGNORE_NAME):
            Xml.SubElement(tool, "Label", value=label)
    tags = Xml.SubElement(view, "Choices", name="tags", toName="image", choice="multiple")
    for label in (*classes.names, _OK):
        Xml.SubElement(tags, "Choice", value=label)
    Xml.indent(view)
    return Xml.tostring(view, encoding="unicode") + "\n"


def _results(item: Outgoing) -> list[dict[str, Any]]:
    scale = np.array(item.size[::-1], np.float64) / 100
    found: list[dict[str, Any]] = []
    for name, xyxy in item.boxes:
        low, high = xyxy[:2] / scale, xyxy[2:] / scale
        extent = high - low
        value = {"x": low[0], "y": low[1], "width": extent[0], "height": extent[1], "rotation": 0}
        found.append(_result("box", name, value, item))
    for name, point in item.points:
        x, y = point / scale
        found.append(_result("point", name, {"x": x, "y": y, "width": 0.5}, item))
    for name, line in item.lines:
        value = {"points": (line / scale).tolist(), "closed": False}
        found.append(_result("scribble", name, value, item))
    for name, region in item.regions:
        whole = np.zeros(item.size, np.bool_)
        whole[region.window] = region.pixels
        value = {"format": "rle", "rle": encode_brush(whole)}
        found.append(_result("mask", name, value, item))
    if item.tags:
        found.append(
            {
                "from_name": "tags",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": list(item.tags)},
            }
        )
    for number, result in enumerate(found, start=1):
        result["id"] = f"{item.sample.id}#{number}"
    return found


def _result(tool: str, name: str, value: dict[str, Any], item: Outgoing) -> dict[str, Any]:
    kind = _TOOLS[tool][1]
    numbers = {
        key: float(one) if isinstance(one, np.floating) else one for key, one in value.items()
    }
    return {
        "from_name": tool,
        "to_name": "image",
        "type": kind,
        "original_width": item.size[1],
        "original_height": item.size[0],
        "image_rotation": 0,
        "value": numbers | {kind: [name]},
    }


def _json(tasks: list[dict[str, Any]]) -> str:
    """One task per line: run lengths with a line per number would be unreadable and large."""
    import json

    lines = (json.dumps(task, ensure_ascii=False, allow_nan=False) for task in tasks)
    return "[\n" + ",\n".join(lines) + "\n]\n"
