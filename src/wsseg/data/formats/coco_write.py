"""Write a data set as COCO: ``images/`` and one ``annotations/instances_SPLIT.json`` per split.

A box that is the bounding box of a region becomes one annotation with it. Where an image has boxes,
its other regions are written as crowds, whose boxes do not count, so that the boxes come back as
they were. Regions without holes are polygons along pixel edges, others run lengths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsseg.data.dataset import SPLITS, Dataset
from wsseg.data.formats.outgoing import (
    IGNORE_NAME,
    FileTransfer,
    Losses,
    Outgoing,
    copy_image,
    hides_a_class,
    outgoing,
    plain,
)
from wsseg.data.labels import ClassList
from wsseg.data.outlines import outlines_and_holes
from wsseg.data.raster import Region
from wsseg.data.run_lengths import coco_text, encode_runs


def write_coco_dataset(
    dataset: Dataset, out_dir: Path, *, files: FileTransfer = "copy"
) -> tuple[str, ...]:
    """Write a data set as COCO.

    Args:
        dataset: What to write.
        out_dir: Folder to write to.
        files: "copy" copies the images; "none" writes the annotations only.

    Returns:
        What COCO has no place for, one sentence each. Images whose tags no shape shows, and images
        that nobody looked at, are left out: without annotation they would say "no class".

    Raises:
        DataError: When an image or mask cannot be read.
        OutputError: When a file cannot be written.
    """
    from wsseg.atomic import write_json

    losses = Losses("COCO")
    documents = {split: _document(dataset.classes) for split in SPLITS}
    for number, item in enumerate(outgoing(dataset), start=1):
        losses.count("points", len(item.points))
        losses.count("lines", len(item.lines))
        losses.count("regions to ignore", sum(name == IGNORE_NAME for name, _ in item.regions))
        losses.count("groups of images", item.sample.group is not None)
        if item.is_unseen or hides_a_class(item):
            losses.count("images whose classes no box or region shows")
            continue
        if files == "copy":
            copy_image(item.sample, out_dir / "images" / item.file_name)
        document = documents[item.sample.split]
        height, width = item.size
        document["images"].append(
            {"id": number, "file_name": item.file_name, "height": height, "width": width}
        )
        for annotation in image_annotations(item, dataset.classes):
            head = {"id": len(document["annotations"]) + 1, "image_id": number}
            document["annotations"].append(head | annotation)
    for split, document in documents.items():
        if document["images"]:
            write_json(out_dir / "annotations" / f"instances_{split}.json", document)
    return losses.notes()


def _document(classes: ClassList) -> dict[str, Any]:
    categories = [
        {"id": class_id, "name": name, "supercategory": ""}
        for class_id, name in enumerate(classes.names, start=1)
    ]
    info = {"description": "Written by wsseg", "version": "1.0"}
    return {"info": info, "images": [], "categories": categories, "annotations": []}


def image_annotations(item: Outgoing, classes: ClassList) -> list[dict[str, Any]]:
    """Write the boxes and regions of one image as COCO annotations, without their ids.

    Args:
        item: The image.
        classes: The class list.

    Returns:
        ``category_id``, ``bbox``, ``area``, ``iscrowd`` and, for regions, ``segmentation``.
    """
    regions = [(name, region) for name, region in item.regions if name != IGNORE_NAME]
    used: set[int] = set()
    found = []
    for name, xyxy in item.boxes:
        x0, y0, x1, y1 = (plain(value) for value in xyxy)
        bounds = (x0, y0, x1, y1)
        match = next(
            (
                index
                for index, (other, region) in enumerate(regions)
                if index not in used and other == name and _bounds(region) == bounds
            ),
            None,
        )
        annotation: dict[str, Any] = {
            "category_id": classes.id_of(name),
            "bbox": [x0, y0, _difference(xyxy[2], xyxy[0]), _difference(xyxy[3], xyxy[1])],
            "area": float((xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])),
            "segmentation": [],
            "iscrowd": 0,
        }
        if match is not None:
            used.add(match)
            annotation |= _region(regions[match][1], item.size, as_crowd=False)
        found.append(annotation)
    for index, (name, region) in enumerate(regions):
        if index not in used:
            left, top, right, bottom = _bounds(region)
            written = _region(region, item.size, as_crowd=bool(item.boxes))
            box = [left, top, right - left, bottom - top]
            found.append({"category_id": classes.id_of(name), "bbox": box} | written)
    return found


def _difference(high: np.float32, low: np.float32) -> float | int:
    """Width or height so that adding it to the corner gives the other corner back."""
    exact = float(high) - float(str(low))
    return int(exact) if exact.is_integer() else exact


def _bounds(region: Region) -> tuple[int, int, int, int]:
    height, width = region.pixels.shape
    return region.left, region.top, region.left + width, region.top + height


def _region(region: Region, size: tuple[int, int], *, as_crowd: bool) -> dict[str, Any]:
    outer, holes = outlines_and_holes(region.pixels)
    segmentation: Any
    if holes or as_crowd:
        whole = np.zeros(size, np.bool_)
        whole[region.window] = region.pixels
        counts = encode_runs(whole.T)
        segmentation = {"size": list(size), "counts": coco_text(counts)}
    else:
        corner = np.array([region.left, region.top])
        segmentation = [(ring + corner).ravel().tolist() for ring in outer]
    return {"segmentation": segmentation, "area": region.area, "iscrowd": int(as_crowd)}
