"""Attention affinity: class maps spread to the patches that a vision transformer finds alike.

A transformer's self-attention A says how much each patch looks at each other one, and patches of
one object look at each other. Multiplying a class map by it fills the object, without any
training. Reference: Lin et al., "CLIP is Also an Efficient Segmenter" (CLIP-ES), CVPR 2023, whose
settings are the defaults; the same idea without balancing and boxes is in Xu et al., "Multi-class
Token Transformer for Weakly Supervised Semantic Segmentation" (MCTformer), CVPR 2022.

    A  = mean of the attention over the last layers and over heads, patches only
    A' = columns, then rows of A divided by their sums, three times (Sinkhorn)
    T  = (A' + A'^T) / 2
    s' = T^t (b_c * s_c),  b_c = 1 inside the boxes around {s_c >= 0.4 max s_c}, else 0

Differences: T^t is never formed, the maps are multiplied t times, which is the same and takes
O(n^2) instead of O(n^3); any plain timm transformer instead of CLIP; a refined map is stretched
to the height that it had before and not to one, so that weak maps stay weak; boxes include their
last row and column. Row 0 stays as it is: put the background rule behind this step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from wsseg.config import MethodConfig
from wsseg.data.dataset import Dataset
from wsseg.data.scores import Scores
from wsseg.errors import RecipeError
from wsseg.outside import WeightsPath
from wsseg.refine.attention_steps import (
    boxes_around,
    interpolated,
    sinkhorn,
    spread,
    stretched,
)
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.nets.backbones import Backbone
    from wsseg.nets.cam_head import ClassMapNet


class AttentionAffinity(MethodConfig):
    """Settings of `attention_affinity`."""

    name: Literal["attention_affinity"] = Field(
        "attention_affinity",
        description="Which refiner: maps times the self-attention of a vision transformer.",
    )
    num_layers: int | None = Field(
        8,
        ge=1,
        le=1000,
        description="Attention is averaged over this many last layers, or over all where there "
        "are fewer (CLIP-ES: 8). null: all layers (MCTformer).",
    )
    heads: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="Heads that are averaged, from 0; negative numbers count from the last. "
        "null: all.",
    )
    sinkhorn_iterations: int = Field(
        3,
        ge=0,
        le=100,
        description="How often columns and rows are divided by their sums, so that no patch "
        "attracts everything (CLIP-ES: 3). 0: rows only, once.",
    )
    symmetrise: bool = Field(
        True, description="Average the affinity with its transpose (CLIP-ES: true)."
    )
    num_steps: int = Field(
        2,
        ge=1,
        le=64,
        description="t, how often the maps are multiplied; more spreads further (CLIP-ES: 2).",
    )
    box_min_frac: float | None = Field(
        0.4,
        gt=0,
        le=1,
        description="Only scores inside the boxes around the parts of the map above this fraction "
        "of its maximum spread (CLIP-ES: 0.4). null: all scores spread.",
    )
    stretch: Literal["minmax", "max", "none"] = Field(
        "minmax",
        description="How a flattened map is raised to the height that it had. minmax: its lowest "
        "value becomes 0, its highest that of before (CLIP-ES). max: only scaled. none: not.",
    )
    max_side_px: int = Field(
        512,
        ge=16,
        le=8192,
        description="Images with a longer side are shrunk to it before the network sees them. "
        "Memory grows with its fourth power.",
    )
    backbone: str | None = Field(
        None,
        description="A timm vision transformer whose attention is taken instead of the "
        "localizer's. null: the run's localizer.",
    )
    weights: WeightsPath | None = Field(
        None, description="`imagenet` or the path of a weight file; for `backbone`."
    )
    output_stride: Literal[32, 16, 8, 4] = Field(
        16, description="Pixels per patch cell of `backbone`."
    )

    @property
    def needs_localizer(self) -> bool:
        """Whether the network is that of the run's trained localizer."""
        return self.backbone is None

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if (self.backbone is None) != (self.weights is None):
            raise ValueError(
                f"backbone is {self.backbone} and weights is {self.weights}; give both, for a "
                "network of its own, or neither, for the run's localizer."
            )
        if self.weights == "none":
            raise ValueError(
                "weights is none, but the attention of a random network means nothing. Give "
                "imagenet or the path of a weight file."
            )
        return self


class AttentionAffinityRefiner:
    """Spreads class maps along the self-attention of a vision transformer."""

    config_class: type[MethodConfig] = AttentionAffinity

    def check(
        self,
        dataset: Dataset,  # noqa: ARG002 - the signature that all refiners share
        *,
        config: AttentionAffinity,
        allow_masks: bool,  # noqa: ARG002
    ) -> None:
        """Find out before the run whether a network of its own can be had and has attention.

        Args:
            dataset: Not used.
            config: Names the network.
            allow_masks: Not used.

        Raises:
            RecipeError: When there is no such network, or it has no attention.
            MissingWeightsError: When its weights cannot be had or do not fit.
        """
        if config.backbone is not None:
            _check_attention(_network(config, None), config)

    def check_localizer(self, network: ClassMapNet, *, config: AttentionAffinity) -> None:
        """Find out before the run whether the localizer's network has the attention asked for.

        Args:
            network: The run's localizer, trained or not.
            config: Which layers and heads.

        Raises:
            RecipeError: When it has no attention between its patches, or no such head.
        """
        _check_attention(network.backbone, config)

    def __call__(
        self,
        image: np.ndarray,
        scores: Scores,
        *,
        config: AttentionAffinity = AttentionAffinity(),
        context: RefineContext | None = None,
    ) -> Scores:
        """Multiply the class rows by the affinity of the image's patches.

        Args:
            image: (H, W, 3) uint8 RGB.
            scores: Scores of the image.
            config: How the affinity is made and used.
            context: Its localizer gives the transformer, unless ``config.backbone`` names one;
                its ``shared`` keeps the network.

        Returns:
            Scores of the same shape. Row 0 is that of the input (1 for an image without classes).

        Raises:
            DataError: When the image does not belong to the scores.
            RecipeError: When there is no network, or it has no attention.
            MissingWeightsError: When its weights cannot be had or do not fit.

        Example:
            >>> from wsseg.nets.build import build_backbone
            >>> from wsseg.nets.cam_head import ClassMapNet
            >>> net = ClassMapNet(build_backbone("test_vit", output_stride=16), 3).eval()
            >>> values = np.zeros((2, 8, 8), np.float32)
            >>> values[1, 2:4, 2:4] = 0.5
            >>> scores = Scores(values, np.array([0, 3], np.uint8), (64, 64))
            >>> context = RefineContext(localizer=lambda: net)
            >>> image = np.zeros((64, 64, 3), np.uint8)
            >>> attention_affinity(image, scores, context=context).values.shape
            (2, 8, 8)
        """
        check_image(image, scores)
        if len(scores.class_ids) == 1:
            return with_constant_background(scores, 1.0)
        affinity, grid = _cached_affinity(image, config, context)
        maps = interpolated(scores.values[1:], grid)
        if config.box_min_frac is not None:
            maps = np.stack([one * boxes_around(one, config.box_min_frac) for one in maps])
        filled = spread(affinity, maps, config.num_steps)
        peaks = scores.values[1:].max(axis=(1, 2), keepdims=True)
        values = scores.values.copy()
        size = (values.shape[1], values.shape[2])
        values[1:] = interpolated(stretched(filled, peaks, config.stretch), size)
        return replace(scores, values=np.clip(values, 0.0, 1.0))


attention_affinity = AttentionAffinityRefiner()


def _cached_affinity(
    image: np.ndarray, config: AttentionAffinity, context: RefineContext | None
) -> tuple[Tensor, tuple[int, int]]:
    key = ("attention_affinity", config)
    if context is not None and key in context.cache:
        kept: tuple[Tensor, tuple[int, int]] = context.cache[key]
        return kept
    made = _affinity(_network(config, context), image, config)
    if context is not None:
        context.cache[key] = made
    return made


def _affinity(
    backbone: Backbone, image: np.ndarray, config: AttentionAffinity
) -> tuple[Tensor, tuple[int, int]]:
    """Compute T (n, n) float64 of an image, and the grid (h, w) of its n patches."""
    import cv2
    import torch

    from wsseg.data.colour import normalise
    from wsseg.nets.attention import attention_maps, num_attention_layers

    multiple = max(backbone.stride, backbone.size_multiple)
    shrink = min(1.0, config.max_side_px / max(image.shape[:2]))
    height, width = (multiple * max(1, round(side * shrink / multiple)) for side in image.shape[:2])
    is_smaller = height < image.shape[0] and width < image.shape[1]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
    planes = torch.from_numpy(normalise(resized, 1 if backbone.in_channels == 1 else 3))[None]
    depth = num_attention_layers(backbone)
    last = range(max(0, depth - (config.num_layers or depth)), depth)
    with torch.no_grad():
        images = planes.to(next(backbone.parameters()))
        affinity = attention_maps(backbone, images, tuple(last), config.heads)[0].mean(dim=0)
        # Stretching nearly flat maps would show the rounding of float32.
        affinity = affinity.cpu().double()
        affinity = sinkhorn(affinity, config.sinkhorn_iterations)
        if config.symmetrise:
            affinity = (affinity + affinity.T) / 2
    return affinity, (height // backbone.stride, width // backbone.stride)


def _network(config: AttentionAffinity, context: RefineContext | None) -> Backbone:
    """Give the transformer, in evaluation mode on the right device; loaded once per stage."""
    key = ("attention_affinity", config.backbone, config.weights, config.output_stride)
    if context is not None and key in context.shared:
        kept: Backbone = context.shared[key]
        return kept
    from wsseg.nets.attention import num_attention_layers
    from wsseg.nets.build import build_backbone

    if config.backbone is not None:
        backbone = build_backbone(
            config.backbone, weights=str(config.weights), output_stride=config.output_stride
        )
    elif context is not None and context.localizer is not None:
        backbone = context.localizer().backbone
    else:
        raise RecipeError(
            "attention_affinity takes the attention of the run's trained localizer, and there is "
            "none here. Use it in a run, pass RefineContext(localizer=...), or name a vision "
            "transformer with its weights (settings `backbone` and `weights`)."
        )
    num_attention_layers(backbone)
    if context is not None:
        backbone = backbone.to(context.device)
        context.shared[key] = backbone.eval()
    return backbone.eval()


def _check_attention(backbone: Backbone, config: AttentionAffinity) -> None:
    """Read the attention of a small grey image, as it will be read of every image."""
    import torch

    from wsseg.nets.attention import attention_maps

    side = 2 * max(backbone.stride, backbone.size_multiple)
    images = next(backbone.parameters()).new_zeros(1, backbone.in_channels, side, side)
    with torch.no_grad():
        attention_maps(backbone.eval(), images, (-1,), config.heads)
