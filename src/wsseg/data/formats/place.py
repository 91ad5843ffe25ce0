"""Check what is drawn on one image against the image and the class list, and sort it by kind.

What can be repaired is repaired and told as a warning; what cannot is an error, and the image is
left out, because its labels would be incomplete: a missing object would count as background.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from wsseg.data.formats.crossing import crossing
from wsseg.data.formats.drawn import Annotated, Coordinates, Drawn, UnusableError
from wsseg.data.formats.protocol import is_normal_name
from wsseg.data.labels import BACKGROUND, IGNORE, ClassList
from wsseg.data.problems import Problems
from wsseg.data.raster import Region, fill_polygon
from wsseg.errors import did_you_mean

_TOLERANCE_PX = 1.0
_WHOLE_IMAGE_FRAC = 0.99
_IGNORE_NAMES = frozenset({"ignore", "__ignore__"})


@dataclass
class Placed:
    """What is drawn on one image, in pixels and class ids.

    Args:
        tags: Class ids of all that is drawn or said.
        boxes: Boxes (x0, y0, x1, y1) with class ids.
        points: Points (x, y) with class ids from 1.
        lines: Lines (m, 2) with class ids from 0.
        regions: Pixels with class ids, 0 and 255 among them, and levels.
        open_tags: Classes whose place in the image is not known.
    """

    tags: set[int] = field(default_factory=set)
    boxes: list[tuple[Coordinates, int]] = field(default_factory=list)
    points: list[tuple[Coordinates, int]] = field(default_factory=list)
    lines: list[tuple[Coordinates, int]] = field(default_factory=list)
    regions: list[tuple[Region, int, int]] = field(default_factory=list)
    open_tags: set[int] = field(default_factory=set)


def class_of(name: str, classes: ClassList) -> int | None:
    """Return the id that a name in an annotation file means; None when it is unknown.

    Example:
        >>> classes = ClassList(("dent",))
        >>> [class_of(name, classes) for name in ("dent", "_background_", "__ignore__", "x")]
        [1, 0, 255, None]
    """
    if name in classes.names:
        return classes.id_of(name)
    if is_without_class(name):
        return BACKGROUND
    return IGNORE if name.casefold() in _IGNORE_NAMES else None


def is_without_class(name: str) -> bool:
    """Whether a name means "no class" or background."""
    return is_normal_name(name.strip("_"))


def is_class_name(name: str) -> bool:
    """Whether a name stands for a class, when nobody gave a class list."""
    return not is_without_class(name) and name.casefold() not in _IGNORE_NAMES


def place(
    item: Annotated, size: tuple[int, int], classes: ClassList, problems: Problems
) -> Placed | None:
    """Check and sort all that is drawn on one image.

    Args:
        item: The image and what is drawn.
        size: (H, W) of the image in pixels.
        classes: The class list.
        problems: Receives what is wrong, with file, image and annotation.

    Returns:
        What can be used; None when something cannot, or nobody looked at the image.
    """
    placed = Placed()
    is_sound = item.drawn is not None
    for drawn in item.drawn or ():
        where = f"{item.file}: image {item.id}, {drawn.where}"
        try:
            for warning in _add(placed, drawn, item, size, classes):
                problems.warning(where, warning, "Check it.")
        except UnusableError as fault:
            problems.error(where, *fault.args)
            is_sound = False
    if not is_sound:
        return None
    conflict = _conflicting_points(placed, classes)
    if conflict:
        problems.error(f"{item.file}: image {item.id}", conflict, "Remove the point that is wrong.")
        return None
    met = crossing(placed.lines)
    if met is not None:
        problems.warning(
            f"{item.file}: image {item.id}",
            f'has scribbles of two classes, "{classes.name_of(met[0])}" and '
            f'"{classes.name_of(met[1])}", on the pixel {met[2]}.',
            "Draw them apart.",
        )
    return placed


def _add(
    placed: Placed, drawn: Drawn, item: Annotated, size: tuple[int, int], classes: ClassList
) -> Iterator[str]:
    """Add one annotation; yields what had to be repaired.

    Raises:
        UnusableError: With what is wrong and the remedy.
    """
    class_id = class_of(drawn.name, classes)
    if class_id is None:
        known = ", ".join(classes.names) or "none"
        raise UnusableError(
            f'class "{drawn.name}" is not in the class list ({known}).'
            f"{did_you_mean(drawn.name, classes.names)}",
            "Correct the name, or add the class.",
        )
    if 0 < class_id < IGNORE:
        placed.tags.add(class_id)
    scale = np.array(size[::-1], np.float64) if item.in_shares else np.ones(2)
    xy = drawn.xy * scale if drawn.xy is not None else np.zeros((0, 2))
    if drawn.kind == "unknown":
        placed.open_tags.add(class_id)
        yield (
            f'the shape "{drawn.what}" of "{drawn.name}" is not one that wsseg knows; only its '
            "class counts."
        )
    elif drawn.kind == "tag":
        placed.open_tags.add(class_id)
    elif drawn.kind == "box":
        yield from _add_box(placed, xy.ravel(), class_id, drawn, size)
    elif drawn.kind == "point":
        yield from _add_points(placed, xy, class_id, drawn, size)
    elif drawn.kind == "line":
        yield from _add_line(placed, xy, class_id, drawn, size)
    else:
        yield from _add_region(placed, class_id, drawn, scale, size)
        if drawn.box is not None and 0 < class_id < IGNORE:
            yield from _add_box(placed, (drawn.box * scale).ravel(), class_id, drawn, size)


def _add_box(
    placed: Placed, box: Coordinates, class_id: int, drawn: Drawn, size: tuple[int, int]
) -> Iterator[str]:
    limits = np.array([size[1], size[0]] * 2, np.float64)
    text = f'the box of "{drawn.name}" {_text(box)}'
    if box[2] <= box[0] or box[3] <= box[1]:
        is_inverted = box[2] < box[0] or box[3] < box[1]
        how = "is inverted" if is_inverted else "has no area"
        raise UnusableError(f"{text} {how}.", "Draw it again, from left top to right bottom.")
    cut = np.clip(box, 0, limits)
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise UnusableError(
            f"{text} lies outside of the image of {size[1]} x {size[0]} px (width x height).",
            "Check that the annotation belongs to this image, and its unit.",
        )
    if np.abs(cut - box).max() > _TOLERANCE_PX:
        yield f"{text} reaches out of the image of {size[1]} x {size[0]} px and is cut."
    # The corners are stored in 32 bits, in which a very thin box may vanish.
    narrow = cut.astype(np.float32)
    if narrow[2] <= narrow[0] or narrow[3] <= narrow[1]:
        raise UnusableError(f"{text} has no area.", "Draw it again.")
    if (cut[2] - cut[0]) * (cut[3] - cut[1]) >= _WHOLE_IMAGE_FRAC * size[0] * size[1]:
        yield f"{text} covers the whole image, so it says no more than a tag."
    if class_id == IGNORE:
        corners = cut[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
        placed.regions.append((fill_polygon(corners, size)[0], IGNORE, drawn.level))
    elif class_id == BACKGROUND:
        yield f"{text} marks background, for which boxes have no meaning; it is left out."
    else:
        placed.boxes.append((cut, class_id))


def _add_points(
    placed: Placed, points: Coordinates, class_id: int, drawn: Drawn, size: tuple[int, int]
) -> Iterator[str]:
    for point in points:
        inside = np.clip(point, 0, size[::-1])
        if np.abs(inside - point).max() > _TOLERANCE_PX:
            raise UnusableError(
                f'the point of "{drawn.name}" {_text(point)} is off the image of {size[1]} x '
                f"{size[0]} px (width x height).",
                "Remove or move the point.",
            )
        if class_id == IGNORE:
            yield "a point cannot mark pixels to ignore; it is left out."
        elif class_id == BACKGROUND:
            # A click on background is a line of one point: only lines may be background.
            placed.lines.append((inside[None], BACKGROUND))
        else:
            placed.points.append((inside, class_id))


def _add_line(
    placed: Placed, line: Coordinates, class_id: int, drawn: Drawn, size: tuple[int, int]
) -> Iterator[str]:
    inside = np.clip(line, 0, size[::-1])
    beyond = np.abs(inside - line).max(axis=1)
    if beyond.min() > _TOLERANCE_PX:
        raise UnusableError(
            f'the line of "{drawn.name}" lies off the image of {size[1]} x {size[0]} px (width x '
            "height).",
            "Check that the annotation belongs to this image.",
        )
    if beyond.max() > _TOLERANCE_PX:
        yield f'the line of "{drawn.name}" leaves the image; its points are moved to the border.'
    if class_id == IGNORE:
        yield "a line cannot mark pixels to ignore; it is left out."
    else:
        placed.lines.append((inside, class_id))


def _add_region(
    placed: Placed, class_id: int, drawn: Drawn, scale: Coordinates, size: tuple[int, int]
) -> Iterator[str]:
    if drawn.region is not None:
        region = drawn.region.cut(size)
        if not region.pixels.any():
            raise UnusableError(
                f'the mask of "{drawn.name}" has no pixel in the image.', "Draw it again."
            )
        if region.area < drawn.region.area:
            yield f'the mask of "{drawn.name}" reaches out of the image and is cut.'
        placed.regions.append((region, class_id, drawn.level))
        return
    found = []
    for ring in drawn.rings:
        corners = ring * scale
        region, crosses = fill_polygon(corners, size)
        if crosses:
            yield (
                f'the polygon of "{drawn.name}" near {_text(corners[0])} crosses itself; all that '
                "it encloses is filled."
            )
        if _reach(corners, size) > _TOLERANCE_PX:
            yield f'the polygon of "{drawn.name}" reaches out of the image and is cut.'
        if not region.pixels.any():
            region = _single_pixel(corners, drawn, size)
            yield (
                f'the polygon of "{drawn.name}" near {_text(corners[0])} is smaller than a pixel; '
                "the pixel at its middle stands for it."
            )
        found.append(region)
    placed.regions.append((_union(found), class_id, drawn.level))


def _single_pixel(corners: Coordinates, drawn: Drawn, size: tuple[int, int]) -> Region:
    """Return the pixel at the middle of a polygon that holds no pixel centre."""
    x, y = corners.T
    area = abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()))
    column, row = np.floor(corners.mean(axis=0)).astype(np.int64).tolist()
    if area == 0 or not (0 <= row < size[0] and 0 <= column < size[1]):
        how = "has no area" if area == 0 else "lies outside of the image"
        raise UnusableError(
            f'the polygon of "{drawn.name}" near {_text(corners[0])} {how}.',
            "Draw it again with at least three corners that are not on one line, in the image.",
        )
    return Region(np.ones((1, 1), np.bool_), row, column)


def _union(regions: list[Region]) -> Region:
    if len(regions) == 1:
        return regions[0]
    top = min(region.top for region in regions)
    left = min(region.left for region in regions)
    bottom = max(region.top + region.pixels.shape[0] for region in regions)
    right = max(region.left + region.pixels.shape[1] for region in regions)
    pixels = np.zeros((bottom - top, right - left), np.bool_)
    for region in regions:
        rows, columns = region.top - top, region.left - left
        height, width = region.pixels.shape
        pixels[rows : rows + height, columns : columns + width] |= region.pixels
    return Region(pixels, top, left)


def _reach(corners: Coordinates, size: tuple[int, int]) -> float:
    """How far corners lie outside of the image, in pixels."""
    return float(np.abs(np.clip(corners, 0, size[::-1]) - corners).max())


def _conflicting_points(placed: Placed, classes: ClassList) -> str:
    """Name a pixel that points of two classes mark, or return an empty text."""
    seen: dict[tuple[int, int], int] = {}
    for point, class_id in placed.points:
        pixel = int(point[0]), int(point[1])
        other = seen.setdefault(pixel, class_id)
        if other != class_id:
            names = f'"{classes.name_of(other)}" and "{classes.name_of(class_id)}"'
            return f"has points of two classes, {names}, on the pixel {pixel}."
    return ""


def _text(numbers: Coordinates) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in numbers) + ")"
