"""ReCAM: a second classifier, trained by softmax on the cells of one class, sharpens the maps.

Reference: Chen, Wang, Wu, Hua, Zhang and Sun, "Class Re-Activation Maps for Weakly-Supervised
Semantic Segmentation", CVPR 2022. The loss of a multi-label classifier trains every class by
itself, so that a cell may speak for several. With the maps M = W F of n cells,

    m_c = ReLU(M_c) / max ReLU(M_c),      g_c = 1/n sum_u m_c(u) F(u)
    L_ce = mean_{c present} -log softmax(W2 g_c)_c
    L = L_cls(pool M, y) + weight L_ce

and the maps that are extracted are (W * W2) F, an elementwise product of both weights.

Differences: the paper trains a classifier first (5 epochs) and then both (4 epochs, with learning
rates of their own); here one training does both, and ``warmup`` says which part of it has no L_ce.
Any backbone and pooling; padding does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from wsseg.errors import RecipeError
from wsseg.localize.config import TagLocalizerConfig

if TYPE_CHECKING:
    from wsseg.nets.recam_head import RecamNet


class Recam(TagLocalizerConfig):
    """A classifier whose maps a second one re-activates."""

    name: Literal["recam"] = Field(
        "recam", description="A second classifier, trained by softmax, re-activates the maps."
    )
    softmax_weight: float = Field(
        1.0, gt=0, le=100, description="Weight of the second classifier's loss."
    )
    warmup: float = Field(
        0.56,
        ge=0,
        lt=1,
        description="Part of the epochs, rounded down, without the second classifier's loss.",
    )

    @model_validator(mode="after")
    def _check_own_maps(self) -> Self:
        from wsseg.localize.tags.own_maps import check_own_maps

        check_own_maps(self.name, self.inference, is_rectified=False)
        return self


def recam(*, config: Recam = Recam(), num_classes: int, load_weights: bool = True) -> RecamNet:
    """Make the classifier.

    Args:
        config: Its settings.
        num_classes: C, foreground classes.
        load_weights: Load the weights that the settings name; False: for a checkpoint.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When there is one class only, or the backbone cannot do what is asked.
        MissingWeightsError: When its weights cannot be had or do not fit.

    Example:
        >>> net = recam(config=Recam(backbone="test_resnet"), num_classes=2)
        >>> net.second.weight.shape[0], net.first_epoch
        (2, 11)
    """
    from wsseg.localize.tags.backbone import localizer_backbone
    from wsseg.nets.recam_head import RecamNet

    if num_classes < 2:
        raise RecipeError(
            "Localizer recam tells classes apart by a softmax, which learns nothing from one "
            "class, and the data set has no other. Use localizer cam."
        )
    return RecamNet(
        localizer_backbone(config, load_weights=load_weights),
        num_classes,
        config.pooling,
        weight=config.softmax_weight,
        first_epoch=int(config.warmup * config.training.epochs),
        dropout=config.dropout,
        bias=config.head_bias,
        focal_gamma=config.focal_gamma,
    )
