"""Hide-and-Seek: hide random cells of a grid, so that no single part of the object is enough.

Reference: Singh and Lee, "Hide-and-Seek: Forcing a Network to be Meticulous for Weakly-supervised
Object and Action Localization", ICCV 2017. For each image a cell side S is drawn from a set, and
each cell of the grid that starts in its upper left corner is hidden with probability ``hide``.

Hidden pixels take the mean colour of the data: so the expected activation of the first layer at
the border of a hidden cell is what it is without hiding. After normalisation this is zero.
Nothing is hidden when maps are extracted.

Differences: zero is the mean colour of ImageNet, by which images are normalised, not that of the
data set. The paper's sizes are for crops of 224 pixels; for others scale them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.errors import RecipeError
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet


class HideAndSeek(MethodConfig):
    """Settings of Hide-and-Seek."""

    name: Literal["hide_and_seek"] = Field(
        "hide_and_seek", description="Hide random cells of a grid while training."
    )
    sizes_px: tuple[Annotated[int, Field(ge=0, le=4096)], ...] = Field(
        (0, 16, 32, 44, 56),
        min_length=1,
        description="Sides of the cells, pixels, one of them drawn for each image; 0 hides "
        "nothing. The default is the paper's, for crops of 224 pixels.",
    )
    hide: float = Field(0.5, ge=0, lt=1, description="Probability that a cell is hidden.")


class HideAndSeekRegulariser(Regulariser):
    """Hides cells of training images."""

    config_class: ClassVar[type[MethodConfig]] = HideAndSeek
    config: HideAndSeek

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:  # noqa: ARG002
        """Refuse cells that hide or show the whole crop.

        Raises:
            RecipeError: When a cell is as large as the crop.
        """
        crop_px = config.augment.crop_px
        largest = max(self.config.sizes_px)
        if crop_px is not None and largest >= crop_px:
            raise RecipeError(
                f"hide_and_seek has cells of {largest} pixels, but the crop has {crop_px}, so that "
                "all of an image or nothing would be hidden. Set "
                "localize.regularisers.hide_and_seek.sizes_px to smaller ones."
            )

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hide cells of every image."""
        images = batch["image"]
        shown = visible_cells(images, self.config.sizes_px, self.config.hide)
        return {**batch, "image": images * shown.to(images.dtype)}


def visible_cells(images: Tensor, sizes_px: tuple[int, ...], hide: float) -> Tensor:
    """Draw which pixels stay visible.

    Args:
        images: (N, channels, H, W), for its size and device.
        sizes_px: Sides of the cells, of which each image draws one; 0 hides nothing.
        hide: Probability that a cell is hidden.

    Returns:
        (N, 1, H, W) bool.
    """
    import torch

    count, _, height, width = images.shape
    device = images.device
    sizes = torch.tensor(sizes_px, device=device)
    size = sizes[torch.randint(len(sizes_px), (count,), device=device)][:, None]
    rows = torch.arange(height, device=device)[None] // size.clamp(min=1)
    columns = torch.arange(width, device=device)[None] // size.clamp(min=1)
    smallest = min((side for side in sizes_px if side > 0), default=height + width)
    grid = (-(-height // smallest), -(-width // smallest))
    # Images that hide nothing have cells of one pixel; any cell of the grid will do for them.
    rows, columns = rows.clamp(max=grid[0] - 1), columns.clamp(max=grid[1] - 1)
    kept = torch.rand((count, *grid), device=device) >= hide
    image = torch.arange(count, device=device)[:, None, None]
    shown = kept[image, rows[:, :, None], columns[:, None, :]]
    return (shown | (size == 0)[:, :, None])[:, None]
