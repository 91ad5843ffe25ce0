"""How much images count in the training of a segmenter, by the kind of label that they have.

A mask grown from points is wrong more often than one that a person painted; a weight below 1 lets
it teach less. The localizer `mixed` writes into its manifest which kind led in each image.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from wsseg.config import Config


class TrustConfig(Config):
    """What the pixels of an image count in the loss, by the kind of label that led."""

    masks: float = Field(1.0, gt=0, le=1, description="Weight of images with painted masks.")
    scribbles: float = Field(1.0, gt=0, le=1, description="Weight of images led by scribbles.")
    boxes: float = Field(1.0, gt=0, le=1, description="Weight of images led by boxes.")
    points: float = Field(1.0, gt=0, le=1, description="Weight of images led by points.")
    tags: float = Field(1.0, gt=0, le=1, description="Weight of images with tags alone.")

    @property
    def is_even(self) -> bool:
        """Whether all kinds count the same."""
        return self == TrustConfig()


def trust_by_id(folder: Path | None, trust: TrustConfig) -> dict[str, float]:
    """Say how much each image counts.

    Args:
        folder: Folder of the localize stage; None: no image is known.
        trust: Weight of each kind.

    Returns:
        ``{sample id: weight}`` of the images whose manifest line names the kind that led.
    """
    from wsseg.localize.kinds import led_by
    from wsseg.rundir import StageDir

    if folder is None or trust.is_even:
        return {}
    weights = trust.model_dump()
    kinds = led_by(StageDir(folder, "").manifest())
    return {sample_id: float(weights[kind]) for sample_id, kind in kinds.items()}
