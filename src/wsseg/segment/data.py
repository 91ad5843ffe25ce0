"""The items that a segmenter is trained on: augmented images with their pseudo masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg.data.image_io import read_mask
from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.data.transforms import Augmented, augment
from wsseg.data.working import read_working_image, working_size
from wsseg.errors import DataError
from wsseg.segment.companions import Companions, uses_boxes
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.rounds_config import Urn
from wsseg.segment.uncertainty import loss_weights
from wsseg.segment.views import nearest_view


class ImageTags(NamedTuple):
    """What is known about the classes of the images.

    Attributes:
        num_classes: C, number of foreground classes.
        of: Class ids by image file; None, or no entry, where an image is not tagged.
    """

    num_classes: int
    of: Mapping[Path, frozenset[int] | None]


class PixelWeights(NamedTuple):
    """What the pixels of each item count in the loss.

    Attributes:
        paths: A grey PNG per item, in the order of the items, of the size of its mask.
        rule: How stored weights are read.
    """

    paths: Sequence[Path]
    rule: Urn


class SegmentationData:
    """Training items: images with masks, read when they are needed.

    Args:
        pairs: Image file and mask file of each item; masks have the image's upright size.
        config: Augmentation, share of foreground crops and number of channels.
        max_side_px: Longest side that images and masks are shrunk to before anything else.
        tags: The classes of the images, for losses that look at them.
        weights: What the pixels count in the loss; None: all the same.
        trust: What all pixels of an image count, by its file; 1 where it is not named, and
            everywhere where this is empty.
        companions: Boxes, cue and colours of the images, for losses and networks that look at
            them.

    Raises:
        DataError: When there is no item.
        ValueError: When tags or companions are looked at and none are given.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        config: SegmenterConfig,
        *,
        max_side_px: int | None = None,
        tags: ImageTags | None = None,
        weights: PixelWeights | None = None,
        companions: Companions | None = None,
        trust: Mapping[Path, float] | None = None,
    ) -> None:
        if config.loss.needs_tags and tags is None:
            raise ValueError(f"The loss {config.loss.name} looks at tags, but tags is None.")
        if uses_boxes(config) and companions is None:
            raise ValueError("Boxes are looked at, but companions is None.")
        if not pairs:
            raise DataError(
                "There is no mask to train a segmenter on. Run the stage pseudo first, or check "
                "why it left out all images."
            )
        self.pairs = tuple(pairs)
        self.config = config
        self.max_side_px = max_side_px
        self.tags = tags
        self.weights = weights
        self.companions = companions
        self.trust = trust or {}

    def __len__(self) -> int:
        return len(self.pairs)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Read and augment one image with its mask.

        Args:
            index: Position of the item.
            rng: Source of all randomness.

        Returns:
            ``image`` (in_channels, h, w) float32 normalised, ``mask`` (h, w) uint8, 255 ignored.
            Where the loss has a term on edges or sizes also ``valid`` (h, w) bool, False at
            padding; where it looks at tags, ``tags`` (C,) int8 of :func:`tags_of_view`. With
            weights also ``weight`` (h, w) float32, and what `Companions.of` makes.

        Raises:
            DataError: When a file cannot be read or the sizes differ.
        """
        image, mask = self._read(index)
        focus = None
        if rng.random() < self.config.foreground_crops:
            focus = foreground_point(mask, rng)
        view = augment(
            image,
            mask,
            rng,
            self.config.augment,
            in_channels=self.config.in_channels,
            focus=focus,
        )
        if view.mask is None:
            raise DataError(f"{self.pairs[index][1]}: no mask was read.")
        item: dict[str, NDArray[Any]] = {"image": view.image, "mask": view.mask}
        loss = self.config.loss
        if loss.needs_valid:
            item["valid"] = view.valid
        if self.tags is not None and loss.needs_tags:
            known = self.tags.of.get(self.pairs[index][0])
            item["tags"] = tags_of_view(view, known, self.tags.num_classes)
        if self.weights is not None:
            _, stored = read_pair(self.pairs[index][0], self.weights.paths[index], self.max_side_px)
            item["weight"] = loss_weights(nearest_view(view.geometry, stored), self.weights.rule)
        if self.trust:
            whole = np.float32(self.trust.get(self.pairs[index][0], 1.0))
            item["weight"] = item.get("weight", np.ones(view.mask.shape, np.float32)) * whole
        if self.companions is not None:
            item |= self.companions.of(self.pairs[index][0], image, view)
        return item

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read the image and the mask of an item at working size."""
        return read_pair(*self.pairs[index], self.max_side_px)

    def sample_id(self, index: int) -> str:
        """Name an item for messages: its image file."""
        return str(self.pairs[index][0])

    def sample_weights(self) -> NDArray[np.float64]:
        """Weigh images so that each class, and images without any, is drawn equally often.

        Reads all masks once.

        Returns:
            (n,) float64, summing to 1. An image with several classes counts for its rarest.
        """
        present = np.zeros((len(self), IGNORE), np.bool_)
        for row, (_, mask_path) in zip(present, self.pairs, strict=True):
            classes = np.bincount(read_mask(mask_path).ravel(), minlength=256)[:IGNORE] > 0
            row[:] = classes
            # Background counts as a group of its own only where there is nothing else.
            row[BACKGROUND] = not classes[BACKGROUND + 1 :].any()
        counts = present.sum(axis=0)
        share = np.divide(1.0, counts, out=np.zeros(IGNORE), where=counts > 0)
        weights = (present * share).max(axis=1)
        return weights / weights.sum()


def read_pair(
    image_path: Path, mask_path: Path, max_side_px: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read an image and its mask at working size.

    Args:
        image_path: Any file that Pillow opens.
        mask_path: Index mask.
        max_side_px: Longest side that both are shrunk to; None keeps them.

    Returns:
        (H, W, 3) uint8 RGB and (H, W) uint8.

    Raises:
        DataError: When a file cannot be read or the sizes differ.
    """
    import cv2

    image = read_working_image(image_path, max_side_px)
    mask = read_mask(mask_path)
    size = image.shape[:2]
    if mask.shape != size:
        if working_size(mask.shape, max_side_px) != size:
            raise DataError(
                f"{mask_path}: the mask is {mask.shape[1]} x {mask.shape[0]} px, its image "
                f"{image_path} (shrunk to {max_side_px} px where larger) {size[1]} x {size[0]} px. "
                "Make the masks again."
            )
        mask = np.asarray(
            cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
        )
    return image, mask


def foreground_point(
    mask: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[float, float] | None:
    """Draw a pixel of a class that is drawn first, so that small classes are met as often.

    Args:
        mask: (H, W) uint8.
        rng: Source of all randomness.

    Returns:
        The pixel's centre (x, y), or None where the mask has no foreground.

    Example:
        >>> mask = np.zeros((4, 6), np.uint8)
        >>> mask[2, 5] = 1
        >>> foreground_point(mask, np.random.default_rng(0))
        (5.5, 2.5)
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[[BACKGROUND, IGNORE]] = 0
    classes = np.flatnonzero(counts)
    if not classes.size:
        return None
    pixels = np.flatnonzero(mask.ravel() == rng.choice(classes))
    row, column = divmod(int(rng.choice(pixels)), mask.shape[1])
    return column + 0.5, row + 0.5


def tags_of_view(
    view: Augmented, tags: frozenset[int] | None, num_classes: int
) -> NDArray[np.int8]:
    """Say which classes a view of an image shows, as far as its tags and seeds tell.

    Args:
        view: The view, with its mask.
        tags: Class ids of the whole image; None where it is not tagged.
        num_classes: C, number of foreground classes.

    Returns:
        (C,) int8, class 1 first: 1 where the view shows the class, because it shows the whole
        image and the class is tagged, or because the mask says so; 0 where it does not, because
        the class is not tagged; -1 where nobody knows, because the view is a crop or the image is
        not tagged.

    Raises:
        DataError: When the mask holds a class id beyond C.
    """
    found = np.full(num_classes + 1, -1 if tags is None else 0, np.int8)
    if tags:
        found[list(tags)] = 1 if _shows_all(view) else -1
    mask = np.zeros(0, np.uint8) if view.mask is None else view.mask
    seen = np.setdiff1d(mask, [IGNORE])
    if seen.size and seen[-1] > num_classes:
        raise DataError(
            f"The mask holds class id {seen[-1]}, beyond the class list (0 to {num_classes}, and "
            "255 for ignored). Make the masks again."
        )
    found[seen] = 1
    return found[1:]


def _shows_all(view: Augmented) -> bool:
    """Tell whether a view shows the whole source; an edge may be cut by less than a pixel."""
    height, width = view.geometry.source_size
    x0, y0, x1, y1 = view.geometry.boxes(np.array([[0, 0, width, height]]), clip=False)[0]
    return bool(
        min(x0, y0) > -1 and x1 < view.geometry.size[1] + 1 and y1 < view.geometry.size[0] + 1
    )


def count_pixels(mask_paths: Iterable[Path], num_classes: int) -> NDArray[np.int64]:
    """Count the pixels of each class over many masks, one mask in memory at a time.

    Args:
        mask_paths: Mask files.
        num_classes: C, number of foreground classes.

    Returns:
        (C + 1,) int64; pixels of 255 are not counted.

    Raises:
        DataError: When a mask holds a class id beyond C.
    """
    totals = np.zeros(256, np.int64)
    for path in mask_paths:
        counts = np.bincount(read_mask(path).ravel(), minlength=256)
        beyond = np.flatnonzero(counts[num_classes + 1 : IGNORE]) + num_classes + 1
        if beyond.size:
            raise DataError(
                f"{path}: class ids {beyond.tolist()} are beyond the class list "
                f"(0 to {num_classes}, and 255 for ignored)."
            )
        totals += counts
    return totals[: num_classes + 1]
