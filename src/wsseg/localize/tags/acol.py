"""ACoL: a second branch must recognise the object without the part that the first one found.

Reference: Zhang, Wei, Feng, Yang and Huang, "Adversarial Complementary Learning for Weakly
Supervised Object Localization", CVPR 2018. Branches A and B have the same layers and weights of
their own. With S the features and N the stretching of a map from its minimum to its maximum,

    E = [ max_{c present} N(A_c(S)) >= delta ],      L = L_cls(A(S), y) + L_cls(B(S (1 - E)), y)
    H = max(N(ReLU A(S)), N(ReLU B(S (1 - E)))).

No gradient goes through E: branch A does not learn to hide anything from B.

Differences: the paper has one class per image, and erases that one; here all present classes are
erased at once. Where maps are extracted, present are the classes that A finds, and at least its
most probable one. Any backbone and pooling; padding does not count. Maps are rectified before they
are joined, and H is multiplied by the mean of the two ranges that its parts were divided by, so
that scales and tiles can be compared; a later normalisation removes the factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from wsseg.localize.config import TagLocalizerConfig

if TYPE_CHECKING:
    from wsseg.nets.acol_head import AcolNet


class Acol(TagLocalizerConfig):
    """A classifier with two branches that complement each other."""

    name: Literal["acol"] = Field(
        "acol", description="A second branch sees what the first one did not find."
    )
    erase_threshold: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Part of the range of a map of the first branch from which on cells are erased "
        "for the second.",
    )
    head_width: int = Field(256, ge=1, le=4096, description="Channels of the branches.")

    @model_validator(mode="after")
    def _check_own_maps(self) -> Self:
        from wsseg.localize.tags.own_maps import check_own_maps

        check_own_maps(self.name, self.inference, is_rectified=True)
        return self


def acol(*, config: Acol = Acol(), num_classes: int, load_weights: bool = True) -> AcolNet:
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
        >>> net = acol(config=Acol(backbone="test_resnet"), num_classes=2)
        >>> len(net.heads), net.threshold
        (2, 0.6)
    """
    from wsseg.localize.tags.backbone import localizer_backbone
    from wsseg.nets.acol_head import AcolNet

    return AcolNet(
        localizer_backbone(config, load_weights=load_weights),
        num_classes,
        config.pooling,
        threshold=config.erase_threshold,
        width=config.head_width,
        dropout=config.dropout,
        bias=config.head_bias,
        focal_gamma=config.focal_gamma,
    )
