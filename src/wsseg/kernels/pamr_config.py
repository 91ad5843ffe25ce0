"""Settings of PAMR and PAR, and the pixels that both look at."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from wsseg.config import Config

# What keeps a window of one colour from dividing by zero, for images in [0, 1].
EPSILON = 1e-8
_STEPS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


class PamrConfig(Config):
    """Neighbours, weights and iterations; the defaults are those of the published PAMR."""

    method: Literal["pamr", "par"] = Field(
        "pamr",
        description="`pamr`: weights fall with the colour difference (Araslanov & Roth 2020); "
        "`par`: with its square, plus a small weight on distance (AFA, Ru et al. 2022).",
    )
    dilations_px: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (1, 2, 4, 8, 12, 24),
        min_length=1,
        max_length=16,
        description="Distances of the neighbours in pixels; 8 neighbours at each.",
    )
    iterations: int = Field(10, ge=0, le=1000, description="How often the scores are averaged.")
    colour_scale: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Colour difference that still counts as alike, as a fraction of the standard "
        "deviation around the pixel; null: 0.1 for `pamr`, 0.3 for `par`.",
    )
    position_weight: float = Field(
        0.01, ge=0, le=100, description="`par`: weight of the position kernel against colour."
    )
    position_scale: float = Field(
        0.3,
        gt=0,
        le=100,
        description="`par`: distance that still counts as near, as a fraction of the standard "
        "deviation of the distances.",
    )

    @property
    def scale(self) -> float:
        """The colour scale in use."""
        if self.colour_scale is not None:
            return self.colour_scale
        return 0.1 if self.method == "pamr" else 0.3

    @property
    def power(self) -> int:
        """Exponent of the colour difference: 1 for PAMR, 2 for PAR."""
        return 1 if self.method == "pamr" else 2

    @property
    def num_centres(self) -> int:
        """How often the pixel itself counts in the standard deviation.

        PAMR takes nine pixels per dilation, PAR the eight neighbours.
        """
        return len(self.dilations_px) if self.method == "pamr" else 0

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """``(dy, dx)`` of the P = 8 x dilations neighbours."""
        return tuple((dy * d, dx * d) for d in self.dilations_px for dy, dx in _STEPS)

    def position_weights(self) -> np.ndarray:
        """Weights on distance alone.

        Returns:
            (P,) float64, which sum to one; zeros for PAMR, which has none.
        """
        distances = np.array([math.hypot(dy, dx) for dy, dx in self.offsets])
        if self.method == "pamr":
            return np.zeros_like(distances)
        spread = distances.std(ddof=1) + EPSILON
        logits = -((distances / spread / self.position_scale) ** 2)
        weights: np.ndarray = np.exp(logits - logits.max())
        return weights / weights.sum()

    @property
    def position_share(self) -> float:
        """Share of the position kernel in weights that sum to one; 0 for PAMR."""
        if self.method == "pamr":
            return 0.0
        return self.position_weight / (1.0 + self.position_weight)
