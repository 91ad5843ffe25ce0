"""The results of a Label Studio annotation: their labels and their shapes.

Coordinates are percent of width and height; brush strokes are run lengths for the size that the
result states. Where the configuration has shapes and labels apart, both carry the same ``id``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsseg.data.formats.drawn import Coordinates, Drawn, UnusableError
from wsseg.data.formats.measures import coordinates, ellipse, number, stated_size, turned_corners
from wsseg.data.raster import Region
from wsseg.data.run_lengths import decode_brush

_SHAPES = frozenset({"rectangle", "polygon", "keypoint", "brush", "ellipse"})
# Results about the whole image or about other results, of which wsseg has no use.
_OTHERS = frozenset(
    {"textarea", "rating", "number", "datetime", "taxonomy", "relation", "pairwise", "ranker"}
)
_DRAW_AGAIN = "Draw it again in Label Studio and export."


@dataclass(frozen=True)
class LabelledResult:
    """One result with one label.

    Args:
        where: How to find it, for messages.
        kind: "rectangle", "polygon", "keypoint", "brush", "ellipse", "choices" or the tool's word.
        name: The label; empty where there is none.
        num_labels: Number of labels of the result.
        result: The result as it stands in the file.
    """

    where: str
    kind: str
    name: str
    num_labels: int
    result: dict[str, Any]


def labelled(results: list[Any]) -> tuple[LabelledResult, ...]:
    """Sort out results and their labels.

    Args:
        results: The list ``result`` of an annotation.

    Returns:
        One entry per shape and per choice; those that are about nothing drawn are left out.
    """
    entries = [(f"result {index}", one) for index, one in enumerate(results, start=1)]
    by_id: dict[str, list[str]] = {}
    shapes: set[str] = set()
    for _, one in entries:
        if isinstance(one, dict) and (key := _id(one)):
            by_id.setdefault(key, []).extend(_labels(one))
            if _kind(one) in _SHAPES:
                shapes.add(key)
    found: list[LabelledResult] = []
    for where, one in entries:
        if not isinstance(one, dict):
            found.append(LabelledResult(where, "", "", 0, {}))
            continue
        kind = _kind(one)
        names = list(dict.fromkeys(_labels(one) or by_id.get(_id(one), [])))
        if kind in _OTHERS or (kind == "labels" and _id(one) in shapes):
            continue
        if kind == "choices":
            found += [LabelledResult(where, kind, name, 1, one) for name in names]
        else:
            name = names[0] if names else ""
            found.append(LabelledResult(where, kind, name, len(names), one))
    return tuple(found)


def parse_result(where: str, one: LabelledResult) -> Drawn:
    """Read one result, in shares of the image.

    Args:
        where: How to find it, for messages.
        one: The result.

    Returns:
        What is drawn.

    Raises:
        UnusableError: When the result is malformed.
    """
    value = one.result.get("value")
    if not isinstance(value, dict):
        raise UnusableError("is not an object with a value.", 'Export as "JSON".')
    if one.num_labels != 1:
        raise UnusableError(
            f"has {one.num_labels} labels; expected one.", "Give every region one label."
        )
    if number(one.result.get("image_rotation", 0)) not in (0, None):
        raise UnusableError(
            "was drawn on an image that was turned in Label Studio.",
            "Turn the image file instead, and draw it again.",
        )
    name = one.name
    if one.kind == "choices":
        return Drawn(name, "tag", where)
    if one.kind == "keypoint":
        return Drawn(name, "point", where, xy=_numbers(value, "x", "y")[None] / 100)
    if one.kind == "rectangle":
        return Drawn(name, "box", where, xy=_rectangle(value, one.result))
    if one.kind == "ellipse":
        return Drawn(name, "polygon", where, rings=(_ellipse(value, one.result),))
    if one.kind == "polygon":
        xy = coordinates(value.get("points"))
        is_open = value.get("closed") is False
        if xy is None or len(xy) < (1 if is_open else 3):
            raise UnusableError(f'the polygon of "{name}" has too few points.', _DRAW_AGAIN)
        if is_open:
            return Drawn(name, "line", where, xy=xy / 100)
        return Drawn(name, "polygon", where, rings=(xy / 100,))
    if one.kind == "brush":
        return Drawn(name, "mask", where, region=_brush(value, one.result))
    return Drawn(name, "unknown", where, what=one.kind)


def _id(result: dict[str, Any]) -> str:
    """The id that a shape and its labels share; empty where there is none."""
    value = result.get("id")
    return value if isinstance(value, str) else ""


def _kind(result: dict[str, Any]) -> str:
    """The type without the word "labels": ``rectanglelabels`` is a rectangle with its label."""
    kind = str(result.get("type", ""))
    return kind.removesuffix("labels") or kind


def _labels(result: dict[str, Any]) -> list[str]:
    value = result.get("value")
    if not isinstance(value, dict):
        return []
    kind = str(result.get("type", ""))
    names = value.get(kind) if kind.endswith("labels") or kind == "choices" else value.get("labels")
    return [str(name) for name in names] if isinstance(names, list) else []


def _numbers(value: dict[str, Any], *names: str) -> Coordinates:
    read = [number(value.get(name)) for name in names]
    if any(item is None for item in read):
        written = ", ".join(f"{name}={value.get(name)}" for name in names)
        raise UnusableError(f"has {written}; expected numbers.", _DRAW_AGAIN)
    return np.array(read, np.float64)


def _pixel_size(result: dict[str, Any]) -> Coordinates:
    """Width and height that the result states, which turning needs."""
    size = stated_size(result.get("original_height"), result.get("original_width"))
    if size is None:
        raise UnusableError("has no original_width and original_height.", 'Export as "JSON".')
    return np.array(size[::-1], np.float64)


def _rectangle(value: dict[str, Any], result: dict[str, Any]) -> Coordinates:
    """Read a rectangle; of a turned one, the upright box around it."""
    x, y, width, height = _numbers(value, "x", "y", "width", "height")
    corners = np.array([[x, y], [x + width, y + height]]) / 100
    turn = number(value.get("rotation", 0))
    if turn and width > 0 and height > 0:
        pixels = _pixel_size(result)
        # Label Studio turns about the left top corner.
        around = turned_corners(corners * pixels, turn, corners[0] * pixels)
        corners = np.stack([around.min(axis=0), around.max(axis=0)]) / pixels
    return corners


def _ellipse(value: dict[str, Any], result: dict[str, Any]) -> Coordinates:
    x, y, across, down = _numbers(value, "x", "y", "radiusX", "radiusY")
    pixels = _pixel_size(result)
    centre, radii = np.array([x, y]) / 100 * pixels, np.array([across, down]) / 100 * pixels
    turn = number(value.get("rotation", 0)) or 0.0
    ring = ellipse((centre[0], centre[1]), (radii[0], radii[1]), turn)
    return ring / pixels


def _brush(value: dict[str, Any], result: dict[str, Any]) -> Region:
    width, height = _pixel_size(result).astype(np.int64).tolist()
    data = value.get("rle")
    try:
        if value.get("format") != "rle" or not isinstance(data, list):
            raise ValueError(f"the format is {value.get('format')}, not rle")
        mask = decode_brush(data, (height, width))
    except ValueError as fault:
        raise UnusableError(f"the brush cannot be decoded: {fault}.", _DRAW_AGAIN) from None
    return Region(mask, 0, 0).trimmed()
