"""Masks as COCO instance annotations: one per connected region, exact to the pixel.

Format: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and pycocotools. Masks
say nothing about instances, so touching objects of one class are one region. Polygons follow the
pixel edges; regions with holes, which COCO polygons cannot express, are run-length encoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsseg._version import __version__
from wsseg.atomic import write_json
from wsseg.data.labels import IGNORE, ClassList
from wsseg.data.outlines import outlines
from wsseg.data.raster import connected_regions
from wsseg.errors import OutputError

Style = Literal["polygon", "rle"]


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """One image with its mask.

    Attributes:
        file_name: Path of the image, relative to the images' folder, with ``/``.
        mask: (H, W) uint8 class ids; 0 and 255 are not annotated.
    """

    file_name: str
    mask: NDArray[np.uint8]


def coco_document(
    images: Iterable[MaskedImage],
    classes: ClassList,
    *,
    style: Style = "polygon",
    min_area_px: int = 1,
) -> dict[str, Any]:
    """Turn masks into a COCO document and prove that it decodes to the same masks.

    Args:
        images: Images with their masks; taken one after the other.
        classes: The class list; category ids are the class ids 1..C.
        style: ``"polygon"`` (regions with holes still as run lengths) or ``"rle"`` for all.
        min_area_px: Regions of fewer pixels are left out.

    Returns:
        What ``json.dump`` can write: ``info``, ``images``, ``categories``, ``annotations``.

    Raises:
        DataError: When a mask holds a class id beyond the class list.
        OutputError: When an annotation does not decode to its region.

    Example:
        >>> mask = np.array([[0, 1], [0, 1]], np.uint8)
        >>> document = coco_document([MaskedImage("a.png", mask)], ClassList(("dent",)))
        >>> document["annotations"][0]["segmentation"], document["annotations"][0]["bbox"]
        ([[1, 0, 2, 0, 2, 2, 1, 2]], [1, 0, 1, 2])
    """
    image_entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, item in enumerate(images, start=1):
        height, width = item.mask.shape
        image_entries.append(
            {"id": image_id, "file_name": item.file_name, "height": height, "width": width}
        )
        for class_id, region, top_left in regions(item.mask, min_area_px):
            classes.name_of(class_id)
            annotation = annotate(region, top_left, item.mask.shape, style)
            _check(annotation, region, top_left, item)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id,
                    "iscrowd": 0,
                    **annotation,
                }
            )
    categories = [
        {"id": class_id, "name": name, "supercategory": ""}
        for class_id, name in enumerate(classes.names, start=1)
    ]
    return {
        "info": {"description": f"Masks of wsseg {__version__}", "version": "1.0"},
        "images": image_entries,
        "categories": categories,
        "annotations": annotations,
    }


def write_coco(
    path: Path,
    images: Iterable[MaskedImage],
    classes: ClassList,
    *,
    style: Style = "polygon",
    min_area_px: int = 1,
) -> int:
    """Write masks as a COCO JSON file.

    Args:
        path: The file.
        images: See :func:`coco_document`.
        classes: See :func:`coco_document`.
        style: See :func:`coco_document`.
        min_area_px: See :func:`coco_document`.

    Returns:
        Number of annotations.

    Raises:
        DataError: When a mask holds a class id beyond the class list.
        OutputError: When the file cannot be written or would not decode to the masks.
    """
    document = coco_document(images, classes, style=style, min_area_px=min_area_px)
    write_json(path, document)
    return len(document["annotations"])


def regions(
    mask: NDArray[np.uint8], min_area_px: int = 1
) -> Iterator[tuple[int, NDArray[np.bool_], tuple[int, int]]]:
    """Cut a mask into its connected regions; pixels that touch at a corner are connected.

    Args:
        mask: (H, W) uint8.
        min_area_px: Regions of fewer pixels are left out.

    Yields:
        Class id, the region (h, w) bool within its bounding box, and the box's top and left.
    """
    for class_id, region in connected_regions(mask):
        if class_id != IGNORE and region.area >= min_area_px:
            yield class_id, region.pixels, (region.top, region.left)


def annotate(
    region: NDArray[np.bool_], top_left: tuple[int, int], size: tuple[int, ...], style: Style
) -> dict[str, Any]:
    """Write one region as COCO does.

    Args:
        region: (h, w) bool within its bounding box.
        top_left: Row and column of the box in the image, pixels.
        size: (H, W) of the image.
        style: ``"polygon"`` or ``"rle"``; regions with holes are always run lengths.

    Returns:
        ``segmentation``, ``area`` in pixels and ``bbox`` as x, y, width, height.
    """
    top, left = top_left
    segmentation: Any = None
    if style == "polygon":
        rings, has_holes = outlines(region)
        if not has_holes:
            segmentation = [(ring + np.array([left, top])).ravel().tolist() for ring in rings]
    if segmentation is None:
        segmentation = _run_lengths(region, top_left, size)
    return {
        "segmentation": segmentation,
        "area": int(region.sum()),
        "bbox": [left, top, region.shape[1], region.shape[0]],
    }


def _run_lengths(
    region: NDArray[np.bool_], top_left: tuple[int, int], size: tuple[int, ...]
) -> dict[str, Any]:
    """Encode a region in COCO's compressed run lengths, as text that JSON can hold."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(_whole(region, top_left, size)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def _whole(
    region: NDArray[np.bool_], top_left: tuple[int, int], size: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Put a region into an empty mask of the image's size."""
    whole = np.zeros(size, np.uint8)
    top, left = top_left
    whole[top : top + region.shape[0], left : left + region.shape[1]] = region
    return whole


def _check(
    annotation: dict[str, Any],
    region: NDArray[np.bool_],
    top_left: tuple[int, int],
    item: MaskedImage,
) -> None:
    """Decode an annotation with pycocotools and compare it with its region."""
    from pycocotools import mask as coco_mask

    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        # Within the box only: decoding whole images for every small region would take most time.
        top, left = top_left
        height, width = region.shape
        moved = [
            (np.reshape(ring, (-1, 2)) - np.array([left, top])).ravel() for ring in segmentation
        ]
        polygons = [ring.astype(np.float64).tolist() for ring in moved]
        encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        expected = region
    else:
        encoded = segmentation
        expected = _whole(region, top_left, item.mask.shape).astype(np.bool_)
    with warnings.catch_warnings():
        # pycocotools 2.0 does not know NumPy 2's `copy` keyword yet; the result is right.
        warnings.simplefilter("ignore", DeprecationWarning)
        decoded = coco_mask.decode(encoded).astype(np.bool_)
    if not np.array_equal(decoded, expected):
        raise OutputError(
            f"{item.file_name}: the region at {annotation['bbox']} does not decode to the same "
            "pixels. Please report this, and use style rle meanwhile."
        )
