"""Where the cells of feature maps look, and features drawn where they look.

A convolution of 3 pixels with stride 2 and padding 1 puts the centre of its cell k on pixel 2 k of
its input, so that cell k of a ResNet's stage of stride s is centred on pixel s k. Enlarging such
features with ``align_corners=False``, as published code does, takes the centre to be
s k + (s - 1) / 2: everything moves right and down by (s - 1) / 2 pixels, 7.5 at stride 16. That is
little in photographs of 500 pixels and much in images of 100, or for small defects. Networks that
cut the image into patches (ViT, ConvNeXt) and max pooling over 2 x 2 without padding (VGG) have no
such shift.

The rule for one layer with kernel k, dilation d, padding p on an input whose cells are j pixels
apart: its centres lie ((k - 1) d / 2 - p) j pixels behind those of the input (receptive field
arithmetic, Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill 2019; from memory).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Subclasses that choose their padding by the size of the input are not accounted for.
_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Layer:
    """A layer that makes the grid coarser.

    Args:
        height: Rows of its input.
        kernel: Side of its window, dilation included.
        stride: Cells that it steps over.
        shift: Cells of its input by which its centres lie behind those of the input.
    """

    height: int
    kernel: int
    stride: int
    shift: float


@contextmanager
def strided_layers(network: nn.Module) -> Iterator[list[Layer]]:
    """Collect the layers that make the grid coarser while the block runs.

    Args:
        network: The network that is run in the block.

    Yields:
        Filled by each forward pass, in the order of execution.
    """
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        kernel, stride, dilation, padding = (
            _first(getattr(module, key, 1))
            for key in ("kernel_size", "stride", "dilation", "padding")
        )
        extent = (kernel - 1) * dilation
        found.append(Layer(inputs[0].shape[2], extent + 1, stride, extent / 2 - padding))

    handles = [
        module.register_forward_hook(note)
        for module in network.modules()
        if type(module) in _STRIDED and _first(module.stride) > 1
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def first_centre(layers: list[Layer], side_px: int, stride_px: int) -> float:
    """Tell which pixel the first cell of a stage is centred on.

    Args:
        layers: The layers that `strided_layers` found, on an image of ``side_px`` rows.
        side_px: Rows of that image.
        stride_px: Pixels per cell of the stage.

    Returns:
        Pixels, 0 for the middle of the first pixel. Where layers behind one another do not
        account for the stride (patch merging, padding by the size of the input), (stride - 1) / 2:
        centred, which is what enlarging without this module takes for granted.

    Example:
        >>> stem = [Layer(64, 7, 2, 0.0), Layer(32, 3, 2, 0.0)]  # of a ResNet
        >>> first_centre(stem, 64, 4)
        0.0
        >>> first_centre([Layer(64, 16, 16, 7.5)], 64, 16)  # of a ViT
        7.5
    """
    centre, distance = 0.0, 1
    while distance < stride_px:
        # Rounded: layers without padding lose rows at the end.
        level = [layer for layer in layers if round(side_px / layer.height) == distance]
        # Shortcuts take the same step with a smaller window.
        widest = max((layer.kernel for layer in level), default=0)
        main = [layer for layer in level if layer.kernel == widest]
        if len({(layer.stride, layer.shift) for layer in main}) != 1:
            return (stride_px - 1) / 2
        centre += main[0].shift * distance
        distance *= main[0].stride
    return centre if distance == stride_px else (stride_px - 1) / 2


class Cells(NamedTuple):
    """Where the cells of a grid look; rows and columns alike.

    Args:
        first_px: Pixel on which the first cell is centred; 0 is the middle of the first pixel.
        stride_px: Pixels from one cell to the next.
    """

    first_px: float
    stride_px: float

    @classmethod
    def covering(cls, stride_px: float) -> Cells:
        """Make the grid whose cell k covers the pixels from k ``stride_px`` on."""
        return cls((stride_px - 1) / 2, stride_px)


def place(features: Tensor, size: tuple[int, int], source: Cells, target: Cells) -> Tensor:
    """Draw features on a grid where they look.

    Args:
        features: (N, D, h, w) float.
        size: Cells (h', w') of the grid.
        source: Where the cells of the features look.
        target: Where the cells of the grid look.

    Returns:
        (N, D, h', w') of the same type, bilinear; beyond the outer centres the outermost value.
        The features themselves where nothing changes.

    Example:
        >>> row = torch.tensor([[[[0.0, 1.0]]]])
        >>> place(row, (1, 4), Cells(0, 4), Cells.covering(2))[0, 0].tolist()
        [[0.125, 0.625, 1.0, 1.0]]
    """
    if source == target and features.shape[2:] == size:
        return features
    # Half precision tells only some 256 places apart, fewer than a grid has cells.
    kind = torch.promote_types(features.dtype, torch.float32)
    axes = []
    for cells, count in zip(features.shape[2:], size, strict=True):
        steps = torch.arange(count, dtype=kind, device=features.device)
        middles = target.first_px + steps * target.stride_px
        axes.append(2 * ((middles - source.first_px) / source.stride_px + 0.5) / cells - 1)
    rows, columns = torch.meshgrid(axes[0], axes[1], indexing="ij")
    where = torch.stack([columns, rows], dim=-1)
    drawn = F.grid_sample(
        features.to(kind),
        where[None].expand(len(features), -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return drawn.to(features.dtype)


def _first(value: Any) -> int:
    """Give the number of rows of a setting that is one number or (rows, columns)."""
    return int(value[0]) if isinstance(value, tuple | list) else int(value)
