"""Random walker: confident pixels are seeds, the image decides about all others.

The probability of class c at a pixel is the probability that a random walk from it reaches a seed
of c before any other seed; steps across strong edges are improbable:

    w_ij = exp(-beta |I_i - I_j|² / mean |I_i - I_j|²) + 1e-10    between 4-neighbours

Reference: L. Grady, "Random Walks for Image Segmentation", IEEE TPAMI 2006, see
`wsseg.kernels.seeded_walk`. Seeds are chosen here, not by a person:

* class c: its score is the largest of the pixel and at least ``foreground_seed_min``;
* background: no class exceeds ``background_seed_max``, or the background row is the largest and
  at least ``background_seed_min``.

Where a set is empty:

* a class without seeds takes the pixels within ``fallback_peak_frac`` of its peak that are no
  seeds yet (where two such classes meet, the one closer to its peak), if the peak exceeds
  ``background_seed_max``. A class for which none are left has probability 0 everywhere;
* without background seeds, the ``fallback_background_frac`` of the other pixels with the weakest
  classes are taken. Where none are left, the background has probability 0;
* seeds of one kind only: that kind has probability 1 everywhere.

The first time an image needs one of these rules, a line in the log says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from wsseg import console
from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.kernels.seeded_walk import seeded_walk
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image


class RandomWalker(MethodConfig):
    """Settings of `random_walker`."""

    writes_background: ClassVar[bool] = True

    name: Literal["random_walker"] = Field(
        "random_walker", description="Which refiner: random walks to confident pixels."
    )
    beta: float = Field(
        5.0,
        ge=0,
        le=1e6,
        description="How much an edge stops the walk, against the mean contrast of the image; "
        "0 ignores the image.",
    )
    foreground_seed_min: float = Field(
        0.6, gt=0, le=1, description="Score from which the strongest class is certain."
    )
    background_seed_max: float = Field(
        0.1, ge=0, lt=1, description="Score up to which every class is certainly absent."
    )
    background_seed_min: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Score from which the background row, where it wins, is certain.",
    )
    fallback_peak_frac: float = Field(
        0.9,
        gt=0,
        le=1,
        description="A class without seeds takes its pixels from this fraction of its peak.",
    )
    fallback_background_frac: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Without background seeds, this fraction of the other pixels, those with the "
        "weakest classes; 0: none, such an image has no background.",
    )
    max_side_px: int = Field(
        256,
        ge=2,
        le=4096,
        description="The walk runs on the image with its longer side reduced to this; time and "
        "memory grow faster than the number of pixels.",
    )

    @model_validator(mode="after")
    def _background_lies_below_foreground(self) -> Self:
        if self.background_seed_max >= self.foreground_seed_min:
            raise ValueError(
                f"background_seed_max is {self.background_seed_max}, foreground_seed_min "
                f"{self.foreground_seed_min}; expected background_seed_max < foreground_seed_min."
            )
        return self


def random_walker(
    image: np.ndarray,
    scores: Scores,
    *,
    config: RandomWalker = RandomWalker(),
    context: RefineContext | None = None,  # noqa: ARG001 - every refiner has the same signature
) -> Scores:
    """Spread confident pixels over the image by random walks.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: Scores of the image; the background row may be empty or filled.
        config: What is confident, and how the walk goes.
        context: Not used.

    Returns:
        Scores at full size (K, H, W): probabilities, which sum to one per pixel. An image without
        classes is background everywhere.

    Raises:
        DataError: When the image does not belong to the scores.

    Example:
        >>> image = np.zeros((1, 6, 3), np.uint8)
        >>> image[:, 3:] = 255
        >>> values = np.zeros((2, 1, 6), np.float32)
        >>> values[1, 0] = [0.0, 0.2, 0.3, 0.3, 0.4, 0.9]
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (1, 6))
        >>> random_walker(image, scores).values[1, 0].round(2).tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    check_image(image, scores)
    if len(scores.class_ids) == 1:
        return with_constant_background(replace(scores, values=scores.resized()), 1.0)
    guide, values = _reduced(image, scores, config.max_side_px)
    seeds = find_seeds(values, config)
    walked = replace(scores, values=_walk(guide, seeds, len(values), config.beta))
    return replace(scores, values=walked.resized())


def find_seeds(
    values: npt.NDArray[np.float32], config: RandomWalker = RandomWalker()
) -> npt.NDArray[np.int64]:
    """Choose the seeds of every row, by the rules of this module.

    Args:
        values: (K, h, w) float32 in [0, 1], row 0 the background.
        config: What is confident.

    Returns:
        (h, w): the row of each seed, and -1 where there is none.

    Example:
        >>> values = np.array([[[0.0, 0.0, 0.0]], [[0.0, 0.4, 0.9]]], np.float32)
        >>> find_seeds(values).tolist()
        [[0, -1, 1]]
    """
    winner, strongest = values.argmax(axis=0), values[1:].max(axis=0)
    seeds = np.where(strongest >= config.foreground_seed_min, winner, -1)
    # The background row may be the winner above.
    seeds[seeds == 0] = -1
    is_background = (winner == 0) & (values[0] >= config.background_seed_min)
    seeds[(strongest <= config.background_seed_max) | is_background] = 0
    _seed_weak_classes(seeds, values, config)
    if config.fallback_background_frac > 0 and not (seeds == 0).any():
        _seed_weakest_pixels(seeds, strongest, config)
    return seeds


def _seed_weak_classes(
    seeds: npt.NDArray[np.int64], values: npt.NDArray[np.float32], config: RandomWalker
) -> None:
    """Give classes without seeds the free pixels around their peaks."""
    peaks = values.max(axis=(1, 2))
    weak = [
        row
        for row in range(1, len(values))
        if peaks[row] > config.background_seed_max and not (seeds == row).any()
    ]
    if not weak:
        return
    console.once(
        "random_walker: a class without a pixel above foreground_seed_min that it wins takes the "
        f"pixels within {config.fallback_peak_frac:g} of its peak as seeds."
    )
    closeness = values[weak] / peaks[weak, None, None]
    is_free = (seeds == -1) & (closeness.max(axis=0) >= config.fallback_peak_frac)
    seeds[is_free] = np.array(weak)[closeness.argmax(axis=0)][is_free]


def _seed_weakest_pixels(
    seeds: npt.NDArray[np.int64], strongest: npt.NDArray[np.float32], config: RandomWalker
) -> None:
    """Give the background the free pixels whose strongest class is weakest."""
    is_free = seeds == -1
    if not is_free.any():
        return
    console.once(
        "random_walker: an image without background seeds takes the "
        f"{config.fallback_background_frac:.0%} of its other pixels with the weakest classes."
    )
    limit = np.quantile(strongest[is_free], config.fallback_background_frac, method="lower")
    seeds[is_free & (strongest <= limit)] = 0


def _reduced(
    image: np.ndarray, scores: Scores, max_side_px: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return the image in [0, 1] and the values (K, h, w) on the grid of the walk."""
    import cv2

    factor = min(1.0, max_side_px / max(scores.size))
    height, width = (max(1, round(side * factor)) for side in scores.size)
    if (height, width) != scores.size:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    is_smaller = scores.values.shape[1] > height or scores.values.shape[2] > width
    rule = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    rows = [cv2.resize(row, (width, height), interpolation=rule) for row in scores.values]
    return image.astype(np.float64) / 255, np.clip(np.stack(rows), 0.0, 1.0)


def _walk(
    guide: npt.NDArray[np.float64], seeds: npt.NDArray[np.int64], num_rows: int, beta: float
) -> npt.NDArray[np.float32]:
    """Return (K, h, w) probabilities of reaching the seeds of each row first."""
    rows = np.unique(seeds[seeds >= 0])
    values = np.zeros((num_rows, *seeds.shape), np.float32)
    if len(rows) == 1:
        values[rows[0]] = 1
    elif (seeds >= 0).all():
        values[rows] = seeds == rows[:, None, None]
    else:
        values[rows] = seeded_walk(guide, seeds + 1, beta)
    return values
