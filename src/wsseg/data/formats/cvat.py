"""CVAT: XML files "CVAT for images 1.1", with all shapes of all images.

Elements of an ``<image>``: box, polygon, ellipse, mask (run lengths along the rows of a
rectangle), points, polyline (scribbles) and tag. Of turned boxes the upright box around them
counts. ``z_order`` decides between shapes that overlap. Splits are the images' ``subset``. An image
without elements shows no class; images that no file names are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsseg.data.dataset import Dataset
from wsseg.data.formats.assemble import Reading, assemble, class_list
from wsseg.data.formats.drawn import Annotated, Coordinates, Drawn, Kind, UnusableError, parse_each
from wsseg.data.formats.measures import coordinates, ellipse, number, stated_size, turned_corners
from wsseg.data.formats.protocol import SPLIT_NAMES, Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.sources import ImageFiles, holds, own_files, read_xml
from wsseg.data.listing import shown
from wsseg.data.problems import Problems
from wsseg.data.raster import Region
from wsseg.data.run_lengths import decode_runs

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NAME = "cvat"

_PATTERNS = ("*.xml", "annotations/*.xml", "*/annotations.xml")
_SIGNS = (rb"<annotations[\s>]", rb"<(image|meta|track)[\s/>]")
_LISTS: dict[str, tuple[Kind, int]] = {
    "points": ("point", 1),
    "polyline": ("line", 1),
    "polygon": ("polygon", 3),
}
_DRAW_AGAIN = "Draw it again in CVAT and export."


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by XML files with the element ``<annotations>``."""
    found = [shown(file, path) for file in _find(path, Problems())]
    return Evidence(NAME, f"CVAT in {', '.join(found[:3])}") if found else None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags, boxes, points, scribbles, masks and splits.

    Args:
        path: The data folder.
        problems: Receives malformed files and shapes, and images that are not there.
        options: What the user said.

    Returns:
        The samples without errors.
    """
    root = path.absolute()
    reading = Reading(root, NAME, problems, options)
    files = [
        (file, tree) for file in _find(root, problems) if (tree := _parse(file, root, problems))
    ]
    declared = [
        (label.findtext("name") or "").strip()
        for _, tree in files
        for label in tree.iterfind("./meta//labels/label")
    ]
    used = sorted({one.get("label", "") for _, tree in files for one in tree.iterfind("./image/*")})
    names = [name for name in declared or used if name]
    classes = class_list(reading, names, shown(files[0][0], root) if files else "annotations.xml")
    if classes is None or not files:
        return empty_dataset(root, NAME, options)
    images = ImageFiles(root, problems)
    named: set[str] = set()
    dataset = assemble(reading, _items(files, images, problems, named), classes)
    left = len(images.listing.images.keys() - named)
    notes = (f"{left} image(s) that no annotation file names left out.",) if left else ()
    return Dataset(root, classes, dataset.samples, NAME, (*dataset.notes, *notes))


def _find(root: Path, problems: Problems) -> list[Path]:
    return [path for path in own_files(root, _PATTERNS, problems) if holds(path, *_SIGNS)]


def _parse(path: Path, root: Path, problems: Problems) -> Element | None:
    tree = read_xml(path, problems, root=root)
    if tree is not None and tree.find("track") is not None:
        problems.error(
            shown(path, root),
            "holds tracks of a video, not images.",
            'Export it from CVAT as "CVAT for images 1.1".',
        )
        return None
    return tree


def _items(
    files: list[tuple[Path, Element]], images: ImageFiles, problems: Problems, named: set[str]
) -> Iterator[Annotated]:
    for path, tree in files:
        name = shown(path, images.root)
        for image in tree.iterfind("image"):
            subset = image.get("subset", "")
            folders = [path.parent, path.parent / "images", images.base / subset]
            sample_id, fault = images.find(image.get("name", ""), folders)
            if sample_id is None:
                problems.error(
                    f"{name}: image {image.get('id')}",
                    f"name {fault}",
                    "Put the image into images/, or remove it from the file.",
                )
                continue
            named.add(sample_id)
            elements = (
                (f"{element.tag} {index}", element) for index, element in enumerate(image, start=1)
            )
            drawn = parse_each(elements, _drawn, f"{name}: image {sample_id}", problems)
            if drawn is not None:
                yield Annotated(
                    name,
                    sample_id,
                    images.path(sample_id),
                    drawn,
                    SPLIT_NAMES.get(subset.casefold(), "train"),
                    stated_size=stated_size(image.get("height"), image.get("width")),
                )


def _drawn(where: str, element: Element) -> Drawn:
    """Read one element."""
    name = element.get("label", "").strip()
    if not name:
        raise UnusableError("has no label.", _DRAW_AGAIN)
    level = number(element.get("z_order", "0"))
    depth = int(level) if level is not None else 0
    kind = element.tag
    if kind == "tag":
        return Drawn(name, "tag", where)
    if kind == "box":
        left, top, right, bottom = _numbers(element, "xtl", "ytl", "xbr", "ybr")
        corners = np.array([[left, top], [right, bottom]])
        turn = number(element.get("rotation", "0"))
        if turn and right > left and bottom > top:
            around = turned_corners(corners, turn, corners.mean(axis=0))
            corners = np.stack([around.min(axis=0), around.max(axis=0)])
        return Drawn(name, "box", where, xy=corners, level=depth)
    if kind == "ellipse":
        cx, cy, rx, ry = _numbers(element, "cx", "cy", "rx", "ry")
        turn = number(element.get("rotation", "0")) or 0.0
        ring = ellipse((cx, cy), (rx, ry), turn)
        return Drawn(name, "polygon", where, rings=(ring,), level=depth)
    if kind == "mask":
        return Drawn(name, "mask", where, region=_mask(element), level=depth)
    if kind in _LISTS:
        as_kind, least = _LISTS[kind]
        xy = _points(element, least)
        if as_kind == "polygon":
            return Drawn(name, "polygon", where, rings=(xy,), level=depth)
        return Drawn(name, as_kind, where, xy=xy)
    return Drawn(name, "unknown", where, what=kind)


def _numbers(element: Element, *names: str) -> list[float]:
    values = [number(element.get(name, "")) for name in names]
    if any(value is None for value in values):
        written = ", ".join(f"{name}={element.get(name)}" for name in names)
        raise UnusableError(f"has {written}; expected numbers.", _DRAW_AGAIN)
    return [value for value in values if value is not None]


def _points(element: Element, least: int) -> Coordinates:
    text = element.get("points", "")
    xy = coordinates([part.split(",") for part in text.split(";")])
    if xy is None or len(xy) < least:
        raise UnusableError(
            f'has points "{text[:40]}"; expected at least {least} of the form "x,y;x,y".',
            _DRAW_AGAIN,
        )
    return xy


def _mask(element: Element) -> Region:
    left, top, width, height = (
        int(value) for value in _numbers(element, "left", "top", "width", "height")
    )
    try:
        if width < 1 or height < 1:
            raise ValueError(f"the rectangle has {width} x {height} pixels")
        counts = [int(text) for text in element.get("rle", "").split(",")]
        flat = decode_runs(counts, width * height)
    except ValueError as fault:
        raise UnusableError(f"the run lengths cannot be decoded: {fault}.", _DRAW_AGAIN) from None
    return Region(flat.reshape(height, width), top, left)
