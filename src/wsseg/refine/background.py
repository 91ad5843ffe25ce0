"""Background rules: how row 0 of the scores is made from the other rows or from a cue.

* constant: bg = t, the rule of most papers (IRN: 0.15);
* power: bg = (1 - max_c s_c)^α (Ahn & Kwak, "Learning Pixel-level Semantic Affinity with
  Image-level Supervision", PSA, CVPR 2018); a small α gives much background;
* cue: bg = 1 - cue, the complement of a saliency map, as DSRG (Huang et al., CVPR 2018) and its
  successors use it.

What was in row 0 before does not matter. An image without classes becomes background everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.refine.cue_settings import CueSettings, required_cue
from wsseg.refine.protocol import RefineContext


class BackgroundConstant(MethodConfig):
    """Settings of `background_constant`."""

    writes_background: ClassVar[bool] = True

    name: Literal["background_constant"] = Field(
        "background_constant", description="Which refiner: the same background score everywhere."
    )
    value: float = Field(
        0.2, ge=0, le=1, description="Background score; a higher one gives smaller objects."
    )


class BackgroundPower(MethodConfig):
    """Settings of `background_power`."""

    writes_background: ClassVar[bool] = True

    name: Literal["background_power"] = Field(
        "background_power", description="Which refiner: background = (1 - strongest class)^alpha."
    )
    alpha: float = Field(
        4.0,
        gt=0,
        le=100,
        description="Exponent; 4 gives much background and 32 little (PSA), 24 in SEAM.",
    )


class BackgroundCue(CueSettings):
    """Settings of `background_cue`."""

    writes_background: ClassVar[bool] = True

    name: Literal["background_cue"] = Field(
        "background_cue", description="Which refiner: background = complement of a saliency cue."
    )


def background_constant(
    image: np.ndarray,  # noqa: ARG001 - every refiner has the same signature
    scores: Scores,
    *,
    config: BackgroundConstant = BackgroundConstant(),
    context: RefineContext | None = None,  # noqa: ARG001
) -> Scores:
    """Give the background the same score at every pixel.

    Args:
        image: (H, W, 3) uint8 RGB; not used.
        scores: Scores of the image.
        config: The background score.
        context: Not used.

    Returns:
        Scores of the same shape with row 0 = ``config.value`` (1 for an image without classes).

    Example:
        >>> values = np.array([[[0.0, 0.0]], [[0.1, 0.9]]], np.float32)
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (1, 2))
        >>> image = np.zeros((1, 2, 3), np.uint8)
        >>> background_constant(image, scores).values[0].round(2).tolist()
        [[0.20000000298023224, 0.20000000298023224]]
    """
    return with_constant_background(scores, config.value)


def with_constant_background(scores: Scores, value: float) -> Scores:
    """Write one number into the background row; 1 for an image without classes.

    Args:
        scores: Scores of an image.
        value: Background score in [0, 1].
    """
    if len(scores.class_ids) == 1:
        value = 1.0
    row = np.full(scores.values.shape[1:], value, dtype=np.float32)
    return scores.with_background(row)


def background_power(
    image: np.ndarray,  # noqa: ARG001 - every refiner has the same signature
    scores: Scores,
    *,
    config: BackgroundPower = BackgroundPower(),
    context: RefineContext | None = None,  # noqa: ARG001
) -> Scores:
    """Make the background strong where no class is: bg = (1 - max_c s_c)^α.

    Args:
        image: (H, W, 3) uint8 RGB; not used.
        scores: Scores of the image.
        config: The exponent.
        context: Not used.

    Returns:
        Scores of the same shape (row 0 is 1 for an image without classes).

    Example:
        >>> values = np.array([[[0.0, 0.0]], [[0.0, 0.5]]], np.float32)
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (1, 2))
        >>> image = np.zeros((1, 2, 3), np.uint8)
        >>> background_power(image, scores).values[0].tolist()
        [[1.0, 0.0625]]
    """
    if len(scores.class_ids) == 1:
        return with_constant_background(scores, 1.0)
    rest = 1.0 - scores.values[1:].max(axis=0)
    return scores.with_background(np.power(rest, np.float32(config.alpha)))


def background_cue(
    image: np.ndarray,  # noqa: ARG001 - every refiner has the same signature
    scores: Scores,
    *,
    config: BackgroundCue = BackgroundCue(),  # noqa: ARG001
    context: RefineContext | None = None,
) -> Scores:
    """Take the complement of a foreground cue as background, at the size of the image.

    Args:
        image: (H, W, 3) uint8 RGB; not used.
        scores: Scores of the image.
        config: No settings.
        context: ``context.cue`` is the cue: (H, W) floating point in [0, 1], or bool.

    Returns:
        Scores at full size (K, H, W), so that the outlines of the cue are kept; row 0 is
        1 - cue (1 for an image without classes).

    Raises:
        DataError: When there is no cue, or its shape, type or range is wrong.

    Example:
        >>> values = np.array([[[0.0]], [[0.6]]], np.float32)
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (1, 2))
        >>> context = RefineContext(cue=np.array([[0.0, 1.0]]))
        >>> image = np.zeros((1, 2, 3), np.uint8)
        >>> background_cue(image, scores, context=context).values[0].tolist()
        [[1.0, 0.0]]
    """
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    return full.with_background(np.float32(1) - required_cue("background_cue", scores, context))
