"""CutMix: paste a rectangle of another image, and mix the tags by area.

Reference: Yun, Han, Oh, Chun, Choe and Yoo, "CutMix: Regularization Strategy to Train Strong
Classifiers with Localizable Features", ICCV 2019. With lambda ~ Beta(alpha, alpha), a rectangle of
H sqrt(1 - lambda) times W sqrt(1 - lambda) pixels around a random centre, cut at the border, is
replaced by that of another image of the batch. With ``a`` the part of the pixels that is left,

    tags="area":   y'_c = a y_c + (1 - a) y2_c                            (the paper)
    tags="union":  y'_c = max(y_c, y2_c), and where it is 1 its loss is
                   weighted with a y_c + (1 - a) y2_c                     (for several tags)

A pasted rectangle need not show the object that its image is tagged with. A soft tag makes the
network answer "perhaps" then, a weight makes it hear the tag less.

Differences: every image draws a rectangle of its own; padding does not count as area. That alpha
is 1 and every batch is mixed is the paper's ImageNet setting (from memory).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.errors import RecipeError
from wsseg.localize.regularise.cutout import boxes_around_random_centres
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet


class Cutmix(MethodConfig):
    """Settings of CutMix."""

    name: Literal["cutmix"] = Field(
        "cutmix", description="Paste rectangles of other images while training."
    )
    alpha: float = Field(
        1.0, gt=0, le=100, description="Both parameters of the Beta distribution of lambda."
    )
    probability: float = Field(
        1.0, gt=0, le=1, description="Probability that an image gets a rectangle."
    )
    tags: Literal["area", "union"] = Field(
        "area",
        description="area: tags are mixed by the area that each image keeps. union: both images' "
        "tags hold, and count in the loss by that area.",
    )


class CutmixRegulariser(Regulariser):
    """Pastes rectangles between the images of a batch."""

    config_class: ClassVar[type[MethodConfig]] = Cutmix
    config: Cutmix

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:  # noqa: ARG002
        """Refuse batches without another image.

        Raises:
            RecipeError: When the batch size is 1.
        """
        check_batch_size(self.name, config.training.batch_size)

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Paste a rectangle into every image and change its tags."""
        import torch

        images = batch["image"]
        partner = partners(self.name, images)
        kept = beta_samples(images, self.config.alpha)
        height, width = images.shape[2:]
        cut = (1 - kept).sqrt()
        # A rectangle of no pixels is allowed: it leaves the image as it is.
        mask = boxes_around_random_centres(images, (height * cut).long(), (width * cut).long())
        drawn = torch.rand(len(images), device=images.device) < self.config.probability
        mask = mask & drawn[:, None, None, None]
        mixed = {**batch, "image": torch.where(mask, images[partner], images)}
        valid = batch.get("valid")
        if valid is not None:
            mixed["valid"] = torch.where(mask, valid[partner], valid)
        share = kept_share(mask, mixed.get("valid"))[:, None]
        return mixed | mixed_tags(batch, partner, share, self.config.tags)


def kept_share(mask: Tensor, valid: Tensor | None) -> Tensor:
    """Measure the part of each image that was not replaced.

    Args:
        mask: (N, 1, H, W) bool, True where a rectangle was pasted.
        valid: (N, 1, H, W), non-zero where the mixed image is no padding; None: everywhere.

    Returns:
        (N,) float32 in [0, 1]; 1 for an image of nothing but padding.
    """
    import torch

    counted = torch.ones_like(mask) if valid is None else valid > 0
    total = counted.flatten(1).sum(dim=1).clamp(min=1)
    return 1 - (mask & counted).flatten(1).sum(dim=1).float() / total


def mixed_tags(
    batch: dict[str, Tensor], partner: Tensor, share: Tensor, rule: str
) -> dict[str, Tensor]:
    """Mix the tags of pairs of images.

    Args:
        batch: ``tags`` (N, C) in [0, 1], and ``tag_weights`` where there are.
        partner: (N,) index of each image's partner.
        share: (N, 1) in [0, 1], how much of the image itself is left.
        rule: ``area`` or ``union``.

    Returns:
        The new ``tags``, and ``tag_weights`` where there are now.
    """
    import torch

    def average(values: Tensor) -> Tensor:
        return share * values + (1 - share) * values[partner]

    tags = batch["tags"].float()
    weights = batch.get("tag_weights")
    mixed = {} if weights is None else {"tag_weights": average(weights)}
    if rule == "area":
        return {"tags": average(tags), **mixed}
    union = torch.maximum(tags, tags[partner])
    heard = torch.where(union > 0, average(tags) / union.clamp(min=1e-6), 1)
    return {"tags": union, "tag_weights": heard * mixed.get("tag_weights", 1)}


def check_batch_size(name: str, batch_size: int) -> None:
    """Refuse a batch that has no second image to mix with.

    Raises:
        RecipeError: When the batch size is 1.
    """
    if batch_size < 2:
        raise RecipeError(
            f"{name} mixes the images of a batch, but localize.training.batch_size is "
            f"{batch_size}. Set it to 2 or more."
        )


def partners(name: str, images: Tensor) -> Tensor:
    """Draw a partner for each image: a random permutation, which may leave some as they are.

    Args:
        name: Of the method, for the message.
        images: (N, channels, H, W).

    Returns:
        (N,) int64 indices.

    Raises:
        RecipeError: When there is one image only.
    """
    import torch

    if len(images) < 2:
        raise RecipeError(
            f"{name} mixes the images of a batch, but a batch of one process has a single image. "
            "Train on more images, or with a larger localize.training.batch_size."
        )
    return torch.randperm(len(images), device=images.device)


def beta_samples(images: Tensor, alpha: float) -> Tensor:
    """Draw lambda ~ Beta(alpha, alpha) per image, (N,) float32 in [0, 1]."""
    import torch

    concentration = torch.full((len(images),), alpha, device=images.device)
    return torch.distributions.Beta(concentration, concentration).sample()
