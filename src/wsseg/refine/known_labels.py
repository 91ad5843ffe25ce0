"""Affinity networks behind localizers that know the background: learn from it, fill the rest.

Maps of tags say nothing of the background, so AffinityNet and IRN find it by thresholds. Behind
localizers from points, scribbles and boxes row 0 is the background and a pixel without evidence is
unknown. There

* the network learns from known pixels alone: the class of a pixel is its strongest row, and pairs
  with an unknown pixel do not count;
* known pixels keep their scores, and the walk fills the others. In each of 16 rounds all rows,
  background included, take a sixteenth of the steps, cells are divided by their sums, and known
  cells get their scores back. So it does not matter how many pixels of a class were marked. A cell
  that next to nothing reaches stays unknown.

Reference: the networks and walks are those of Ahn and Kwak, CVPR 2018, and Ahn, Cho and Kwak, CVPR
2019. That known cells get their scores back is X. Zhu, Z. Ghahramani, "Learning from Labeled and
Unlabeled Data with Label Propagation", CMU tech report 2002 (from memory); the rounds are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.data.scores import Scores

Floats = npt.NDArray[np.float32]

ROUNDS = 16
"""How often known cells get their scores back."""

# What is below is no evidence: rounding, or the tolerance of the walk.
_NOTHING = 1e-5
# A cell that receives less in a round is not reached.
_REACHED = 1e-3


def labels_of_known(scores: Scores, min_score: float = 0.0) -> npt.NDArray[np.uint8]:
    """Label pixels by their strongest row; unknown ones stay unknown.

    Args:
        scores: Scores whose row 0 is the background.
        min_score: What a class must reach, in [0, 1].

    Returns:
        (H, W) uint8: 0 background, class ids, 255 where nothing is known.

    Example:
        >>> values = np.array([[[0.8, 0, 0.1, 0]], [[0.2, 0, 0.9, 0.2]]], np.float32)
        >>> scores = Scores(values, np.array([0, 7], np.uint8), (1, 4))
        >>> labels_of_known(scores, 0.3).tolist()
        [[0, 255, 7, 255]]
    """
    values = scores.resized()
    labels = scores.class_ids[values.argmax(axis=0)]
    strongest = values.max(axis=0)
    labels[(strongest < _NOTHING) | ((labels != BACKGROUND) & (strongest < min_score))] = IGNORE
    return labels


def can_fill(scores: Scores) -> bool:
    """Say whether something is unknown, and background and some class are there to fill it from."""
    ground, classes = scores.values[0], scores.values[1:]
    return bool(scores.unknown.any() and ground.any() and classes.any())


def filled(cells: Floats, walk: Callable[[Floats], Floats], rounds: int = ROUNDS) -> Floats:
    """Fill unknown cells by walks that start at the known ones.

    Args:
        cells: (K, h, w) float32, background included; 0 in all rows where nothing is known.
        walk: Takes (K, h, w) maps some steps further.
        rounds: How often it does.

    Returns:
        (K, h, w) float32 in [0, 1], summing to one, or 0 in all rows where nothing came.

    Example:
        >>> cells = np.zeros((2, 1, 5), np.float32)
        >>> cells[0, 0, 0] = cells[1, 0, 4] = 1
        >>> def walk(maps):
        ...     framed = np.pad(maps, ((0, 0), (0, 0), (1, 1)))
        ...     return (framed[..., :-2] + maps + framed[..., 2:]) / 3
        >>> [f"{value:.1f}" for value in filled(cells, walk)[0, 0]]
        ['1.0', '0.8', '0.5', '0.2', '0.0']
    """
    known = cells.sum(axis=0) > _NOTHING
    given = _shares(cells, _NOTHING)
    current = given
    for _ in range(rounds):
        current = _shares(np.maximum(walk(current), 0), _REACHED)
        current[:, known] = given[:, known]
    return current


def with_known(refined: Scores, before: Scores) -> Scores:
    """Give the pixels that were known their scores back.

    Args:
        refined: Scores at any resolution.
        before: Scores of the same classes, 0 in all rows where nothing was known.

    Returns:
        Scores at full size (K, H, W).
    """
    values, old = refined.resized(), before.resized()
    known = old.max(axis=0) > _NOTHING
    values[:, known] = old[:, known]
    return replace(refined, values=values)


def _shares(values: Floats, least: float) -> Floats:
    """Divide cells by their sums; those whose sum is below ``least`` become 0."""
    total = values.sum(axis=0, keepdims=True)
    shares = np.divide(values, total, out=np.zeros_like(values), where=total > least)
    return np.minimum(shares, 1)
