"""Prohibitive segmentation learning: the network's own labels, without what the image cannot show.

Mined masks are sparse and have errors. A second branch classifies the image, and its probabilities
v weigh the network's own class probabilities S, so that classes that the image hardly shows win
nowhere. The result is a second mask for training:

    S_hat(u) = argmax_c v_c S_c(u),     v_0 = 1 for the background, v_c = 0 for untagged classes
    L = CE(S, mined mask) + online_weight CE(S, S_hat) + classification_weight L_cls(v, tags)

Wei, Feng, Liang, Cheng, Zhao and Yan, "Object Region Mining with Adversarial Erasing: A Simple
Classification to Semantic Segmentation Approach", CVPR 2017; that the background's weight is 1 is
from memory. No gradient goes through S_hat and v. It differs in that the branch is one linear layer
on the mean of the decoder's features; in that a tagged class which a crop may not show counts as
possible there and not in L_cls; and in that padding counts nowhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.data.labels import IGNORE
from wsseg.nets.feature_map import FeatureMap
from wsseg.segment.loss_config import PslLoss
from wsseg.segment.losses.cross_entropy import cross_entropy
from wsseg.segment.losses.grid import at_centres
from wsseg.segment.losses.tree_energy import features_on_grid


def psl(
    logits: Tensor,
    image_logits: Tensor,
    batch: dict[str, Tensor],
    config: PslLoss,
    progress: float,
) -> dict[str, Tensor]:
    """Compute the terms of the loss.

    Args:
        logits: (N, C + 1, H, W) float.
        image_logits: (N, C) float, of the classification branch.
        batch: ``mask`` (N, H, W) integer, 255 ignored; ``tags`` (N, C) integer, 1: the view shows
            the class, 0: it does not, -1: not known; ``valid`` (N, H, W) bool where there is
            padding.
        config: Weights.
        progress: Fraction of the training that is over, in [0, 1].

    Returns:
        ``loss``, the weighted sum, and its parts ``cross_entropy``, ``online`` and
        ``classification``; all with gradient.
    """
    parts = {
        "cross_entropy": cross_entropy(logits, batch["mask"]),
        "online": 0 * logits.sum(),
        "classification": classification(image_logits, batch["tags"]),
    }
    if progress >= config.start_frac:
        own = online_masks(logits, image_logits, batch["tags"], batch.get("valid"))
        parts["online"] = cross_entropy(logits, own)
    total = parts["cross_entropy"] + config.online_weight * parts["online"]
    total = total + config.classification_weight * parts["classification"]
    return {"loss": total, **parts}


@torch.no_grad()
def online_masks(
    logits: Tensor, image_logits: Tensor, tags: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Label every pixel by the network's own probabilities, weighed by those of the image.

    Args:
        logits: (N, C + 1, H, W) float.
        image_logits: (N, C) float.
        tags: (N, C) integer: 0 where the view does not show the class; others are possible.
        valid: (N, H, W) bool, False at padding; None: nowhere.

    Returns:
        (N, H, W) int64 class ids, 255 at padding.

    Example:
        >>> logits = torch.tensor([[[[0.0]], [[0.4]], [[9.0]]]])  # class 2, which is not there
        >>> online_masks(logits, torch.tensor([[5.0, 5.0]]), torch.tensor([[1, 0]])).item()
        1
        >>> online_masks(logits, torch.tensor([[-5.0, 5.0]]), torch.tensor([[1, 0]])).item()
        0
    """
    shown = torch.where(tags == 0, 0.0, image_logits.float().sigmoid())
    weights = torch.cat([torch.ones_like(shown[:, :1]), shown], dim=1)
    # In logarithms: a sure network's other probabilities are 0 in float32.
    evidence = logits.float().log_softmax(dim=1) + weights.log()[:, :, None, None]
    labels = evidence.argmax(dim=1)
    return labels if valid is None else torch.where(valid, labels, IGNORE)


def classification(image_logits: Tensor, tags: Tensor) -> Tensor:
    """Average the multi-label soft margin loss over what is known.

    Args:
        image_logits: (N, C) float.
        tags: (N, C) integer: 1 shown, 0 not shown, -1 not known.

    Returns:
        A scalar; 0, with gradient 0, where nothing is known.
    """
    known = (tags >= 0).float()
    losses = F.binary_cross_entropy_with_logits(
        image_logits.float(), tags.clamp(min=0).float(), reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def mean_features(features: FeatureMap, view: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average the features over what is shown.

    Args:
        features: (N, c, h, w) and the area that they cover.
        view: (N, K, H, W), for the size of the view.
        valid: (N, H, W) bool, False at padding; None: nowhere.

    Returns:
        (N, c) float32; 0 for a view of padding alone.
    """
    cells = max(features.values.shape[-2:])
    found = features_on_grid(features.values.float(), features.size, view, cells)
    if valid is None:
        return found.mean(dim=(2, 3))
    counted = at_centres(valid, cells)[:, None].float()
    return (found * counted).sum(dim=(2, 3)) / counted.sum(dim=(2, 3)).clamp(min=1)
