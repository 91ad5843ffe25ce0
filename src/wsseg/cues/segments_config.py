"""Settings of `wsseg.cues.segments_tree`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.cues.region_tree import MergeConfig
from wsseg.cues.superpixels import SuperpixelConfig


class Superpixels(MethodConfig):
    """Settings of the segments backend `superpixels`."""

    name: Literal["superpixels"] = Field(
        "superpixels", description="Which backend: regions of a superpixel tree, without weights."
    )
    superpixels: SuperpixelConfig = Field(
        SuperpixelConfig(), description="The smallest regions; nothing smaller is found."
    )
    merge: MergeConfig = Field(MergeConfig(), description="How regions are compared.")
    scale: float = Field(
        10.0,
        gt=0,
        le=1000,
        description="Survival in Lab units that makes a stability of 0.63.",
    )
    min_stability: float = Field(
        0.2, ge=0, le=1, description="`everything`: segments below this are left out."
    )
    min_area_px: int = Field(
        20, ge=1, le=1_000_000, description="`everything`: smallest segment in pixels."
    )
    max_area_frac: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Largest segment as a fraction of the image; answers to a box may be larger.",
    )
    max_iou: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Segments that overlap a more stable one by more than this are left out.",
    )
    max_segments: int = Field(
        300, ge=1, le=100_000, description="`everything`: the most stable ones are kept."
    )
