"""The dense CRF in torch: the same function on a tensor of any device, for GPUs.

The steps are those of `wsseg.kernels.dense_crf`, with the vertices numbered by sorting. On a CPU
the compiled form is several times faster. Rows are summed in a fixed order, without atomic
additions.

References: P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian
Edge Potentials", NIPS 2011; A. Adams, J. Baek, M. A. Davis, "Fast High-Dimensional Filtering
Using the Permutohedral Lattice", Computer Graphics Forum, 2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.kernels._permutohedral_keys import feature_bounds, key_radix
from wsseg.kernels.dense_crf_config import PSA, CrfConfig


@dataclass(frozen=True, eq=False)
class TorchLattice:
    """A normalised permutohedral lattice on one device.

    Splat and slice are both sums of weighted rows: the splat has one bag of pixels per vertex,
    the slice one bag of vertices per pixel.

    Args:
        shape: (H, W) of the image; N = H * W.
        index: (N, d + 1) int64 vertices of each pixel's simplex.
        weights: (N, d + 1) float32 barycentric weights times 1 / sqrt(row sum of the kernel).
        pixels: (N * (d + 1),) int64 pixels of each vertex, vertex by vertex.
        pixel_weights: (N * (d + 1),) float32 ``weights`` in that order.
        starts: (M,) int64 where each vertex starts in ``pixels``.
        neighbours: (d + 1, 2, M) int64 neighbours along each axis; M where there is none.
    """

    shape: tuple[int, int]
    index: Tensor
    weights: Tensor
    pixels: Tensor
    pixel_weights: Tensor
    starts: Tensor
    neighbours: Tensor

    @property
    def num_vertices(self) -> int:
        """M, the number of distinct vertices."""
        return self.neighbours.shape[2]

    def filter(self, values: Tensor) -> Tensor:
        """Filter rows of values with the normalised kernel.

        Args:
            values: (N, V) float32 on the lattice's device.

        Returns:
            (N, V) float32.
        """
        corners, _, count = self.neighbours.shape
        # The last row stays zero: missing neighbours point to it.
        vertices = values.new_zeros((count + 1, values.shape[1]))
        vertices[:count] = F.embedding_bag(
            self.pixels,
            values.contiguous(),
            self.starts,
            mode="sum",
            per_sample_weights=self.pixel_weights,
        )
        for axis in range(corners):
            both = vertices[self.neighbours[axis, 0]] + vertices[self.neighbours[axis, 1]]
            vertices[:count] += 0.5 * both
        alpha = 1.0 / (1.0 + 2.0 ** -(corners - 1))
        return alpha * F.embedding_bag(
            self.index, vertices, mode="sum", per_sample_weights=self.weights
        )


@dataclass(frozen=True, eq=False)
class TorchCrfLattices:
    """The two lattices of an image on one device, and the sigmas they were built for."""

    gaussian: TorchLattice
    bilateral: TorchLattice
    sigmas: tuple[float, float, float]


def build_crf_lattices(image: Tensor, config: CrfConfig = PSA) -> TorchCrfLattices:
    """Build what all CRFs on one image share.

    Args:
        image: (H, W, 3) uint8 RGB on any device.
        config: The standard deviations; the other settings do not matter here.

    Returns:
        The lattices, on the device of the image.

    Raises:
        ValueError: When the image is no (H, W, 3) uint8 tensor.
        RecipeError: When a sigma is too small to number the lattice.
    """
    _check_image(image)
    return TorchCrfLattices(
        gaussian=_build(image[..., :0], config.gauss_sxy_px, 1.0),
        bilateral=_build(image, config.bilateral_sxy_px, config.bilateral_srgb),
        sigmas=config.sigmas,
    )


def dense_crf(
    image: Tensor,
    unary: Tensor,
    *,
    config: CrfConfig = PSA,
    lattice: TorchCrfLattices | None = None,
    prune_below: float = 0.0,
) -> Tensor:
    """Compute the marginals of a dense CRF; see `wsseg.kernels.dense_crf.dense_crf`.

    Args:
        image: (H, W, 3) uint8 RGB on any device; not changed.
        unary: (K, H, W) energies on the same device; not changed.
        config: Kernels and iterations.
        lattice: What `build_crf_lattices` returned for this image and these sigmas; None builds
            it.
        prune_below: Probability in [0, 1) below which labels are left out; 0 keeps all.

    Returns:
        (K, H, W) float32 marginals on the same device; all 1 when K = 1.

    Raises:
        ValueError: When shapes do not fit, an energy is NaN, or ``lattice`` belongs to another
            image size or to other sigmas.
        RecipeError: When a sigma is too small to number the lattice.

    Example:
        >>> image = torch.zeros((2, 3, 3), dtype=torch.uint8)
        >>> dense_crf(image, torch.zeros((2, 2, 3)))[0].tolist()
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """
    _check_image(image)
    if unary.ndim != 3 or unary.shape[1:] != image.shape[:2] or not len(unary):
        raise ValueError(
            f"unary has shape {tuple(unary.shape)}; expected (K, {image.shape[0]}, "
            f"{image.shape[1]})."
        )
    if not 0 <= prune_below < 1:
        raise ValueError(f"prune_below is {prune_below}; expected a number in [0, 1).")
    if torch.isnan(unary).any():
        raise ValueError(f"unary has {int(torch.isnan(unary).sum())} NaN values.")
    marginals = torch.zeros(unary.shape, dtype=torch.float32, device=unary.device)
    if len(unary) == 1:
        return marginals.fill_(1.0)
    if lattice is None:
        lattice = build_crf_lattices(image, config)
    if lattice.bilateral.shape != tuple(image.shape[:2]) or lattice.sigmas != config.sigmas:
        raise ValueError(
            f"The lattice was built for an image of {lattice.bilateral.shape} and sigmas "
            f"{lattice.sigmas}; these are {tuple(image.shape[:2])} and {config.sigmas}."
        )
    log_odds = (-unary).clamp(-1e30, 1e30).float().flatten(1).T
    initial = torch.softmax(log_odds, dim=1)
    kept = _likely_labels(initial, prune_below)
    result = _mean_field(log_odds[:, kept].contiguous(), config, lattice)
    marginals[kept] = result.T.reshape(-1, *unary.shape[1:])
    return marginals


def _likely_labels(probabilities: Tensor, prune_below: float) -> Tensor:
    peaks = probabilities.amax(dim=0)
    return torch.nonzero((peaks >= prune_below) | (peaks == peaks.max())).flatten()


def _mean_field(log_odds: Tensor, config: CrfConfig, lattices: TorchCrfLattices) -> Tensor:
    """Iterate the mean field on rows (N, K)."""
    marginals = torch.softmax(log_odds, dim=1)
    for _ in range(config.iterations):
        field = log_odds.clone()
        for weight, lattice in (
            (config.gauss_compat, lattices.gaussian),
            (config.bilateral_compat, lattices.bilateral),
        ):
            if weight > 0:
                field.add_(lattice.filter(marginals), alpha=weight)
        marginals = torch.softmax(field, dim=1)
    return marginals


def _build(values: Tensor, position_sigma: float, value_sigma: float) -> TorchLattice:
    """Build a normalised lattice over position and the last axis of values (H, W, C)."""
    if values.device.type == "mps":
        # Metal has no float64, which the simplex search needs.
        lattice = _build(values.cpu(), position_sigma, value_sigma)
        tensors = {
            field.name: getattr(lattice, field.name).to(values.device)
            for field in fields(lattice)
            if field.name != "shape"
        }
        return TorchLattice(lattice.shape, **tensors)
    height, width, channels = values.shape
    extremes = [int(values.min()), int(values.max())] if channels else [0, 0]
    stand_in = np.array(extremes, np.uint8).repeat(channels).reshape(2, channels)
    sigmas = np.array([position_sigma, value_sigma], np.float64)
    j = np.arange(2 + channels)
    scales = math.sqrt(2 / 3) * (3 + channels) / np.sqrt((j + 1) * (j + 2))
    bounds = feature_bounds((height, width), stand_in, sigmas) * scales[:, None]
    radix = torch.from_numpy(key_radix(bounds, sigmas)).to(values.device)
    xs = torch.arange(width, dtype=torch.float64, device=values.device) / position_sigma
    ys = torch.arange(height, dtype=torch.float64, device=values.device) / position_sigma
    position = [xs.repeat(height), ys.repeat_interleave(width)]
    colours = values.to(torch.float64).flatten(0, 1).T / value_sigma
    features = torch.cat([torch.stack(position), colours])
    scaled = features * torch.from_numpy(scales).to(values.device)[:, None]
    keys, weights = _simplices(scaled, radix)
    unique, index = torch.unique(keys.T, return_inverse=True)
    # Stable, so that sums are formed in the same order every time.
    of_vertex, order = torch.sort(index.flatten(), stable=True)
    vertices = torch.arange(len(unique), device=values.device)
    weights = weights.T.contiguous()
    lattice = TorchLattice(
        shape=(height, width),
        index=index,
        weights=weights,
        pixels=order // len(radix),
        pixel_weights=weights.flatten()[order],
        starts=torch.searchsorted(of_vertex, vertices),
        neighbours=_neighbours(unique, radix),
    )
    sums = lattice.filter(torch.ones((len(index), 1), device=values.device))
    weights = weights / (sums + 1e-20).sqrt()
    return replace(lattice, weights=weights, pixel_weights=weights.flatten()[order])


def _simplices(scaled: Tensor, radix: Tensor) -> tuple[Tensor, Tensor]:
    """Return packed keys (d + 1, N) int64 and barycentric weights (d + 1, N) float32."""
    dims, size = scaled.shape
    corners = dims + 1
    elevated = scaled.new_empty((corners, size))
    total = scaled.new_zeros(size)
    for j in range(dims, 0, -1):
        elevated[j] = total - j * scaled[j - 1]
        total = total + scaled[j - 1]
    elevated[0] = total
    nearest = torch.round(elevated / corners)
    remainder = nearest * corners
    residual = elevated - remainder
    rank = nearest.sum(dim=0).expand(corners, size).clone()
    for i in range(corners):
        for j in range(i + 1, corners):
            less = residual[i] < residual[j]
            rank[i] += less
            rank[j] += ~less
    shift = corners * ((rank < 0).double() - (rank > dims).double())
    rank = (rank + shift).long()
    remainder += shift
    # Row r of `ordered` is the residual of the coordinate with rank r.
    ordered = torch.empty_like(elevated).scatter_(0, rank, (elevated - remainder) / corners)
    strides = torch.zeros((corners, size), dtype=torch.int64, device=scaled.device)
    strides[:dims] = corners * radix[:dims, None]
    strides = torch.empty_like(strides).scatter_(0, rank, strides)
    keys = torch.empty_like(strides)
    keys[0] = (remainder[:dims].long() * radix[:dims, None]).sum(dim=0) + radix[dims]
    for k in range(1, corners):
        keys[k] = keys[k - 1] + radix[:dims].sum() - strides[corners - k]
    weights = ordered.flip(0)
    weights[1:] -= ordered.flip(0)[:-1]
    weights[0] += 1.0 - ordered[0]
    return keys, weights.float()


def _neighbours(unique: Tensor, radix: Tensor) -> Tensor:
    """Find the neighbours of sorted keys along each axis, (d + 1, 2, M)."""
    count = len(unique)
    offsets = radix[:-1].sum().repeat(len(radix))
    offsets[:-1] -= len(radix) * radix[:-1]
    wanted = torch.stack([unique + offsets[:, None], unique - offsets[:, None]], dim=1)
    place = torch.searchsorted(unique, wanted).clamp_(max=count - 1)
    return torch.where(unique[place] == wanted, place, count)


def _check_image(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8 or not image.numel():
        raise ValueError(
            f"The image has shape {tuple(image.shape)} and type {image.dtype}; expected "
            "(H, W, 3) uint8."
        )
