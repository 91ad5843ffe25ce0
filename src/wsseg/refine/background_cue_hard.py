"""Hard background from a cue: label where cue and class maps agree, leave open where they do not.

With S the cue divided by its maximum, t its threshold, and s_c the scores of the classes:

    S > t  and max_c s_c >= f         the class with the largest score
    S <= t and max_c s_c <  f         background
    S > t  and max_c s_c <  f         open: something stands out that no class claims
    S <= t and max_c s_c >= f         open: a class claims what does not stand out
    two classes closer than a margin  open

Open pixels have no evidence at all, and become 255 in pseudo masks.

Reference: the convention of papers that combine seeds with saliency: Jiang, Hou, Cao, Cheng, Wei
and Xiong, "Integral Object Mining via Online Attention Accumulation" (OAA), ICCV 2019, and Fan,
Zhang, Song and Tan, "Learning Integral Objects with Intra-Class Discriminator for Weakly-Supervised
Semantic Segmentation" (ICD), CVPR 2020. Published thresholds t lie between 0.06 and 0.24 of the
maximum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from wsseg.data.scores import Scores
from wsseg.refine.background import with_constant_background
from wsseg.refine.cue_settings import CueSettings, required_cue
from wsseg.refine.protocol import RefineContext


class BackgroundCueHard(CueSettings):
    """Settings of `background_cue_hard`."""

    writes_background: ClassVar[bool] = True
    leaves_open: ClassVar[bool] = True

    name: Literal["background_cue_hard"] = Field(
        "background_cue_hard",
        description="Which refiner: labels where cue and class maps agree, and nothing elsewhere.",
    )
    min_cue: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="Above this part of the map's maximum a pixel stands out; papers: 0.06 to "
        "0.24.",
    )
    min_score: float = Field(
        0.2, gt=0, le=1, description="From this score on a class claims a pixel."
    )
    min_margin: float = Field(
        0.0, ge=0, le=1, description="Two classes closer than this leave a pixel open; 0: ties."
    )


def background_cue_hard(
    image: np.ndarray,  # noqa: ARG001 - every refiner has the same signature
    scores: Scores,
    *,
    config: BackgroundCueHard = BackgroundCueHard(),
    context: RefineContext | None = None,
) -> Scores:
    """Label the pixels on which cue and class maps agree.

    Args:
        image: (H, W, 3) uint8 RGB; not used.
        scores: Scores of the image; row 0 is not used.
        config: Thresholds.
        context: ``context.cue`` is the cue: (H, W) floating point in [0, 1], or bool.

    Returns:
        Scores at full size (K, H, W): 1 in the row of the label, all 0 where it is open. A cue
        that is zero everywhere says nothing, and leaves every pixel open.

    Raises:
        DataError: When there is no cue, or its shape, type or range is wrong.

    Example:
        >>> values = np.array([[[0, 0, 0, 0]], [[0.9, 0.1, 0.9, 0.1]]], np.float32)
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (1, 4))
        >>> context = RefineContext(cue=np.array([[1.0, 1.0, 0.0, 0.0]]))
        >>> refined = background_cue_hard(np.zeros((1, 4, 3), np.uint8), scores, context=context)
        >>> refined.values[:, 0].astype(int).tolist()
        [[0, 0, 0, 1], [1, 0, 0, 0]]
    """
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    cue = required_cue("background_cue_hard", scores, context)
    values = np.zeros_like(full.values)
    if cue.any():
        stands_out = cue > config.min_cue * cue.max()
        strongest = full.values[1:].max(axis=0)
        claimed = strongest >= config.min_score
        values[0] = ~stands_out & ~claimed
        near = full.values[1:] >= strongest - np.float32(config.min_margin)
        clear = near.sum(axis=0) == 1
        values[1:] = near & (stands_out & claimed & clear)
    return replace(full, values=values)
