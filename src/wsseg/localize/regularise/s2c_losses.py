"""The losses of S2C: contrast of segments, and class maps against the classes of their segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

EPSILON = 1e-5
IGNORED = -1
"""Target of pixels that take no part in a loss."""
# Features are divided by their length, but by no less than this (torch's `normalize`, too).
_SHORTEST = 1e-12


def contrast_loss(
    features: Tensor, ids: Tensor, temperature: float = 1.0, stride_px: int = 1
) -> Tensor:
    """Compare the features of every pixel with the means of all segments of its image.

    With f the enlarged features divided by their length, and p_n the mean of f over segment n, a
    constant without gradient, divided by its length:

        L = mean over pixels i in segments of  -log softmax_n (temperature p_n f_i) [segment of i]

    Features are never enlarged: products with p_n are the same before and after, lengths follow
    from the products of neighbouring cells, and means from what all pixels take of each cell.

    Args:
        features: (N, D, h, w).
        ids: (N, 1, H, W) integers; 0 where a pixel is in no segment.
        temperature: Factor of the cosine.
        stride_px: Every how many pixels features are compared.

    Returns:
        A scalar; 0 where no pixel of the batch is in a segment.
    """
    grid, size = (features.shape[2], features.shape[3]), (ids.shape[2], ids.shape[3])
    picked = [torch.arange(stride_px // 2, side, stride_px, device=ids.device) for side in size]
    if any(len(one) == 0 for one in picked):
        picked = [torch.tensor([side // 2], device=ids.device) for side in size]
    rows, columns = (_Axis(*sides) for sides in zip(picked, grid, size, strict=True))
    total = features.float().sum() * 0
    count = 0
    with torch.autocast(features.device.type, enabled=False):
        cells = features.float()
        lengths = _lengths(cells, rows, columns)
        for one, length, numbers in zip(cells, lengths, ids[:, 0], strict=True):
            numbers = numbers[picked[0][:, None], picked[1]]
            is_in = numbers > 0
            if not is_in.any():
                continue
            segments, members = torch.unique(numbers[is_in], return_inverse=True)
            targets = torch.full_like(numbers, IGNORED, dtype=torch.int64)
            targets[is_in] = members
            means = _segment_means(one, length, targets, len(segments), (rows, columns))
            products = (means @ one.flatten(1)).unflatten(1, grid)
            logits = temperature * (rows.blend @ products @ columns.blend.T) / length
            total = total + F.cross_entropy(
                logits[None], targets[None], ignore_index=IGNORED, reduction="sum"
            )
            count += len(members)
    return total / max(count, 1)


class _Axis:
    """Bilinear interpolation along one axis, between the centres of cells, at some pixels.

    Args:
        picked: (P,) int, pixels.
        num_cells: Cells along the axis.
        num_pixels: Pixels along the axis.

    Attributes:
        low: (P,) int64, the cell before each pixel.
        high: (P,) int64, the one behind; the same cell at the end.
        share: (P,) float64, what a pixel takes of the cell behind.
        blend: (P, cells) float32, what it takes of each.
    """

    def __init__(self, picked: Tensor, num_cells: int, num_pixels: int) -> None:
        self.num_cells = num_cells
        at = (picked.cpu().double() + 0.5) * (num_cells / num_pixels) - 0.5
        at = at.clamp(0, num_cells - 1)
        device = picked.device
        low = at.long()
        self.low, self.high = low.to(device), (low + 1).clamp(max=num_cells - 1).to(device)
        self.share = (at - low).to(device, _precise(device))
        self.blend = (
            self._take(self.low, 1 - self.share) + self._take(self.high, self.share)
        ).float()

    def squares(self) -> Tensor:
        """Give what a pixel's square takes of each cell's, and of products of two neighbours.

        Returns:
            (P, 2 cells) in the precision of lengths.
        """
        own = self._take(self.low, (1 - self.share) ** 2) + self._take(self.high, self.share**2)
        return torch.cat([own, self._take(self.low, 2 * self.share * (1 - self.share))], dim=1)

    def _take(self, cells: Tensor, amounts: Tensor) -> Tensor:
        table = amounts.new_zeros(len(cells), self.num_cells)
        return table.scatter_(1, cells[:, None], amounts[:, None])


def _precise(device: torch.device) -> torch.dtype:
    # What cancels between cells of opposite features needs float64, which Apple's GPUs lack.
    return torch.float32 if device.type == "mps" else torch.float64


def _lengths(features: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Compute the lengths of interpolated features, (N, R, S), from products of cells."""
    cells = F.pad(features, (0, 1, 0, 1), mode="replicate").to(rows.share.dtype)
    here, right = cells[..., :-1, :-1], cells[..., :-1, 1:]
    below, across = cells[..., 1:, :-1], cells[..., 1:, 1:]
    diagonal = ((here * across).sum(dim=1) + (right * below).sum(dim=1)) / 2
    upper = torch.cat([(here * here).sum(dim=1), (here * right).sum(dim=1)], dim=2)
    lower = torch.cat([(here * below).sum(dim=1), diagonal], dim=2)
    products = torch.cat([upper, lower], dim=1)
    squares = rows.squares() @ products @ columns.squares().T
    return squares.clamp(min=_SHORTEST**2).sqrt().float()


@torch.no_grad()
def _segment_means(
    features: Tensor, lengths: Tensor, targets: Tensor, num_segments: int, axes: tuple[_Axis, _Axis]
) -> Tensor:
    """Average interpolated features of length one over segments.

    Args:
        features: (D, h, w).
        lengths: (R, S), of the interpolated features.
        targets: (R, S) int64, 0 to ``num_segments`` - 1, or `IGNORED`.
        num_segments: n.
        axes: Interpolation of rows and columns.

    Returns:
        (n, D), divided by their lengths.
    """
    rows, columns = axes
    num_cells = features[0].numel()
    # What lies in no segment is gathered in one more row, and dropped.
    first = torch.where(targets == IGNORED, num_segments, targets) * num_cells
    taken = features.new_zeros((num_segments + 1) * num_cells)
    for y, down in ((rows.low, 1 - rows.share), (rows.high, rows.share)):
        for x, along in ((columns.low, 1 - columns.share), (columns.high, columns.share)):
            places = first + (y * columns.num_cells)[:, None] + x
            amounts = (down[:, None] * along).float() / lengths
            taken.index_add_(0, places.flatten(), amounts.flatten())
    # The division by the number of pixels cancels in the division by the length.
    sums = taken.unflatten(0, (-1, num_cells))[:num_segments] @ features.flatten(1).T
    return F.normalize(sums, dim=1)


@torch.no_grad()
def summed_maps(net: ClassMapNet, batch: dict[str, Tensor], scales: Sequence[float]) -> Tensor:
    """Compute the class maps that are prompts: summed over scales, in evaluation mode.

    Args:
        net: The network; its mode is the same afterwards.
        batch: ``image`` (N, 3 or 1, H, W), ``tags`` (N, C), and where there is padding ``valid``.
        scales: Factors of the image.

    Returns:
        (N, C, H, W) float32 in [0, 1], without gradient: rectified, 0 for absent classes and in
        padding, divided by the largest of each class.
    """
    images = batch["image"]
    size = (images.shape[2], images.shape[3])
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        total = torch.zeros(1, device=images.device)
        for scale in scales:
            scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            resized = images
            if scaled != size:
                resized = F.interpolate(images, scaled, mode="bilinear", align_corners=False)
            maps = net.raw_maps(resized).float()
            total = total + F.interpolate(maps, size, mode="bilinear", align_corners=False).relu()
    finally:
        for module, mode in modes:
            module.training = mode
    total = total * (batch["tags"] > 0)[:, :, None, None]
    if "valid" in batch:
        total = total * (batch["valid"] > 0)
    return total / (total.amax(dim=(2, 3), keepdim=True) + EPSILON)


def prompted_loss(
    maps: Tensor, tags: Tensor, targets: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Compare class maps with the classes that their own segments have.

    The rectified maps, divided by their largest value, enlarged, and 0 for absent classes, stand
    as logits beside that of the background, 1 - max_c; their cross-entropy is the loss.

    Args:
        maps: (N, C, h, w) raw class maps.
        tags: (N, C); above 0 where a class is present.
        targets: (N, H, W) int64: 0 to C - 1 for classes, C for the background, `IGNORED`.
        valid: (N, 1, H, W), 0 at padding, whose cells count as 0; None: nothing is padded.

    Returns:
        A scalar; 0 where all pixels are ignored.
    """
    if not (targets != IGNORED).any():
        return maps.float().sum() * 0
    size = (targets.shape[1], targets.shape[2])
    with torch.autocast(maps.device.type, enabled=False):
        found = maps.float().relu()
        if valid is not None:
            from wsseg.nets.cam_head import valid_cells

            found = found * valid_cells(valid, maps)
        found = found / (found.amax(dim=(2, 3), keepdim=True) + EPSILON)
        found = F.interpolate(found, size, mode="bilinear", align_corners=False)
        found = found * (tags > 0)[:, :, None, None]
        background = 1 - found.amax(dim=1, keepdim=True)
        return F.cross_entropy(torch.cat([found, background], dim=1), targets, ignore_index=IGNORED)
