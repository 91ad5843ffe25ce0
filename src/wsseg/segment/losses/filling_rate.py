"""Filling rate: the surest part of each box is the object, the rest of the box is left open.

At every step the pixels of a box of class c are ranked by the network's probability of c. The first
``r_c |box|`` are taken for c, the rest of the box is ignored, and what is in no box is background;
then cross-entropy. r_c, the filling rate, is the part of a box that an object of the class fills.
Ranking gives targets, no gradient.

Song, Huang, Ouyang and Wang, "Box-driven Class-wise Region Masking and Filling Rate Guided Loss for
Weakly Supervised Semantic Segmentation", CVPR 2019. This is its filling rate loss alone. It differs
in that classes are not split into kinds of different rates, in that the rates are given or measured
in the pseudo masks, where the paper measures masks of a dense CRF, and in that pixels of which a
person said something keep what was said.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.errors import DataError


def filling_targets(logits: Tensor, batch: dict[str, Tensor], rates: Tensor) -> Tensor:
    """Make the targets of a batch.

    Where selections of several boxes meet, the smallest box wins.

    Args:
        logits: (N, C + 1, H, W) float.
        batch: ``mask`` (N, H, W) integer pseudo masks, the targets of images whose boxes are not
            known; ``boxes`` (N, M, 5) float, left, top, right, bottom in pixels of the view,
            half-open, and class (class 0 is no box); ``has_boxes`` (N,) bool, whether the image's
            boxes are known; ``valid`` (N, H, W) bool where there is padding; ``said`` (N, H, W)
            integer where people said something of pixels, which stays: class ids, 255 to ignore,
            -1 elsewhere.
        rates: (C + 1,) float in [0, 1], the filling rate of each class.

    Returns:
        (N, H, W) int64 class ids, 255 ignored.
    """
    chances = logits.detach().float().softmax(dim=1)
    targets = batch["mask"].long().clone()
    boxes, is_known = batch["boxes"].tolist(), batch["has_boxes"].tolist()
    for number, target in enumerate(targets):
        if is_known[number]:
            given = [box for box in boxes[number] if box[4] > 0]
            _fill(target, chances[number], given, rates.tolist())
    if "said" in batch:
        said = batch["said"].long()
        targets = torch.where(said >= 0, said, targets)
    if "valid" in batch:
        targets[~batch["valid"]] = IGNORE
    return targets


def _fill(target: Tensor, chance: Tensor, boxes: list[list[float]], rates: list[float]) -> None:
    """Write the target (H, W) of one image in place."""
    height, width = target.shape
    found = torch.full_like(target, BACKGROUND)
    windows = [(pixels(box, (height, width)), int(box[4])) for box in boxes]
    windows.sort(key=lambda item: -_area(item[0]))
    for window, _ in windows:
        found[window] = IGNORE
    for window, class_id in windows:
        area = _area(window)
        if area == 0:
            continue
        inside = chance[class_id][window]
        # A box always has its object, however small.
        count = max(1, round(rates[class_id] * area))
        surest = inside.flatten().topk(count, sorted=False).indices
        chosen = torch.zeros(area, dtype=torch.bool, device=target.device)
        chosen[surest] = True
        part = found[window]
        part[chosen.view_as(part)] = class_id
    target.copy_(found)


def pixels(box: list[float], size: tuple[int, int]) -> tuple[slice, slice]:
    """Find the pixels whose centres are in a box.

    Args:
        box: Left, top, right, bottom, half-open, in pixels.
        size: (H, W).

    Returns:
        Rows and columns; empty slices where there are none.

    Example:
        >>> pixels([0.4, 1.0, 2.6, 9.0], (3, 3))
        (slice(1, 3, None), slice(0, 3, None))
    """
    height, width = size
    x0, y0, x1, y1 = (round(value) for value in box[:4])
    rows = slice(min(max(y0, 0), height), min(max(y1, y0, 0), height))
    columns = slice(min(max(x0, 0), width), min(max(x1, x0, 0), width))
    return rows, columns


def measure_rates(
    images: Iterable[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]],
    num_classes: int,
) -> NDArray[np.float32]:
    """Measure which part of its boxes each class fills in pseudo masks.

    Args:
        images: Of each image the mask (H, W) uint8, the boxes (M, 4) in its pixels, and their
            class ids (M,).
        num_classes: C.

    Returns:
        (C + 1,) float32, entry 0 being 1: the mean over boxes of the fraction of pixels that are
        of the box's class, ignored pixels left out. Classes without any box get the mean over all
        boxes.

    Raises:
        DataError: When there is no box, or no mask that fills any of it.
    """
    sums, counts = np.zeros(num_classes + 1), np.zeros(num_classes + 1)
    for mask, boxes, class_ids in images:
        for box, class_id in zip(boxes.tolist(), class_ids.tolist(), strict=True):
            part = mask[pixels(box, (mask.shape[0], mask.shape[1]))]
            known = part != IGNORE
            if known.any():
                sums[class_id] += (part[known] == class_id).mean()
                counts[class_id] += 1
    if sums.sum() == 0:
        raise DataError(
            "The filling rates cannot be measured: no pseudo mask fills any part of a box. Look at "
            "the masks, or set segment.loss.rates, such as 0.6."
        )
    rates = np.full(num_classes + 1, sums.sum() / counts.sum(), np.float32)
    np.divide(sums, counts, out=rates, where=counts > 0, casting="same_kind")
    rates[BACKGROUND] = 1
    return rates


def _area(window: tuple[slice, slice]) -> int:
    rows, columns = window
    return (rows.stop - rows.start) * (columns.stop - columns.start)
