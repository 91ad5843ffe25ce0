"""IRNet: where objects end, and where the middle of each is, from one frozen backbone.

Reference: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations", CVPR 2019. Two heads of 1x1 convolutions read all stages of a backbone that is not
trained: one gives the probability of a class boundary, the other the displacement of every cell
from the centroid of its object, both at a quarter of the image's size. On a ResNet-50 of output
stride 16 the layers are those of the paper's code.

Differences: any backbone, which may be trained too and whose stages may be drawn where their cells
look (`wsseg.nets.alignment`); both are off by default here, and the
refiner ``irn`` turns the second on. Stages finer than stride 4 are
max-pooled to it (as a ResNet does with its stem); the displacement head joins all coarser stages at
the size of the finest of them. A stage of C channels gets min(max(C / 2, 64), 256) channels there,
which is the published layout for a ResNet-50, and group norms have the largest number of groups up
to the published one that divides them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.nets.alignment import Cells, place
from wsseg.nets.backbones import Backbone
from wsseg.nets.irn_losses import affinity_loss, displacement_loss, label_pairs

STRIDE = 4
# Smaller images are padded to this side, so that every network has something to look at.
MIN_SIDE_PX = 32
_EDGE_CHANNELS = 32
_JOINED_CHANNELS = 256
GRID = Cells.covering(STRIDE)


class Branch(nn.Module):
    """1x1 convolution, group norm, enlargement and rectification of one stage.

    Args:
        in_channels: Channels of the stage.
        out_channels: Channels of the result.
        max_groups: Groups of the norm, fewer where they do not divide the channels.
    """

    def __init__(self, in_channels: int, out_channels: int, max_groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.GroupNorm(groups_for(out_channels, max_groups), out_channels)

    def forward(
        self, features: Tensor, size: tuple[int, int], source: Cells, target: Cells
    ) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, *size).

        Args:
            features: (N, in_channels, h, w).
            size: Cells of the result.
            source: Where the cells of the features look.
            target: Where those of the result look.
        """
        result: Tensor = self.norm(self.conv(features))
        return place(result, size, source, target).relu()


class MeanShift(nn.Module):
    """Subtracts a stored mean from displacements, but only in evaluation mode.

    The loss knows differences of displacements only, so that their mean is free while the network
    is trained. Over a whole data set it should be zero.
    """

    running_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))

    def forward(self, displacement: Tensor) -> Tensor:
        """Shift (N, 2, h, w)."""
        if self.training:
            return displacement
        return displacement - self.running_mean[:, None, None]


class EdgeHead(nn.Module):
    """Boundary logits from the features of all stages.

    Args:
        channels: Channels of each stage.
        cells: Where the cells of each stage look.
    """

    def __init__(self, channels: list[int], cells: list[Cells]) -> None:
        super().__init__()
        self.cells = cells
        self.branches = nn.ModuleList(Branch(count, _EDGE_CHANNELS, 4) for count in channels)
        self.last = nn.Conv2d(_EDGE_CHANNELS * len(channels), 1, 1)

    def forward(self, stages: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Compute (N, 1, *size) from (N, C_i, h_i, w_i)."""
        parts = [
            branch(features, size, cells, GRID)
            for branch, features, cells in zip(self.branches, stages, self.cells, strict=True)
        ]
        logits: Tensor = self.last(torch.cat(parts, dim=1))
        return logits


class DisplacementHead(nn.Module):
    """Displacements to the centroids from the features of all stages.

    Args:
        channels: Channels of each stage.
        cells: Where the cells of each stage look.
        is_coarse: Whether the stage is coarser than the result.
    """

    def __init__(self, channels: list[int], cells: list[Cells], is_coarse: list[bool]) -> None:
        super().__init__()
        self.cells = cells
        widths = [min(max(count // 2, 64), _JOINED_CHANNELS) for count in channels]
        self.is_coarse = is_coarse
        self.branches = nn.ModuleList(
            Branch(count, width, 8 if width <= 64 else 16)
            for count, width in zip(channels, widths, strict=True)
        )
        coarse = sum(width for width, apart in zip(widths, is_coarse, strict=True) if apart)
        self.coarse = Branch(coarse, _JOINED_CHANNELS, 16) if coarse else None
        joined = sum(widths) - coarse + (_JOINED_CHANNELS if coarse else 0)
        self.joined = Branch(joined, _JOINED_CHANNELS, 16)
        self.last = nn.Conv2d(_JOINED_CHANNELS, 2, 1, bias=False)
        self.mean_shift = MeanShift()

    def forward(self, stages: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Compute (N, 2, *size), rows and columns, from (N, C_i, h_i, w_i)."""
        fine: list[Tensor] = []
        coarse: list[Tensor] = []
        between, where = self._finest_coarse(stages)
        for branch, features, cells, apart in zip(
            self.branches, stages, self.cells, self.is_coarse, strict=True
        ):
            if apart:
                coarse.append(branch(features, between, cells, where))
            else:
                fine.append(branch(features, size, cells, GRID))
        if self.coarse is not None:
            fine.append(self.coarse(torch.cat(coarse, dim=1), size, where, GRID))
        joined = self.joined(torch.cat(fine, dim=1), size, GRID, GRID)
        shifted: Tensor = self.mean_shift(self.last(joined))
        return shifted

    def _finest_coarse(self, stages: list[Tensor]) -> tuple[tuple[int, int], Cells]:
        """Tell size and cells of the finest of the coarse stages."""
        found = [
            ((features.shape[-2], features.shape[-1]), cells)
            for features, cells, apart in zip(stages, self.cells, self.is_coarse, strict=True)
            if apart
        ]
        return max(found, default=((0, 0), GRID), key=lambda entry: entry[0])


class IrnNet(nn.Module):
    """Boundary and displacement heads on a backbone.

    Args:
        backbone: Features of the images. It stays in evaluation mode, unless its normalisation is
            trained.
        radius: Longest distance of a training pair in cells of 4 pixels, exclusive.
        train_backbone: Train it too, but for its normalisation; False is the paper's way.
        train_norms: With `train_backbone`, train the normalisation as well, for random weights:
            their stored statistics are those of no data, and blocks that start as identity by
            their normalisation would stay so.
        align_cells: Draw each stage where its cells look; False enlarges it as the paper's code
            does, see `wsseg.nets.alignment`.

    Raises:
        RecipeError: When the backbone has no stages to read.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = IrnNet(build_backbone("test_resnet", output_stride=8)).eval()
        >>> edge, displacement = net(torch.zeros(1, 3, 61, 48))
        >>> edge.shape, displacement.shape
        (torch.Size([1, 1, 16, 12]), torch.Size([1, 2, 16, 12]))
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        radius: int = 10,
        train_backbone: bool = False,
        train_norms: bool = False,
        align_cells: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        if train_backbone:
            if not train_norms:
                backbone.freeze_batchnorm()
            backbone.freeze_unused()
        else:
            backbone.requires_grad_(False)
        self.backbone.eval()
        self.train_backbone = train_backbone
        self.train_norms = train_backbone and train_norms
        self.radius = radius
        self._keys, channels, strides = _measure_stages(backbone)
        self.size_multiple = math.lcm(STRIDE, backbone.size_multiple, *strides)
        cells = [
            Cells(backbone.first_centre(stride), stride) if align_cells else Cells.covering(stride)
            for stride in strides
        ]
        self.edge_head = EdgeHead(channels, cells)
        self.displacement_head = DisplacementHead(channels, cells, [s > STRIDE for s in strides])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute boundaries and displacements.

        Args:
            images: (N, in_channels, H, W) float, normalised.

        Returns:
            Boundary logits (N, 1, ceil(H / 4), ceil(W / 4)), and displacements
            (N, 2, ceil(H / 4), ceil(W / 4)) in rows and columns of cells of 4 pixels.
        """
        height, width = (-(-side // STRIDE) for side in images.shape[-2:])
        padded = self._padded(images)
        size = (padded.shape[-2] // STRIDE, padded.shape[-1] // STRIDE)
        stages = self._features(padded)
        edge = self.edge_head(stages, size)[..., :height, :width]
        return edge, self.displacement_head(stages, size)[..., :height, :width]

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of `wsseg.nets.irn_losses`.

        Args:
            batch: ``image`` (N, in_channels, H, W) normalised, and ``labels``
                (N, ceil(H / 4), ceil(W / 4)) uint8: 0 background, class ids, 255 unknown.

        Returns:
            ``loss``, and its parts ``positive``, ``negative`` and ``displacement``.
        """
        edge, displacement = self(batch["image"])
        pairs = label_pairs(batch["labels"], self.radius)
        positive, negative = affinity_loss(edge.float().sigmoid(), pairs, self.radius)
        displaced = displacement_loss(displacement.float(), pairs, self.radius)
        return {
            "loss": (positive + negative) / 2 + displaced,
            "positive": positive,
            "negative": negative,
            "displacement": displaced,
        }

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that learn `head_lr_factor` times as fast: the displacement head."""
        return list(self.displacement_head.parameters())

    def train(self, mode: bool = True) -> IrnNet:
        """Set the mode of the heads, and of a backbone whose normalisation is trained."""
        super().train(mode)
        if not self.train_norms:
            self.backbone.eval()
        return self

    def set_displacement_mean(self, mean: tuple[float, float]) -> None:
        """Store the mean displacement of a data set, which evaluation subtracts.

        Args:
            mean: Rows and columns, in cells.
        """
        stored = self.displacement_head.mean_shift.running_mean
        stored.copy_(stored.new_tensor(mean))

    def _padded(self, images: Tensor) -> Tensor:
        """Pad right and below with the mean colour, so that all stages line up."""
        multiple = self.size_multiple * -(-MIN_SIDE_PX // self.size_multiple)
        extra = [-side % multiple for side in images.shape[-2:]]
        return F.pad(images, (0, extra[1], 0, extra[0])) if any(extra) else images

    def _features(self, images: Tensor) -> list[Tensor]:
        # Where nothing before the heads is trained, no graph is kept.
        with torch.set_grad_enabled(self.train_backbone and torch.is_grad_enabled()):
            stages = zip(self.backbone.stage_modules(), self.backbone.stages(images), strict=True)
            found = dict(stages)
            return [_pooled(found[key], images.shape[-1]) for key in self._keys]


def groups_for(channels: int, max_groups: int) -> int:
    """Choose the largest number of groups that divides the channels.

    Args:
        channels: Channels to normalise.
        max_groups: The number wanted.

    Example:
        >>> groups_for(256, 16), groups_for(84, 16)
        (16, 14)
    """
    return next(count for count in range(max_groups, 0, -1) if channels % count == 0)


def _pooled(features: Tensor, width_px: int) -> Tensor:
    """Bring features finer than a quarter of the image to it, as a ResNet's stem does."""
    while features.shape[-1] * STRIDE > width_px:
        features = F.max_pool2d(features, 3, stride=2, padding=1)
    return features


def _measure_stages(backbone: Backbone) -> tuple[list[int], list[int], list[int]]:
    """List number, channels and stride (at least 4) of the stages that are read.

    A stage at full resolution says nothing but colours, and is left out.
    """
    side = math.lcm(2 * MIN_SIDE_PX, 2 * backbone.size_multiple)
    device = next(backbone.parameters()).device
    images = torch.zeros(1, backbone.in_channels, side, side, device=device)
    with torch.no_grad():
        stages: dict[int, Any] = dict(
            zip(backbone.stage_modules(), backbone.stages(images), strict=True)
        )
    strides = {key: side // features.shape[-1] for key, features in stages.items()}
    keys = [key for key in stages if strides[key] > 1]
    if not keys:
        raise RecipeError(
            f'Backbone "{backbone.name}" does not tell its stages, which irn reads. Choose a '
            "ResNet or another network with stages."
        )
    channels = [int(stages[key].shape[1]) for key in keys]
    return keys, channels, [max(STRIDE, strides[key]) for key in keys]
