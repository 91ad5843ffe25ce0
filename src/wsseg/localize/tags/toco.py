"""ToCo: one stage on a vision transformer, with contrasts that keep its tokens apart.

Reference: Ru, Zheng, Zhan and Du, "Token Contrast for Weakly-Supervised Semantic Segmentation",
CVPR 2023. Deep layers of a transformer make all patches alike, so that class maps spread over the
background; inner layers do not. An auxiliary classifier on an inner block gives maps m', and these

* label patches i, which the final features f must keep apart (PTC):
      L_ptc = 1/2 (1 - mean_{same label} |cos(f_i, f_j)|) + 1/2 mean_{other label} |cos(f_i, f_j)|
* tell local crops that show the object from those of background, whose class tokens q must be
  close to that of the image, p, or far from it (CTC; p by a slowly following projection):
      L_ctc = mean_{q+} -log( e^{p q+ / tau} / (e^{p q+ / tau} + sum_{q-} e^{p q- / tau}) )
* become, after PAR brought them to the edges of the image, labels of a segmentation decoder.

    L = L_cls + L_cls' + 0.2 L_ptc + 0.5 L_ctc + [late] (0.1 L_seg + 0.05 L_energy)

Labels: the strongest class above ``high``, background up to ``low``, else unknown. L_seg is the
cross entropy with half the weight on background and half on classes.

Differences: class maps come from the training pass itself, not from several scales. The energy is
exact, on the decoder's grid, and a mean over pairs (the released one: 1e-7 times a sum over
pixels). The second view of the whole image is its mirror image. Warm-up is a part of the epochs.
Padding counts nowhere; images tagged with no class take no part in L_ctc and are background for
the decoder. The change from auxiliary to final maps, the pooling of features before the
classifiers and the layers of decoder and projection: from memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from wsseg.kernels.pamr_config import PamrConfig
from wsseg.localize.config import TagLocalizerConfig
from wsseg.nets.pooling import GlobalMax, Pooling

if TYPE_CHECKING:
    from wsseg.nets.toco_net import TocoNet


class Toco(TagLocalizerConfig):
    """A vision transformer with token contrast and a segmentation decoder."""

    name: Literal["toco"] = Field(
        "toco", description="One stage on a vision transformer, with token contrast."
    )
    backbone: str = Field(
        "vit_tiny_patch16_224",
        description="A plain vision transformer of timm (ViT, DeiT, EVA and the like).",
    )
    output_stride: Literal[32, 16, 8, 4] = Field(
        16, description="Pixels per patch; below the patch size patches overlap."
    )
    pooling: Pooling = Field(
        GlobalMax(), description="From features to those of the image; gap, max, lse, topk or gwrp."
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Probability of dropping a feature channel before the heads."
    )
    maps: Literal["decoder", "cam", "aux"] = Field(
        "decoder",
        description="What becomes the scores. decoder: probabilities of the segmentation decoder, "
        "the paper's result. cam: class maps of the last layer. aux: those of the inner block.",
    )
    aux_layer: int = Field(
        -3,
        ge=-100,
        le=100,
        description="Block whose tokens the auxiliary classifier reads, from 0; negative numbers "
        "count from the last, which is -1.",
    )
    high: float = Field(
        0.7, gt=0, lt=1, description="Score above which a cell counts as its class, of a map's 1."
    )
    low: float = Field(0.25, ge=0, lt=1, description="Score up to which a cell is background.")
    ptc_weight: float = Field(0.2, ge=0, le=100, description="Weight of the patch token contrast.")
    ctc_weight: float = Field(
        0.5, ge=0, le=100, description="Weight of the class token contrast; 0 saves its cost."
    )
    temperature: float = Field(
        0.5, gt=0, le=10, description="tau of the class token contrast, no unit."
    )
    teacher_ema: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="What the teacher's projection keeps of itself at each forward pass.",
    )
    global_crops: Literal[1, 2] = Field(
        2, description="Views of the whole image in the class token contrast; 2 costs a pass more."
    )
    local_crops: int = Field(8, ge=1, le=256, description="Local crops of each image.")
    local_crop_px: int = Field(
        96, ge=8, le=4096, description="Side of local crops, pixels (paper: 96 of 448)."
    )
    max_negative_code: float = Field(
        0.2,
        ge=0,
        lt=2,
        description="Local crops are background up to this mean of 0 (background), 1 (uncertain) "
        "and 2 (object).",
    )
    segment_weight: float = Field(0.1, ge=0, le=100, description="Weight of the decoder's loss.")
    energy_weight: float = Field(
        0.05, ge=0, le=100, description="Weight of the decoder's disagreement of alike cells."
    )
    segment_after: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Part of the epochs, rounded down, before the decoder trains (paper: 2000 of "
        "20 000 updates).",
    )
    final_maps_after: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Part of the epochs, rounded down, after which the decoder learns from the "
        "final class maps instead of the auxiliary ones (from memory); 1: never.",
    )
    par: PamrConfig = Field(
        PamrConfig(method="par"), description="How maps become labels of the decoder."
    )
    decoder_width: int = Field(512, ge=4, le=4096, description="Channels of the decoder.")
    projector_width: int = Field(
        256, ge=4, le=4096, description="Width of the projection of class tokens."
    )

    @model_validator(mode="after")
    def _check_toco(self) -> Self:
        from wsseg.localize.tags.own_maps import check_own_maps

        check_own_maps(self.name, self.inference, is_rectified=self.maps == "decoder")
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}; it must be smaller than high ({self.high}).")
        crop = self.augment.crop_px
        if self.ctc_weight > 0 and crop is not None and self.local_crop_px > crop:
            raise ValueError(
                f"local_crop_px is {self.local_crop_px}, more than augment.crop_px ({crop}), the "
                "images that they are cut from. Set it to about a fifth of that."
            )
        if self.maps == "decoder" and self.segment_weight == 0:
            raise ValueError(
                "maps is decoder, but segment_weight 0 leaves the decoder untrained. Set maps=cam, "
                "or segment_weight above 0."
            )
        return self


def toco(*, config: Toco = Toco(), num_classes: int, load_weights: bool = True) -> TocoNet:
    """Make the network.

    Args:
        config: Its settings.
        num_classes: C, foreground classes.
        load_weights: Load the weights that the settings name; False: for a checkpoint.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When the backbone does not exist, is no vision transformer, or lacks a block
            or class token that is asked for.
        MissingWeightsError: When its weights cannot be had or do not fit.

    Example:
        >>> net = toco(config=Toco(backbone="test_vit"), num_classes=2)
        >>> net.aux_head.weight.shape[0], net.segments
        (2, False)
    """
    from wsseg.localize.tags.backbone import localizer_backbone
    from wsseg.nets.toco_net import TocoNet

    return TocoNet(localizer_backbone(config, load_weights=load_weights), num_classes, config)
