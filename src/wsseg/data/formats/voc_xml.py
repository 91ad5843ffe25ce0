"""Read the objects of one PASCAL VOC annotation file.

VOC counts pixels from 1 and includes both corners, so (xmin, ymin, xmax, ymax) becomes the
half-open box (xmin - 1, ymin - 1, xmax, ymax). Only names and boxes are read; ``filename`` and
``path`` inside the file are ignored, and entity declarations are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsseg.data.formats.sources import read_xml
from wsseg.data.listing import shown
from wsseg.data.problems import Problems

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The twenty classes in the order of their ids in the masks of the challenge."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class VocObject:
    """One object: class name, half-open box in pixels or None, and whether it is difficult."""

    name: str
    box: Box | None
    is_difficult: bool


def read_objects(path: Path, problems: Problems, *, root: Path) -> tuple[VocObject, ...] | None:
    """Read the objects of one file.

    Args:
        path: The XML file.
        problems: Receives what is malformed; an object without name or with an empty box is
            left out, a box that reaches out of the image is cut.
        root: The data folder, for the messages.

    Returns:
        The objects, or None when the file is unreadable or one of its objects is, because the
        tags of the image would then be incomplete.
    """
    file = shown(path, root)
    tree = read_xml(path, problems, root=root)
    if tree is None:
        return None
    size = _numbers(tree.find("size"), ("width", "height"))
    num_before = problems.num_errors
    objects = [_object(element, size, file, problems) for element in tree.findall("object")]
    if problems.num_errors > num_before:
        return None
    return tuple(item for item in objects if item is not None)


def _object(
    element: Element, size: tuple[float, ...] | None, file: str, problems: Problems
) -> VocObject | None:
    """Read one object; an object without box is legal."""
    name = (element.findtext("name") or "").strip()
    if not name:
        problems.error(file, "has an object without name.", "Name its class.")
        return None
    is_difficult = (element.findtext("difficult") or "0").strip() == "1"
    corners = element.find("bndbox")
    if corners is None:
        return VocObject(name, None, is_difficult)
    numbers = _numbers(corners, _CORNERS)
    if numbers is None:
        problems.error(
            file,
            f'the box of "{name}" does not have the four numbers {", ".join(_CORNERS)}.',
            "Correct the box.",
        )
        return None
    box = _half_open(numbers, size)
    if box[:2] != (numbers[0] - 1, numbers[1] - 1) or box[2:] != numbers[2:]:
        problems.warning(
            file, f'the box of "{name}" {_text(numbers)} is cut to the image.', "Check the box."
        )
    if box[2] <= box[0] or box[3] <= box[1]:
        problems.error(
            file, f'the box of "{name}" {_text(numbers)} has no area in the image.', "Correct it."
        )
        return None
    return VocObject(name, box, is_difficult)


def _numbers(element: Element | None, names: tuple[str, ...]) -> tuple[float, ...] | None:
    """Read finite numbers from the children of an element; None when one is not there."""
    if element is None:
        return None
    try:
        numbers = tuple(float(element.findtext(name) or "") for name in names)
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _half_open(numbers: tuple[float, ...], size: tuple[float, ...] | None) -> Box:
    """Change from corners counted from 1 to a half-open box inside the image."""
    # Some tools write a size of 0 x 0 when they do not know it.
    width, height = size if size is not None and min(size) > 0 else (math.inf, math.inf)
    left, top, right, bottom = numbers
    return max(left - 1, 0.0), max(top - 1, 0.0), min(right, width), min(bottom, height)


def _text(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:g}" for number in numbers) + ")"
