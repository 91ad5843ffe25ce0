"""Pictures of what people drew: boxes, points and scribbles over their image.

Colours and numbers are those of masks; strokes and points of the background are light and carry
the number 0. A dark rim keeps every shape visible on images of its own colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import BACKGROUND, ClassList, WeakLabels
from wsseg.report.overlays import display_palette, greyer, write_number

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_BACKGROUND_RGB = (235, 235, 235)
_RIM_RGB = (20, 22, 26)
# Sizes relative to the longer side of the picture.
_LINE_SHARE, _POINT_SHARE, _LETTER_SHARE = 130, 60, 22

_Shape = tuple[Literal["box", "point", "line"], int, NDArray[np.float64]]


def shapes_text(labels: WeakLabels) -> str:
    """Count the shapes of an image in words; empty where there is none.

    Example:
        >>> from wsseg.data.labels import Boxes, Points
        >>> shapes_text(WeakLabels(boxes=Boxes([[0, 0, 2, 2]], [1]), points=Points([], [])))
        '1 box'
    """
    words = {"boxes": ("box", "boxes"), "points": ("point", "points")}
    words["scribbles"] = ("scribble", "scribbles")
    counts = {kind: len(getattr(labels, kind) or ()) for kind in words}
    parts = [f"{number} {words[kind][number != 1]}" for kind, number in counts.items() if number]
    return ", ".join(parts)


def draw_shapes(
    image: NDArray[np.uint8], labels: WeakLabels, size: tuple[int, int], classes: ClassList
) -> NDArray[np.uint8]:
    """Draw the boxes, points and scribbles of an image on a picture of it.

    Args:
        image: (h, w, 3) uint8 RGB, the picture.
        labels: Shapes in pixels of the image itself.
        size: (H, W) of the image itself.
        classes: Gives the colours.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    from PIL import Image, ImageDraw

    height, width = image.shape[:2]
    palette = display_palette(classes)
    palette[BACKGROUND] = _BACKGROUND_RGB
    canvas = Image.fromarray(np.rint(greyer(image, keep=0.5)).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    scale = np.array([width / size[1], height / size[0]])
    shown = [(kind, class_id, xy * scale) for kind, class_id, xy in _shapes(labels)]
    for kind, class_id, xy in shown:
        _draw(draw, kind, xy, _rgb(palette, class_id), (width, height))
    letter = max(9, max(width, height) // _LETTER_SHARE)
    # Numbers last, so that no shape hides them; one per class and kind is enough.
    for kind, class_id, xy in {
        (kind, c): (kind, c, xy) for kind, c, xy in reversed(shown)
    }.values():
        x, y = xy[0] + (letter * 0.8 if kind == "box" else letter)
        write_number(draw, str(class_id), (x, y), letter, _rgb(palette, class_id))
    return np.array(canvas, dtype=np.uint8)


def _shapes(labels: WeakLabels) -> Iterator[_Shape]:
    """List all shapes, large boxes first, as corners or points (n, 2)."""
    if labels.boxes is not None:
        corners = labels.boxes.xyxy.astype(np.float64).reshape(-1, 2, 2)
        areas = np.prod(corners[:, 1] - corners[:, 0], axis=1)
        for index in np.argsort(-areas, kind="stable"):
            yield "box", int(labels.boxes.class_ids[index]), corners[index]
    if labels.scribbles is not None:
        ids = labels.scribbles.class_ids.tolist()
        for line, class_id in zip(labels.scribbles.lines, ids, strict=True):
            yield "line", class_id, np.asarray(line, np.float64)
    if labels.points is not None:
        ids = labels.points.class_ids.tolist()
        for xy, class_id in zip(labels.points.xy.astype(np.float64), ids, strict=True):
            yield "point", class_id, xy[None]


def _draw(
    draw: ImageDraw,
    kind: str,
    xy: NDArray[np.float64],
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    line = max(2, round(max(size) / _LINE_SHARE))
    if kind == "box":
        # Half-open corners; edges on the border of the image stay inside of the picture.
        low = np.clip(xy[0], 0, np.array(size) - 1)
        high = np.maximum(np.clip(xy[1] - 1, 0, np.array(size) - 1), low)
        for extra, shade in ((1, _RIM_RGB), (0, colour)):
            x0, y0 = (float(value) - extra for value in low)
            x1, y1 = (float(value) + extra for value in high)
            draw.rectangle((x0, y0, x1, y1), outline=shade, width=line + 2 * extra)
        return
    radius = max(3.0, max(size) / _POINT_SHARE) if kind == "point" else line / 2
    for extra, shade in ((1, _RIM_RGB), (0, colour)):
        if len(xy) > 1:
            flat = [(float(x), float(y)) for x, y in xy]
            draw.line(flat, fill=shade, width=line + 2 * extra, joint="curve")
        for x, y in xy[[0, -1]].tolist():
            reach = radius + extra
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=shade)


def _rgb(palette: NDArray[np.uint8], class_id: int) -> tuple[int, int, int]:
    red, green, blue = palette[class_id].tolist()
    return red, green, blue
