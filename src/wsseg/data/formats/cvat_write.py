"""Write a data set for CVAT: ``images/`` and ``annotations.xml``, "CVAT for images 1.1".

Regions become masks, exact to the pixel; splits become subsets.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as Xml  # only writes; files are read by defusedxml

import numpy as np

from wsseg.data.dataset import Dataset
from wsseg.data.formats.outgoing import (
    BACKGROUND_NAME,
    IGNORE_NAME,
    FileTransfer,
    Losses,
    Outgoing,
    copy_image,
    outgoing,
    plain,
)
from wsseg.data.run_lengths import encode_runs

_MARKS = {"occluded": "0", "source": "manual", "z_order": "0"}


def write_cvat(
    dataset: Dataset,
    out_dir: Path,
    *,
    files: FileTransfer = "copy",
    pre_annotations: bool = False,
) -> tuple[str, ...]:
    """Write a data set as CVAT exports and uploads it.

    Args:
        dataset: What to write.
        out_dir: Folder to write to; ``annotations.xml`` comes last.
        files: "copy" copies the images; "none" writes the annotations only.
        pre_annotations: Whether the masks are guesses, whose pixels to ignore say nothing.

    Returns:
        What CVAT has no place for, one sentence each. Images that nobody looked at are left out:
        without shapes they would say "no class".

    Raises:
        DataError: When an image or mask cannot be read.
        OutputError: When a file cannot be written.
    """
    from wsseg.atomic import write_bytes

    losses = Losses("CVAT")
    root = Xml.Element("annotations")
    Xml.SubElement(root, "version").text = "1.1"
    labels = Xml.SubElement(Xml.SubElement(Xml.SubElement(root, "meta"), "task"), "labels")
    used: set[str] = set()
    for number, item in enumerate(outgoing(dataset, keep_ignore=not pre_annotations)):
        losses.count("groups of images", item.sample.group is not None)
        if item.is_unseen:
            losses.count("images without label")
            continue
        if files == "copy":
            copy_image(item.sample, out_dir / "images" / item.file_name)
        _add_image(root, item, number)
        used |= {name for name, _ in (*item.points, *item.lines, *item.regions)}
    extra = [name for name in (BACKGROUND_NAME, IGNORE_NAME) if name in used]
    for name in (*dataset.classes.names, *extra):
        label = Xml.SubElement(labels, "label")
        Xml.SubElement(label, "name").text = name
        Xml.SubElement(label, "type").text = "any"
        Xml.SubElement(label, "attributes")
    Xml.indent(root)
    write_bytes(
        out_dir / "annotations.xml", Xml.tostring(root, encoding="utf-8", xml_declaration=True)
    )
    return losses.notes()


def _add_image(root: Xml.Element, item: Outgoing, number: int) -> None:
    image = Xml.SubElement(
        root,
        "image",
        id=str(number),
        name=item.file_name,
        subset=item.sample.split,
        width=str(item.size[1]),
        height=str(item.size[0]),
    )
    for name, box in item.boxes:
        corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(_text, box), strict=True))
        Xml.SubElement(image, "box", {"label": name} | _MARKS | corners)
    for name, point in item.points:
        Xml.SubElement(image, "points", {"label": name} | _MARKS, points=_pairs(point[None]))
    for name, line in item.lines:
        Xml.SubElement(image, "polyline", {"label": name} | _MARKS, points=_pairs(line))
    for name, region in item.regions:
        height, width = region.pixels.shape
        Xml.SubElement(
            image,
            "mask",
            {"label": name} | _MARKS,
            rle=", ".join(map(str, encode_runs(region.pixels))),
            left=str(region.left),
            top=str(region.top),
            width=str(width),
            height=str(height),
        )
    for name in item.tags:
        Xml.SubElement(image, "tag", label=name, source="manual")


def _text(value: float | np.floating) -> str:
    return str(plain(value))


def _pairs(xy: np.ndarray) -> str:
    return ";".join(f"{_text(x)},{_text(y)}" for x, y in xy)
