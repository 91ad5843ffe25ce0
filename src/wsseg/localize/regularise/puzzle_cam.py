"""Puzzle-CAM: the maps of an image and the maps of its tiles, put together, shall agree.

Reference: Jo and Yu, "Puzzle-CAM: Improved Localization via Matching Partial and Full Features",
ICIP 2021. With A the raw class maps of an image and A' those of its 2 x 2 tiles, each run through
the same network and laid side by side again,

    L = L_cls(pool A, y) + L_cls(pool A', y) + alpha(t) mean_{n,c,u} y_c |A - A'|,
    alpha(t) = alpha min(1, t / (schedule T)).

In a tile without the telling part of the object the network must recognise the rest; the third
term brings this to the whole image. Gradients go through both A and A'.

Differences: alpha grows by epochs, from the mean value that the rule has in each; tiles are padded
below and to the right until they are whole numbers of cells, and padding does not count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.errors import RecipeError
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet, Step


class PuzzleCam(MethodConfig):
    """Settings of Puzzle-CAM."""

    name: Literal["puzzle_cam"] = Field(
        "puzzle_cam", description="Maps of an image and of its tiles shall agree."
    )
    alpha: float = Field(
        4.0, ge=0, le=1000, description="Weight of the difference between both maps; 0: none."
    )
    schedule: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Part of the training over which alpha grows from 0; 0: at once.",
    )
    tiles: int = Field(2, ge=2, le=8, description="Tiles per row and per column.")
    tile_loss: bool = Field(True, description="Classify the maps of the tiles, too.")


class PuzzleCamRegulariser(Regulariser):
    """Runs the tiles of each batch and compares."""

    config_class: ClassVar[type[MethodConfig]] = PuzzleCam
    config: PuzzleCam
    num_epochs: int = 1
    share: float = 1.0

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:
        """Refuse crops without a cell per tile, and others that run the network in their own way.

        Raises:
            RecipeError: When tiles cannot be made or compared.
        """
        from wsseg import registry

        others = [str(settings.model_dump()["name"]) for settings in config.regularisers]
        runners = [n for n in others if registry.load("regularisers", n).runs_forward]
        if runners:
            raise RecipeError(
                f"puzzle_cam compares plain class maps, but {runners[0]} runs the network in its "
                "own way. Remove one of them from localize.regularisers."
            )
        side = cell_side(net)
        least = self.config.tiles * side
        crop = config.augment.crop_px
        if crop is not None and crop < least:
            raise RecipeError(
                f"localize.augment.crop_px is {crop}, too small for {self.config.tiles} x "
                f"{self.config.tiles} tiles of cells of {side} pixels. Set it to {least} or more, "
                "or lower localize.output_stride."
            )
        self.num_epochs = config.training.epochs

    def on_epoch_start(self, epoch: int) -> None:
        """Let alpha grow.

        Args:
            epoch: From 0.
        """
        self.share = grown_share(epoch, self.num_epochs, self.config.schedule)

    def terms(self, net: ClassMapNet, step: Step) -> dict[str, Tensor]:
        """Classify the tiles, and compare their maps with those of the images."""
        maps = tiled_maps(net, step, self.config.tiles)
        terms = {}
        if self.config.tile_loss:
            logits = net.pooled(maps, step.batch.get("valid"))
            terms["puzzle_cam_tiles"] = net.classification(replace(step, logits=logits))
        if self.config.alpha > 0:
            unlike = difference(step.maps, maps, step.batch["tags"], step.batch.get("valid"))
            terms["puzzle_cam_match"] = self.config.alpha * self.share * unlike
        return terms


def grown_share(epoch: int, num_epochs: int, schedule: float) -> float:
    """Tell which part of alpha an epoch gets: the rule's value in the middle of the epoch.

    Args:
        epoch: From 0.
        num_epochs: Of the whole training.
        schedule: Part of the training over which the share grows.

    Returns:
        From 0 to 1.

    Example:
        >>> [grown_share(epoch, 8, 0.5) for epoch in range(5)]
        [0.125, 0.375, 0.625, 0.875, 1.0]
    """
    length = schedule * num_epochs
    return 1.0 if length == 0 else min(1.0, (epoch + 0.5) / length)


def cell_side(net: ClassMapNet) -> int:
    """Tell of how many pixels a tile's side must be a multiple, so that cells line up."""
    return max(net.backbone.stride, net.backbone.size_multiple)


def tiled_maps(net: ClassMapNet, step: Step, tiles: int) -> Tensor:
    """Run the tiles of a batch and put their class maps together.

    Args:
        net: The network.
        step: The pass over whole images.
        tiles: Per row and per column.

    Returns:
        (N, C, h, w), of the shape of the maps of the whole images.

    Raises:
        RecipeError: When images are so small that a row or column of tiles shows none of them.
    """
    images = step.batch["image"]
    size = [tile_side(side, tiles, cell_side(net)) for side in images.shape[2:]]
    batch = {"image": cut(images, size, tiles)}
    # A localizer may look at tags; those of the image may not all be in the tile.
    for name in ("tags", "tag_weights"):
        if name in step.batch:
            batch[name] = step.batch[name].repeat_interleave(tiles * tiles, dim=0)
    together = laid_out(net.step(batch).maps, tiles)
    return together[..., : step.maps.shape[2], : step.maps.shape[3]]


def tile_side(side: int, tiles: int, multiple: int) -> int:
    """Tell the side of the tiles of an image.

    Args:
        side: Of the image, pixels.
        tiles: Per row or column.
        multiple: Pixels of which a tile's side is a multiple.

    Returns:
        The least side in pixels with which the tiles cover the image.

    Raises:
        RecipeError: When the last tile would show none of the image.

    Example:
        >>> tile_side(250, 2, 16)
        128
    """
    found = -(-side // (tiles * multiple)) * multiple
    if (tiles - 1) * found >= side:
        raise RecipeError(
            f"An image side of {side} pixels cannot be cut into {tiles} tiles of cells of "
            f"{multiple} pixels. Raise localize.augment.crop_px, or lower localize.output_stride."
        )
    return found


def cut(images: Tensor, size: list[int], tiles: int) -> Tensor:
    """Cut images into tiles, padded with the mean colour below and to the right.

    Args:
        images: (N, K, H, W).
        size: Height and width of a tile, pixels.
        tiles: T per row and per column.

    Returns:
        (N T T, K, height, width), the tiles of an image one after the other, row by row.
    """
    import torch.nn.functional as F

    missing = [tiles * size[axis] - images.shape[2 + axis] for axis in (0, 1)]
    padded = F.pad(images, (0, missing[1], 0, missing[0]))
    grid = padded.unflatten(3, (tiles, size[1])).unflatten(2, (tiles, size[0]))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def laid_out(maps: Tensor, tiles: int) -> Tensor:
    """Put the maps of tiles together again.

    Args:
        maps: (N T T, C, h, w), in the order of `cut`.
        tiles: T per row and per column.

    Returns:
        (N, C, T h, T w).
    """
    grid = maps.unflatten(0, (-1, tiles, tiles))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def difference(maps: Tensor, tiled: Tensor, tags: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compare the maps of images and of their tiles.

    Args:
        maps: (N, C, h, w), raw.
        tiled: (N, C, h, w), raw.
        tags: (N, C); classes with a tag above 0 count.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.

    Returns:
        A scalar: the sum of the absolute differences of present classes, divided by the number of
        valid cells of all classes, as in the released code.
    """
    from wsseg.nets.cam_head import valid_cells

    unlike = (maps.float() - tiled.float()).abs() * (tags > 0)[:, :, None, None]
    if valid is None:
        return unlike.mean()
    cells = valid_cells(valid, maps)
    return (unlike * cells).sum() / (cells.sum() * maps.shape[1])
