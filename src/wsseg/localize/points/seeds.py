"""Seeds alone: the pixels that a person marked, and nothing else.

For losses that learn from a few pixels and fill in the rest themselves (gated CRF, tree energy,
normalised cut, partial cross-entropy): all other pixels are unknown.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.data.labels import WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.direct import LocalizeContext, scores_of_mask
from wsseg.localize.points.seed_map import SeedLocalizerConfig, seeds_of


class Seeds(SeedLocalizerConfig):
    """Settings of `seeds`."""

    name: Literal["seeds"] = Field("seeds", description="Marked pixels alone.")
    background: Literal["none", "border"] = Field(
        "none",
        description="Where no scribble marks background: border = superpixels at the border of the "
        "image without any seed stand in for it; none: nothing does.",
    )


def seeds(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: Seeds = Seeds(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Draw points and scribbles, and leave all other pixels open.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with points or scribbles, in pixels of the image.
        config: How they are drawn.
        context: Takes notes on points outside of the image.

    Returns:
        Scores (K, H, W) of 0 and 1; unmarked pixels are 0 in all rows.

    Example:
        >>> from wsseg.data.labels import Scribbles
        >>> labels = WeakLabels(scribbles=Scribbles(([[0, 0.5], [3, 0.5]],), [2]))
        >>> scores = seeds(np.zeros((1, 6, 3), np.uint8), labels, config=Seeds(scribble_width_px=1))
        >>> scores.values[1].tolist(), scores.unknown.astype(int).tolist()
        ([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]], [[0, 0, 0, 0, 1, 1]])
    """
    return scores_of_mask(seeds_of(image, labels, config, context))
