"""Scores of several localizers that each know some of the classes, as one.

A localizer that knows only the classes S of an image calls everything else background. With A and B
the scores of two such localizers,

    s_c = A_c (1 - max_d B_d),    s_d = B_d (1 - max_c A_c),    s_0 = min(A_0, B_0)

and with more of them the product over all others: a class needs only its own localizer, background
needs them all, and what two of them claim for different classes is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from wsseg.data.scores import Scores


def of_some_classes(scores: Scores, class_ids: Collection[int]) -> Scores:
    """Keep the rows of some classes; the others are part of the background then.

    Args:
        scores: Scores with a background row; not changed.
        class_ids: The classes to keep.

    Returns:
        Scores at the same resolution.

    Example:
        >>> values = np.array([[[0.1]], [[0.2]], [[0.7]]], np.float32)
        >>> scores = Scores(values, np.array([0, 1, 2], np.uint8), (1, 1))
        >>> kept = of_some_classes(scores, {1})
        >>> kept.class_ids.tolist(), [f"{value:.1f}" for value in kept.values[:, 0, 0]]
        ([0, 1], ['0.8', '0.2'])
    """
    rows = [row for row, one in enumerate(scores.class_ids.tolist()) if row and one in class_ids]
    others = [row for row in range(len(scores.class_ids)) if row not in rows]
    ground = np.minimum(scores.values[others].sum(axis=0, keepdims=True), 1)
    values = np.concatenate([ground, scores.values[rows]]).astype(np.float32, copy=False)
    return replace(scores, values=values, class_ids=scores.class_ids[[0, *rows]])


def joined(parts: Sequence[Scores]) -> Scores:
    """Join scores of one image that have no class in common.

    Args:
        parts: At least one; row 0 is the background.

    Returns:
        Scores of all classes in ascending order, at full size (K, H, W).

    Raises:
        ValueError: When two parts have a class in common.

    Example:
        >>> from wsseg.localize.direct import scores_of_mask
        >>> one = scores_of_mask(np.array([[0, 1, 1, 255, 255]], np.uint8))
        >>> other = scores_of_mask(np.array([[0, 0, 2, 0, 2]], np.uint8))
        >>> joined([one, other]).values[:, 0].astype(int).tolist()
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]
    """
    shown = sorted(class_id for part in parts for class_id in part.present)
    if len(set(shown)) < len(shown):
        twice = next(class_id for class_id in shown if shown.count(class_id) > 1)
        raise ValueError(f"Two parts have scores of class {twice}; expected one of them.")
    full = [part.resized() for part in parts]
    free = [1 - values[1:].max(axis=0, initial=0.0) for values in full]
    ids, rows = [0], [np.minimum.reduce([values[0] for values in full])]
    for number, part in enumerate(parts):
        others = np.prod([one for at, one in enumerate(free) if at != number], axis=0)
        ids += part.present
        rows += list(full[number][1:] * others)
    order = np.argsort(ids, kind="stable")
    values = np.stack(rows).astype(np.float32, copy=False)
    return Scores(values[order], np.array(ids, np.uint8)[order], parts[0].size)
