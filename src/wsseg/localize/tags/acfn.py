"""ACFN-style: dilations cascaded inside the network, a pyramid of them behind it, and attention.

An interpretation, not a reproduction. Reference: Xu, Xue, Bennamoun, Boussaid and Sohel, "Atrous
convolutional feature network for weakly supervised semantic segmentation", Neurocomputing 421,
2021. Only its abstract was at hand: cascaded atrous convolutions in the middle layers keep the
resolution while the field of view grows, pyramidal atrous convolutions in the last layers collect
context at several scales, and an attentive fusion of them gives denser class maps. There is no
public code. Everything below that is our reading of this:

    cascade    the 3x3 convolutions of the stage before the last get the dilations 1, 2, 3, 1, ...,
               those of the last stage 2, 4, 2, ...
    pyramid    F_m = ReLU(BN(conv3x3_d(F))),  d in {1, 3, 6, 9}
    attention  a(u) = softmax_m (A [F_1(u), ..., F_M(u)]),   F*(u) = sum_m a_m(u) F_m(u)
    maps       M = W F*,   logits = pool M

with one classification loss, and if wanted one for every F_m by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from wsseg.localize.config import TagLocalizerConfig

if TYPE_CHECKING:
    from wsseg.nets.acfn_head import AcfnNet

Dilation = Annotated[int, Field(ge=1, le=64)]


class Acfn(TagLocalizerConfig):
    """A classifier on a pyramid of dilated convolutions."""

    name: Literal["acfn"] = Field(
        "acfn", description="Cascaded and pyramidal dilations with attention, in ACFN's style."
    )
    middle_dilations: tuple[Dilation, ...] = Field(
        (1, 2, 3),
        max_length=8,
        description="Dilations of successive 3x3 convolutions of the stage before the last; "
        "empty: as the output stride asks.",
    )
    last_dilations: tuple[Dilation, ...] = Field(
        (2, 4),
        max_length=8,
        description="Dilations of successive 3x3 convolutions of the last stage; empty: as the "
        "output stride asks.",
    )
    dilations: tuple[Dilation, ...] = Field(
        (1, 3, 6, 9),
        min_length=2,
        max_length=8,
        description="Cells between the taps of each branch of the pyramid.",
    )
    head_width: int = Field(256, ge=1, le=4096, description="Channels of each branch.")
    attention: Literal["cell", "image"] = Field(
        "cell", description="Weigh the branches at every cell, or once per image."
    )
    branch_weight: float = Field(
        0.0, ge=0, le=100, description="Weight of the loss of the branches alone; 0: none."
    )


def acfn(*, config: Acfn = Acfn(), num_classes: int, load_weights: bool = True) -> AcfnNet:
    """Make the classifier.

    Args:
        config: Its settings.
        num_classes: C, foreground classes.
        load_weights: Load the weights that the settings name; False: for a checkpoint.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When the backbone does not exist, cannot do what is asked, or has no
            convolutions for a cascade.
        MissingWeightsError: When its weights cannot be had or do not fit.

    Example:
        >>> net = acfn(config=Acfn(backbone="test_resnet"), num_classes=2)
        >>> len(net.pyramid.branches), net.backbone.stride
        (4, 8)
    """
    from wsseg.localize.tags.backbone import localizer_backbone
    from wsseg.nets.acfn_head import AcfnNet
    from wsseg.nets.cascade import set_cascade

    backbone = localizer_backbone(config, load_weights=load_weights)
    set_cascade(backbone, config.middle_dilations, stages_from_end=1)
    set_cascade(backbone, config.last_dilations, stages_from_end=0)
    return AcfnNet(
        backbone,
        num_classes,
        config.pooling,
        dilations=config.dilations,
        width=config.head_width,
        attention=config.attention,
        branch_weight=config.branch_weight,
        dropout=config.dropout,
        bias=config.head_bias,
        focal_gamma=config.focal_gamma,
    )
