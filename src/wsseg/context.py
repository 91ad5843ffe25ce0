"""What every stage of a run is told besides its own settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunContext:
    """Settings that all stages of one run share.

    Args:
        seed: Seed of everything random.
        max_side_px: Longest side, in pixels, that images are shrunk to when read; None keeps them.
        allow_masks: Whether ground-truth masks may tune or validate anything. Scoring with them
            is always allowed, training never.
        recipe: Name of the recipe, for the model card.
        supervision: Which labels and outside knowledge are used, for the model card.
    """

    seed: int = 0
    max_side_px: int | None = None
    allow_masks: bool = False
    recipe: str = ""
    supervision: str = "I"
