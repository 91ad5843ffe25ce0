"""What's the point: points, the classes of the image, and where objects are likely.

With S the probabilities, L+ the classes that the view shows and L- those that it does not, and
t_c the pixel where class c is most probable:

* image: ``-mean over L+ of log S_{t_c, c} - mean over L- of log(1 - S_{t_c, c})``;
* points: ``-mean over labelled pixels of log S``;
* objectness: ``-mean over pixels of P log(sum_c S_c) + (1 - P) log(1 - sum_c S_c)`` with the sum
  over all classes but the background, and P the chance that a pixel belongs to any object.

All are taken per image and averaged over images.

Bearman, Russakovsky, Ferrari and Fei-Fei, "What's the Point: Semantic Segmentation with Point
Supervision", ECCV 2016 (the formulas from memory). It differs in that P is a saliency cue, where
the paper averages boxes of a trained objectness measure; in that points of an image count alike;
and in that a class counts in a crop only where the crop says anything about it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.segment.loss_config import PointLoss


def whats_the_point(
    logits: Tensor, batch: dict[str, Tensor], config: PointLoss
) -> dict[str, Tensor]:
    """Compute the terms of the loss.

    Args:
        logits: (N, C + 1, H, W) float.
        batch: ``mask`` (N, H, W) integer, 255 unlabelled; ``tags`` (N, C) integer, 1: the view
            shows the class, 0: it does not, -1: not known; ``valid`` (N, H, W) bool where there is
            padding; ``cue`` (N, H, W) float in [0, 1] with a weight of objectness.
        config: Weights.

    Returns:
        ``loss``, the weighted sum, and its parts ``points``, ``image`` and ``objectness``, those
        with a weight above 0; all with gradient.
    """
    # float32: sums over many pixels lose digits in half precision.
    logits = logits.float()
    valid = batch.get("valid")
    if valid is None:
        valid = torch.ones_like(logits[:, 0], dtype=torch.bool)
    parts = {}
    if config.point_weight > 0:
        parts["points"] = point_term(logits, batch["mask"])
    if config.image_weight > 0:
        shown = batch["tags"]
        if config.background_tag:
            shown = torch.cat([torch.ones_like(shown[:, :1]), shown], dim=1)
        else:
            shown = torch.cat([-torch.ones_like(shown[:, :1]), shown], dim=1)
        parts["image"] = image_term(logits, shown, valid)
    if config.objectness_weight > 0 and config.cue is not None:
        parts["objectness"] = objectness_term(logits, batch["cue"].float(), valid)
    weights = {
        "points": config.point_weight,
        "image": config.image_weight,
        "objectness": config.objectness_weight,
    }
    total = sum((weights[name] * part for name, part in parts.items()), 0 * logits.sum())
    return {"loss": total, **parts}


def point_term(logits: Tensor, labels: Tensor) -> Tensor:
    """Average -log S over the labelled pixels of each image, and then over images.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W) integer class ids, 255 unlabelled.

    Returns:
        Scalar; an image without labels contributes 0.
    """
    classes = labels.long()
    counted = classes != IGNORE
    index = torch.where(counted, classes, BACKGROUND).unsqueeze(1)
    losses = -logits.log_softmax(dim=1).gather(1, index).squeeze(1) * counted
    return (losses.sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)).mean()


def image_term(logits: Tensor, shown: Tensor, valid: Tensor) -> Tensor:
    """Ask for one sure pixel of each class that is shown, and for none of the others.

    Args:
        logits: (N, K, H, W).
        shown: (N, K) integer, 1 shown, 0 not shown, -1 not known.
        valid: (N, H, W) bool, the pixels that count.

    Returns:
        Scalar; an image without shown (absent) classes lacks that mean.
    """
    flat = logits.flatten(2)
    chances = flat.detach().log_softmax(dim=1).masked_fill(~valid.flatten(1)[:, None], -torch.inf)
    best = chances.argmax(dim=2)
    # (N, K, K): the logits of all classes at the best pixel of each class.
    there = flat.gather(2, best[:, None, :].expand(-1, flat.shape[1], -1)).transpose(1, 2)
    is_own = torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
    every = there.logsumexp(dim=2)
    own = there.diagonal(dim1=1, dim2=2)
    # log(1 - S) without taking 1 - S, which is 0 where the network is sure.
    others = there.masked_fill(is_own, -torch.inf).logsumexp(dim=2)
    is_seen = valid.flatten(1).any(dim=1)[:, None]
    present = _mean_where(every - own, (shown == 1) & is_seen)
    absent = _mean_where(every - others, (shown == 0) & is_seen)
    return (present + absent).mean()


def objectness_term(logits: Tensor, chances: Tensor, valid: Tensor) -> Tensor:
    """Ask for objects where they are likely, whatever their class, and for background elsewhere.

    Args:
        logits: (N, K, H, W).
        chances: P, (N, H, W) in [0, 1].
        valid: (N, H, W) bool, the pixels that count.

    Returns:
        Scalar; an image of padding alone contributes 0.
    """
    every = logits.logsumexp(dim=1)
    objects = logits[:, 1:].logsumexp(dim=1) - every
    background = logits[:, 0] - every
    losses = -(chances * objects + (1 - chances) * background) * valid
    return (losses.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)).mean()


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Average the chosen values (N, K) of each row; 0 where none is."""
    kept = torch.where(chosen, values, 0.0)
    return kept.sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
