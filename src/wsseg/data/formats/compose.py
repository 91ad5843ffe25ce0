"""Put the regions drawn on one image together into a mask.

* Where shapes of two classes overlap, the level that the tool stores decides. On one level, a
  shape that lies nearly wholly on others (95 %) is on top, as a dent on a part; other pixels in two
  classes become ignore (255), because nobody can tell.
* The mask is complete only if every object has a region. Pixels in a box without region, and all
  unmarked pixels of an image that holds a point, line or tag without region, become ignore too: the
  object is somewhere there.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from wsseg.data.formats.drawn import Coordinates
from wsseg.data.formats.place import Placed
from wsseg.data.labels import BACKGROUND, IGNORE, ClassList

_ON_TOP_FRAC = 0.95
_SAME_BOX_IOU = 0.5
_UNMARKED = -1


def compose(
    placed: Placed, size: tuple[int, int], classes: ClassList
) -> tuple[NDArray[np.uint8], str]:
    """Draw a mask.

    Args:
        placed: What is drawn on the image; at least one region.
        size: (H, W) of the image.
        classes: The class list, for the message.

    Returns:
        (H, W) uint8 class ids, 255 ignore; and what is doubtful about it, or "".
    """
    canvas = np.full(size, _UNMARKED, np.int16)
    levels = np.zeros(size, np.int32)
    disputed: Counter[tuple[int, int]] = Counter()
    order = sorted(placed.regions, key=lambda item: (item[1] == IGNORE, item[2], -item[0].area))
    for region, class_id, level in order:
        window = region.window
        view, view_levels = canvas[window], levels[window]
        before = view.copy()
        contested = region.pixels & (view_levels == level) & (view != class_id)
        contested &= view != _UNMARKED
        view[region.pixels] = class_id
        if class_id != IGNORE and contested.sum() < _ON_TOP_FRAC * region.area:
            for other, count in zip(*np.unique(before[contested], return_counts=True), strict=True):
                if other != IGNORE:
                    disputed[min(int(other), class_id), max(int(other), class_id)] += int(count)
            view[contested] = IGNORE
        view_levels[region.pixels] = level
    _mark_unknown(canvas, placed)
    canvas[canvas == _UNMARKED] = BACKGROUND
    return canvas.astype(np.uint8), _dispute(disputed, classes)


def _mark_unknown(canvas: NDArray[np.int16], placed: Placed) -> None:
    """Ignore unmarked pixels where an object without region may be."""
    for box, class_id in placed.boxes:
        if not is_outlined(canvas == class_id, box):
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            view = canvas[top:bottom, left:right]
            view[view == _UNMARKED] = IGNORE
    boxed = {class_id for _, class_id in placed.boxes}
    drawn = {class_id for _, class_id, _ in placed.regions}
    is_open = bool(placed.open_tags - drawn - boxed - {BACKGROUND, IGNORE})
    marks = [*((point[None], class_id) for point, class_id in placed.points), *placed.lines]
    for line, class_id in marks:
        if class_id != BACKGROUND and not is_open:
            is_open = not _is_on(canvas, line, class_id)
    if is_open:
        canvas[canvas == _UNMARKED] = IGNORE


def is_outlined(drawn: NDArray[np.bool_], box: NDArray[np.floating]) -> bool:
    """Whether the regions of a class reach about as far as a box, so that it is theirs.

    Args:
        drawn: (H, W): where the class is drawn.
        box: x0, y0, x1, y1.
    """
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    inside = drawn[top:bottom, left:right]
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not rows.size:
        return False
    area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return bool(area >= _SAME_BOX_IOU * inside.size)


def _is_on(canvas: NDArray[np.int16], line: Coordinates, class_id: int) -> bool:
    """Whether a point or any point of a line lies on a region of its class."""
    limits = np.array(canvas.shape[::-1]) - 1
    columns, rows = np.minimum(line.astype(np.int64), limits).T
    return bool((canvas[rows, columns] == class_id).any())


def _dispute(disputed: Counter[tuple[int, int]], classes: ClassList) -> str:
    if not disputed:
        return ""
    (one, other), _ = disputed.most_common(1)[0]
    return (
        f'{disputed.total()} pixels lie in shapes of two classes ("{classes.name_of(one)}" and '
        f'"{classes.name_of(other)}"); they become ignore ({IGNORE}).'
    )
