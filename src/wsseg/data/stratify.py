"""Share out images with several labels so that every subset gets its part of every label.

Iterative stratification: K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the Stratification of
Multi-Label Data", ECML PKDD 2011 (from memory). The rarest label is handed out first, each image to
the subset that still wants most of that label. Differences from the paper: a *group* of images
(parts of one tile, photographs of one patient) is handed out as a whole, large groups first; and
the first group of every label goes to subset 0, so that a rare class can be learnt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def iterative_stratification(
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    fractions: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Hand out units (images or groups of images) so that every label is shared as asked.

    Args:
        counts: (U, L) int64: how many images of unit u carry label l.
        sizes: (U,) int64: number of images of each unit.
        fractions: (S,) float64 shares of the subsets, summing to 1; subset 0 gets the first unit
            of every label, unless its share is 0.
        rng: Breaks ties and sets the order of units.

    Returns:
        (U,) int64 subset of each unit.

    Example:
        >>> counts = np.array([[1, 0]] * 8 + [[0, 1]] * 4)
        >>> subset = iterative_stratification(
        ...     counts, np.ones(12, np.int64), np.array([0.75, 0.25]), np.random.default_rng(0))
        >>> [counts[subset == s].sum(axis=0).tolist() for s in (0, 1)]
        [[6, 3], [2, 1]]
    """
    wanted_labels = fractions[:, None] * counts.sum(axis=0)  # (S, L)
    wanted_images = fractions * sizes.sum()  # (S,)
    open_subsets = fractions > 0
    subset = np.full(len(counts), -1, np.int64)
    served = np.zeros(counts.shape[1], np.bool_)
    order = rng.permutation(len(counts))
    # Large groups first, while every subset can still take one.
    order = order[np.argsort(-sizes[order], kind="stable")]
    left = counts.sum(axis=0).astype(np.int64)

    def hand_out(unit: int, desire: npt.NDArray[np.float64]) -> None:
        labels = np.flatnonzero(counts[unit])
        if fractions[0] > 0 and not served[labels].all():
            chosen = 0
        else:
            chosen = _most_wanting(desire, wanted_images, open_subsets, rng)
        subset[unit] = chosen
        wanted_labels[chosen] -= counts[unit]
        wanted_images[chosen] -= sizes[unit]
        left[labels] -= counts[unit, labels]
        if chosen == 0:
            served[labels] = True

    while (left > 0).any():
        label = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for unit in order[(counts[order, label] > 0) & (subset[order] < 0)]:
            hand_out(int(unit), wanted_labels[:, label])
    for unit in order[subset[order] < 0]:
        hand_out(int(unit), wanted_images)
    return subset


def _most_wanting(
    desire: npt.NDArray[np.float64],
    wanted_images: npt.NDArray[np.float64],
    open_subsets: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> int:
    """Choose the subset that wants most of the label, then most images, then at random."""
    desire = np.where(open_subsets, desire, -np.inf)
    best = np.flatnonzero(desire >= desire.max() - 1e-9)
    if len(best) > 1:
        room = wanted_images[best]
        best = best[room >= room.max() - 1e-9]
    return int(best[0] if len(best) == 1 else rng.choice(best))
