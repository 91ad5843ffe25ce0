"""Quadratic forms of an affinity that is too large to be written down.

For values S (one row per class) and a symmetric affinity A between pixels, the losses on pairs
need S_k^T A S_k and its gradient 2 A S_k. A is known only by what it does to values, such as a
filter on the permutohedral lattice, which knows nothing of gradients. So the form is computed
outside of the gradient, and A S, which both need, is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsseg.segment.losses.grid import Grid, rectangle

Filter = Callable[[Tensor], Tensor]
"""A symmetric linear map of values (N, K, h, w), to values of that shape."""


class QuadraticForm(torch.autograd.Function):
    """S^T A S of each plane, with gradient 2 A S and no second derivative."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, apply: Filter) -> Tensor:
        """Compute the forms.

        Args:
            ctx: Keeps A S for the gradient.
            values: S, (N, K, h, w).
            apply: A.

        Returns:
            (N, K).
        """
        filtered = apply(values)
        ctx.save_for_backward(filtered)
        return (values * filtered).sum(dim=(2, 3))

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Compute the gradient of the values: 2 A S times that of each form."""
        (filtered,) = ctx.saved_tensors
        return 2 * gradient[..., None, None] * filtered, None


def quadratic_form(values: Tensor, apply: Filter) -> Tensor:
    """Compute S^T A S of each plane of values (N, K, h, w): (N, K)."""
    forms: Tensor = QuadraticForm.apply(values, apply)  # type: ignore[no-untyped-call]
    return forms


class BilateralAffinity:
    """The affinity exp(-|dxy|^2 / 2 sxy^2 - |drgb|^2 / 2 srgb^2) between the cells of each image.

    It is that of the permutohedral lattice (Adams, Baek and Davis, 2010) without normalisation,
    which is about half of the exact kernel, much the same everywhere. It is symmetric but for the
    order in which the lattice blurs its axes; gradients take it for symmetric, as published.
    Padding is not in it: its rows and columns are 0.

    Args:
        grid: The batch on the grid.
        sxy_cells: Standard deviation of the position, cells.
        srgb: Standard deviation of the colour, grey levels.

    Attributes:
        row_sums: (N, 1, h, w) float32, what the affinity makes of ones.

    Raises:
        RecipeError: When a standard deviation is too small to be computed.
    """

    def __init__(self, grid: Grid, sxy_cells: float, srgb: float) -> None:
        from wsseg.kernels.permutohedral import Lattice, build_lattice

        self._parts: list[tuple[int, tuple[slice, slice], Lattice]] = []
        roots = np.zeros(grid.valid.shape, np.float32)
        images, shown = grid.images.cpu().numpy(), grid.valid.cpu().numpy()
        for number, (image, valid) in enumerate(zip(images, shown, strict=True)):
            if not valid.any():
                continue
            window = rectangle(valid)
            part = np.ascontiguousarray(image[window])
            # The grid is small: starting threads would take longer than the work.
            lattice = build_lattice(part.shape[:2], sxy_cells, part, srgb, threads=1)
            self._parts.append((number, window, lattice))
            # Barycentric weights sum to 1, so these sum to 1 / sqrt(row sum of the kernel).
            roots[number][window] = 1 / lattice.weights.sum(axis=1).reshape(lattice.shape)
        self._roots = roots
        self.row_sums = torch.from_numpy(roots**2)[:, None].to(grid.logits.device)

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values (N, K, h, w); the result knows nothing of gradients."""
        given = values.detach().cpu().numpy().astype(np.float32, copy=False)
        filtered = np.zeros_like(given)
        for number, window, lattice in self._parts:
            inside = (slice(None), *window)
            # The lattice filters with D^-1/2 A D^-1/2.
            root = self._roots[number][window]
            filtered[number][inside] = root * lattice.filter(
                root * given[number][inside], threads=1
            )
        return torch.from_numpy(filtered).to(values.device, values.dtype)
