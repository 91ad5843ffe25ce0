"""The backbone, and the plain classifier, that the settings of a tag localizer describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.backbones import Backbone
    from wsseg.nets.cam_head import ClassMapNet


def localizer_backbone(config: TagLocalizerConfig, *, load_weights: bool = True) -> Backbone:
    """Build it.

    Args:
        config: Settings of the localizer.
        load_weights: Load the weights that the settings name. False builds the same network with
            random ones, to load a checkpoint into it.

    Returns:
        The network without classifier, in training mode.

    Raises:
        RecipeError: When the backbone does not exist or cannot do what is asked.
        MissingWeightsError: When its weights cannot be had or do not fit.
    """
    from wsseg.nets.build import build_backbone

    return build_backbone(
        config.backbone,
        weights=config.weights if load_weights else "none",
        output_stride=config.output_stride,
        dilate=config.dilate,
        in_channels=1 if config.grey else 3,
        freeze_batchnorm=config.freeze_batchnorm,
        stop_gradient_after_stage=config.stop_gradient_after_stage,
        last_stage=config.last_stage,
        local_contrast_px=config.local_contrast_px,
    )


def class_map_net(
    config: TagLocalizerConfig, num_classes: int, *, load_weights: bool = True
) -> ClassMapNet:
    """Build the classifier without a head of its own: backbone, 1x1 convolution, pooling.

    Args:
        config: Settings of the localizer.
        num_classes: C, foreground classes.
        load_weights: See `localizer_backbone`.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When the backbone does not exist or cannot do what is asked.
        MissingWeightsError: When its weights cannot be had or do not fit.
    """
    from wsseg.nets.cam_head import ClassMapNet

    return ClassMapNet(
        localizer_backbone(config, load_weights=load_weights),
        num_classes,
        config.pooling,
        dropout=config.dropout,
        bias=config.head_bias,
        focal_gamma=config.focal_gamma,
    )
