"""COCO: JSON files with images, categories and annotations.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and pycocotools. Found are
``*.json``, ``annotations/*.json`` and, in folders named like a split, ``*.json``; where one is
called ``instances*``, only such files count. The split is the word train, val or test in a file's
name or folder. Every annotation gives a tag; its ``bbox`` a box, unless it is a crowd; its
``segmentation`` (polygons, run lengths, compressed run lengths) pixels of the ground-truth mask.
An image without annotation shows no class; images that no file names are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsseg.data.dataset import Dataset
from wsseg.data.formats.assemble import Reading, assemble, class_list
from wsseg.data.formats.drawn import Annotated, Coordinates, Drawn, UnusableError, parse_each
from wsseg.data.formats.measures import coordinates, number, stated_size
from wsseg.data.formats.protocol import SPLIT_NAMES, Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.sources import ImageFiles, holds, own_files, read_json, split_of
from wsseg.data.listing import shown
from wsseg.data.problems import Problems
from wsseg.data.raster import Region
from wsseg.data.run_lengths import decode_runs, parse_coco_text

NAME = "coco"

_PATTERNS = ("*.json", "annotations/*.json", *(f"{name}/*.json" for name in SPLIT_NAMES))
_SIGNS = (rb'"images"\s*:\s*\[', rb'"annotations"\s*:\s*\[', rb'"categories"\s*:\s*\[')
_EXPORT_AGAIN = "Export it again."


@dataclass(frozen=True)
class _File:
    """One parsed file; annotations by image id."""

    path: Path
    name: str
    images: list[dict[str, Any]]
    annotations: dict[Any, list[tuple[str, dict[str, Any]]]]
    categories: dict[int, str]


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by JSON files with images, annotations and categories."""
    found = [shown(file, path) for file in _find(path, Problems())]
    return Evidence(NAME, f"COCO in {', '.join(found[:3])}") if found else None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags, boxes, masks and splits.

    Args:
        path: The data folder.
        problems: Receives malformed files and annotations, and images that are not there.
        options: What the user said.

    Returns:
        The samples without errors.
    """
    root = path.absolute()
    reading = Reading(root, NAME, problems, options)
    files = [
        file for one in _find(root, problems) if (file := _parse(one, root, problems)) is not None
    ]
    categories = _categories(files, problems)
    names = [categories[key] for key in sorted(categories)]
    classes = class_list(reading, names, files[0].name if files else "annotations", fixed=True)
    if classes is None or not files:
        return empty_dataset(root, NAME, options)
    images = ImageFiles(root, problems)
    named: set[str] = set()
    dataset = assemble(reading, _items(files, categories, images, problems, named), classes)
    left = len(images.listing.images.keys() - named)
    notes = (f"{left} image(s) that no annotation file names left out.",) if left else ()
    return Dataset(root, classes, dataset.samples, NAME, (*dataset.notes, *notes))


def _find(root: Path, problems: Problems) -> list[Path]:
    files = [path for path in own_files(root, _PATTERNS, problems) if holds(path, *_SIGNS)]
    instances = [path for path in files if path.name.startswith("instances")]
    return instances or files


def _parse(path: Path, root: Path, problems: Problems) -> _File | None:
    """Parse a file and group its annotations by image."""
    name = shown(path, root)
    document = read_json(path, problems, root=root)
    if document is None:
        return None
    parts = [document.get(key) for key in ("images", "annotations", "categories")]
    if not all(_is_table(part) for part in parts):
        problems.error(
            name, "images, annotations and categories are not all lists of objects.", _EXPORT_AGAIN
        )
        return None
    images, annotations, categories = parts
    ids = {_key(image.get("id")) for image in images}
    by_image: dict[Any, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for index, annotation in enumerate(annotations):
        where = f"annotation {annotation.get('id', index)}"
        image_id = _key(annotation.get("image_id"))
        if image_id not in ids:
            problems.error(
                f"{name}, {where}",
                f"image_id {image_id} is not among the images.",
                "Remove the annotation, or add the image.",
            )
        by_image[image_id].append((where, annotation))
    names = {
        item["id"]: item["name"].strip()
        for item in categories
        if isinstance(item.get("id"), int) and isinstance(item.get("name"), str)
    }
    if len(names) != len(categories):
        problems.error(name, "a category has no id, no name, or another's id.", _EXPORT_AGAIN)
        return None
    return _File(path, name, images, by_image, _without_groups(names, categories, annotations))


def _without_groups(
    names: dict[int, str], categories: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> dict[int, str]:
    """Leave out categories that only group others and annotate nothing, as some tools add them."""
    groups = {_key(item.get("supercategory")) for item in categories} - {"none"}
    groups -= {item["name"] for item in categories if item.get("supercategory") == item["name"]}
    used = {_key(annotation.get("category_id")) for annotation in annotations}
    return {key: name for key, name in names.items() if key in used or name not in groups}


def _categories(files: list[_File], problems: Problems) -> dict[int, str]:
    """Join the categories of all files; one id must have one name."""
    joined: dict[int, str] = {}
    for file in files:
        for key, name in file.categories.items():
            if joined.setdefault(key, name) != name:
                problems.error(
                    file.name,
                    f'category {key} is called "{name}", in another file "{joined[key]}".',
                    "Use the same categories in all files.",
                )
    return joined


def _items(
    files: list[_File],
    categories: dict[int, str],
    images: ImageFiles,
    problems: Problems,
    named: set[str],
) -> Iterator[Annotated]:
    for file in files:
        split = split_of(file.path, images.root)
        # instances_train2017.json is about the images in train2017/.
        last = file.path.stem.rpartition("_")[2]
        folders = (file.path.parent, images.root / last, images.base / last)
        for image in file.images:
            sample_id, fault = images.find(str(image.get("file_name", "")), folders)
            if sample_id is None:
                problems.error(
                    f"{file.name}: image {image.get('id')}",
                    f"file_name {fault}",
                    "Add the image, or remove it from the file.",
                )
                continue
            named.add(sample_id)
            size = stated_size(image.get("height"), image.get("width"))

            def parse(where: str, entry: dict[str, Any], size: Any = size) -> Drawn:
                return _drawn(where, entry, categories, size)

            entries = file.annotations.get(_key(image.get("id")), [])
            drawn = parse_each(entries, parse, f"{file.name}: image {sample_id}", problems)
            if drawn is not None:
                yield Annotated(
                    file.name, sample_id, images.path(sample_id), drawn, split, stated_size=size
                )


def _drawn(
    where: str, entry: dict[str, Any], categories: dict[int, str], size: tuple[int, int] | None
) -> Drawn:
    """Read one annotation."""
    category = entry.get("category_id")
    if not isinstance(category, int) or category not in categories:
        raise UnusableError(
            f"category_id {category} is not among the categories ({sorted(categories)[:20]}).",
            "Add the category, or correct the number.",
        )
    name = categories[category]
    segmentation = entry.get("segmentation")
    box = _box(entry)
    if not segmentation:
        if box is None:
            what = "annotation without bbox and segmentation"
            return Drawn(name, "unknown", where, what=what)
        return Drawn(name, "box", where, xy=box)
    if entry.get("iscrowd") == 1:
        # The box of a crowd is that of many objects.
        box = None
    if isinstance(segmentation, dict):
        return Drawn(name, "mask", where, region=_run_lengths(segmentation, size), box=box)
    return Drawn(name, "polygon", where, rings=_rings(segmentation), box=box)


def _box(entry: dict[str, Any]) -> Coordinates | None:
    values = entry.get("bbox")
    if values in (None, []):
        return None
    read = [number(value) for value in values] if isinstance(values, list) else []
    if len(read) != 4 or any(value is None for value in read):
        raise UnusableError(
            f"bbox {str(values)[:60]} is not four numbers: x, y, width, height.", "Correct it."
        )
    corner, extent = np.array(read, np.float64).reshape(2, 2)
    return np.stack([corner, corner + extent])


def _rings(segmentation: Any) -> tuple[Coordinates, ...]:
    lists = segmentation if isinstance(segmentation, list) else [None]
    if lists and not isinstance(lists[0], list):
        lists = [lists]
    rings = [coordinates(values) for values in lists]
    if any(ring is None or len(ring) < 3 for ring in rings):
        raise UnusableError(
            "segmentation is not lists of at least three corners x, y.", "Draw the polygon again."
        )
    return tuple(ring for ring in rings if ring is not None)


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int] | None) -> Region:
    counts, stated = segmentation.get("counts"), segmentation.get("size")
    read = stated_size(*stated) if isinstance(stated, list) and len(stated) == 2 else None
    if read is None or (size is not None and read != size):
        raise UnusableError(
            f"the run lengths are for {stated} (height, width), the image has {size}.",
            _EXPORT_AGAIN,
        )
    try:
        if isinstance(counts, str):
            counts = parse_coco_text(counts)
        if not isinstance(counts, list):
            raise ValueError("counts is neither text nor a list")
        flat = decode_runs(counts, read[0] * read[1])
    except ValueError as fault:
        raise UnusableError(f"the run lengths cannot be decoded: {fault}.", _EXPORT_AGAIN) from None
    return Region(flat.reshape(read[1], read[0]).T, 0, 0).trimmed()


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _key(value: Any) -> Any:
    """Make an id that can be looked up; ids may be numbers or texts."""
    return value if isinstance(value, int | str) else str(value)
