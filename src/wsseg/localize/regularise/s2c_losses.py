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
"""Target of pixels that take no part in the second loss."""


def contrast_loss(
    features: Tensor, ids: Tensor, temperature: float = 1.0, stride_px: int = 1
) -> Tensor:
    """Compare the features of every pixel with the means of all segments of its image.

    With f the enlarged features divided by their length, and p_n the mean of f over segment n, a
    constant without gradient, divided by its length:

        L = mean over pixels i in segments of  -log softmax_n (temperature p_n f_i) [segment of i]

    Args:
        features: (N, D, h, w).
        ids: (N, 1, H, W) integers; 0 where a pixel is in no segment.
        temperature: Factor of the cosine.
        stride_px: Every how many pixels features are compared.

    Returns:
        A scalar; 0 where no pixel of the batch is in a segment.
    """
    height, width = ids.shape[2:]
    rows = torch.arange(stride_px // 2, height, stride_px, device=ids.device)
    columns = torch.arange(stride_px // 2, width, stride_px, device=ids.device)
    if len(rows) == 0 or len(columns) == 0:
        rows, columns = (torch.tensor([side // 2], device=ids.device) for side in (height, width))
    total = features.float().sum() * 0
    count = 0
    with torch.autocast(features.device.type, enabled=False):
        for one, numbers in zip(features.float(), ids[:, 0], strict=True):
            numbers = numbers[rows[:, None], columns]
            is_in = numbers > 0
            if not is_in.any():
                continue
            large = F.interpolate(one[None], (height, width), mode="bilinear", align_corners=False)
            found = F.normalize(large[0][:, rows[:, None], columns], dim=0)[:, is_in].T
            segments, members = torch.unique(numbers[is_in], return_inverse=True)
            sums = found.new_zeros(len(segments), found.shape[1])
            # The division by the number of pixels cancels in the division by the length.
            means = F.normalize(sums.index_add(0, members, found.detach()), dim=1)
            logits = temperature * found @ means.T
            total = total + F.cross_entropy(logits, members, reduction="sum")
            count += len(members)
    return total / max(count, 1)


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
