"""Give the convolutions of a stage a cascade of dilations.

Successive 3x3 convolutions with dilations 1, 2, 3, 1, 2, 3, ... see a growing field without gaps,
while equal dilations look at every second cell only (Wang et al., "Understanding Convolution for
Semantic Segmentation", WACV 2018). As everywhere in `wsseg.nets`, what belongs to a stage is found
by running the network once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import torch
from torch import nn

from wsseg.errors import RecipeError
from wsseg.nets.backbones import Backbone


def set_cascade(backbone: Backbone, dilations: Sequence[int], *, stages_from_end: int) -> None:
    """Set the dilations of the 3x3 convolutions of one stage, in the order in which they run.

    Their output keeps its size; a convolution that keeps a stride is left as it is.

    Args:
        backbone: Changed.
        dilations: Of successive convolutions, repeated; empty: nothing is changed.
        stages_from_end: Which stage: 0 the last, 1 the one before.

    Raises:
        RecipeError: When there is no such stage, or it has no 3x3 convolution to dilate.
    """
    if not dilations:
        return
    found = stage_convolutions(backbone, stages_from_end)
    if not found:
        where = "last stage" if stages_from_end == 0 else "stage before the last"
        raise RecipeError(
            f'Backbone "{backbone.name}" has no 3x3 convolution without stride in its {where}, '
            "which a cascade of dilations needs. Choose a ResNet or VGG, or leave that cascade "
            "empty (localize.middle_dilations=[], localize.last_dilations=[])."
        )
    for conv, dilation in zip(found, cycle(dilations), strict=False):
        conv.dilation = (dilation, dilation)
        if not _pads_itself(conv):
            conv.padding = (dilation, dilation)


def stage_convolutions(backbone: Backbone, stages_from_end: int) -> list[nn.Conv2d]:
    """List the 3x3 convolutions without stride of one stage, in the order in which they run.

    Args:
        backbone: Any; left unchanged.
        stages_from_end: Which stage: 0 the last, 1 the one before.

    Returns:
        Those that run after the end of the stage before and up to the end of this one.
    """
    ends = set(backbone.stage_modules().values())
    groups: list[list[nn.Conv2d]] = [[]]

    def note(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if isinstance(module, nn.Conv2d) and _can_be_dilated(module):
            groups[-1].append(module)
        if module in ends:
            groups.append([])

    watched = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) or m in ends]
    handles = [module.register_forward_hook(note) for module in watched]
    was_training = backbone.training
    parameter = next(backbone.parameters())
    side = 2 * max(32, backbone.size_multiple)
    try:
        with torch.no_grad():
            backbone.eval()(parameter.new_zeros(1, backbone.in_channels, side, side))
    finally:
        for handle in handles:
            handle.remove()
        backbone.train(was_training)
    # What runs behind the last stage, such as a final convolution, belongs to no stage.
    stages = groups[: len(ends)]
    return stages[-1 - stages_from_end] if stages_from_end < len(stages) else []


def _can_be_dilated(conv: nn.Conv2d) -> bool:
    if conv.kernel_size != (3, 3) or conv.stride != (1, 1):
        return False
    return _pads_itself(conv) or conv.padding == conv.dilation


def _pads_itself(conv: nn.Conv2d) -> bool:
    is_same = type(conv).__name__ == "Conv2dSame" or bool(getattr(conv, "same_pad", False))
    return is_same or isinstance(conv.padding, str)
