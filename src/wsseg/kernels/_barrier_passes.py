"""Compiled scans of `wsseg.cues.saliency_mbd`."""

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled


@compiled
def scan_barriers(
    plane: np.ndarray,
    distance: np.ndarray,
    highest: np.ndarray,
    lowest: np.ndarray,
    num_passes: int,
) -> None:
    """Lower the barrier distances of one channel by alternating raster scans.

    A path's barrier is its highest minus its lowest value; each pixel takes over the better of
    the paths of the two neighbours that the scan has passed, when it is better than its own.

    Args:
        plane: (H, W) float32, values of the image.
        distance: (H, W) float32, 0 at the seeds and infinite elsewhere; changed.
        highest: (H, W) float32, highest value of the path so far, at first the plane; changed.
        lowest: (H, W) float32, likewise; changed.
        num_passes: How many scans, raster and inverse raster in turn.
    """
    height, width = plane.shape
    for scan in range(num_passes):
        step = 1 if scan % 2 == 0 else -1
        for i in range(height):
            row = i if step == 1 else height - 1 - i
            for j in range(width):
                column = j if step == 1 else width - 1 - j
                value = plane[row, column]
                for side in range(2):
                    y = row - step if side == 0 else row
                    x = column - step if side == 1 else column
                    if y < 0 or y >= height or x < 0 or x >= width:
                        continue
                    if distance[y, x] == np.inf:
                        continue
                    top = max(highest[y, x], value)
                    bottom = min(lowest[y, x], value)
                    if top - bottom < distance[row, column]:
                        distance[row, column] = top - bottom
                        highest[row, column] = top
                        lowest[row, column] = bottom
