"""A whole data set in the layout of PASCAL VOC, with XML files of objects and of scribbles.

Beside what `wsseg.export.voc` writes: ``Annotations/NAME.xml`` (an object per box; one without box
for every other class of the image), ``Scribbles/NAME.xml`` as ScribbleSup has them, and
``classes.csv``. Images that nobody looked at get no XML file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree as Xml  # only writes; files are read by defusedxml

import numpy as np

from wsseg.data.dataset import Dataset
from wsseg.data.formats.labels_csv_write import write_class_table
from wsseg.data.formats.outgoing import BACKGROUND_NAME, IGNORE_NAME, Losses, Outgoing, outgoing
from wsseg.data.image_io import read_mask
from wsseg.export.voc import VocItem, flat_name, write_voc


def write_voc_dataset(dataset: Dataset, out_dir: Path) -> tuple[str, ...]:
    """Write a data set for VOC tools.

    Args:
        dataset: What to write.
        out_dir: Folder to write to.

    Returns:
        What VOC has no place for, one sentence each.

    Raises:
        DataError: When an image or mask cannot be read, or two images get the same name.
        OutputError: When a file cannot be written.
    """
    losses = Losses("VOC")
    write_voc(out_dir, _items(dataset, out_dir, losses), dataset.classes)
    write_class_table(dataset.classes, out_dir)
    return losses.notes()


def _items(dataset: Dataset, out_dir: Path, losses: Losses) -> Iterator[VocItem]:
    """Write the XML files of each image and pass it on."""
    for item in outgoing(dataset):
        sample = item.sample
        clicks = [(name, point[None]) for name, point in item.points if name == BACKGROUND_NAME]
        losses.count("points", len(item.points) - len(clicks))
        losses.count("groups of images", sample.group is not None)
        name = flat_name(sample.id)
        if not item.is_unseen:
            _write(out_dir / "Annotations" / f"{name}.xml", _objects(item, name))
        strokes = [*item.lines, *clicks]
        if strokes:
            _write(out_dir / "Scribbles" / f"{name}.xml", _strokes(item, strokes))
        mask = None if sample.mask_path is None else read_mask(sample.mask_path)
        yield VocItem(sample.id, sample.image_path, mask, sample.split)


def _objects(item: Outgoing, name: str) -> Xml.Element:
    root = Xml.Element("annotation")
    Xml.SubElement(root, "filename").text = f"{name}.jpg"
    _add_size(root, item)
    Xml.SubElement(root, "segmented").text = str(int(item.sample.mask_path is not None))
    boxed = {label for label, _ in item.boxes}
    others = (*item.tags, *(label for label, _ in (*item.points, *item.lines, *item.regions)))
    unboxed = dict.fromkeys(others)
    for label in (BACKGROUND_NAME, IGNORE_NAME, *boxed):
        unboxed.pop(label, None)
    for label, box in (*item.boxes, *((label, None) for label in unboxed)):
        element = Xml.SubElement(root, "object")
        Xml.SubElement(element, "name").text = label
        Xml.SubElement(element, "difficult").text = "0"
        if box is not None:
            corners = Xml.SubElement(element, "bndbox")
            # VOC counts pixels from 1 and includes both corners.
            moved = np.add(box.astype(np.float64), [1, 1, 0, 0])
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), moved.tolist(), strict=True):
                Xml.SubElement(corners, tag).text = f"{value:.17g}"
    return root


def _strokes(item: Outgoing, strokes: Iterable[tuple[str, np.ndarray]]) -> Xml.Element:
    root = Xml.Element("annotation")
    _add_size(root, item)
    for label, line in strokes:
        stroke = Xml.SubElement(root, "polygon")
        Xml.SubElement(stroke, "tag").text = label
        for x, y in line.astype(np.float64).tolist():
            point = Xml.SubElement(stroke, "point")
            Xml.SubElement(point, "X").text = f"{x + 0.5:.17g}"
            Xml.SubElement(point, "Y").text = f"{y + 0.5:.17g}"
    return root


def _add_size(root: Xml.Element, item: Outgoing) -> None:
    size = Xml.SubElement(root, "size")
    for tag, value in (("width", item.size[1]), ("height", item.size[0]), ("depth", 3)):
        Xml.SubElement(size, tag).text = str(value)


def _write(path: Path, root: Xml.Element) -> None:
    from wsseg.atomic import write_bytes

    Xml.indent(root)
    write_bytes(path, Xml.tostring(root, encoding="utf-8") + b"\n")
