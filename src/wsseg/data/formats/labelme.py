"""LabelMe: one JSON file per image, with shapes in pixels.

Format of the tool LabelMe (Wada et al.; the file's ``version`` is not looked at). Shapes:
rectangle (box), polygon and circle (filled), mask (PNG in base64 within a rectangle whose last row
and column count), point and points, line and linestrip (scribbles). True ``flags`` named like a
class are tags. Labels ``_background_`` and ``__ignore__`` mean what they say. The image is the one
that ``imagePath`` names relative to the JSON file, else the one of the same name beside it. Splits
come from ``train.txt``, ``val.txt`` and ``test.txt``, else from folders of these names. A file
without shapes means "no class"; an image without file is not labelled.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsseg.data.dataset import SPLITS, Dataset, Split
from wsseg.data.formats.assemble import Reading, assemble, class_list, unlabelled
from wsseg.data.formats.drawn import Annotated, Coordinates, Drawn, UnusableError, parse_each
from wsseg.data.formats.measures import coordinates, ellipse, stated_size
from wsseg.data.formats.place import class_of
from wsseg.data.formats.protocol import Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.sources import ImageFiles, holds, own_files, read_json, split_of_folders
from wsseg.data.formats.split_lists import read_split_lists
from wsseg.data.labels import ClassList
from wsseg.data.listing import shown
from wsseg.data.problems import Problems
from wsseg.data.raster import Region
from wsseg.data.run_lengths import MAX_PIXELS

NAME = "labelme"

_PATTERNS = ("*.json", "*/*.json", "*/*/*.json", "*/*/*/*.json")
_SIGNS = (rb'"shapes"\s*:\s*\[', rb'"imagePath"\s*:')
_MAX_FILES_LOOKED_AT = 20
_NUM_POINTS = {"rectangle": 2, "polygon": 3, "circle": 2, "mask": 2, "line": 2, "linestrip": 2}
_DRAW_AGAIN = "Draw it again."


@dataclass(frozen=True)
class _File:
    """One parsed file, without its copy of the image."""

    path: Path
    name: str
    content: dict[str, Any]

    @property
    def shapes(self) -> list[Any]:
        return list(self.content["shapes"])

    @property
    def flags(self) -> list[str]:
        """Names of the flags that are set."""
        flags = self.content.get("flags")
        items = flags.items() if isinstance(flags, dict) else ()
        return [key for key, value in items if value is True]


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by JSON files with shapes and the path of an image."""
    files = [file for pattern in _PATTERNS for file in sorted(path.glob(pattern))]
    for file in files[:_MAX_FILES_LOOKED_AT]:
        if holds(file, *_SIGNS):
            return Evidence(NAME, f"LabelMe files such as {shown(file, path)}")
    return None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags, boxes, points, scribbles and masks.

    Args:
        path: The data folder.
        problems: Receives malformed files and shapes, and images that are not there.
        options: What the user said.

    Returns:
        The samples without errors; untagged where there is no JSON file.
    """
    root = path.absolute()
    reading = Reading(root, NAME, problems, options)
    files = list(_files(root, problems))
    labels = {
        shape["label"]
        for file in files
        for shape in file.shapes
        if isinstance(shape, dict) and isinstance(shape.get("label"), str)
    }
    # Where nothing is drawn at all, the flags are all there is.
    names = labels or {name for file in files for name in file.flags}
    classes = class_list(reading, sorted(names), "the labels")
    if classes is None:
        return empty_dataset(root, NAME, options)
    images = ImageFiles(root, problems)
    splits = read_split_lists(
        {name: root / f"{name}.txt" for name in SPLITS}, images.listing.images, problems, root=root
    )
    items = list(_items(files, classes, images, problems, splits))
    unlabelled(reading, items, "a LabelMe file without shapes")
    return assemble(reading, items, classes)


def _files(root: Path, problems: Problems) -> Iterator[_File]:
    for path in own_files(root, _PATTERNS, problems):
        if not holds(path, *_SIGNS):
            continue
        name = shown(path, root)
        content = read_json(path, problems, root=root)
        if content is None:
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            problems.error(name, "is not an object with a list of shapes.", "Save it again.")
            continue
        content.pop("imageData", None)
        yield _File(path, name, content)


def _items(
    files: list[_File],
    classes: ClassList,
    images: ImageFiles,
    problems: Problems,
    splits: dict[str, Split],
) -> Iterator[Annotated]:
    named: set[str] = set()

    def split(sample_id: str) -> Split:
        return splits.get(sample_id) or split_of_folders(images.path(sample_id), images.root)

    for file in files:
        sample_id, fault = images.find(str(file.content.get("imagePath")), [file.path.parent])
        if sample_id is None and "is not in" in fault:
            sample_id = images.find_by_stem(file.path)
        if sample_id is None:
            problems.error(
                file.name,
                f"imagePath {fault}",
                "Write the name of the image, relative to this file, or put the image beside it.",
            )
            continue
        named.add(sample_id)
        shapes = ((f"shape {index}", shape) for index, shape in enumerate(file.shapes, start=1))
        drawn = parse_each(shapes, _drawn, file.name, problems)
        if drawn is None:
            continue
        flags = tuple(
            Drawn(name, "tag", f'flag "{name}"')
            for name in file.flags
            if class_of(name, classes) is not None
        )
        size = stated_size(file.content.get("imageHeight"), file.content.get("imageWidth"))
        path = images.path(sample_id)
        yield Annotated(
            file.name, sample_id, path, drawn + flags, split(sample_id), stated_size=size
        )
    for sample_id, path in images.listing.images.items():
        if sample_id not in named:
            yield Annotated(".", sample_id, path, None, split(sample_id))


def _drawn(where: str, shape: Any) -> Drawn:
    """Read one shape."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise UnusableError("is not an object with a label.", _DRAW_AGAIN)
    name = shape["label"].strip()
    kind = shape.get("shape_type") or "polygon"
    xy = coordinates(shape.get("points"))
    if kind not in (*_NUM_POINTS, "point", "points"):
        return Drawn(name, "unknown", where, what=str(kind))
    if xy is None or len(xy) < _NUM_POINTS.get(kind, 1):
        needed = _NUM_POINTS.get(kind, 1)
        raise UnusableError(
            f'the {kind} of "{name}" needs at least {needed} point(s), x and y.',
            _DRAW_AGAIN,
        )
    if kind == "rectangle":
        # Any two opposite corners, in any order.
        return Drawn(name, "box", where, xy=np.stack([xy.min(axis=0), xy.max(axis=0)]))
    if kind == "mask":
        return Drawn(name, "mask", where, region=_mask(name, shape.get("mask"), xy))
    if kind == "circle":
        radius = float(np.hypot(*(xy[1] - xy[0])))
        ring = ellipse((xy[0, 0], xy[0, 1]), (radius, radius))
        return Drawn(name, "polygon", where, rings=(ring,))
    if kind == "polygon":
        return Drawn(name, "polygon", where, rings=(xy,))
    return Drawn(name, "point" if kind.startswith("point") else "line", where, xy=xy)


def _mask(name: str, text: Any, xy: Coordinates) -> Region:
    """Decode the PNG of a mask; its rectangle includes the second corner's row and column."""
    from PIL import Image, UnidentifiedImageError

    (left, top), (right, bottom) = np.floor(xy[:2]).astype(np.int64).tolist()
    size = (bottom - top + 1, right - left + 1)
    try:
        if not isinstance(text, str):
            raise ValueError("there is no text")
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            found = picture.size[::-1]
            if found[0] * found[1] > MAX_PIXELS:
                raise ValueError(f"it has {found[1]} x {found[0]} pixels")
            pixels = np.asarray(picture.convert("L")) > 0
    except (ValueError, binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as fault:
        raise UnusableError(
            f'the mask of "{name}" is not a PNG in base64 ({fault}).', _DRAW_AGAIN
        ) from None
    if found != size:
        raise UnusableError(
            f'the mask of "{name}" has {found[1]} x {found[0]} px, its rectangle {size[1]} x '
            f"{size[0]}.",
            _DRAW_AGAIN,
        )
    return Region(pixels, top, left)
