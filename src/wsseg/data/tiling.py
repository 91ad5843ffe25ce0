"""Cut large images into overlapping tiles and blend the tiles' maps back without seams.

All tiles have the same size, so that they can be batched, and are spread evenly. Each tile's map
is weighted by a window that rises as a squared sine over the overlap; the sum is divided by the
sum of the windows, so that a constant comes back as the same constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg.errors import RecipeError


class Tile(NamedTuple):
    """A window of an image, half-open: rows top to bottom, columns left to right, pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an (H, W, ...) array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def tiles(size: tuple[int, int], tile_px: int, overlap_px: int) -> list[Tile]:
    """Cover an image with equal tiles that overlap by at least ``overlap_px``.

    Args:
        size: (H, W) of the image, pixels.
        tile_px: Side of a tile, pixels; smaller images give tiles of their own side.
        overlap_px: Least overlap of neighbours, pixels, less than ``tile_px``.

    Returns:
        The tiles, row by row; every pixel is in at least one.

    Raises:
        RecipeError: When the overlap is not smaller than the tile.

    Example:
        >>> tiles((4, 10), tile_px=6, overlap_px=2)
        [Tile(top=0, left=0, bottom=4, right=6), Tile(top=0, left=4, bottom=4, right=10)]
    """
    if tile_px < 1 or not 0 <= overlap_px < tile_px:
        raise RecipeError(
            f"Tiles of {tile_px} px with an overlap of {overlap_px} px cannot cover an image: "
            "the overlap must be at least 0 and smaller than the tile. Lower overlap_px or "
            "raise tile_px."
        )
    height, width = min(tile_px, size[0]), min(tile_px, size[1])
    return [
        Tile(top, left, top + height, left + width)
        for top in _starts(size[0], tile_px, overlap_px)
        for left in _starts(size[1], tile_px, overlap_px)
    ]


def _starts(length: int, tile_px: int, overlap_px: int) -> list[int]:
    """Spread tiles evenly over one axis; whole-number arithmetic keeps the least overlap."""
    if length <= tile_px:
        return [0]
    gaps = -(-(length - tile_px) // (tile_px - overlap_px))
    return [index * (length - tile_px) // gaps for index in range(gaps + 1)]


class TileMerger:
    """Sums weighted maps of tiles into one map of the whole image.

    Memory is that of one map, whatever the number of tiles.

    Args:
        num_channels: K, number of planes.
        size: (H, W) of the image, pixels.
        overlap_px: Length of the ramp at each edge of a tile, pixels; 0: plain averages.

    Example:
        >>> merger = TileMerger(1, (4, 10), overlap_px=2)
        >>> for tile in tiles((4, 10), 6, 2):
        ...     merger.add(tile, np.full((1, 4, 6), 0.25, np.float32))
        >>> bool(np.allclose(merger.merged(), 0.25))
        True
    """

    def __init__(self, num_channels: int, size: tuple[int, int], overlap_px: int) -> None:
        self._sums = np.zeros((num_channels, *size), np.float32)
        self._weights = np.zeros(size, np.float32)
        self._overlap_px = overlap_px

    def add(self, tile: Tile, maps: NDArray[np.floating]) -> None:
        """Add the map of one tile.

        Args:
            tile: Where it lies.
            maps: (K, h, w) values, h and w those of the tile.

        Raises:
            ValueError: When the map does not have the tile's size.
        """
        shape = (tile.bottom - tile.top, tile.right - tile.left)
        if maps.shape != (len(self._sums), *shape):
            raise ValueError(
                f"Expected maps of shape {(len(self._sums), *shape)} for {tile}, "
                f"but got {maps.shape}."
            )
        window = np.outer(
            blending_window(shape[0], self._overlap_px), blending_window(shape[1], self._overlap_px)
        )
        rows, columns = tile.slices
        self._sums[:, rows, columns] += maps * window
        self._weights[rows, columns] += window

    def merged(self) -> NDArray[np.float32]:
        """Return the blended map, (K, H, W) float32.

        Raises:
            ValueError: When some pixels were covered by no tile.
        """
        missing = int((self._weights == 0).sum())
        if missing:
            raise ValueError(f"{missing} pixels are covered by no tile; add all tiles first.")
        return self._sums / self._weights


def blending_window(length: int, ramp_px: int) -> NDArray[np.float32]:
    """Return weights of one axis of a tile: squared-sine ramps at both ends, 1 between.

    Args:
        length: Number of pixels.
        ramp_px: Length of each ramp, pixels; cut to half the length.

    Returns:
        (length,) float32 in (0, 1], symmetric.

    Example:
        >>> [round(float(weight), 2) for weight in blending_window(6, 2)]
        [0.15, 0.85, 1.0, 1.0, 0.85, 0.15]
    """
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    ramp_px = min(ramp_px, length // 2)
    if ramp_px < 1:
        return np.ones(length, np.float32)
    ramp = np.sin(0.5 * np.pi * np.minimum(distance / ramp_px, 1)) ** 2
    return ramp.astype(np.float32)
