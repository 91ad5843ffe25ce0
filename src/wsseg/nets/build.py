"""Make a backbone by name: weights, output stride, grey input, frozen parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wsseg.errors import RecipeError
from wsseg.nets.backbones import (
    STRIDES,
    Backbone,
    captured,
    feature_info,
    layout_of,
    patch_size,
    published_stages,
)
from wsseg.nets.local_contrast import LocalContrast
from wsseg.nets.output_stride import set_output_stride
from wsseg.nets.trunks import create_trunk

# What networks raise on an image of a size, or in a form, that they cannot take.
_SHAPE_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError)
_CHECK_PX = 64


def build_backbone(
    name: str,
    *,
    weights: str = "none",
    output_stride: int = 8,
    dilate: bool = True,
    in_channels: int = 3,
    freeze_batchnorm: bool = False,
    stop_gradient_after_stage: int | None = None,
    last_stage: int | None = None,
    local_contrast_px: int | None = None,
) -> Backbone:
    """Make a backbone.

    Args:
        name: A timm network, ``resnet38d`` or ``vgg16_largefov``.
        weights: ``imagenet``, ``none`` or the path of a weight file.
        output_stride: Pixels per feature cell: 32, 16, 8 or 4.
        dilate: Dilate the layers behind a removed stride; False for IRN's way.
        in_channels: 3, or 1 for grey images.
        freeze_batchnorm: Use running statistics always and train no batch normalisation.
        stop_gradient_after_stage: Train nothing up to the end of this stage; None: train all.
        last_stage: Leave out the stages behind this one; None: keep all.
        local_contrast_px: Side of the box that `LocalContrast` measures images against; None:
            images go in as they are.

    Returns:
        The backbone in training mode.

    Raises:
        RecipeError: When the network does not exist or cannot do what is asked.
        MissingWeightsError: When the weights cannot be had or do not fit.
    """
    if output_stride not in STRIDES:
        raise RecipeError(f"Output stride {output_stride} is not offered; choose from {STRIDES}.")
    trunk = create_trunk(name, weights=weights, in_channels=in_channels)
    if last_stage is not None:
        _cut_after(trunk, name, last_stage, in_channels)
    try:
        _stride_trunk(trunk, output_stride, dilate=dilate, in_channels=in_channels)
        backbone = Backbone(trunk, name, in_channels)
    except _SHAPE_ERRORS as error:
        raise _cannot_stride(
            name, output_stride, in_channels, str(error), last_stage=last_stage
        ) from error
    if backbone.stride != output_stride:
        reason = f"its output has stride {backbone.stride}"
        raise _cannot_stride(name, output_stride, in_channels, reason, last_stage=last_stage)
    backbone.freeze_unused()
    statistics = getattr(trunk, "pretrained_cfg", None) or {}
    if weights != "none" and "mean" in statistics:
        backbone.normalise_like(statistics["mean"], statistics["std"])
    if freeze_batchnorm:
        backbone.freeze_batchnorm()
    if stop_gradient_after_stage is not None:
        backbone.freeze_through(stop_gradient_after_stage)
    if local_contrast_px is not None:
        backbone.local_contrast = LocalContrast(local_contrast_px)
    return backbone.train()


def _cut_after(trunk: Any, name: str, last_stage: int, in_channels: int) -> None:
    """Replace the stages behind one by nothing; stages are counted as in `Backbone`.

    Raises:
        RecipeError: When there is no such stage, or the network has layers behind it that belong
            to no stage of their own, so that its output would not be that of the stage.
    """
    stages = {} if layout_of(trunk) == "tokens" else published_stages(trunk)
    if last_stage not in stages:
        known = ", ".join(map(str, stages)) or "none"
        raise RecipeError(
            f'"{name}" cannot end after stage {last_stage}; stages that it can end after: '
            f"{known}. Leave last_stage out."
        )
    behind = [module for stage, module in stages.items() if stage > last_stage]
    if not behind:
        return
    try:
        for module in behind:
            parent, _, child = module.rpartition(".")
            setattr(trunk.get_submodule(parent), child, nn.Identity())
        is_cut = _ends_with(trunk, trunk.get_submodule(stages[last_stage]), in_channels)
    except (AttributeError, *_SHAPE_ERRORS):
        is_cut = False
    if not is_cut:
        raise RecipeError(
            f'"{name}" cannot end after stage {last_stage}: it has layers behind it that cannot be '
            "left out. Leave last_stage out, or choose a ResNet, RegNet or ConvNeXt."
        )
    trunk.feature_info = feature_info(trunk)[: -len(behind)]


def _ends_with(trunk: Any, stage: nn.Module, in_channels: int) -> bool:
    """Tell whether the output of a network is that of one of its modules."""
    noise = torch.rand(
        1, in_channels, _CHECK_PX, _CHECK_PX, generator=torch.Generator().manual_seed(0)
    )
    was_training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad(), captured([stage]) as outputs:
            features = trunk.forward_features(noise)
    finally:
        trunk.train(was_training)
    return stage in outputs and torch.equal(features, outputs[stage])


def _stride_trunk(trunk: Any, wanted: int, *, dilate: bool, in_channels: int) -> None:
    if layout_of(trunk) == "tokens":
        _stride_patches(trunk, wanted)
        return
    set_output_stride(
        trunk, wanted, run=trunk.forward_features, in_channels=in_channels, dilate=dilate
    )


def _stride_patches(trunk: Any, wanted: int) -> None:
    """Let the patches of a transformer overlap, so that there are more of them."""
    patch = patch_size(trunk)
    if wanted < patch and patch % wanted == 0 and (patch - wanted) % 2 == 0:
        projection = trunk.patch_embed.proj
        projection.stride = (wanted, wanted)
        projection.padding = ((patch - wanted) // 2,) * 2


def _cannot_stride(
    name: str, wanted: int, in_channels: int, reason: str, *, last_stage: int | None
) -> RecipeError:
    """Say which output strides a backbone offers, by trying them on untrained copies."""
    offered = []
    for stride in STRIDES:
        if stride == wanted:
            continue
        try:
            trunk = create_trunk(name, weights="none", in_channels=in_channels)
            if last_stage is not None:
                _cut_after(trunk, name, last_stage, in_channels)
            _stride_trunk(trunk, stride, dilate=True, in_channels=in_channels)
            if Backbone(trunk, name, in_channels).stride == stride:
                offered.append(stride)
        except _SHAPE_ERRORS:
            continue
    advice = "It cannot be used for class maps; choose another backbone, e.g. resnet18."
    if offered:
        nearest = min(offered, key=lambda stride: max(stride / wanted, wanted / stride))
        advice = (
            f"It offers {', '.join(map(str, offered))} (--set localize.output_stride={nearest})."
        )
    return RecipeError(
        f'Backbone "{name}" cannot work with output stride {wanted} ({reason}). {advice}'
    )
