"""Give any convolutional network a finer output: strides become dilations.

Every layer that would reduce the image beyond the wanted output stride gets stride 1, and every
later layer is dilated by what is no longer reduced, so that it still sees the same places:
the "algorithme a trous" as used by Chen et al., "DeepLab: Semantic Image Segmentation with Deep
Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", TPAMI 2018. No weight changes.

timm offers this for some networks and for strides 8 and 16; here the layers are found by running
the network once, so that it works for stride 4 and for networks that have no such option. For
ResNet, ResNet-D, ConvNeXt, EfficientNet, NFNet and RegNet the result is timm's (tested). Average
and blur pooling cannot be dilated; they lose their stride only, as in timm's ResNets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# At 128 pixels a stride of 32 leaves 4 cells: enough to tell the reduction of each layer.
PROBE_PX = 128


def set_output_stride(
    trunk: nn.Module,
    wanted: int,
    *,
    run: Callable[[Tensor], Any],
    in_channels: int = 3,
    dilate: bool = True,
) -> None:
    """Reduce strides so that no layer's output is coarser than wanted; changed in place.

    Args:
        trunk: A convolutional network.
        wanted: Output stride, a power of two.
        run: Runs the network on (1, in_channels, P, P) images.
        in_channels: 1 or 3.
        dilate: Dilate later layers; False leaves them undilated, as IRN does, so that they see a
            smaller surrounding.
    """
    calls = _reductions(trunk, run, in_channels)
    parents = {
        child: (parent, name)
        for parent in trunk.modules()
        for name, child in parent.named_children()
    }
    for module, (reduction_in, reduction_out) in calls.items():
        stride = _first(module.stride)
        factor = max(1, reduction_in // wanted) if dilate else 1
        new_stride = stride
        if stride > 1 and reduction_out > wanted:
            new_stride = max(1, wanted // reduction_in)
        if factor == 1 and new_stride == stride:
            continue
        if isinstance(module, nn.Conv2d):
            _change_conv(module, new_stride, factor)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            parent, name = parents[module]
            setattr(parent, name, _changed_pool(module, new_stride, factor))
        else:
            module.stride = new_stride


def _reductions(
    trunk: nn.Module, run: Callable[[Tensor], Any], in_channels: int
) -> dict[Any, tuple[int, int]]:
    """Run the network once and note the reduction before and after each strided kind of layer."""
    from timm.layers.blur_pool import BlurPool2d

    calls: dict[Any, tuple[int, int]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = (_reduction(inputs[0]), _reduction(output))

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)
    handles = [m.register_forward_hook(note) for m in trunk.modules() if isinstance(m, kinds)]
    was_training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            run(torch.zeros(1, in_channels, PROBE_PX, PROBE_PX))
    finally:
        trunk.train(was_training)
        for handle in handles:
            handle.remove()
    return calls


def _reduction(features: Tensor) -> int:
    """Tell the reduction from the height, rounded to a power of two."""
    exponent = round(math.log2(PROBE_PX / features.shape[-2]))
    return 2 ** max(0, exponent)


def _first(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple | list) else value


def _change_conv(conv: nn.Conv2d, stride: int, factor: int) -> None:
    """Set stride and dilation, and the padding that keeps the size."""
    changes_stride = stride != _first(conv.stride)
    conv.stride = (stride, stride)
    if conv.kernel_size == (1, 1):
        return
    old_dilation = conv.dilation
    conv.dilation = (old_dilation[0] * factor, old_dilation[1] * factor)
    pads_itself = type(conv).__name__ == "Conv2dSame" or getattr(conv, "same_pad", False)
    if pads_itself or isinstance(conv.padding, str):
        return
    centred = tuple(d * (k - 1) / 2 for d, k in zip(old_dilation, conv.kernel_size, strict=True))
    if centred == conv.padding:
        conv.padding = (conv.padding[0] * factor, conv.padding[1] * factor)
    elif changes_stride and stride == 1:
        # Patch-merging kernels of even size have no centre: pad one side more, as timm does.
        missing = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        (top, left), (down, right) = ([m // 2 for m in missing], [m - m // 2 for m in missing])
        conv.padding = (0, 0)
        conv.register_forward_pre_hook(partial(_pad_input, (left, right, top, down)))


def _pad_input(
    padding: tuple[int, int, int, int], _conv: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    return (F.pad(inputs[0], padding),)


def _changed_pool(pool: nn.MaxPool2d | nn.AvgPool2d, stride: int, factor: int) -> nn.Module:
    """Make a pooling with another stride that keeps the size."""
    from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

    kernel = _first(pool.kernel_size)
    if isinstance(pool, nn.AvgPool2d):
        if stride == _first(pool.stride):
            return pool
        return AvgPool2dSame(kernel, stride, ceil_mode=True, count_include_pad=False)
    dilation = _first(pool.dilation) * factor
    if stride > 1:
        return nn.MaxPool2d(kernel, stride, pool.padding, dilation, ceil_mode=pool.ceil_mode)
    return MaxPool2dSame(kernel, stride, dilation=dilation)
