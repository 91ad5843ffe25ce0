"""Settings of the terms that let unlabelled pixels learn from the image they are in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsseg.config import Config


class TermConfig(Config):
    """What all of these terms have."""

    weight: float = Field(1.0, ge=0, le=1e6, description="Weight of the term; 0: none.")
    start_frac: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the training after which the term is added; 0: from the start.",
    )
    grid_px: int = Field(
        128,
        ge=2,
        le=1025,
        description="Cells along the longer side of the view on which the term is computed; a "
        "smaller view has a cell per pixel. More cells see thinner things and take longer.",
    )


class GatedCrfConfig(TermConfig):
    """Neighbours within a window that look alike should have the same class (gated CRF loss)."""

    weight: float = Field(0.1, ge=0, le=1e6, description="Weight of the term; 0: none.")
    start_frac: float = Field(
        0.005,
        ge=0,
        lt=1,
        description="Fraction of the training after which the term is added; 0: from the start.",
    )
    grid_px: int = Field(
        64,
        ge=2,
        le=1025,
        description="Cells along the longer side of the view on which the term is computed; a "
        "smaller view has a cell per pixel. More cells see thinner things and take longer.",
    )
    radius_cells: int = Field(
        5, ge=1, le=50, description="Half side of the window; 5 is a window of 11 x 11 cells."
    )
    sxy_cells: float = Field(6.0, gt=0, description="Position standard deviation, cells.")
    srgb: float = Field(25.5, gt=0, description="Colour standard deviation, grey levels.")


class DenseCrfLossConfig(TermConfig):
    """All pairs of cells that look alike should have the same class (dense CRF loss)."""

    sxy_cells: float = Field(
        25.0, gt=0, description="Position standard deviation of the affinity, cells."
    )
    srgb: float = Field(
        15.0, gt=0, description="Colour standard deviation of the affinity, grey levels."
    )
    scale: Literal["share", "sum"] = Field(
        "share",
        description="share: the affinity between different classes as a share of all affinity, so "
        "that a weight near 1 suits every size; sum: the published sum over all pairs, which grows "
        "with the square of the cells and needs weights such as 2e-9.",
    )


class NormalisedCutConfig(TermConfig):
    """Classes should be tied to themselves more than to others (normalised cut loss)."""

    weight: float = Field(0.1, ge=0, le=1e6, description="Weight of the term; 0: none.")
    sxy_cells: float = Field(
        25.0, gt=0, description="Position standard deviation of the affinity, cells."
    )
    srgb: float = Field(
        15.0, gt=0, description="Colour standard deviation of the affinity, grey levels."
    )


class TreeEnergyConfig(TermConfig):
    """Unlabelled pixels should agree with those joined to them by a spanning tree (tree energy)."""

    weight: float = Field(0.4, ge=0, le=1e6, description="Weight of the term; 0: none.")
    grid_px: int = Field(
        64,
        ge=2,
        le=1025,
        description="Cells along the longer side of the view on which the term is computed; a "
        "smaller view has a cell per pixel. More cells see thinner things and take longer.",
    )
    sigma: float = Field(
        0.02,
        gt=0,
        description="Squared colour difference, of colours in [0, 1], at which the affinity of two "
        "neighbours is 1/e.",
    )
    high_level: bool = Field(
        True,
        description="Filter a second time along a tree of the network's own features, which are "
        "trained with it; only for networks that give features (smp, bb_unet).",
    )
    feature_channels: int = Field(
        64,
        ge=1,
        le=4096,
        description="Channels of the features that the second tree sees; 256 as published, four "
        "times as slow.",
    )
