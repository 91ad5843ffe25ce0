"""The random walk in torch: the same function on tensors of any device, for GPUs.

The formulas are those of `wsseg.kernels.random_walk`. A step gathers, for every pixel, the rows
of all pixels it is linked with and sums them by weight, in a fixed order and without atomic
additions. On a CPU the compiled form is faster.

References: J. Ahn, S. Kwak, CVPR 2018; J. Ahn, S. Cho, S. Kwak, CVPR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.kernels._random_walk_passes import FAINT
from wsseg.kernels.path_affinity_torch import torch_feature_affinity
from wsseg.kernels.stencil import Ints, half_plane_offsets, inner_window, source_window


def torch_random_walk(
    values: Tensor, affinity: Tensor, offsets: Ints, *, beta: float, coefficients: list[float]
) -> Tensor:
    """Compute values · p(T), T = A^beta / column sums, p a sum of Chebyshev polynomials.

    Args:
        values: (K, h, w) float32 on any device.
        affinity: (n, h, w) in [0, 1] on the same device; see `wsseg.kernels.random_walk`.
        offsets: (n, 2) int64 (dy, dx) of a half plane.
        beta: Exponent of the affinities, > 0.
        coefficients: Those of T_0, T_1, ...; see `chebyshev_coefficients`.

    Returns:
        (K, h, w) float32 on the same device.
    """
    graph = _build_graph(affinity, offsets, beta)
    rows = graph.enter(values)
    total, current, previous = coefficients[0] * rows, rows, torch.zeros_like(rows)
    for k, coefficient in enumerate(coefficients[1:], start=1):
        following = graph.multiply(current)
        if k > 1:
            following = 2 * following - previous
        current, previous = following, current
        if coefficient != 0:
            total.add_(current, alpha=coefficient)
    return graph.leave(total)


def torch_exact_walk(
    values: Tensor, affinity: Tensor, offsets: Ints, *, beta: float, steps: int
) -> Tensor:
    """Compute values · T^steps step by step; see `torch_random_walk` for the arguments."""
    graph = _build_graph(affinity, offsets, beta)
    rows = graph.enter(values)
    for _ in range(steps):
        rows = graph.multiply(rows)
    return graph.leave(rows)


def inner_feature_links(features: Tensor, radius: int) -> Tensor:
    """Compute the feature affinities of inner sources, 0 for all other sources.

    Args:
        features: (c, h, w) on any device.
        radius: Radius of the stencil in grid points, >= 1.

    Returns:
        (n, h, w) on the same device.
    """
    height, width = features.shape[1:]
    rows, columns = inner_window(radius, (height, width))
    links = features.new_zeros((len(half_plane_offsets(radius)), height, width))
    if rows.stop > rows.start and columns.stop > columns.start:
        links[:, rows, columns] = torch_feature_affinity(features[None], radius)[0]
    return links


@dataclass(frozen=True, eq=False)
class _TorchGraph:
    """S as lists of neighbours: one bag of 2 n + 1 weighted pixels per pixel.

    Args:
        shape: (h, w) of the grid.
        index: (h * w, 2 n + 1) int64 pixels; any pixel where the weight is 0.
        weights: (h * w, 2 n + 1) float32.
        roots: (h * w, 1) float64 square roots of the column sums (float32 on Metal).
    """

    shape: tuple[int, int]
    index: Tensor
    weights: Tensor
    roots: Tensor

    def enter(self, values: Tensor) -> Tensor:
        """Turn (K, h, w) into rows (h * w, K) of values · D^1/2."""
        return (values.flatten(1).T * self.roots).float().contiguous()

    def leave(self, rows: Tensor) -> Tensor:
        """Turn rows · D^-1/2 back into (K, h, w)."""
        return (rows / self.roots).float().T.reshape(-1, *self.shape).contiguous()

    def multiply(self, rows: Tensor) -> Tensor:
        """Multiply rows (h * w, K) by S."""
        return F.embedding_bag(self.index, rows, mode="sum", per_sample_weights=self.weights)


def _build_graph(affinity: Tensor, offsets: Ints, beta: float) -> _TorchGraph:
    if affinity.device.type == "mps":
        # Metal has no float64, in which the weights are formed.
        graph = _build_graph(affinity.cpu(), offsets, beta)
        index, weights = graph.index.to(affinity.device), graph.weights.to(affinity.device)
        return _TorchGraph(graph.shape, index, weights, graph.roots.float().to(affinity.device))
    height, width = affinity.shape[1:]
    size, count = height * width, len(offsets)
    links = torch.zeros((2 * count + 1, height, width), dtype=torch.float64, device=affinity.device)
    index = torch.arange(size, device=affinity.device).expand(2 * count + 1, size).clone()
    links[2 * count] = 1
    for place, (dy, dx) in enumerate(offsets.tolist()):
        rows, columns = source_window((dy, dx), (height, width))
        if rows.stop == 0 or columns.stop == columns.start:
            continue
        ends = slice(dy, height), slice(columns.start + dx, columns.stop + dx)
        weights = affinity[place, rows, columns].double() ** beta
        links[place, rows, columns] = weights
        links[count + place, *ends] = weights
        pixels = index[2 * count].view(height, width)
        index[place].view(height, width)[rows, columns] = pixels[*ends]
        index[count + place].view(height, width)[*ends] = pixels[rows, columns]
    flat = links.flatten(1)
    roots = flat.sum(dim=0).sqrt()
    scaled = flat / roots / roots[index]
    scaled = torch.where(scaled < FAINT, 0.0, scaled).float()
    return _TorchGraph((height, width), index.T.contiguous(), scaled.T.contiguous(), roots[:, None])
