"""From a class map to a class score: how strongly small regions speak.

Global average pooling drowns an object that covers a thousandth of the image; the maximum trains
one cell only. The poolings here span the range between the two.

References:
    GAP: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
    Log-sum-exp: Pinheiro and Collobert, "From Image-level to Pixel-level Labeling with
    Convolutional Networks", CVPR 2015 (from memory).
    GWRP: Kolesnikov and Lampert, "Seed, Expand and Constrain", ECCV 2016.

Differences: every pooling takes an optional mask of valid cells, so that the zero padding of a
crop does not count, and GWRP can scale its decay to the size of the map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from wsseg.config import Config

if TYPE_CHECKING:
    from torch import Tensor

# Cells of the 41 x 41 map for which the SEC paper gives its decay.
SEC_MAP_CELLS = 1681


class Gap(Config):
    """Global average pooling."""

    name: Literal["gap"] = Field("gap", description="Mean over all cells.")


class GlobalMax(Config):
    """Global max pooling."""

    name: Literal["max"] = Field("max", description="Highest cell.")


class LogSumExp(Config):
    """Smooth maximum ``1/r log mean exp(r x)``."""

    name: Literal["lse"] = Field("lse", description="Smooth maximum.")
    sharpness: float = Field(
        4.0,
        gt=0,
        le=1000,
        description="r, no unit: towards 0 the mean, towards infinity the maximum.",
    )


class TopK(Config):
    """Mean over the highest cells."""

    name: Literal["topk"] = Field("topk", description="Mean of the highest cells.")
    fraction: float = Field(
        0.1, gt=0, le=1, description="Fraction of the cells that count; at least one cell."
    )


class Gwrp(Config):
    """Global weighted rank pooling: the j-th highest cell counts ``d^j``."""

    name: Literal["gwrp"] = Field("gwrp", description="Weighted mean of the cells by rank.")
    decay: float = Field(
        0.996, ge=0, le=1, description="d, no unit: 0 is the maximum, 1 is the mean."
    )
    scale_to_map: bool = Field(
        True,
        description="Use d^(1681 / cells), so that the same fraction of a map of any size counts "
        "as on the 41 x 41 map of the paper.",
    )


Pooling = Annotated[Gap | GlobalMax | LogSumExp | TopK | Gwrp, Field(discriminator="name")]


def pool(maps: Tensor, config: Pooling, valid: Tensor | None = None) -> Tensor:
    """Pool class maps with the configured rule.

    Args:
        maps: (N, C, h, w) float.
        config: Which rule, with its parameter.
        valid: (N, 1, h, w) bool, True where a cell counts; None: all cells. Each image needs at
            least one valid cell.

    Returns:
        (N, C) float32.
    """
    if isinstance(config, Gap):
        return gap(maps, valid)
    if isinstance(config, GlobalMax):
        return global_max(maps, valid)
    if isinstance(config, LogSumExp):
        return log_sum_exp(maps, config.sharpness, valid)
    if isinstance(config, TopK):
        return topk(maps, config.fraction, valid)
    return gwrp(maps, config.decay, valid, scale_to_map=config.scale_to_map)


def gap(maps: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average the valid cells.

    Args:
        maps: (N, C, h, w) float.
        valid: (N, 1, h, w) bool or None for all cells.

    Returns:
        (N, C) float32.
    """
    maps = maps.float()
    if valid is None:
        return maps.mean(dim=(2, 3))
    return (maps * valid).sum(dim=(2, 3)) / valid.sum(dim=(2, 3))


def global_max(maps: Tensor, valid: Tensor | None = None) -> Tensor:
    """Take the highest valid cell.

    Args:
        maps: (N, C, h, w) float.
        valid: (N, 1, h, w) bool or None for all cells.

    Returns:
        (N, C) float32.
    """
    return _masked(maps, valid).amax(dim=2)


def log_sum_exp(maps: Tensor, sharpness: float, valid: Tensor | None = None) -> Tensor:
    """Take the smooth maximum ``1/r log(1/n sum exp(r x))``.

    Args:
        maps: (N, C, h, w) float.
        sharpness: r > 0.
        valid: (N, 1, h, w) bool or None for all cells.

    Returns:
        (N, C) float32, between the mean and the maximum.
    """
    cells = _masked(maps, valid)
    return ((cells * sharpness).logsumexp(dim=2) - _counts(maps, valid).log()) / sharpness


def topk(maps: Tensor, fraction: float, valid: Tensor | None = None) -> Tensor:
    """Average the highest cells.

    Args:
        maps: (N, C, h, w) float.
        fraction: Fraction of the valid cells in (0, 1]; rounded, at least one cell.
        valid: (N, 1, h, w) bool or None for all cells.

    Returns:
        (N, C) float32.
    """
    kept = (_counts(maps, valid) * fraction).round().clamp(min=1)
    largest = int(kept.max().item())
    cells = _masked(maps, valid).topk(largest, dim=2).values
    ranks = cells.detach().new_tensor(range(largest))
    counted = ranks < kept.unsqueeze(2)
    return cells.masked_fill(~counted, 0.0).sum(dim=2) / kept


def gwrp(
    maps: Tensor, decay: float, valid: Tensor | None = None, *, scale_to_map: bool = False
) -> Tensor:
    """Average the cells with weights that decay with their rank.

    ``sum_j d^j x_(j) / sum_j d^j`` with ``x_(0) >= x_(1) >= ...``.

    Args:
        maps: (N, C, h, w) float.
        decay: d in [0, 1].
        valid: (N, 1, h, w) bool or None for all cells.
        scale_to_map: Use ``d^(1681 / n)`` with n the number of valid cells.

    Returns:
        (N, C) float32.
    """
    counts = _counts(maps, valid)
    cells = _masked(maps, valid).sort(dim=2, descending=True).values
    ranks = cells.detach().new_tensor(range(cells.shape[2]))
    counted = ranks < counts.unsqueeze(2)
    base = counts.new_full(counts.shape, decay)
    if scale_to_map:
        base = base ** (SEC_MAP_CELLS / counts)
    weights = (base.unsqueeze(2) ** ranks) * counted
    return (cells.masked_fill(~counted, 0.0) * weights).sum(dim=2) / weights.sum(dim=2)


def _masked(maps: Tensor, valid: Tensor | None) -> Tensor:
    """Flatten to (N, C, n) float32 with invalid cells at minus infinity."""
    maps = maps.float()
    if valid is not None:
        maps = maps.masked_fill(~valid, float("-inf"))
    return maps.flatten(2)


def _counts(maps: Tensor, valid: Tensor | None) -> Tensor:
    """Count the valid cells of each image: (N, 1) float32."""
    if valid is None:
        cells = float(maps.shape[2] * maps.shape[3])
        return maps.detach().new_full((maps.shape[0], 1), cells).float()
    return valid.sum(dim=(2, 3)).float()
