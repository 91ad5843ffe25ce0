"""Background-aware pooling: boxes are pooled where they look unlike the outside of all boxes.

With f the features, the image cut into G x G parts, and M the cells outside of all boxes, every
part that holds such cells gives a background query, and every box B a pooled feature:

    q_j = sum_{p in part j} M(p) f(p) / sum_{p in part j} M(p)
    A(p) = max_j ReLU(cos(f(p), q_j))  in boxes, 1 outside
    r_B = sum_{p in B} (1 - A(p)) f(p) / sum_{p in B} (1 - A(p))

A linear classifier with C + 1 outputs learns the class of every r_B, and background from every q_j.

Reference: Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for
Weakly-Supervised Semantic Segmentation", CVPR 2021 (authors, title and formulas from memory).
Differences: attention is the largest similarity to a query, not their mean; boxes and queries weigh
the same in the loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone

NUM_CODES = 256
"""Maps of boxes hold 256 * (1 + number of the box) + class; 0 outside of all boxes, and 255 where
nobody knows whether there is an object."""

# A part of the image with fewer cells outside of all boxes asks nothing.
_LEAST_CELLS = 0.5
_TINY = 1e-6


class Pooled(NamedTuple):
    """What a batch is classified by.

    Attributes:
        boxes: (B, D) pooled features of all boxes of the batch.
        classes: (B,) int64, their classes from 1.
        queries: (Q, D) background queries of the batch.
    """

    boxes: Tensor
    classes: Tensor
    queries: Tensor


class BapNet(nn.Module):
    """Backbone and linear classifier of pooled features.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        grid: G, parts of the image per side that give background queries.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = BapNet(build_backbone("test_resnet", output_stride=8), 2, grid=4)
        >>> net.classifier.weight.shape[0]
        3
    """

    def __init__(self, backbone: Backbone, num_classes: int, *, grid: int = 4) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.grid = grid
        self.classifier = nn.Linear(backbone.num_features, num_classes + 1, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """Compute features.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, D, h, w) float32.
        """
        features: Tensor = self.backbone(images)
        return features.float()

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        return list(self.classifier.parameters())

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the cross-entropies of boxes and background queries, half each.

        Args:
            batch: ``image`` (N, 3 or 1, H, W) normalised, ``boxes`` (N, 1, H, W) of codes (see
                `NUM_CODES`), ``valid`` (N, 1, H, W), 0 on padding.

        Returns:
            ``loss`` and its parts ``boxes`` and ``background``; a part is 0 where the batch has
            none of it.
        """
        pooled = pool_batch(
            self.features(batch["image"]), batch["boxes"], batch["valid"], self.grid
        )
        ground = torch.zeros(len(pooled.queries), dtype=torch.int64, device=pooled.queries.device)
        parts = {
            "boxes": self._cross_entropy(pooled.boxes, pooled.classes),
            "background": self._cross_entropy(pooled.queries, ground),
        }
        return {"loss": (parts["boxes"] + parts["background"]) / 2, **parts}

    def _cross_entropy(self, features: Tensor, classes: Tensor) -> Tensor:
        logits = self.classifier(features)
        # The sum over nothing keeps the graph, which the mean would not.
        return F.cross_entropy(logits, classes, reduction="sum") / max(1, len(classes))


def pool_batch(features: Tensor, boxes: Tensor, valid: Tensor, grid: int) -> Pooled:
    """Pool the boxes and the background of every image of a batch.

    Args:
        features: (N, D, h, w).
        boxes: (N, 1, H, W) int32 of codes.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image.
        grid: G.

    Returns:
        Pooled features; an image without boxes gives queries alone, and one without an outside
        plain means.
    """
    cells = (features.shape[2], features.shape[3])
    pooled, classes, asked = [], [], []
    for feature, codes, is_image in zip(features, boxes[:, 0], valid[:, 0] > 0, strict=True):
        queries = background_queries(feature, shares((codes == 0) & is_image, cells), grid)
        attention = attention_to(feature, queries)
        asked.append(queries)
        for code in codes[is_image].unique().tolist():
            if code >= NUM_CODES:
                share = shares((codes == code) & is_image, cells)
                pooled.append(pooled_box(feature, attention, share))
                classes.append(code % NUM_CODES)
    empty = features.new_zeros((0, features.shape[1]))
    return Pooled(
        torch.stack(pooled) if pooled else empty,
        torch.tensor(classes, dtype=torch.int64, device=features.device),
        torch.cat(asked),
    )


def shares(mask: Tensor, cells: tuple[int, int]) -> Tensor:
    """Say which part of every cell a mask covers.

    Args:
        mask: (H, W) bool.
        cells: (h, w) of the grid of features.

    Returns:
        (h, w) float32 in [0, 1].
    """
    return F.adaptive_avg_pool2d(mask[None].float(), cells)[0]


def background_queries(features: Tensor, outside: Tensor, grid: int) -> Tensor:
    """Average the features outside of all boxes over parts of the image.

    Args:
        features: (D, h, w).
        outside: (h, w) in [0, 1], how much of each cell lies outside of all boxes.
        grid: G; fewer parts where there are fewer cells.

    Returns:
        (J, D), J <= G * G: parts with less than half a cell outside give none.
    """
    parts = (min(grid, features.shape[1]), min(grid, features.shape[2]))
    count = features.shape[1] * features.shape[2] / (parts[0] * parts[1])
    mass = F.adaptive_avg_pool2d(outside[None], parts)[0]
    sums = F.adaptive_avg_pool2d(features * outside, parts)
    kept = mass * count >= _LEAST_CELLS
    queries: Tensor = (sums[:, kept] / mass[kept]).T
    return queries


def attention_to(features: Tensor, queries: Tensor) -> Tensor:
    """Measure how much every cell looks like some background query.

    Args:
        features: (D, h, w).
        queries: (J, D); J may be 0.

    Returns:
        (h, w) in [0, 1]: the largest cosine, 0 where it is negative or nobody asks.
    """
    if not len(queries):
        return torch.zeros_like(features[0])
    unit = F.normalize(features, dim=0, eps=_TINY)
    similar = torch.einsum("jd,dhw->jhw", F.normalize(queries, dim=1, eps=_TINY), unit)
    return similar.amax(dim=0).clamp(0, 1)


def pooled_box(features: Tensor, attention: Tensor, share: Tensor) -> Tensor:
    """Average the features of a box, weighted by how little they look like the background.

    Args:
        features: (D, h, w).
        attention: (h, w) in [0, 1].
        share: (h, w) in [0, 1], how much of each cell the box covers.

    Returns:
        (D,); the plain mean where the whole box looks like the background.
    """
    weight = (1 - attention) * share
    if float(weight.detach().sum()) < _TINY:
        weight = share
    return (features * weight).sum(dim=(1, 2)) / weight.sum()
