"""Spatial dropout: drop whole channels of a feature map.

Reference: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient Object Localization Using
Convolutional Networks", CVPR 2015. Neighbouring activations are alike, so that dropping single
ones leaves their message in the map; with m_k ~ Bernoulli(1 - p) per image and channel,

    x_k(u) <- x_k(u) m_k / (1 - p)

while training, and nothing changes when maps are extracted.

Where it stands decides what it does. Before a linear head under an average (``feature``) it equals
ordinary dropout of the averaged features: it trains the classifier only. Behind an inner stage
(``mid``) the layers that follow lack whole channels, and the spatial evidence changes itself.
ResNet-38 of the literature has it at both places: 0.3 and 0.5 inside its last blocks, 0.5 in front
of the classifier; `resnet38d` brings the inner ones along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.errors import RecipeError
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import nn

    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet

P_FEATURE, P_MID = 0.5, 0.3


class SpatialDropout(MethodConfig):
    """Settings of spatial dropout."""

    name: Literal["spatial_dropout"] = Field(
        "spatial_dropout", description="Drop whole channels of a feature map while training."
    )
    position: Literal["feature", "mid"] = Field(
        "mid",
        description="feature: the last features, before the classifier, where localize.dropout "
        "acts, too. mid: behind an inner stage.",
    )
    p: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability that a channel is dropped; null: 0.5 for feature, 0.3 for mid.",
    )
    stage: int | None = Field(
        None,
        ge=-1,
        le=8,
        description="With mid, the stage behind which it stands (2: layer2 of a ResNet); null: "
        "the last but one.",
    )


class SpatialDropoutRegulariser(Regulariser):
    """Puts dropout of channels into the network."""

    config_class: ClassVar[type[MethodConfig]] = SpatialDropout
    config: SpatialDropout

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:
        """Refuse dropping twice at one place, and stages that do not exist.

        Raises:
            RecipeError: When the localizer drops there already, or there is no such stage.
        """
        if self.config.position == "mid":
            self._stage_of(net)
        elif config.dropout > 0:
            raise RecipeError(
                "spatial_dropout with position=feature stands where localize.dropout "
                f"({config.dropout}) drops channels already. Set localize.dropout=0, or "
                "localize.regularisers.spatial_dropout.position=mid."
            )

    def build(self, net: ClassMapNet) -> nn.Module | None:
        """Set the dropout before the head, or hook one to the end of a stage."""
        from torch.nn import Dropout2d

        p = self.config.p
        if self.config.position == "feature":
            net.dropout = Dropout2d(P_FEATURE if p is None else p)
            return None
        from wsseg.nets.channel_dropout import ChannelDropout

        axis = 1 if net.backbone.layout == "nchw" else -1
        module = ChannelDropout(P_MID if p is None else p, axis)
        # A bound method of a module is copied along with the network.
        net.backbone.stage_modules()[self._stage_of(net)].register_forward_hook(module.hook)
        return module

    def _stage_of(self, net: ClassMapNet) -> int:
        stages = sorted(net.backbone.stage_modules())
        stage = self.config.stage
        if stage is None and len(stages) > 1:
            return stages[-2]
        if stage is None or stage not in stages:
            wanted = "the last but one" if stage is None else f"stage {stage}"
            raise RecipeError(
                f'Backbone "{net.backbone.name}" has the stages {stages}; spatial_dropout cannot '
                f"stand behind {wanted}. Set localize.regularisers.spatial_dropout.stage to one "
                "of them, or its position to feature."
            )
        return stage
