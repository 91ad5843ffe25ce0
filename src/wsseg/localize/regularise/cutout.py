"""Cutout: hide one random square of each training image.

Reference: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
Cutout", 2017, arXiv:1708.04552. The centre of the square is drawn from all pixels, so that part
of the square may lie outside, and what it covers is set to zero after normalisation. It is
Hide-and-Seek with one patch. Nothing is hidden when maps are extracted.

Difference: the side is a fraction of the image's shorter side. The paper's squares have 16 of 32
pixels on CIFAR-10 and 8 on CIFAR-100 (from memory).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor


class Cutout(MethodConfig):
    """Settings of Cutout."""

    name: Literal["cutout"] = Field(
        "cutout", description="Hide one random square of each image while training."
    )
    side_frac: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Side of the square as a fraction of the crop's shorter side; its centre may "
        "be anywhere, so that it may be partly outside.",
    )


class CutoutRegulariser(Regulariser):
    """Hides a square of training images."""

    config_class: ClassVar[type[MethodConfig]] = Cutout
    config: Cutout

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hide a square of every image."""
        images = batch["image"]
        side = max(1, round(self.config.side_frac * min(images.shape[2:])))
        hidden = boxes_around_random_centres(images, side, side)
        return {**batch, "image": images.masked_fill(hidden, 0)}


def boxes_around_random_centres(
    images: Tensor, height_px: Tensor | int, width_px: Tensor | int
) -> Tensor:
    """Draw a box per image whose centre is any pixel, cut at the border of the image.

    Args:
        images: (N, channels, H, W), for its size and device.
        height_px: Height of the boxes before they are cut, pixels; one for all, or (N,).
        width_px: Their width, likewise.

    Returns:
        (N, 1, H, W) bool, True inside.
    """
    import torch

    count, _, height, width = images.shape

    def inside(length: int, side: Tensor | int) -> Tensor:
        centre = torch.randint(length, (count,), device=images.device)
        sides = torch.as_tensor(side, device=images.device).expand(count)
        start = (centre - sides // 2)[:, None]
        place = torch.arange(length, device=images.device)[None]
        return (place >= start) & (place < start + sides[:, None])

    rows, columns = inside(height, height_px), inside(width, width_px)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
