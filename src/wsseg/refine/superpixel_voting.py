"""Superpixel voting: every superpixel takes the label that most of its pixels have.

Each pixel votes for its strongest row, the background included; a superpixel gets, as its scores,
the shares of the votes:

    s'_c(x) = |{y in superpixel of x: argmax_k s_k(y) = c}| / |superpixel of x|

so that its label is the majority, and the share says how clear it was. Unlike the mean of
superpixel pooling, a few pixels of very high score cannot outvote the rest. The superpixels are
those of `wsseg.refine.superpixels`.

The background row must be filled before, by a background rule or a threshold: as long as it is
zero no pixel votes for it where any class has the least evidence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image
from wsseg.refine.superpixels import SuperpixelConfig, cached_superpixels, pool


class SuperpixelVoting(SuperpixelConfig, MethodConfig):
    """Settings of `superpixel_voting`."""

    name: Literal["superpixel_voting"] = Field(
        "superpixel_voting", description="Which refiner: majority label per superpixel."
    )


def superpixel_voting(
    image: np.ndarray,
    scores: Scores,
    *,
    config: SuperpixelVoting = SuperpixelVoting(),
    context: RefineContext | None = None,
) -> Scores:
    """Let the pixels of every superpixel vote for its label.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: Scores of the image, with a filled background row.
        config: Which superpixels.
        context: Its cache keeps the superpixels of the image.

    Returns:
        Scores at full size (K, H, W): shares of the votes, which sum to one. Equal scores count
        for the first of their rows, and equal shares make the first row win. An image without
        classes is background everywhere.

    Raises:
        DataError: When the image does not belong to the scores.

    Example:
        >>> image = np.zeros((8, 8, 3), np.uint8)
        >>> image[:, 4:] = 255
        >>> values = np.full((2, 8, 8), 0.5, np.float32)
        >>> values[1] = [0.0, 0.0, 0.0, 0.6, 0.6, 0.6, 0.6, 0.0]
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (8, 8))
        >>> config = SuperpixelVoting(method="felzenszwalb", sigma_px=0, min_area_px=20)
        >>> superpixel_voting(image, scores, config=config).values[1, 0].tolist()
        [0.25, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75]
    """
    check_image(image, scores)
    full = replace(scores, values=scores.resized())
    num_rows = len(scores.class_ids)
    if num_rows == 1:
        return with_constant_background(full, 1.0)
    winners = full.values.argmax(axis=0)
    votes = (winners == np.arange(num_rows)[:, None, None]).astype(np.float32)
    return replace(full, values=pool(votes, cached_superpixels(image, config, context)))
