"""AffinityNet: features whose distance tells whether two neighbouring pixels belong together.

The affinity of grid cells i and j is a_ij = exp(-mean_c |f_i - f_j|). It is learned from pairs of
cells within a radius whose labels are confident: L = 1/4 L_bg + 1/4 L_fg + 1/2 L_neg, where each
part is the mean of -log a over pairs of background, -log a over pairs of one class, and
-log(1 - a) over pairs of different labels. So neither background nor agreement, both far more
frequent, decides alone.

Reference: J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision
for Weakly Supervised Semantic Segmentation", CVPR 2018. Three stages of the backbone are reduced
to 64, 128 and 256 channels, joined and mixed by a 1x1 convolution; `resnet38d` and
`vgg16_largefov` have the published form. Difference: any other backbone works too; its last three
stages are group-normalised, as those of VGG16 are, and brought to one grid.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.kernels.path_affinity import half_plane_offsets, torch_feature_affinity
from wsseg.nets.alignment import Cells, place
from wsseg.nets.backbones import Backbone
from wsseg.nets.resnet38d import ResNet38d
from wsseg.nets.vgg16_largefov import Vgg16LargeFov

_WIDTHS = (64, 128, 256)
_GROUPS = (8, 16, 32)
_TAPS = ("conv4", "conv5", "conv6")
_EPS = 1e-5
_CHECK_PX = 64


class AffinityNet(nn.Module):
    """Backbone, one reduction per stage, and a joint 1x1 convolution; no biases, ELU throughout.

    Args:
        backbone: Where the stages come from; it is trained too, as far as it is not frozen.
        stride: Pixels per cell of the features, whatever the strides of the stages.
        radius: Pairs of cells closer than this are learned, in cells.
        align_cells: Draw each stage where its cells look; False enlarges it as the paper's code
            does, see `wsseg.nets.alignment`.

    Attributes:
        size_multiple: Images whose sides are multiples of this have cells that line up.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = AffinityNet(build_backbone("test_resnet", output_stride=16), stride=8)
        >>> net(torch.zeros(1, 3, 64, 48)).shape
        torch.Size([1, 448, 8, 6])
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        stride: int = 8,
        radius: int = 5,
        align_cells: bool = False,
    ) -> None:
        super().__init__()
        self.align_cells = align_cells
        self.backbone = backbone
        self.stride = stride
        self.radius = radius
        self.size_multiple = math.lcm(stride, backbone.stride, backbone.size_multiple)
        channels = self._channels()
        widths = _WIDTHS[-len(channels) :]
        groups = _GROUPS[-len(channels) :]
        is_normalised = not isinstance(backbone.trunk, ResNet38d)
        self.reductions = nn.ModuleList(
            nn.Conv2d(inputs, width, 1, bias=False)
            for inputs, width in zip(channels, widths, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(count, width) if is_normalised else nn.Identity()
            for count, width in zip(groups, widths, strict=True)
        )
        self.mix = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        for reduction in self.reductions:
            nn.init.kaiming_normal_(reduction.weight)  # type: ignore[arg-type]
        nn.init.xavier_uniform_(self.mix.weight, gain=4.0)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, 448, ceil(H / stride), ceil(W / stride)) float; fewer channels for a backbone of
            fewer than three stages.
        """
        grid = (-(-images.shape[2] // self.stride), -(-images.shape[3] // self.stride))
        reduced = [
            F.elu(norm(reduction(self._on_grid(stage, grid, images.shape[2]))))
            for stage, reduction, norm in zip(
                self.stages(images), self.reductions, self.norms, strict=True
            )
        ]
        features: Tensor = F.elu(self.mix(torch.cat(reduced, dim=1)))
        return features

    def _on_grid(self, stage: Tensor, grid: tuple[int, int], height_px: int) -> Tensor:
        if not self.align_cells:
            return on_grid(stage, grid)
        stride = 2 ** round(math.log2(height_px / stage.shape[2]))
        if stride < self.stride:
            return on_grid(stage, grid)
        source = Cells(self.backbone.first_centre(stride), stride)
        return place(stage, grid, source, Cells.covering(self.stride))

    def stages(self, images: Tensor) -> list[Tensor]:
        """Compute what the reductions take.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            The last three stages, coarsest last; rectified for the two published networks.
        """
        backbone = self.backbone
        if isinstance(backbone.trunk, ResNet38d | Vgg16LargeFov):
            size = (images.shape[2], images.shape[3])
            outputs = backbone.trunk(backbone.prepared(images))
            return [backbone.as_grid(outputs[tap], size) for tap in _TAPS]
        if not backbone.stage_modules():
            return [backbone(images)]
        return backbone.stages(images)[-len(_WIDTHS) :]

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the balanced loss of the pairs of a batch.

        Args:
            batch: ``image`` (N, 3 or 1, H, W) normalised, and ``labels`` (N, h, w) uint8 on the
                grid of the features: 0, a class id, or 255 where nothing is known.

        Returns:
            What `affinity_loss` returns.

        Raises:
            ValueError: When labels and features lie on different grids.
        """
        features = self(batch["image"])
        labels = batch["labels"]
        if labels.shape[1:] != features.shape[2:]:
            raise ValueError(
                f"labels have the grid {tuple(labels.shape[1:])}, features "
                f"{tuple(features.shape[2:])}; expected the same."
            )
        return affinity_loss(torch_feature_affinity(features, self.radius), labels, self.radius)

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        modules = (self.reductions, self.norms, self.mix)
        return [parameter for module in modules for parameter in module.parameters()]

    def freeze_unused(self) -> None:
        """Exclude parameters of the backbone that do not reach the features."""
        trainable = [p for p in self.backbone.parameters() if p.requires_grad]
        if not trainable:
            return
        side = max(_CHECK_PX, 2 * self.size_multiple)
        images = next(self.parameters()).new_zeros(1, self.backbone.in_channels, side, side)
        was_training = self.training
        self.eval()
        try:
            with torch.enable_grad():
                total = self(images).sum()
                gradients = torch.autograd.grad(total, trainable, allow_unused=True)
        finally:
            self.train(was_training)
        for parameter, gradient in zip(trainable, gradients, strict=True):
            if gradient is None:
                parameter.requires_grad_(False)

    def _channels(self) -> list[int]:
        """Measure the channels of the stages on a small image."""
        side = max(_CHECK_PX, 2 * self.size_multiple)
        images = next(self.backbone.parameters()).new_zeros(
            1, self.backbone.in_channels, side, side
        )
        was_training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                return [stage.shape[1] for stage in self.stages(images)]
        finally:
            self.backbone.train(was_training)


def on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring features to a grid: bilinear where it is finer, cell means where it is coarser.

    Args:
        features: (N, D, h, w) float.
        grid: (h', w') cells.

    Returns:
        (N, D, h', w') float; the input itself where the grid is the same.
    """
    size = (features.shape[2], features.shape[3])
    if size == grid:
        return features
    if size[0] >= grid[0] and size[1] >= grid[1]:
        return F.adaptive_avg_pool2d(features, grid)
    return F.interpolate(features, size=grid, mode="bilinear", align_corners=False)


def pair_kinds(labels: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the pairs of neighbouring cells by what their labels say.

    Sources are the cells whose every target exists: rows 0..h-r and columns r-1..w-r.

    Args:
        labels: (N, h, w) uint8: 0 background, class ids, 255 unknown; h >= r, w >= 2 r - 1.
        radius: r, in cells; the n targets are those of
            `wsseg.kernels.stencil.half_plane_offsets`.

    Returns:
        Three (N, n, h - r + 1, w - 2 r + 2) bool, in the order of the offsets: both background;
        the same class; different labels. A pair with an unknown label is none of them.

    Example:
        >>> labels = torch.tensor([[[0, 0, 7, 7, 255]]], dtype=torch.uint8)
        >>> labels = torch.cat([labels, labels], dim=1)
        >>> [kind.sum().item() for kind in pair_kinds(labels, 2)]
        [2, 5, 3]
    """
    offsets = torch.from_numpy(half_plane_offsets(radius)).to(labels.device)
    # (N, h - r + 1, w - 2 r + 2, r, 2 r - 1): every window whose top middle is the source.
    windows = labels.unfold(1, radius, 1).unfold(2, 2 * radius - 1, 1)
    targets = windows[..., offsets[:, 0], offsets[:, 1] + radius - 1].movedim(-1, 1)
    sources = windows[..., 0, radius - 1].unsqueeze(1)
    is_known = (sources != IGNORE) & (targets != IGNORE)
    is_same = (sources == targets) & is_known
    is_background = sources == BACKGROUND
    return is_same & is_background, is_same & ~is_background, is_known & ~is_same


def affinity_loss(affinity: Tensor, labels: Tensor, radius: int) -> dict[str, Tensor]:
    """Compute the balanced loss L = 1/4 L_bg + 1/4 L_fg + 1/2 L_neg.

    Every part is a mean over the pairs of its kind in the whole batch, and 0 without such a pair.

    Args:
        affinity: (N, n, h - r + 1, w - 2 r + 2) in [0, 1] of the pairs of `pair_kinds`.
        labels: (N, h, w) uint8: 0, a class id, or 255 where nothing is known.
        radius: r, in cells.

    Returns:
        ``loss``, and its parts ``loss_background``, ``loss_foreground`` and ``loss_negative``,
        each a scalar >= -1e-5.

    Example:
        >>> labels = torch.tensor([[[0, 0, 0], [0, 0, 7]]], dtype=torch.uint8)
        >>> affinity = torch.full((1, 4, 1, 1), 0.5)
        >>> parts = affinity_loss(affinity, labels, 2)
        >>> {name: round(part.item(), 3) for name, part in parts.items()}
        {'loss': 0.52, 'loss_background': 0.693, 'loss_foreground': 0.0, 'loss_negative': 0.693}
    """
    kinds = pair_kinds(labels, radius)
    agreement = -torch.log(affinity + _EPS)
    difference = -torch.log(1 + _EPS - affinity)
    background, foreground, negative = (
        _mean_of(term, kind)
        for term, kind in zip((agreement, agreement, difference), kinds, strict=True)
    )
    return {
        "loss": background / 4 + foreground / 4 + negative / 2,
        "loss_background": background,
        "loss_foreground": foreground,
        "loss_negative": negative,
    }


def _mean_of(term: Tensor, chosen: Tensor) -> Tensor:
    weights = chosen.to(term.dtype)
    return (term * weights).sum() / (weights.sum() + _EPS)
