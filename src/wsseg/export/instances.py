"""Instances that a refine step told apart, as one COCO file.

Format: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. Masks are run lengths;
every annotation carries the ``score`` of its instance besides what COCO asks for. Fragments, whose
score is 0, are left out.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsseg._version import __version__
from wsseg.atomic import write_json
from wsseg.data.labels import ClassList
from wsseg.errors import DataError
from wsseg.export.coco import annotate
from wsseg.rundir import StageDir

FOLDER = "instances"


@dataclass(frozen=True)
class InstancesImage:
    """One image with its instances.

    Attributes:
        file_name: Path of the image, relative to the images' folder, with ``/``.
        size: (H, W) of the image in pixels; instances of a smaller copy are enlarged to it.
        path: The JSON file with the instances, see `wsseg.refine.irn_instances`.
    """

    file_name: str
    size: tuple[int, int]
    path: Path


def find_step(run_folder: Path) -> StageDir:
    """Find the last refine step of a run that wrote instances.

    Args:
        run_folder: Folder of a run.

    Raises:
        DataError: When there is none.
    """
    folders = [path.parent for path in (run_folder / "refine").glob(f"*/{FOLDER}")]
    if not folders:
        raise DataError(
            f"{run_folder} holds no instances. The refiner irn writes them with instances=true: "
            f"`wsseg refine {run_folder} --set refine.steps.irn.instances=true`."
        )
    return StageDir(max(folders, key=_step_number), "")


def _step_number(folder: Path) -> int:
    number = folder.name.partition("_")[0]
    return int(number) if number.isdecimal() else -1


def write_instances(path: Path, images: Iterable[InstancesImage], classes: ClassList) -> int:
    """Write instances as a COCO JSON file.

    Args:
        path: The file.
        images: Images with their instances; taken one after the other.
        classes: The class list; category ids are the class ids 1..C.

    Returns:
        Number of annotations.

    Raises:
        DataError: When the instances of an image are missing or damaged, or hold a class id beyond
            the class list.
        OutputError: When the file cannot be written.
    """
    image_entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, item in enumerate(images, start=1):
        height, width = item.size
        image_entries.append(
            {"id": image_id, "file_name": item.file_name, "height": height, "width": width}
        )
        for annotation in _annotations(item, classes):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image_id, "iscrowd": 0, **annotation})
    categories = [
        {"id": class_id, "name": name, "supercategory": ""}
        for class_id, name in enumerate(classes.names, start=1)
    ]
    info = {"description": f"Instances of wsseg {__version__}", "version": "1.0"}
    document = {"info": info, "images": image_entries, "categories": categories}
    write_json(path, document | {"annotations": annotations})
    return len(annotations)


def _annotations(item: InstancesImage, classes: ClassList) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(item.path.read_text("utf-8"))
        size = (int(content["size"][0]), int(content["size"][1]))
        for entry in content["instances"]:
            classes.name_of(entry["class_id"])
            if entry["score"] > 0:
                shape = _shape(entry, size, item.size)
                if shape["area"] > 0:
                    kept = {"category_id": entry["class_id"], "score": entry["score"]}
                    yield kept | shape
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{item.path}: no valid instances ({error}). Run the refine stage again."
        ) from error


def _shape(entry: dict[str, Any], size: tuple[int, int], wanted: tuple[int, int]) -> dict[str, Any]:
    """Take segmentation, area and box, enlarged where the image was shrunk when it was read."""
    if size == wanted:
        return {key: entry[key] for key in ("segmentation", "area", "bbox")}
    import cv2
    from pycocotools import mask as coco_mask

    with warnings.catch_warnings():
        # pycocotools 2.0 does not know NumPy 2's `copy` keyword yet; the result is right.
        warnings.simplefilter("ignore", DeprecationWarning)
        small = np.ascontiguousarray(coco_mask.decode(entry["segmentation"]))
    method = cv2.INTER_NEAREST_EXACT
    mask = cv2.resize(small, (wanted[1], wanted[0]), interpolation=method).astype(np.bool_)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return {"area": 0}
    region = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return annotate(region, (int(rows[0]), int(columns[0])), wanted, "rle")
