"""Validation of a segmenter while it is trained, on held-out pseudo masks or on true masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from wsseg.errors import DataError
from wsseg.evaluate.confusion import ConfusionMatrix
from wsseg.evaluate.metrics import metrics_from_counts
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.data import read_pair
from wsseg.segment.forward import TorchForward
from wsseg.segment.inference import predict_probabilities

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


class MaskValidation:
    """Measures mIoU of a network over images with masks; given to the training loop.

    One scale without mirroring and CRF is predicted: it ranks epochs as the full prediction does,
    at a fraction of its cost. Tiles are those of the settings.

    Args:
        pairs: Image file and mask file of each image; 255 in the mask is not counted.
        config: The segmenter's settings.
        num_classes: C, number of foreground classes.
        max_side_px: Longest side that images and masks are shrunk to.

    Raises:
        DataError: When there is no image.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        config: SegmenterConfig,
        num_classes: int,
        *,
        max_side_px: int | None = None,
    ) -> None:
        if not pairs:
            raise DataError(
                "There is no mask to validate the segmenter on. Add images, or set "
                "segment.validate_on=none."
            )
        self.pairs = tuple(pairs)
        self.in_channels = config.in_channels
        self.inference = config.inference.model_copy(
            update={"scales": (1.0,), "flip": False, "crf": None, "restrict_to_tags": False}
        )
        self.num_classes = num_classes
        self.max_side_px = max_side_px

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """Measure a network.

        Args:
            net: Module from normalised images to logits (N, C + 1, H, W).

        Returns:
            ``miou`` with background and ``miou_foreground`` without, fractions in [0, 1].
        """
        forward = TorchForward(
            net, in_channels=self.in_channels, precision=self.inference.precision
        )
        confusion = ConfusionMatrix(self.num_classes)
        for image_path, mask_path in self.pairs:
            image, truth = read_pair(image_path, mask_path, self.max_side_px)
            mask = predict_probabilities(forward, image, self.inference).argmax(axis=0)
            confusion.add(mask.astype(np.uint8), truth)
        metrics = metrics_from_counts(confusion.counts)
        return {"miou": metrics.miou, "miou_foreground": metrics.miou_foreground}


def hold_out(items: Sequence[T], frac: float, seed: int) -> tuple[list[T], list[T]]:
    """Split items at random into those to train on and those to validate on.

    Args:
        items: Anything, in an order that does not change from run to run.
        frac: Part to hold out, (0, 1); at least one item and at most half of them.
        seed: Seed of the choice.

    Returns:
        Training and held-out items, each in the given order; fewer than two items are all
        trained on.

    Example:
        >>> train, held_out = hold_out(range(10), 0.2, seed=0)
        >>> len(train), len(held_out), sorted(train + held_out) == list(range(10))
        (8, 2, True)
    """
    if len(items) < 2:
        return list(items), []
    count = min(max(1, round(frac * len(items))), len(items) // 2)
    chosen = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    train = [item for index, item in enumerate(items) if index not in chosen]
    return train, [item for index, item in enumerate(items) if index in chosen]
