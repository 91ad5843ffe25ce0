"""PAMR and PAR in torch: the published, unfolded form, for GPUs and for gradients.

The scores of all neighbours are stacked, N x K x 48 x H x W numbers, weighted and summed. On a
CPU the compiled form, `wsseg.kernels.pamr`, is many times faster and needs a fraction of the
memory; the formulas stand there. Labels do not depend on each other: where memory is short, pass
them one at a time with the same weights.

References: N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR
2020 (PAMR); L. Ru, Y. Zhan, B. Yu, B. Du, "Learning Affinity from Attention: End-to-End
Weakly-Supervised Semantic Segmentation with Transformers", CVPR 2022 (PAR; its constants from
memory).

Differences: PAR's weights are divided by their sum, 1.01. Score maps are not resized here; the
published code does it with corners aligned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.kernels.pamr_config import EPSILON, PamrConfig


def pamr_weights(images: Tensor, config: PamrConfig = PamrConfig()) -> Tensor:
    """Compute how much each neighbour of each pixel counts.

    Args:
        images: (N, D, H, W) floating point, any number D of channels. Their scale does not
            matter unless it is below 1e-6.
        config: Neighbours and scales.

    Returns:
        (N, P, H, W) >= 0 of the images' type, which sum to one over the P neighbours.

    Raises:
        ValueError: When the shape or type is wrong.

    Example:
        >>> weights = pamr_weights(torch.ones(1, 3, 2, 3), PamrConfig(dilations_px=(1,)))
        >>> weights.shape, weights[0, :, 0, 0].tolist()
        (torch.Size([1, 8, 2, 3]), [0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125])
    """
    _check(images, "images")
    around = _neighbours(images, config)  # (N, D, P, H, W)
    here = images.unsqueeze(2)
    centres = here.expand(-1, -1, config.num_centres, -1, -1)
    spread = torch.cat((around, centres), dim=2).std(dim=2, keepdim=True)
    difference = (around - here).abs() / (config.scale * spread + EPSILON)
    weights = torch.softmax(-difference.pow(config.power).mean(dim=1), dim=1)  # (N, P, H, W)
    share = config.position_share
    if share == 0:
        return weights
    position = torch.from_numpy(config.position_weights()).to(weights)
    return (1 - share) * weights + share * position[:, None, None]


def pamr(
    images: Tensor,
    masks: Tensor,
    config: PamrConfig = PamrConfig(),
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Average scores over neighbours of like colour, again and again.

    Gradients flow to both inputs.

    Args:
        images: (N, D, H, W) floating point.
        masks: (N, K, H, W) floating point scores.
        config: Neighbours, scales and iterations.
        weights: What `pamr_weights` returned for these images and settings; None computes it.

    Returns:
        (N, K, H, W) within the range of ``masks``, up to rounding.

    Raises:
        ValueError: When a shape or type is wrong.

    Example:
        >>> images = torch.zeros(1, 3, 1, 4)
        >>> images[..., 2:] = 1.0
        >>> masks = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
        >>> config = PamrConfig(dilations_px=(1,), iterations=8)
        >>> [round(score, 2) for score in pamr(images, masks, config).flatten().tolist()]
        [0.62, 0.62, 0.0, 0.0]
    """
    _check(masks, "masks")
    if weights is None:
        weights = pamr_weights(images, config)
    expected = (len(masks), len(config.offsets), *masks.shape[2:])
    if weights.shape != expected:
        raise ValueError(
            f"The weights have shape {tuple(weights.shape)}, but masks of shape "
            f"{tuple(masks.shape)} need {expected} (N, P, H, W). Resize the masks to the images, "
            "and compute weights with the same settings."
        )
    for _ in range(config.iterations):
        masks = (_neighbours(masks, config) * weights.unsqueeze(1)).sum(dim=2)
    return masks


def _neighbours(planes: Tensor, config: PamrConfig) -> Tensor:
    """Stack the neighbours of every pixel: (N, D, H, W) to (N, D, P, H, W)."""
    height, width = planes.shape[2:]
    pad = max(config.dilations_px)
    padded = F.pad(planes, (pad, pad, pad, pad), mode="replicate")
    return torch.stack(
        [
            padded[:, :, pad + dy : pad + dy + height, pad + dx : pad + dx + width]
            for dy, dx in config.offsets
        ],
        dim=2,
    )


def _check(planes: Tensor, name: str) -> None:
    if planes.ndim != 4 or not planes.is_floating_point() or not planes.numel():
        raise ValueError(
            f"{name} has shape {tuple(planes.shape)} and type {planes.dtype}; expected a "
            "floating-point tensor of four dimensions (N, channels, H, W), none 0."
        )
