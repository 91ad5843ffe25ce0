"""Prompts in the form that SAM takes them, and what is done with the boxes of its masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsseg.cues.segments import Prompt

# The label that SAM's prompt encoder skips.
PADDING = -10


def grid_points(per_side: int, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Lay a grid of points over an image, each in the middle of its field.

    Args:
        per_side: n.
        size: (H, W).

    Returns:
        (n * n, 2), x and y in pixels, row by row.

    Example:
        >>> grid_points(2, (4, 8)).tolist()
        [[2.0, 1.0], [6.0, 1.0], [2.0, 3.0], [6.0, 3.0]]
    """
    middles = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(middles * size[1], middles * size[0])
    return np.stack([x.ravel(), y.ravel()], axis=1)


def within(prompt: Prompt, size: tuple[int, int]) -> Prompt | None:
    """Cut a prompt's box at the edge of an image (H, W); None where it lies outside of it."""
    if prompt.box is None:
        return prompt
    height, width = size
    box = np.clip(prompt.box, 0, [width, height, width, height])
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    return Prompt(prompt.points, prompt.positive, box)


def padded_points(
    prompts: Sequence[Prompt],
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.int64] | None]:
    """Bring the points of several prompts to one array.

    Args:
        prompts: All with points, or all without.

    Returns:
        (O, P, 2) points and (O, P) labels, 1 on the object, 0 not and `PADDING` for none; None and
        None where the prompts have no points.

    Example:
        >>> asked = [Prompt([(1, 2), (3, 4)], [True, False]), Prompt([(5, 6)])]
        >>> points, labels = padded_points(asked)
        >>> points.tolist(), labels.tolist()
        ([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [-10.0, -10.0]]], [[1, 0], [1, -10]])
    """
    most = max(len(prompt.points) for prompt in prompts)
    if most == 0:
        return None, None
    points = np.full((len(prompts), most, 2), PADDING, np.float64)
    labels = np.full((len(prompts), most), PADDING, np.int64)
    for row, label, prompt in zip(points, labels, prompts, strict=True):
        row[: len(prompt.points)] = prompt.points
        label[: len(prompt.points)] = prompt.positive
    return points, labels


def distinct(
    boxes: Sequence[tuple[int, int, int, int]], scores: Sequence[float], max_iou: float
) -> list[int]:
    """Keep, of boxes that overlap much, the one of the highest score.

    Args:
        boxes: x0, y0, x1, y1 each.
        scores: One per box.
        max_iou: Boxes that overlap a better one by more than this go.

    Returns:
        Indices by falling score; of equal scores the first comes first.

    Example:
        >>> distinct([(0, 0, 10, 10), (0, 0, 10, 9), (20, 0, 30, 10)], [0.8, 0.9, 0.5], 0.7)
        [1, 2]
    """
    all_boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas = np.prod(all_boxes[:, 2:] - all_boxes[:, :2], axis=1)
    left = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        low = np.maximum(all_boxes[left, :2], all_boxes[best, :2])
        high = np.minimum(all_boxes[left, 2:], all_boxes[best, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[left] + areas[best] - common
        iou = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        left = left[iou <= max_iou]
    return kept
