"""What adversarial erasing finds, erases, and when it stops: arrays and numbers, no network.

Reference: Wei, Feng, Liang, Cheng, Zhao and Yan, "Object Region Mining with Adversarial Erasing: A
Simple Classification to Semantic Segmentation Approach", CVPR 2017; see
`wsseg.localize.tags.ae_psl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.data.scores import Scores
from wsseg.errors import DataError


@dataclass(frozen=True)
class StopRule:
    """When erasing has gone too far; None switches a rule off.

    Args:
        max_loss_ratio: Largest final training loss of a round, as a multiple of that of the first.
        min_probability: Least mean probability that a round's network gives the classes that are
            there, on the images that it was trained on.
        max_erased: Largest mean share of an image that may be erased, [0, 1].
    """

    max_loss_ratio: float | None
    min_probability: float | None
    max_erased: float | None


@dataclass(frozen=True)
class RoundResult:
    """What became of a round.

    Args:
        loss: Its final training loss.
        probability: Mean probability of the classes that are there, over the training images as
            this round saw them.
        erased: Mean share of a training image that the regions of this round and of those before
            it cover.
    """

    loss: float
    probability: float
    erased: float


def reason_to_stop(results: Sequence[RoundResult], rule: StopRule) -> str | None:
    """Tell whether the last round went too far, so that what it found is not to be used.

    Args:
        results: Of all rounds so far, the last one at the end.
        rule: The limits.

    Returns:
        The reason in words, or None. The first round is never too much.

    Example:
        >>> rule = StopRule(max_loss_ratio=2.0, min_probability=0.5, max_erased=0.6)
        >>> first, second = RoundResult(0.1, 0.9, 0.2), RoundResult(0.3, 0.8, 0.4)
        >>> reason_to_stop([first, second], rule)
        'its training loss is 0.3, more than 2 times that of the first round (0.1)'
    """
    if len(results) < 2:
        return None
    first, last = results[0], results[-1]
    if rule.max_loss_ratio is not None and last.loss > rule.max_loss_ratio * first.loss:
        return (
            f"its training loss is {last.loss:.3g}, more than {rule.max_loss_ratio:g} times that "
            f"of the first round ({first.loss:.3g})"
        )
    if rule.min_probability is not None and last.probability < rule.min_probability:
        return (
            f"it gives the classes that are there a probability of {last.probability:.3g} on "
            f"average, less than {rule.min_probability:g}"
        )
    if rule.max_erased is not None and last.erased > rule.max_erased:
        return (
            f"{last.erased:.0%} of the images would be erased on average, more than "
            f"{rule.max_erased:.0%}"
        )
    return None


def mined_region(scores: Scores, threshold: float) -> NDArray[np.bool_]:
    """Find what a network saw of any present class.

    Args:
        scores: Maps of the present classes, each divided by its maximum; row 0 is not looked at.
        threshold: Part of the maximum above which a pixel belongs to the region.

    Returns:
        (H, W) bool.

    Example:
        >>> values = np.array([[[0, 0, 0]], [[0.2, 0.3, 1]]], np.float32)
        >>> mined_region(Scores(values, np.array([0, 2], np.uint8), (1, 3)), 0.2).tolist()
        [[False, True, True]]
    """
    if len(scores.values) == 1:
        return np.zeros(scores.size, np.bool_)
    above = scores.resized()[1:] > np.float32(threshold)
    return np.logical_or.reduce(above, axis=0)


def erased(
    image: NDArray[np.uint8], region: NDArray[np.bool_], pixel: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Replace a region of an image by one colour.

    Args:
        image: (H, W, 3) uint8 RGB; left unchanged.
        region: (H, W) bool.
        pixel: (3,) uint8 RGB.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: When the region was made for an image of another size.
    """
    if region.shape != image.shape[:2]:
        raise DataError(
            f"The erased region has shape {region.shape}, but its image {image.shape[:2]} (H, W): "
            "the image was changed after the run began. Start the stage over with "
            "`wsseg localize RUN --force`."
        )
    result = image.copy()
    result[region] = pixel
    return result


def mean_pixel(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Average the colour over all pixels of all images.

    Args:
        images: (H, W, 3) uint8 each; at least one.

    Returns:
        (3,) uint8, rounded.

    Example:
        >>> mean_pixel([np.zeros((1, 1, 3), np.uint8), np.full((1, 3, 3), 100, np.uint8)]).tolist()
        [75, 75, 75]
    """
    total, count = np.zeros(3, np.int64), 0
    for image in images:
        total += image.reshape(-1, 3).sum(axis=0, dtype=np.int64)
        count += image.shape[0] * image.shape[1]
    if count == 0:
        raise DataError("There is no image to take the mean colour from.")
    return np.rint(total / count).astype(np.uint8)


def joined(rounds: Sequence[Scores], fusion: Literal["max", "union"], threshold: float) -> Scores:
    """Join what all rounds found in one image.

    Args:
        rounds: Maps of the rounds, of the same classes in the same order.
        fusion: ``max``: the highest score of each cell; more than ``threshold`` is then what any
            round mined. ``union``: 1 where any round mined the class, else 0, at full size.
        threshold: Part of the maximum above which a cell is mined.

    Returns:
        Scores whose row 0 is that of the first round.

    Raises:
        DataError: When the rounds found different classes.
    """
    first = rounds[0]
    if any(one.class_ids.tolist() != first.class_ids.tolist() for one in rounds):
        raise DataError("The rounds have maps of different classes; start the stage over.")
    if len(first.values) == 1:
        return first
    if fusion == "max":
        return replace(first, values=np.maximum.reduce([one.values for one in rounds]))
    values = np.zeros((len(first.values), *first.size), np.float32)
    for one in rounds:
        values[1:] = np.maximum(values[1:], one.resized()[1:] > np.float32(threshold))
    return replace(first, values=values)
