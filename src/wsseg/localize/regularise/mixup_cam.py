"""Mixup-CAM: blend pairs of images, and keep the maps crisp by two terms.

Reference: Chang, Wang, Hung, Piramuthu, Tsai and Yang, "Mixup-CAM: Weakly-supervised Semantic
Segmentation via Uncertainty Regularization", BMVC 2020. With lambda ~ Beta(alpha, alpha)

    x' = lambda x + (1 - lambda) x2,    y' = lambda y + (1 - lambda) y2

and, on the class maps M of x' with n cells u,

    entropy:        L_ent = -1/n sum_u sum_c p_c(u) log p_c(u),   p = softmax_c M
    concentration:  r_c = ReLU(M_c) / sum_u ReLU(M_c),            mu_c = sum_u u r_c(u),
                    L_con = 1/|T| sum_{c in T} sum_u |u - mu_c|^2 r_c(u)

with T the classes with y' > 0. Each cell shall belong to one class, and each class to one place.

Weights and alpha are from memory, as there is no public code, and so is the softmax over all
classes. Coordinates run from 0 to 1 over the map's width and height; with ``cells`` they count
cells, and the term is the squared side of the map times as strong.

Differences: every pair draws a lambda of its own; cells that show padding do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.localize.regularise.cutmix import beta_samples, check_batch_size, mixed_tags, partners
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet, Step

# Keeps a map without positive evidence from 0/0.
EPSILON = 1e-5


class MixupCam(MethodConfig):
    """Settings of Mixup-CAM."""

    name: Literal["mixup_cam"] = Field(
        "mixup_cam", description="Blend pairs of images, with two terms that keep maps crisp."
    )
    alpha: float = Field(
        0.2, gt=0, le=100, description="Both parameters of the Beta distribution of lambda."
    )
    entropy_weight: float = Field(
        0.02, ge=0, le=100, description="Weight of the entropy over classes, in nats; 0: none."
    )
    concentration_weight: float = Field(
        2e-4, ge=0, le=100, description="Weight of the spread of each map; 0: none."
    )
    coordinates: Literal["fraction", "cells"] = Field(
        "fraction",
        description="Unit in which the spread is measured: fractions of the map's width and "
        "height, or cells.",
    )


class MixupCamRegulariser(Regulariser):
    """Blends the images of a batch and looks at the maps of the blends."""

    config_class: ClassVar[type[MethodConfig]] = MixupCam
    config: MixupCam

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:  # noqa: ARG002
        """Refuse batches without another image.

        Raises:
            RecipeError: When the batch size is 1.
        """
        check_batch_size(self.name, config.training.batch_size)

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blend every image and its tags with another."""
        import torch

        images = batch["image"]
        partner = partners(self.name, images)
        share = beta_samples(images, self.config.alpha)[:, None]
        weight = share[:, :, None, None].to(images.dtype)
        mixed = {**batch, "image": weight * images + (1 - weight) * images[partner]}
        valid = batch.get("valid")
        if valid is not None:
            # Where one of the two is no padding there is something to see.
            mixed["valid"] = torch.maximum(valid, valid[partner])
        return mixed | mixed_tags(batch, partner, share, "area")

    def terms(self, net: ClassMapNet, step: Step) -> dict[str, Tensor]:  # noqa: ARG002
        """Compute entropy and concentration of the maps of the blended images."""
        valid = step.batch.get("valid")
        terms = {}
        if self.config.entropy_weight > 0:
            terms["mixup_cam_entropy"] = self.config.entropy_weight * entropy(step.maps, valid)
        if self.config.concentration_weight > 0:
            spread = concentration(
                step.maps, step.batch["tags"] > 0, valid, unit=self.config.coordinates
            )
            terms["mixup_cam_concentration"] = self.config.concentration_weight * spread
        return terms


def entropy(maps: Tensor, valid: Tensor | None = None) -> Tensor:
    """Measure how undecided the cells are between the classes.

    Args:
        maps: (N, C, h, w) raw class maps.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.

    Returns:
        A scalar from 0 to log C: the entropy of the softmax over classes, averaged over the valid
        cells of each image and over the images.
    """
    import torch

    from wsseg.nets.cam_head import valid_cells

    log_p = torch.log_softmax(maps.float(), dim=1)
    per_cell = -(log_p.exp() * log_p).sum(dim=1, keepdim=True)
    if valid is None:
        return per_cell.mean()
    counted = valid_cells(valid, maps)
    return ((per_cell * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3))).mean()


def concentration(
    maps: Tensor, present: Tensor, valid: Tensor | None = None, *, unit: str = "fraction"
) -> Tensor:
    """Measure how far the evidence of each present class lies from its centre of mass.

    Args:
        maps: (N, C, h, w) raw class maps.
        present: (N, C) bool, the classes that count.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.
        unit: ``fraction`` of the map's width and height, or ``cells``.

    Returns:
        A scalar: the variance of the place, averaged over the classes of each image and over the
        images that have any; 0 where there is none.
    """
    from wsseg.nets.cam_head import valid_cells

    positive = maps.float().relu()
    if valid is not None:
        positive = positive * valid_cells(valid, maps)
    share = positive / (positive.sum(dim=(2, 3), keepdim=True) + EPSILON)
    spread = _variance(share.sum(dim=2), unit) + _variance(share.sum(dim=3), unit)
    counts = present.sum(dim=1)
    per_image = (spread * present).sum(dim=1) / counts.clamp(min=1)
    return per_image.sum() / (counts > 0).sum().clamp(min=1)


def _variance(share: Tensor, unit: str) -> Tensor:
    """Compute the variance along one axis: (N, C, length) shares to (N, C)."""
    import torch

    length = share.shape[2]
    place = torch.arange(length, device=share.device, dtype=share.dtype)
    if unit == "fraction":
        place = place / max(1, length - 1)
    mean = (share * place).sum(dim=2, keepdim=True)
    return (share * (place - mean) ** 2).sum(dim=2)
