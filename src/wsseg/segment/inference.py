"""Class probabilities of an image of any size: several scales, mirrored views, blended tiles.

Every view is softmaxed before averaging, and averaged at the original size, so that a scale counts
the same whatever its resolution.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import BACKGROUND
from wsseg.data.tiling import Tile, TileMerger, tiles
from wsseg.segment.config import PredictConfig, PredictCrfConfig
from wsseg.segment.forward import Forward

# The ImageNet mean in bytes: near zero after normalisation, as the padding in training is.
_PADDING_RGB = (124, 116, 104)


def predict_probabilities(
    forward: Forward,
    image: NDArray[np.uint8],
    config: PredictConfig = PredictConfig(),
    *,
    tags: Collection[int] | None = None,
) -> NDArray[np.float32]:
    """Compute class probabilities of one image at its own size.

    Args:
        forward: The network.
        image: (H, W, 3) uint8 RGB, H and W at least 1.
        config: Scales, mirroring, tiles, CRF.
        tags: Class ids the image may show besides background; only looked at with
            ``config.restrict_to_tags``, where None means that nothing is known.

    Returns:
        (K, H, W) float32 in [0, 1], summing to 1 over K.
    """
    size = (image.shape[0], image.shape[1])
    total: NDArray[np.float32] | None = None
    for scale in config.scales:
        scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        maps = resize_maps(_one_scale(forward, resized_image(image, scaled), config), size)
        total = maps if total is None else total + maps
    if total is None:
        raise ValueError("Expected at least one scale, but got none.")
    probabilities = total / np.float32(len(config.scales))
    if config.restrict_to_tags and tags is not None:
        probabilities = only_tags(probabilities, tags)
    if config.crf is not None:
        probabilities = _with_crf(image, probabilities, config.crf)
    return probabilities


def only_tags(probabilities: NDArray[np.float32], tags: Collection[int]) -> NDArray[np.float32]:
    """Take the probability of classes outside the tags away and scale the rest to sum 1.

    Args:
        probabilities: (K, H, W).
        tags: Class ids 1..K-1 that may occur; background always may.

    Returns:
        (K, H, W); where nothing is left, background has probability 1.

    Example:
        >>> only_tags(np.array([0.25, 0.5, 0.25], np.float32).reshape(3, 1, 1), {2}).ravel()
        array([0.5, 0. , 0.5], dtype=float32)
    """
    allowed = np.zeros(len(probabilities), np.bool_)
    allowed[[BACKGROUND, *tags]] = True
    kept = np.where(allowed[:, None, None], probabilities, np.float32(0))
    total = kept.sum(axis=0)
    kept[BACKGROUND][total == 0] = 1
    kept /= np.where(total == 0, 1, total)
    return kept


def _with_crf(
    image: NDArray[np.uint8], probabilities: NDArray[np.float32], config: PredictCrfConfig
) -> NDArray[np.float32]:
    """Refine probabilities (K, H, W) by a dense CRF on the image."""
    from wsseg.kernels.dense_crf import CrfConfig, dense_crf, unary_from_scores

    kernel = CrfConfig.model_validate(config.model_dump(exclude={"prune_below"}))
    unary = unary_from_scores(probabilities)
    return dense_crf(image, unary, config=kernel, prune_below=config.prune_below)


def resize_maps(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (K, h, w) maps to (K, H, W) bilinearly; sums over K are kept."""
    import cv2

    if maps.shape[1:] == size:
        return maps
    output = np.empty((len(maps), *size), np.float32)
    for row, plane in zip(output, maps, strict=True):
        cv2.resize(np.ascontiguousarray(plane), size[::-1], dst=row, interpolation=cv2.INTER_LINEAR)
    return output


def resized_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) uint8 to (h, w); pixel areas are averaged where it shrinks."""
    import cv2

    if image.shape[:2] == size:
        return image
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)


def _one_scale(
    forward: Forward, image: NDArray[np.uint8], config: PredictConfig
) -> NDArray[np.float32]:
    """Average the plain and the mirrored views of all tiles: (K, h, w)."""
    size = (image.shape[0], image.shape[1])
    windows = _windows(size, forward.fixed_size, config)
    views = [(tile, mirror) for tile in windows for mirror in ((False, True)[: 1 + config.flip])]
    merger: TileMerger | None = None
    for (tile, mirror), maps in _computed(forward, image, views, config.batch_size):
        merger = merger or TileMerger(len(maps), size, config.overlap_px)
        merger.add(tile, maps[..., ::-1] if mirror else maps)
    if merger is None:
        raise ValueError(f"Expected an image of at least 1 x 1 pixels, but got {size}.")
    return merger.merged()


def _windows(
    size: tuple[int, int], fixed_size: tuple[int, int] | None, config: PredictConfig
) -> list[Tile]:
    """Choose the tiles: those of the settings, or those that a network of one size takes."""
    if fixed_size is not None:
        tile_px = min(fixed_size)
        return tiles(size, tile_px, min(config.overlap_px, tile_px // 2))
    if config.tile_px is None:
        return [Tile(0, 0, *size)]
    return tiles(size, config.tile_px, config.overlap_px)


def _computed(
    forward: Forward,
    image: NDArray[np.uint8],
    views: list[tuple[Tile, bool]],
    batch_size: int,
) -> Iterator[tuple[tuple[Tile, bool], NDArray[np.float32]]]:
    """Run the network over the views in batches; yields each view with its (K, h, w) maps."""
    for start in range(0, len(views), batch_size):
        part = views[start : start + batch_size]
        crops = [image[tile.slices] for tile, _ in part]
        height, width = crops[0].shape[:2]
        mirrored = [
            crop[:, ::-1] if mirror else crop for crop, (_, mirror) in zip(crops, part, strict=True)
        ]
        maps = forward(_padded(np.stack(mirrored), forward.fixed_size))
        yield from zip(part, maps[..., :height, :width], strict=True)


def _padded(images: NDArray[np.uint8], fixed_size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Fill images up, right and below, to the one size that a network takes."""
    if fixed_size is None or images.shape[1:3] == fixed_size:
        return images
    filled = np.empty((len(images), *fixed_size, 3), np.uint8)
    filled[:] = _PADDING_RGB
    filled[:, : images.shape[1], : images.shape[2]] = images
    return filled
