"""The items that a tag localizer is trained on: augmented images with their tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.data.dataset import Sample
from wsseg.data.transforms import AugmentConfig, augment
from wsseg.data.working import read_working_image
from wsseg.errors import DataError
from wsseg.localize.aligned import AlignedMap, aligned_view


class TagData:
    """Training items for classifiers: image, tags, and which pixels are image rather than padding.

    Args:
        samples: Samples with tags; untagged ones are not accepted.
        num_classes: C.
        config: How images are augmented and cropped.
        in_channels: 3 for colour, 1 for grey networks.
        max_side_px: Longest side that images are shrunk to before anything else.
        aligned: Maps that follow the random crop of each image, by their name in the items.

    Raises:
        DataError: When a sample has no tags, or there is none at all.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        num_classes: int,
        config: AugmentConfig,
        *,
        in_channels: Literal[1, 3] = 3,
        max_side_px: int | None = None,
        aligned: Mapping[str, AlignedMap] | None = None,
    ) -> None:
        untagged = [sample.id for sample in samples if sample.labels.tags is None]
        if untagged:
            raise DataError("These images have no tags and cannot train a classifier:", untagged)
        if not samples:
            raise DataError("There is no tagged image to train on.")
        self.samples = tuple(samples)
        self.config = config
        self.in_channels: Literal[1, 3] = in_channels
        self.max_side_px = max_side_px
        self.aligned: dict[str, AlignedMap] = dict(aligned or {})
        self.tags = np.zeros((len(samples), num_classes), np.float32)
        for row, sample in zip(self.tags, samples, strict=True):
            row[[class_id - 1 for class_id in sample.labels.tags or ()]] = 1

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, NDArray]:
        """Read and augment one image.

        Returns:
            ``image`` (3 or 1, h, w) float32 normalised, ``tags`` (C,) float32 of 0 and 1,
            ``valid`` (1, h, w) float32, 1 where the pixel belongs to the image, and the aligned
            maps, (1, h, w) each, 0 where the crop is padded.
        """
        sample = self.samples[index]
        image = self.read(sample)
        augmented = augment(image, None, rng, self.config, in_channels=self.in_channels)
        maps = {
            name: aligned_view(source, sample, image, augmented.geometry)
            for name, source in self.aligned.items()
        }
        return {
            "image": augmented.image,
            "tags": self.tags[index],
            "valid": augmented.valid[None].astype(np.float32),
            **maps,
        }

    def read(self, sample: Sample) -> NDArray[np.uint8]:
        """Read an image as it is before any random change, (H, W, 3) uint8 RGB."""
        return read_working_image(sample.image_path, self.max_side_px)

    def sample_weights(self) -> NDArray[np.float64]:
        """Weigh images so that every class, and the images without any, is drawn equally often.

        Returns:
            (n,) float64, summing to 1. An image with several classes counts for its rarest.
        """
        groups = np.concatenate([self.tags, 1 - self.tags.max(axis=1, keepdims=True)], axis=1)
        counts = groups.sum(axis=0)
        share = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
        weights = (groups * share).max(axis=1).astype(np.float64)
        return weights / weights.sum()
