"""The coarse grid on which SEC and DSRG compare predictions, image and seeds.

Cells of logits and image are means over the pixels that they cover, padding left out, so that
every pixel gets its part of the gradient; a cell's seed is that of its centre. In the papers
(Kolesnikov and Lampert, ECCV 2016; Huang et al., CVPR 2018) the grid is the network's own output,
41 x 41 cells for 321 pixels, and the image is resized to it bilinearly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsseg.data.colour import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD

# Added to each probability before they are made to sum to one again (the code of SEC).
MIN_PROBABILITY = 1e-4
# Area, in pixels, that is taken for none.
_ROUNDING = 1e-4


class Grid(NamedTuple):
    """A batch on the grid.

    Attributes:
        logits: (N, K, h, w) float32, with gradient.
        images: (N, h, w, 3) uint8 RGB.
        valid: (N, h, w) bool, False where a cell's centre is padding; a rectangle of each image.
    """

    logits: Tensor
    images: Tensor
    valid: Tensor


def to_grid(logits: Tensor, batch: dict[str, Tensor], grid_px: int) -> Grid:
    """Bring predictions and images to the grid.

    Args:
        logits: (N, K, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float, normalised as by
            `wsseg.data.colour.normalise`, and where there is padding ``valid`` (N, H, W) bool.
        grid_px: Cells along the longer side; a shorter view has a cell per pixel.

    Returns:
        The batch on the grid.
    """
    height, width = logits.shape[-2:]
    rows, columns = grid_size(height, width, grid_px)
    valid = batch.get("valid")
    if valid is None:
        valid = torch.ones_like(logits[:, 0], dtype=torch.bool)
    down = area_weights(height, rows).to(logits.device)
    across = area_weights(width, columns).to(logits.device)
    shown = valid.unsqueeze(1).float()
    # Half precision is left here: a mean over many pixels loses digits in it.
    with torch.autocast(logits.device.type, enabled=False):
        share = (down @ shown @ across.T).clamp(min=torch.finfo(torch.float32).tiny)
        coarse = down @ (logits.float() * shown) @ across.T / share
        picture = down @ (batch["image"].float() * shown) @ across.T / share
    centres = at_centres(valid, grid_px)
    return Grid(coarse, _as_bytes(picture), centres)


def covered(valid: Tensor | None, grid: Grid, grid_px: int) -> Tensor:
    """Say which cells show the image alone, without any padding.

    Args:
        valid: (N, H, W) bool, False at padding; None: there is none.
        grid: The batch on the grid.
        grid_px: Cells along the longer side.

    Returns:
        (N, h, w) bool.
    """
    if valid is None:
        return torch.ones_like(grid.valid)
    height, width = valid.shape[-2:]
    rows, columns = grid_size(height, width, grid_px)
    down = area_weights(height, rows).to(valid.device)
    across = area_weights(width, columns).to(valid.device)
    with torch.autocast(valid.device.type, enabled=False):
        padding: Tensor = down @ (~valid).float() @ across.T
    return padding < _ROUNDING


def rectangle(valid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Find the rectangle that the True cells of (h, w) bool fill; there must be one.

    Example:
        >>> rectangle(np.array([[False, False], [False, True]]))
        (slice(1, 2, None), slice(1, 2, None))
    """
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def grid_size(height: int, width: int, grid_px: int) -> tuple[int, int]:
    """Say how many rows and columns of cells a view gets.

    Args:
        height: Of the view, pixels.
        width: Of the view, pixels.
        grid_px: Cells along the longer side.

    Example:
        >>> grid_size(321, 321, 41), grid_size(100, 200, 41), grid_size(7, 9, 41)
        ((41, 41), (20, 41), (7, 9))
    """
    longer = max(height, width)
    cells = min(grid_px, longer)
    return max(1, round(height * cells / longer)), max(1, round(width * cells / longer))


def area_weights(length: int, cells: int) -> Tensor:
    """Say how much of each pixel lies in each cell.

    Args:
        length: Pixels along a side.
        cells: Cells along it.

    Returns:
        (cells, length) float32 in [0, 1]; each column sums to one.

    Example:
        >>> area_weights(3, 2).tolist()
        [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) * length / cells
    pixels = torch.arange(length, dtype=torch.float64)
    ends = torch.minimum(edges[1:, None], pixels + 1)
    starts = torch.maximum(edges[:-1, None], pixels)
    return (ends - starts).clamp(min=0).float()


def at_centres(values: Tensor, grid_px: int) -> Tensor:
    """Read labels (N, H, W) at the centres of the cells.

    Args:
        values: (N, H, W) of any type.
        grid_px: Cells along the longer side.

    Returns:
        (N, h, w) of the same type.
    """
    height, width = values.shape[-2:]
    rows, columns = grid_size(height, width, grid_px)
    y = ((torch.arange(rows, device=values.device) + 0.5) * height / rows).long()
    x = ((torch.arange(columns, device=values.device) + 0.5) * width / columns).long()
    return values[:, y][:, :, x]


def probabilities(logits: Tensor) -> Tensor:
    """Turn logits (N, K, ...) into probabilities that are never 0: softmax + 1e-4, normalised."""
    floored = logits.softmax(dim=1) + MIN_PROBABILITY
    return floored / floored.sum(dim=1, keepdim=True)


def _as_bytes(picture: Tensor) -> Tensor:
    """Undo the normalisation of a (N, 1 or 3, h, w) picture: (N, h, w, 3) uint8."""
    is_grey = picture.shape[1] == 1
    mean = picture.new_tensor((GREY_MEAN,) if is_grey else IMAGENET_MEAN)
    deviation = picture.new_tensor((GREY_STD,) if is_grey else IMAGENET_STD)
    colours = picture.detach().movedim(1, -1) * deviation + mean
    return (255 * colours).round().clamp(0, 255).to(torch.uint8).expand(-1, -1, -1, 3)
