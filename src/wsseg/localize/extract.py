"""Class maps of a batch of images by any extractor: CAM, Grad-CAM, Grad-CAM++ or LayerCAM.

CAM: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016; the others:
see `wsseg.localize.gradient`. All classes come from one forward pass; the gradient methods add
one short backward pass per class, down to the target layer only. The target layer is chosen from
what timm says about the network and logged once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg import console
from wsseg.errors import RecipeError
from wsseg.localize.config import (
    AdvCamExtractor,
    CamExtractor,
    Extractor,
    GradCamExtractor,
    GradCamPpExtractor,
    LayerCamExtractor,
)
from wsseg.localize.gradient import (
    class_gradients,
    fuse_stages,
    grad_cam_map,
    grad_cam_pp_map,
    layer_cam_map,
    run_with_layers,
)
from wsseg.nets.backbones import Backbone
from wsseg.nets.cam_head import ClassMapNet

# The LayerCAM authors raise the maps of stages 1 to 3 (from memory).
LAST_SHALLOW_STAGE = 3


@dataclass(frozen=True)
class Extraction:
    """Class maps and logits of a batch.

    Args:
        maps: (N, K, h, w) float32, not negative; K the asked-for classes in their order.
        logits: (N, C) float32 of all classes.
    """

    maps: Tensor
    logits: Tensor


class TimmClassifier(nn.Module):
    """Any trained timm classifier, so that maps can be extracted from it.

    Args:
        model: The classifier with its head. Transformers need ``dynamic_img_size=True``.

    Raises:
        RecipeError: When its features cannot be understood.
    """

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        name = type(model).__name__
        convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        try:
            self.backbone = Backbone(model, name, convolution.in_channels)
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise RecipeError(
                f"No maps can be extracted from the classifier {name} ({error}). Transformers "
                "must be created with dynamic_img_size=True."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits.

        Args:
            images: (N, C_in, H, W), normalised as the classifier wants them.

        Returns:
            (N, C).
        """
        logits: Tensor = self.model(self.backbone.prepared(images))
        return logits


Explainable = ClassMapNet | TimmClassifier


def extract(
    network: Explainable,
    images: Tensor,
    class_ids: Sequence[int] | None = None,
    config: Extractor | None = None,
) -> Extraction:
    """Extract class maps with one forward pass.

    Args:
        network: In evaluation mode.
        images: (N, 3 or 1, H, W) float, normalised.
        class_ids: Foreground ids from 1 to C; None: all.
        config: Which extractor; None: CAM.

    Returns:
        Maps at the resolution of the features, and logits. Nothing in it has a gradient.

    Raises:
        RecipeError: When the extractor does not suit the network.
        ValueError: When a class id is out of range, or the extractor is AdvCAM.
    """
    config = CamExtractor() if config is None else config
    if isinstance(config, CamExtractor):
        raw, logits = _cam(network, images)
        maps = _rectified(raw, network) if config.rectify else raw
        chosen = class_indices(class_ids, logits.shape[1])
        return Extraction(maps[:, chosen].float(), logits.float())
    if isinstance(config, AdvCamExtractor):
        raise ValueError("AdvCAM changes one image at a time: call wsseg.localize.adv_cam.adv_cam.")
    return _gradient_maps(network, images, class_ids, config)


def class_indices(class_ids: Sequence[int] | None, num_classes: int) -> list[int]:
    """Turn class ids into the indices of rows.

    Args:
        class_ids: From 1 to C; None: all.
        num_classes: C.

    Raises:
        ValueError: When a class id is out of range.
    """
    if class_ids is None:
        return list(range(num_classes))
    outside = [class_id for class_id in class_ids if not 1 <= class_id <= num_classes]
    if outside:
        raise ValueError(f"Expected class ids from 1 to {num_classes}, but got {outside}.")
    return [class_id - 1 for class_id in class_ids]


def _rectified(raw: Tensor, network: Explainable) -> Tensor:
    exponent = network.backbone.map_exponent
    return raw.relu() ** exponent if exponent != 1 else raw.relu()


@torch.no_grad()
def _cam(network: Explainable, images: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(network, ClassMapNet):
        return network.maps_and_logits(images)
    model = network.model
    features = model.forward_features(network.backbone.prepared(images))
    logits: Tensor = model.forward_head(features)
    grid = network.backbone.as_grid(features, (images.shape[-2], images.shape[-1]))
    linear = model.get_classifier()
    if not isinstance(linear, nn.Linear) or linear.in_features != grid.shape[1]:
        raise RecipeError(
            f"Extractor cam needs a linear classifier on averaged features, which "
            f"{network.backbone.name} does not have. Choose grad_cam or layer_cam."
        )
    return F.conv2d(grid, linear.weight[:, :, None, None]), logits


def _gradient_maps(
    network: Explainable,
    images: Tensor,
    class_ids: Sequence[int] | None,
    config: GradCamExtractor | GradCamPpExtractor | LayerCamExtractor,
) -> Extraction:
    targets = target_layers(network, config)
    outputs, logits = run_with_layers(network, images, [target.module for target in targets])
    chosen = class_indices(class_ids, logits.shape[1])
    size = (images.shape[-2], images.shape[-1])

    def grids(values: Sequence[Tensor]) -> list[Tensor]:
        return [
            (value if target.is_grid else network.backbone.as_grid(value, size)).detach().float()
            for value, target in zip(values, targets, strict=True)
        ]

    features = grids(outputs)
    rows = []
    for index in chosen:
        gradients = grids(class_gradients(logits, index, outputs))
        rows.append(_one_class(features, gradients, targets, config))
    if not rows:
        rows_shape = (len(images), 0, *features[0].shape[2:])
        return Extraction(features[0].new_zeros(rows_shape), logits.detach().float())
    return Extraction(torch.stack(rows, dim=1), logits.detach().float())


def _one_class(
    features: list[Tensor],
    gradients: list[Tensor],
    targets: list[Target],
    config: GradCamExtractor | GradCamPpExtractor | LayerCamExtractor,
) -> Tensor:
    """Combine features and gradients; mean gradients become sums, the scale of a CAM."""
    formula = _FORMULAS[config.name]
    maps = []
    for feature, gradient in zip(features, gradients, strict=True):
        cells = feature.shape[2] * feature.shape[3]
        scale = 1 if config.name == "grad_cam_pp" else cells
        maps.append(scale * formula(feature, gradient))
    if len(maps) == 1 or not isinstance(config, LayerCamExtractor):
        return maps[0]
    return fuse_stages(maps, [target.is_shallow for target in targets], config.gamma)


_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam_map,
    "grad_cam_pp": grad_cam_pp_map,
    "layer_cam": layer_cam_map,
}


@dataclass(frozen=True)
class Target:
    """A layer that gradients are taken for.

    Args:
        module: The layer.
        label: Its name, for the log.
        is_grid: Whether its output is (N, D, h, w) already.
        is_shallow: Whether it belongs to an early stage.
    """

    module: nn.Module
    label: str
    is_grid: bool
    is_shallow: bool = False


def target_layers(network: Explainable, config: Extractor) -> list[Target]:
    """Choose the layers that gradients are taken for, and log the choice once.

    Args:
        network: The network.
        config: The extractor, with the stages asked for.

    Returns:
        The layers in the order in which they run.

    Raises:
        RecipeError: When a stage does not exist.
    """
    stages = config.stages if isinstance(config, LayerCamExtractor) else None
    targets = _stage_targets(network.backbone, stages) if stages else [_last_target(network)]
    labels = ", ".join(target.label for target in targets)
    console.once(f"{config.name}: target layer: {labels} ({network.backbone.name})")
    return targets


def _stage_targets(backbone: Backbone, stages: tuple[int, ...]) -> list[Target]:
    modules = backbone.stage_modules()
    missing = [stage for stage in stages if stage not in modules]
    if missing:
        raise RecipeError(
            f'Backbone "{backbone.name}" has no stage {missing}; it has {sorted(modules)}. '
            "Change localize.inference.extractor.stages."
        )
    names = {module: name for name, module in backbone.trunk.named_modules()}
    return [
        Target(modules[stage], names[modules[stage]], False, stage <= LAST_SHALLOW_STAGE)
        for stage in sorted(set(stages))
    ]


def _last_target(network: Explainable) -> Target:
    backbone = network.backbone
    if isinstance(network, ClassMapNet):
        return Target(backbone, "last features", True)
    if backbone.layout == "tokens":
        # A class token is read from the last block: its patch tokens have no gradient any more.
        blocks = network.model.blocks
        return Target(blocks[-1].norm1, f"blocks.{len(blocks) - 1}.norm1", False)
    stages = backbone.stage_modules()
    if not stages:
        raise RecipeError(
            f"The stages of {backbone.name} are not known to timm; choose extractor cam."
        )
    return _stage_targets(backbone, (max(stages),))[0]
