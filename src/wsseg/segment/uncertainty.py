"""URN: how doubtful each pixel of a pseudo mask is, from scaled responses of a segmenter.

For each present class its probability is multiplied by several factors, one at a time; a dense CRF
answers each. Pixels whose label depends on the factor are doubtful:

    u = max over classes of Var over factors of [CRF says the class],   scaled to [0, 1]

and the weight of a pixel is 1 - u, kept as a grey PNG. In training, weights of at most
``max_weight`` become ``floor`` and all others 1.

Reference: Li, Kang, Wang et al., "Uncertainty Estimation via Response Scaling for Pseudo-mask Noise
Mitigation in Weakly-supervised Semantic Segmentation", AAAI 2022. Differences: where no pixel of an
image depends on the factors all have weight 1; the CRF's numbers are those of PSA.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import BACKGROUND
from wsseg.segment.draft import Floats, ImageFacts, carried_classes
from wsseg.segment.rounds_cleanup import crf_marginals
from wsseg.segment.rounds_config import Urn


def uncertainty(probabilities: Floats, facts: ImageFacts, config: Urn = Urn()) -> Floats:
    """Compute the uncertainty of every pixel.

    Args:
        probabilities: (C + 1, H, W) float32 of the segmenter, classes the image does not carry
            at 0.
        facts: The image with its labels.
        config: Factors and CRF.

    Returns:
        (H, W) float32 in [0, 1].
    """
    highest = np.zeros(probabilities.shape[1:], np.float64)
    for class_id in present_classes(probabilities, facts):
        votes = np.stack(
            [
                crf_marginals(facts, scaled(probabilities, class_id, power), config.crf).argmax(0)
                == class_id
                for power in config.powers
            ]
        )
        highest = np.maximum(highest, votes.var(axis=0))
    low, high = highest.min(), highest.max()
    if high <= low:
        return np.zeros(highest.shape, np.float32)
    return ((highest - low) / (high - low)).astype(np.float32)


def present_classes(probabilities: Floats, facts: ImageFacts) -> list[int]:
    """List the classes an image shows: those a person named, else those predicted somewhere."""
    carried = carried_classes(facts.labels)
    if carried is None:
        carried = frozenset(np.unique(probabilities.argmax(axis=0)).tolist()) - {BACKGROUND}
    return sorted(class_id for class_id in carried if probabilities[class_id].any())


def scaled(probabilities: Floats, class_id: int, power: float) -> Floats:
    """Multiply the probability of one class and make all sum to 1 again.

    Args:
        probabilities: (K, H, W) float32 >= 0.
        class_id: The class.
        power: Factor > 0.

    Returns:
        (K, H, W) float32.

    Example:
        >>> scaled(np.array([0.5, 0.5], np.float32).reshape(2, 1, 1), 1, 4.0).ravel()
        array([0.2, 0.8], dtype=float32)
    """
    changed = probabilities.copy()
    changed[class_id] *= np.float32(power)
    total = changed.sum(axis=0)
    changed /= np.where(total > 0, total, np.float32(1))
    return changed


def weight_bytes(doubt: Floats) -> NDArray[np.uint8]:
    """Turn uncertainty (H, W) in [0, 1] into weights 0 to 255, as they are kept in PNG files."""
    return np.rint((1 - doubt) * 255).astype(np.uint8)


def loss_weights(stored: NDArray[np.uint8], config: Urn) -> Floats:
    """Read stored weights as what each pixel counts in the loss.

    Args:
        stored: (H, W) uint8, 255 is a weight of 1.
        config: The rule.

    Returns:
        (H, W) float32 in [0, 1].

    Example:
        >>> loss_weights(np.array([[0, 12, 13, 255]], np.uint8), Urn()).round(2).tolist()
        [[0.05000000074505806, 0.05000000074505806, 1.0, 1.0]]
    """
    table = np.arange(256, dtype=np.float64) / 255
    kept = np.ones(256) if config.binary else table
    rule = np.where(table <= config.max_weight, config.floor, kept)
    return rule.astype(np.float32)[stored]
