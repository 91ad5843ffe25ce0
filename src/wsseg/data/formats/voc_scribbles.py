"""Scribbles for PASCAL VOC: one XML file per image with a polyline per stroke.

Lin et al., "ScribbleSup: Scribble-Supervised Convolutional Networks for Semantic Segmentation",
CVPR 2016. A stroke is ``<polygon>`` with ``<tag>`` (the class, "background" among them) and
``<point>`` with ``<X>`` and ``<Y>``; it is not closed. Pixels are counted from 1, as in VOC, so
that pixel X becomes the middle x = X - 0.5. The published files use short names for VOC's classes.

Files are looked for in ``Scribbles/``, ``scribbles/``, ``scribble_annotation/`` and
``pascal_2012/`` (also one in the other). Beside ``JPEGImages/`` they belong to a VOC data set,
whose reader takes them; with ``images/`` or loose images they are a format of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsseg.data.dataset import SPLITS, Dataset
from wsseg.data.formats.assemble import Reading, assemble, class_list, unlabelled
from wsseg.data.formats.drawn import Annotated, Drawn, UnusableError, parse_each
from wsseg.data.formats.measures import number, stated_size
from wsseg.data.formats.place import is_class_name
from wsseg.data.formats.protocol import Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.sources import ImageFiles, holds, own_files, read_xml, split_of_folders
from wsseg.data.formats.split_lists import read_split_lists
from wsseg.data.formats.voc_xml import VOC_CLASSES
from wsseg.data.listing import shown
from wsseg.data.problems import Problems

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NAME = "voc_scribbles"

_FOLDERS = ("Scribbles", "scribbles", "scribble_annotation", "pascal_2012")
_PATTERNS = tuple(f"{folder}/{below}*.xml" for folder in _FOLDERS for below in ("", "*/"))
_SIGNS = (rb"<polygon[\s>]", rb"<tag[\s>]")
_SHORT_NAMES = (
    *("plane", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table"),
    *("dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor"),
)
_FULL_NAMES = dict(zip(_SHORT_NAMES, VOC_CLASSES, strict=True))


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by files of scribbles, unless it is a whole VOC data set."""
    if (path / "JPEGImages").is_dir():
        return None
    for pattern in _PATTERNS:
        for file in path.glob(pattern):
            if holds(file, *_SIGNS):
                return Evidence(NAME, f"scribbles such as {shown(file, path)}")
    return None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags and scribbles.

    Args:
        path: The data folder.
        problems: Receives malformed files and strokes, and files without image.
        options: What the user said.

    Returns:
        The samples without errors; untagged where there is no file of scribbles.
    """
    root = path.absolute()
    reading = Reading(root, NAME, problems, options)
    images = ImageFiles(root, problems)
    files = scribble_files(root, problems)
    splits = read_split_lists(
        {name: root / f"{name}.txt" for name in SPLITS}, images.listing.images, problems, root=root
    )
    items = []
    for sample_id, image_path in images.listing.images.items():
        split = splits.get(sample_id) or split_of_folders(image_path, root)
        file = files.pop(sample_id, None) or files.pop(sample_id.replace("/", "__"), None)
        item: Annotated | None = Annotated(".", sample_id, image_path, None, split)
        if file is not None:
            item = read_scribbles(file, sample_id, image_path, problems, root=root)
        if item is not None:
            items.append(item)
    for file in files.values():
        problems.warning(
            shown(file, root), "has no image of the same name.", "Add the image, or remove it."
        )
    names = {drawn.name for item in items for drawn in item.drawn or ()}
    classes = class_list(reading, scribble_classes(names), "the scribbles")
    if classes is None:
        return empty_dataset(root, NAME, options)
    unlabelled(reading, items, "a file without <polygon>")
    return assemble(reading, [with_names(item, classes.names) for item in items], classes)


def scribble_files(root: Path, problems: Problems) -> dict[str, Path]:
    """List the files of scribbles by the name of their image.

    Args:
        root: The data folder.
        problems: Receives links that lead out of it.
    """
    return {path.stem: path for path in own_files(root, _PATTERNS, problems)}


def scribble_classes(names: set[str]) -> tuple[str, ...]:
    """Return VOC's twenty classes where all names are theirs, long or short; else the names.

    Example:
        >>> scribble_classes({"scratch", "background", "dent"}), len(scribble_classes({"plane"}))
        (('dent', 'scratch'), 20)
    """
    drawn = {name for name in names if is_class_name(name)}
    if drawn <= {*VOC_CLASSES, *_SHORT_NAMES}:
        return VOC_CLASSES
    return tuple(sorted(drawn))


def with_names(item: Annotated, classes: tuple[str, ...]) -> Annotated:
    """Replace the short names by VOC's, where VOC's are the classes."""
    import dataclasses

    def full(drawn: Drawn) -> Drawn:
        name = _FULL_NAMES.get(drawn.name, drawn.name)
        is_short = drawn.name not in classes and name in classes
        return dataclasses.replace(drawn, name=name) if is_short else drawn

    drawn = None if item.drawn is None else tuple(full(one) for one in item.drawn)
    return dataclasses.replace(item, drawn=drawn)


def read_scribbles(
    path: Path, sample_id: str, image_path: Path, problems: Problems, *, root: Path
) -> Annotated | None:
    """Read one file.

    Args:
        path: The XML file.
        sample_id: Id of its image.
        image_path: The image.
        problems: Receives what is malformed.
        root: The data folder.

    Returns:
        The strokes, with the names as they are written; None when something cannot be used.
    """
    tree = read_xml(path, problems, root=root)
    if tree is None:
        return None
    file = shown(path, root)
    strokes = tree.iterfind("polygon")
    entries = ((f"stroke {index}", stroke) for index, stroke in enumerate(strokes, start=1))
    drawn = parse_each(entries, _stroke, file, problems)
    if drawn is None:
        return None
    size = stated_size(tree.findtext("size/height"), tree.findtext("size/width"))
    split = split_of_folders(image_path, root)
    return Annotated(file, sample_id, image_path, drawn, split, stated_size=size)


def _stroke(where: str, stroke: Element) -> Drawn:
    name = (stroke.findtext("tag") or "").strip()
    if not name:
        raise UnusableError("has no <tag>.", "Name its class.")
    corners = stroke.iterfind("point")
    points = [(number(one.findtext("X")), number(one.findtext("Y"))) for one in corners]
    if not points or any(x is None or y is None for x, y in points):
        raise UnusableError(
            f'of "{name}" has no points <X>, <Y> that are numbers.', "Draw the stroke again."
        )
    return Drawn(name, "line", where, xy=np.array(points, np.float64) - 0.5)
