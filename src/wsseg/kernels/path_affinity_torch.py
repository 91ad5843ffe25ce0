"""Affinities of neighbouring pixels in torch, with gradients: for training and for GPUs.

Both functions return the affinities of the *inner* sources, those whose every target within the
radius lies on the grid (`wsseg.kernels.stencil.inner_window`): rows 0 ... h - r and columns
r - 1 ... w - r. Element [b, o, y, x] belongs to the pixels (y, x + r - 1) and
(y + dy, x + r - 1 + dx), with (dy, dx) = half_plane_offsets(r)[o].

The gradients are written out, so that the memory kept for the backward pass is one copy of the
input, or one byte per link, instead of one value per link and channel or path point. Sums are
formed in a fixed order, without atomic additions.

References: J. Ahn, S. Kwak, CVPR 2018 (features); J. Ahn, S. Cho, S. Kwak, CVPR 2019 (paths).
Where several points of a path share the maximum, the first one gets the gradient.
"""

# Functions of torch.autograd have no types.
# mypy: disable-error-code="no-untyped-call, misc"

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsseg.kernels.stencil import half_plane_offsets, path_points


def torch_feature_affinity(features: Tensor, radius: int) -> Tensor:
    """Compute exp(-mean over channels of |f_i - f_j|) for all links of inner sources.

    Half precision is raised to float32.

    Args:
        features: (B, c, h, w) floating point on any device, h >= radius, w >= 2 * radius - 1.
        radius: Radius of the stencil in grid points, >= 1.

    Returns:
        (B, n, h - radius + 1, w - 2 * radius + 2) in (0, 1], with n offsets as in
        `half_plane_offsets`.

    Raises:
        ValueError: When there are no channels or the grid is smaller than the stencil.

    Example:
        >>> features = torch.arange(3.0).expand(1, 1, 2, 3)
        >>> torch_feature_affinity(features, 2).flatten().log().tolist()
        [-1.0, -1.0, 0.0, -1.0]
    """
    if features.ndim != 4 or not features.shape[1]:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (B, c, h, w).")
    _check_size(features, radius)
    return cast(Tensor, _FeatureAffinity.apply(_at_least_float32(features), radius))


def torch_path_affinity(edge: Tensor, radius: int) -> Tensor:
    """Compute 1 - max of the edge along the path for all links of inner sources.

    Half precision is raised to float32.

    Args:
        edge: (B, 1, h, w) floating point in [0, 1] on any device (after the sigmoid),
            h >= radius, w >= 2 * radius - 1.
        radius: Radius of the stencil in grid points, >= 1.

    Returns:
        (B, n, h - radius + 1, w - 2 * radius + 2) in [0, 1], with n offsets as in
        `half_plane_offsets`.

    Raises:
        ValueError: When there is more than one channel or the grid is smaller than the stencil.

    Example:
        >>> edge = torch.tensor([[0.0, 0.0, 0.75], [0.0, 0.5, 0.0]])[None, None]
        >>> torch_path_affinity(edge, 2).flatten().tolist()
        [0.25, 0.5, 0.5, 0.25]
    """
    if edge.ndim != 4 or edge.shape[1] != 1:
        raise ValueError(f"edge has shape {tuple(edge.shape)}; expected (B, 1, h, w).")
    _check_size(edge, radius)
    return cast(Tensor, _PathAffinity.apply(_at_least_float32(edge), radius))


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_size(grid: Tensor, radius: int) -> None:
    height, width = grid.shape[-2:]
    if radius < 1 or height < radius or width < 2 * radius - 1:
        raise ValueError(
            f"A grid of {height} x {width} has no pixel whose every neighbour within radius "
            f"{radius} lies on it; use at least {radius} x {2 * radius - 1}, or a smaller radius "
            "(at least 1)."
        )


def _shifted(grid: Tensor, point: tuple[int, int], radius: int) -> Tensor:
    """View the pixels at (dy, dx) from the inner sources, (..., h - r + 1, w - 2 r + 2)."""
    (dy, dx), (height, width) = point, grid.shape[-2:]
    left = radius - 1 + dx
    return grid[..., dy : dy + height - radius + 1, left : left + width - 2 * radius + 2]


def _points(offset: tuple[int, int]) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for y, x in path_points(offset)]


def _offsets(radius: int) -> list[tuple[int, int]]:
    return [(int(dy), int(dx)) for dy, dx in half_plane_offsets(radius)]


def _new_links(grid: Tensor, radius: int, dtype: torch.dtype) -> Tensor:
    batch, _, height, width = grid.shape
    shape = (batch, len(_offsets(radius)), height - radius + 1, width - 2 * radius + 2)
    return torch.empty(shape, dtype=dtype, device=grid.device)


class _FeatureAffinity(torch.autograd.Function):
    """exp(-mean |f_i - f_j|); keeps features and result, and forms the signs again."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        affinity = _new_links(features, radius, features.dtype)
        source = _shifted(features, (0, 0), radius)
        for place, offset in enumerate(_offsets(radius)):
            difference = source - _shifted(features, offset, radius)
            affinity[:, place] = difference.abs_().mean(dim=1)
        affinity.neg_().exp_()
        ctx.save_for_backward(features, affinity)
        ctx.radius = radius
        return affinity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, affinity = ctx.saved_tensors
        scale = gradient * affinity / -features.shape[1]
        source = _shifted(features, (0, 0), ctx.radius)
        result = torch.zeros_like(features)
        of_source = _shifted(result, (0, 0), ctx.radius)
        for place, offset in enumerate(_offsets(ctx.radius)):
            change = (source - _shifted(features, offset, ctx.radius)).sign_()
            change.mul_(scale[:, place, None])
            of_source.add_(change)
            _shifted(result, offset, ctx.radius).sub_(change)
        return result, None


class _PathAffinity(torch.autograd.Function):
    """1 - max along the path; keeps which point of the path holds the maximum."""

    @staticmethod
    def forward(ctx: Any, edge: Tensor, radius: int) -> Tensor:
        affinity = _new_links(edge, radius, edge.dtype)
        # int16 counts the points of any path within a sensible radius.
        winner = _new_links(edge, radius, torch.int16) if ctx.needs_input_grad[0] else None
        for place, offset in enumerate(_offsets(radius)):
            points = _points(offset)
            best = _shifted(edge, points[0], radius)[:, 0]
            if winner is not None:
                winner[:, place] = 0
            for number, point in enumerate(points[1:], start=1):
                candidate = _shifted(edge, point, radius)[:, 0]
                if winner is not None:
                    winner[:, place].masked_fill_(candidate > best, number)
                best = torch.maximum(best, candidate)
            affinity[:, place] = 1 - best
        ctx.save_for_backward(winner)
        ctx.shape, ctx.radius = edge.shape, radius
        return affinity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (winner,) = ctx.saved_tensors
        result = gradient.new_zeros(ctx.shape)
        for place, offset in enumerate(_offsets(ctx.radius)):
            of_link, number = gradient[:, place], winner[:, place]
            for index, point in enumerate(_points(offset)):
                part = _shifted(result, point, ctx.radius)[:, 0]
                part.sub_(of_link * (number == index))
        return result, None
