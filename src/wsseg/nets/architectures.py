"""Names of the segmentation architectures, listed without importing torch."""

from __future__ import annotations

from typing import Literal

Architecture = Literal[
    "unet",
    "unetplusplus",
    "deeplabv3",
    "deeplabv3plus",
    "fpn",
    "pan",
    "segformer",
    "upernet",
    "pspnet",
    "linknet",
    "manet",
]

#: These pool to a fixed grid, which freezes at the traced size: exported with a static shape only.
STATIC_EXPORT: frozenset[str] = frozenset({"pspnet", "upernet"})
