"""EPS: class maps and a background map must together explain a saliency map.

Reference: S. Lee, M. Lee, J. Lee, H. Shim, "Railroad is not a Train: Saliency as Pseudo-pixel
Supervision for Weakly Supervised Semantic Segmentation" (Explicit Pseudo-pixel Supervision), CVPR
2021. The head makes C + 1 maps, the last one of the background; with P their softmax and S the
saliency, brought to the grid by nearest neighbour,

    r_c   = sum_u [P_c(u)] [S(u)] / (sum_u [P_c(u)] + 1e-4)          [.] rounds to 0 or 1
    M_fg  = sum of P_c over present classes with r_c > tau
    M_bg  = sum of P_c over the other present classes, and of the background
    S^    = lambda M_fg + (1 - lambda) (1 - M_bg)
    L     = L_cls(pool of the C class maps, y) + saliency_weight mean (S^ - S)^2

No gradient flows through the choice of foreground and background. Saliency tells where things
end, and what goes with a class without being part of it (the rail under a train) is background
for it. The extracted maps are P of the present classes, at every scale by itself.

Differences: any backbone and pooling, and padding does not count. Images of which the cue says
nothing, because their map is zero everywhere or missing, teach their tags only: the loss would push
every class to the background. So do images without any class, which VOC does not have: whatever
stands out in them belongs to none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from wsseg.cues.protocol import CueField
from wsseg.cues.saliency_rbd import Rbd
from wsseg.localize.config import TagLocalizerConfig

if TYPE_CHECKING:
    from wsseg.nets.eps_head import EpsNet

# They mix images, and the saliency of a mixture is not the mixture of saliencies.
_MIXING = ("cutmix", "mixup_cam")


class Eps(TagLocalizerConfig):
    """A classifier that learns where things end from saliency."""

    name: Literal["eps"] = Field("eps", description="Class and background maps explain saliency.")
    cue: CueField = Field(
        Rbd(),
        description="The saliency, by the cue's `name`: weight-free, maps from a folder, distance "
        "from normal images, or a network.",
    )
    missing_maps: Literal["error", "skip"] = Field(
        "error",
        description="With maps from a folder, what images without one do: stop the run before it "
        "starts, or teach their tags only.",
    )
    tau: float = Field(
        0.4,
        ge=0,
        le=1,
        description="A class is foreground where saliency covers more than this share of its map.",
    )
    mix: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Lambda: weight of the foreground maps in the estimated saliency, against "
        "that of all that is not background; 0.5 for VOC, 0.9 for COCO.",
    )
    saliency_weight: float = Field(1.0, gt=0, le=100, description="Weight of the saliency loss.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Probability of dropping a feature channel before the head."
    )

    @model_validator(mode="after")
    def _check_own_maps(self) -> Self:
        from wsseg.localize.tags.own_maps import check_own_maps

        check_own_maps(self.name, self.inference, is_rectified=True)
        return self

    @model_validator(mode="after")
    def _check_cue(self) -> Self:
        if self.cue is None:
            raise ValueError("cue is null, but eps learns from saliency. Name a cue, such as rbd.")
        names = [str(settings.model_dump()["name"]) for settings in self.regularisers]
        mixing = [name for name in names if name in _MIXING]
        if mixing:
            raise ValueError(
                f"regularisers has {' and '.join(mixing)}, which mixes images, but the saliency "
                "that eps learns from is that of single images. Remove it."
            )
        return self


def eps(*, config: Eps = Eps(), num_classes: int, load_weights: bool = True) -> EpsNet:
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
        >>> net = eps(config=Eps(backbone="test_resnet"), num_classes=2)
        >>> net.head.out_channels, net.tau
        (3, 0.4)
    """
    from wsseg.localize.tags.backbone import localizer_backbone
    from wsseg.nets.eps_head import EpsNet

    return EpsNet(
        localizer_backbone(config, load_weights=load_weights),
        num_classes,
        config.pooling,
        settings=config,
        tau=config.tau,
        mix=config.mix,
        weight=config.saliency_weight,
        dropout=config.dropout,
        bias=config.head_bias,
        focal_gamma=config.focal_gamma,
    )
