"""Features of a network together with the area that they cover."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class FeatureMap(NamedTuple):
    """Features of a network's last layers.

    Attributes:
        values: (N, c, h, w).
        size: (H, W) in pixels of the area that they cover: the view, perhaps with more below and
            to the right of it.
    """

    values: Tensor
    size: tuple[int, int]
