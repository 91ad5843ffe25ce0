"""The steps of attention affinity: balance, boxes, spreading and stretching of class maps.

See `wsseg.refine.attention_affinity` for the method and its sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

# Keeps the sums that are divided by away from zero.
_TINY = 1e-12


def sinkhorn(affinity: Tensor, iterations: int) -> Tensor:
    """Balance an affinity, so that rows sum to one and columns nearly do.

    Sinkhorn and Knopp, "Concerning Nonnegative Matrices and Doubly Stochastic Matrices", Pacific
    Journal of Mathematics 1967.

    Args:
        affinity: (n, n) float, not negative.
        iterations: How often columns and then rows are divided by their sums; 0: rows once.

    Returns:
        (n, n) float in [0, 1] with rows that sum to one.

    Example:
        >>> import torch
        >>> sinkhorn(torch.tensor([[1.0, 1.0], [1.0, 3.0]]), 0).tolist()
        [[0.5, 0.5], [0.25, 0.75]]
    """
    for _ in range(iterations):
        affinity = affinity / affinity.sum(dim=0, keepdim=True).clamp_min(_TINY)
        affinity = affinity / affinity.sum(dim=1, keepdim=True).clamp_min(_TINY)
    if iterations == 0:
        affinity = affinity / affinity.sum(dim=1, keepdim=True).clamp_min(_TINY)
    return affinity


def boxes_around(class_map: np.ndarray, min_frac: float) -> npt.NDArray[np.bool_]:
    """Mark the boxes around the strong parts of a class map.

    Args:
        class_map: (h, w) float, not negative.
        min_frac: Cells at least as strong as this fraction of the maximum count, in (0, 1]. Those
            that touch, also at a corner, share a box.

    Returns:
        (h, w) bool; all False for a map of zeros.

    Example:
        >>> one = np.array([[0.0, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.3]])
        >>> boxes_around(one, 0.4).astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    from scipy import ndimage

    highest = class_map.max()
    inside = np.zeros(class_map.shape, bool)
    if highest > 0:
        parts, _ = ndimage.label(class_map >= min_frac * highest, structure=np.ones((3, 3)))
        for box in ndimage.find_objects(parts):
            inside[box] = True
    return inside


def stretched(maps: np.ndarray, peaks: np.ndarray, rule: str) -> npt.NDArray[np.float32]:
    """Raise maps to given peaks.

    Args:
        maps: (K, h, w) float, not negative.
        peaks: (K, 1, 1) float, the highest value that each map shall have.
        rule: ``minmax``, ``max`` or ``none``; a constant map, which has nothing to stretch, is
            only scaled by ``minmax`` too.

    Returns:
        (K, h, w) float32; a map of zeros stays one.

    Example:
        >>> maps = np.array([[[0.1, 0.2, 0.3]]])
        >>> stretched(maps, np.array([[[0.8]]]), "minmax").round(2).astype(float).tolist()
        [[[0.0, 0.4000000059604645, 0.800000011920929]]]
    """
    maps = np.asarray(maps, np.float32)
    if rule == "none":
        return maps
    highest = maps.max(axis=(1, 2), keepdims=True)
    lowest = np.zeros_like(highest)
    if rule == "minmax":
        least = maps.min(axis=(1, 2), keepdims=True)
        # Differences of this size are rounding.
        lowest = np.where(highest - least > 1e-6 * highest, least, 0.0).astype(np.float32)
    height = highest - lowest
    scale = np.divide(peaks, height, out=np.zeros_like(height), where=height > 0)
    return (maps - lowest) * scale


def spread(affinity: Tensor, maps: np.ndarray, num_steps: int) -> npt.NDArray[np.float32]:
    """Multiply maps by an affinity again and again.

    Args:
        affinity: (n, n) float; row i tells what reaches cell i.
        maps: (K, h, w) float with h w = n.
        num_steps: How often.

    Returns:
        (K, h, w) float32.

    Example:
        >>> import torch
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> spread(swap, np.array([[[1.0, 0.0]]]), 1).tolist()
        [[[0.0, 1.0]]]
    """
    import torch

    columns = torch.from_numpy(maps.reshape(len(maps), -1).T.copy()).to(affinity)
    for _ in range(num_steps):
        columns = affinity @ columns
    found: npt.NDArray[np.float32] = columns.T.reshape(maps.shape).float().cpu().numpy()
    return found


def interpolated(maps: np.ndarray, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bring maps to another size; finer maps are averaged, not sampled.

    Args:
        maps: (K, h, w) float32.
        size: (h', w').

    Returns:
        New array (K, h', w') float32.

    Example:
        >>> interpolated(np.ones((1, 2, 2), np.float32), (1, 3)).tolist()
        [[[1.0, 1.0, 1.0]]]
    """
    import torch
    import torch.nn.functional as F

    if maps.shape[1:] == size:
        return np.array(maps, np.float32)
    planes = torch.from_numpy(np.ascontiguousarray(maps))[None]
    resized = F.interpolate(planes, size=size, mode="bilinear", antialias=True)[0]
    found: npt.NDArray[np.float32] = resized.numpy()
    return found
