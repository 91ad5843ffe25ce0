"""What refiners share that work with a cue: how settings name it, and the check of its map."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from wsseg.config import MethodConfig
from wsseg.cues.protocol import CueField
from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.outside import MapsPath
from wsseg.refine.protocol import RefineContext


class CueSettings(MethodConfig):
    """Settings of a refiner that needs a cue."""

    cue: CueField = Field(
        None,
        description="The cue, by its `name`: maps from a folder, weight-free saliency, distance "
        "from normal images, or a network. null: `cue_folder`, or the cue is given from Python.",
    )
    cue_folder: MapsPath | None = Field(
        None,
        description="Short for the cue `folder`: folder with one grey picture per image, named by "
        "the image's id; white stands out.",
    )

    @model_validator(mode="after")
    def _check_cue(self) -> Self:
        if self.cue is not None and self.cue_folder is not None:
            raise ValueError(
                f"cue_folder is {self.cue_folder}, but a cue is given too. Give one of them."
            )
        return self


def required_cue(
    name: str, scores: Scores, context: RefineContext | None
) -> npt.NDArray[np.float32]:
    """Take the cue of an image from the context.

    Args:
        name: Name of the refiner, for messages.
        scores: Scores of the image.
        context: ``context.cue`` is the cue: (H, W) floating point in [0, 1], or bool.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        DataError: When there is no cue, or its shape, type or range is wrong.

    Example:
        >>> scores = Scores(np.zeros((2, 1, 1), np.float32), np.array([0, 3], np.uint8), (1, 2))
        >>> required_cue("mine", scores, RefineContext(cue=np.array([[False, True]]))).tolist()
        [[0.0, 1.0]]
    """
    cue = None if context is None else context.cue
    where = f' for image "{context.sample_id}"' if context and context.sample_id else ""
    if cue is None:
        raise DataError(
            f"{name} needs a saliency cue{where} and got none. Name one "
            "(cue: {name: rbd}), or the folder of the maps as cue_folder, or use "
            "background_constant, background_power or threshold."
        )
    if cue.shape != scores.size:
        raise DataError(
            f"The cue{where} has shape {cue.shape}; expected the image size {scores.size} (H, W)."
        )
    if cue.dtype != bool and not np.issubdtype(cue.dtype, np.floating):
        raise DataError(
            f"The cue{where} has type {cue.dtype}; expected bool or floating point in [0, 1]. "
            "Divide 8-bit saliency maps by 255."
        )
    low, high = float(cue.min()), float(cue.max())
    if not (low >= 0 and high <= 1):
        raise DataError(f"The cue{where} reaches from {low:g} to {high:g}; expected [0, 1].")
    return cue.astype(np.float32)
