"""Fusion: one label map from several of the same image, such as those of several methods.

A pixel of 255 abstains. What the others do not settle becomes 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsseg.data.labels import IGNORE
from wsseg.errors import DataError


def fuse_majority(masks: Sequence[np.ndarray], min_votes: int = 1) -> np.ndarray:
    """Take the label with the most votes at every pixel.

    Args:
        masks: Label maps (H, W) uint8 of one image, at least one.
        min_votes: A label with fewer votes does not win.

    Returns:
        (H, W) uint8; 255 where two labels tie, the winner has too few votes, or all abstain.

    Raises:
        DataError: When there is no mask, or shapes or types differ.

    Example:
        >>> masks = [np.array([row], np.uint8) for row in ([1, 1, 255], [1, 2, 3], [2, 0, 255])]
        >>> fuse_majority(masks).tolist()
        [[1, 255, 3]]
    """
    stack = _stack(masks)
    most = np.zeros(stack.shape[1:], dtype=np.int64)
    winner = np.full(stack.shape[1:], IGNORE, dtype=np.uint8)
    for label in _labels(stack):
        votes = (stack == label).sum(axis=0)
        is_tie = (votes == most) & (votes > 0)
        winner[is_tie] = IGNORE
        winner[votes > most] = label
        most = np.maximum(most, votes)
    winner[most < min_votes] = IGNORE
    return winner


def fuse_agreement(masks: Sequence[np.ndarray], min_votes: int = 1) -> np.ndarray:
    """Keep a label where all masks that do not abstain agree.

    Args:
        masks: Label maps (H, W) uint8 of one image, at least one.
        min_votes: How many masks must vote.

    Returns:
        (H, W) uint8; 255 where masks disagree or too few vote.

    Raises:
        DataError: When there is no mask, or shapes or types differ.

    Example:
        >>> masks = [np.array([row], np.uint8) for row in ([1, 1, 255], [1, 2, 3], [1, 0, 255])]
        >>> fuse_agreement(masks).tolist()
        [[1, 255, 3]]
    """
    stack = _stack(masks)
    is_vote = stack != IGNORE
    # The smallest label of the votes equals the largest one where all agree.
    low = np.where(is_vote, stack, IGNORE).min(axis=0)
    high = np.where(is_vote, stack, 0).max(axis=0)
    agrees = (low == high) & (is_vote.sum(axis=0) >= min_votes)
    return np.where(agrees, low, np.uint8(IGNORE))


def _stack(masks: Sequence[np.ndarray]) -> np.ndarray:
    if not masks:
        raise DataError("Fusion needs at least one mask, got none.")
    for mask in masks:
        if mask.shape != masks[0].shape or mask.dtype != np.uint8 or mask.ndim != 2:
            raise DataError(
                f"Fusion needs label maps (H, W) uint8 of one size, got {masks[0].shape} "
                f"{masks[0].dtype} and {mask.shape} {mask.dtype}."
            )
    return np.stack(masks)


def _labels(stack: np.ndarray) -> list[int]:
    found = np.flatnonzero(np.bincount(stack.reshape(-1), minlength=256))
    return [int(value) for value in found if value != IGNORE]
