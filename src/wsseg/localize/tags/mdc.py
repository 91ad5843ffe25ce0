"""MDC: heads with several dilations carry the evidence from an object's telling part to its rest.

Reference: Wei, Xiao, Shi, Jie, Feng and Huang, "Revisiting Dilated Convolution: A Simple Approach
for Weakly- and Semi-Supervised Semantic Segmentation", CVPR 2018. Every head d in {1, 3, 6, 9} is
a 3x3 convolution of that dilation, a rectification, a classifier and a pooling, with a loss of its
own; with H_0 the rectified map of d = 1 and H_1 to H_n those of the dilated heads, each divided by
its maximum,

    L = sum_d L_cls(logits_d, y),        H = H_0 + 1/n sum_i H_i.

A place that one dilated head reaches by chance is averaged away; one that several reach stays.

Differences: any backbone and pooling. H is multiplied by the mean of the maxima that its parts
were divided by, so that scales and tiles can be compared; a later normalisation removes the
factor. What the paper does with H (30 % of the maximum is foreground, from memory; a saliency map
gives the background) is the business of refiners here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from wsseg.localize.config import TagLocalizerConfig

if TYPE_CHECKING:
    from wsseg.nets.mdc_head import MdcNet


class Mdc(TagLocalizerConfig):
    """A classifier with dilated heads."""

    name: Literal["mdc"] = Field("mdc", description="Heads with several dilations, fused.")
    dilations: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        (1, 3, 6, 9),
        min_length=2,
        max_length=8,
        description="Cells between the taps of each head's convolution; the first head localizes, "
        "the others spread its evidence.",
    )
    head_width: int = Field(
        256, ge=1, le=4096, description="Channels of each head behind its convolution."
    )

    @model_validator(mode="after")
    def _check_own_maps(self) -> Self:
        from wsseg.localize.tags.own_maps import check_own_maps

        check_own_maps(self.name, self.inference, is_rectified=True)
        return self

    @model_validator(mode="after")
    def _check_dilations(self) -> Self:
        if len(set(self.dilations)) < len(self.dilations):
            raise ValueError(
                f"dilations is {list(self.dilations)}; two heads with one dilation see the same. "
                "Name each dilation once."
            )
        return self


def mdc(*, config: Mdc = Mdc(), num_classes: int, load_weights: bool = True) -> MdcNet:
    """Make the classifier.

    Args:
        config: Its settings.
        num_classes: C, foreground classes.
        load_weights: Load the weights that the settings name; False: for a checkpoint.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When the backbone does not exist or cannot do what is asked.
        MissingWeightsError: When its weights cannot be had or do not fit.

    Example:
        >>> net = mdc(config=Mdc(backbone="test_resnet"), num_classes=2)
        >>> len(net.heads), net.backbone.stride
        (4, 8)
    """
    from wsseg.localize.tags.backbone import localizer_backbone
    from wsseg.nets.mdc_head import MdcNet

    return MdcNet(
        localizer_backbone(config, load_weights=load_weights),
        num_classes,
        config.pooling,
        dilations=config.dilations,
        width=config.head_width,
        dropout=config.dropout,
        bias=config.head_bias,
        focal_gamma=config.focal_gamma,
    )
