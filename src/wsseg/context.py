"""What every stage of a run is told besides its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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
        cues_dir: Where maps of cues are kept for all stages; None: in the stage that needs them.
        cues: Where the maps of the recipe's cues come from, for the model card.
        localizer_fingerprint: Names the training of the run's localizer, for cues made with it.
        localize_dir: Folder of the localize stage, whose manifest says which kind of label led;
            None where there is none.
        outside: Marks of the files outside of the run that the recipe names; see `wsseg.outside`.
        corrections_dir: Folder of pseudo masks that people corrected; None where there is none.
    """

    seed: int = 0
    max_side_px: int | None = None
    allow_masks: bool = False
    recipe: str = ""
    supervision: str = "I"
    cues_dir: Path | None = None
    localizer_fingerprint: str = ""
    localize_dir: Path | None = None
    corrections_dir: Path | None = None
    cues: tuple[str, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
