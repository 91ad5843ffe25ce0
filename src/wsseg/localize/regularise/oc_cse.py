"""OC-CSE: erase one class by its own map, and ask a frozen classifier whether it is gone.

Reference: Kweon, Yoon, Kim, Park and Yoon, "Unlocking the Potential of Ordinary Classifier:
Class-specific Adversarial Erasing Framework for Weakly Supervised Semantic Segmentation", ICCV
2021. For each image one present class t is drawn; with A its enlarged class map,

    m = ReLU(A_t) / max ReLU(A_t),                the maximum over the whole batch
    L_erase = BCE(classifier(x (1 - m)), y without t)
    L = L_cls(pool A, y) + weight(epoch) L_erase

where the classifier is frozen. If it still sees t, the map does not cover all of the object; if it
no longer sees the others, the map covers too much. The gradient goes through the classifier and m
to the map, never to the classifier's weights.

Differences: the paper trains the classifier before, as a network of its own. Here it is the
network itself as it is after the part ``warmup`` of the training, which is copied then and frozen,
and the training goes on from there. The weight grows from 0.3 to 1 over the epochs that are left,
which is the paper's 0.3 + 0.05 epoch for its 15. Images without tags are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet, Step

# Keeps a batch without any evidence from 0/0, as in the released code.
EPSILON = 1e-5


class OcCse(MethodConfig):
    """Settings of OC-CSE."""

    name: Literal["oc_cse"] = Field(
        "oc_cse", description="Erase a class by its map; a frozen classifier judges."
    )
    warmup: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Part of the epochs, rounded down, after which the network is copied and "
        "frozen as the classifier, and erasing begins.",
    )
    first_weight: float = Field(
        0.3, ge=0, le=100, description="Weight of the erasing loss in the first epoch of erasing."
    )
    last_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the erasing loss in the last epoch."
    )


class OcCseRegulariser(Regulariser):
    """Keeps a frozen copy of the network and lets it judge what maps erase."""

    config_class: ClassVar[type[MethodConfig]] = OcCse
    config: OcCse
    num_epochs: int = 1
    epoch: int = 0

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:  # noqa: ARG002
        """Learn how long the training is."""
        self.num_epochs = config.training.epochs

    def build(self, net: ClassMapNet) -> nn.Module:
        """Make room for the copy of the network."""
        from wsseg.nets.frozen_classifier import FrozenClassifier

        return FrozenClassifier(net)

    def on_epoch_start(self, epoch: int) -> None:
        """Remember the epoch.

        Args:
            epoch: From 0.
        """
        self.epoch = epoch

    def terms(self, net: ClassMapNet, step: Step) -> dict[str, Tensor]:
        """Compute the erasing loss, once it is time."""
        from wsseg.nets.frozen_classifier import FrozenClassifier

        first = int(self.config.warmup * self.num_epochs)
        if self.epoch < first:
            return {}
        classifier = net.extras[self.name]
        if not isinstance(classifier, FrozenClassifier):
            raise TypeError(f"Expected a FrozenClassifier, but got {type(classifier).__name__}.")
        classifier.copy_once(net)
        weight = erasing_weight(self.epoch - first, self.num_epochs - first, self.config)
        return {"oc_cse": weight * erasing_loss(classifier, step)}


def erasing_weight(epoch: int, num_epochs: int, config: OcCse) -> float:
    """Tell the weight of the erasing loss.

    Args:
        epoch: Of erasing, from 0.
        num_epochs: Of erasing.
        config: The weights of the first and the last epoch.

    Returns:
        The weight, which grows by the same step each epoch.

    Example:
        >>> [round(erasing_weight(epoch, 15, OcCse()), 2) for epoch in (0, 1, 14)]
        [0.3, 0.35, 1.0]
    """
    share = epoch / (num_epochs - 1) if num_epochs > 1 else 1.0
    return config.first_weight + share * (config.last_weight - config.first_weight)


def erasing_loss(classifier: nn.Module, step: Step) -> Tensor:
    """Erase one class of each image, and compare what the classifier sees with what is left.

    Args:
        classifier: From images (N, 3 or 1, H, W) and valid pixels, or None, to logits (N, C).
        step: The pass, with tags.

    Returns:
        A scalar; 0 in a batch without tags.
    """
    import torch
    import torch.nn.functional as F

    present = step.batch["tags"] > 0
    tagged = present.any(dim=1).nonzero().flatten()
    if len(tagged) == 0:
        return step.maps.sum() * 0
    drawn = torch.multinomial(present[tagged].float(), 1).flatten()
    images = step.batch["image"][tagged]
    shown = erasing_mask(step.maps[tagged, drawn], (images.shape[2], images.shape[3]))
    left = step.batch["tags"][tagged].clone()
    left[torch.arange(len(tagged), device=left.device), drawn] = 0
    valid = step.batch.get("valid")
    logits: Tensor = classifier(
        images * (1 - shown).to(images.dtype), None if valid is None else valid[tagged]
    )
    return F.binary_cross_entropy_with_logits(logits.float(), left.float())


def erasing_mask(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell how much of each pixel is erased.

    Args:
        maps: (N, h, w) raw maps of the drawn classes.
        size: (H, W) of the images, pixels.

    Returns:
        (N, 1, H, W) float32 in [0, 1): the enlarged rectified maps, divided by the largest value
        of the batch. Gradients go through it, and through that value.
    """
    import torch.nn.functional as F

    enlarged = F.interpolate(
        maps[:, None].float(), size=size, mode="bilinear", align_corners=False
    ).relu()
    return enlarged / (enlarged.max() + EPSILON)
