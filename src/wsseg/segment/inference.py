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
from wsseg.segment.forward import Forward, takes_boxes

# The ImageNet mean in bytes: near zero after normalisation, as the padding in training is.
_PADDING_RGB = (124, 116, 104)


def predict_probabilities(
    forward: Forward,
    image: NDArray[np.uint8],
    config: PredictConfig = PredictConfig(),
    *,
    tags: Collection[int] | None = None,
    boxes: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Compute class probabilities of one image at its own size.

    Args:
        forward: The network.
        image: (H, W, 3) uint8 RGB, H and W at least 1.
        config: Scales, mirroring, tiles, CRF.
        tags: Class ids the image may show besides background; only looked at with
            ``config.restrict_to_tags``, where None means that nothing is known.
        boxes: (M, 5) float32 for networks that look at them, M at least 1: left, top, right, bottom
            in pixels of ``image``, half-open, and class id, 0 for no box; see
            `wsseg.segment.views.box_rows`. None: not known.

    Returns:
        (K, H, W) float32 in [0, 1], summing to 1 over K.

    Raises:
        ValueError: When boxes are given to a network that does not look at them.
    """
    size = (image.shape[0], image.shape[1])
    total: NDArray[np.float32] | None = None
    for scale in config.scales:
        scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        shown = None if boxes is None else _scaled_boxes(boxes, size, scaled)
        maps = resize_maps(_one_scale(forward, resized_image(image, scaled), config, shown), size)
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


def _scaled_boxes(
    boxes: NDArray[np.float32], size: tuple[int, int], scaled: tuple[int, int]
) -> NDArray[np.float32]:
    """Move boxes (M, 5) from an image to the image at another size (H, W)."""
    across, down = scaled[1] / size[1], scaled[0] / size[0]
    return boxes * np.array([across, down, across, down, 1], np.float32)


def _boxes_of_tile(boxes: NDArray[np.float32], tile: Tile, mirror: bool) -> NDArray[np.float32]:
    """Move boxes (M, 5) from an image to a tile of it, beyond whose edge they may reach."""
    rows, columns = tile.slices
    x0, y0, x1, y1, class_ids = boxes.T
    x0, x1 = x0 - columns.start, x1 - columns.start
    if mirror:
        width = columns.stop - columns.start
        x0, x1 = width - x1, width - x0
    return np.stack([x0, y0 - rows.start, x1, y1 - rows.start, class_ids], axis=1)


def _one_scale(
    forward: Forward,
    image: NDArray[np.uint8],
    config: PredictConfig,
    boxes: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Average the plain and the mirrored views of all tiles: (K, h, w)."""
    size = (image.shape[0], image.shape[1])
    windows = _windows(size, forward.fixed_size, config)
    views = [(tile, mirror) for tile in windows for mirror in ((False, True)[: 1 + config.flip])]
    merger: TileMerger | None = None
    for (tile, mirror), maps in _computed(forward, image, views, config.batch_size, boxes):
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
    boxes: NDArray[np.float32] | None,
) -> Iterator[tuple[tuple[Tile, bool], NDArray[np.float32]]]:
    """Run the network over the views in batches; yields each view with its (K, h, w) maps."""
    for start in range(0, len(views), batch_size):
        part = views[start : start + batch_size]
        crops = [image[tile.slices] for tile, _ in part]
        height, width = crops[0].shape[:2]
        mirrored = [
            crop[:, ::-1] if mirror else crop for crop, (_, mirror) in zip(crops, part, strict=True)
        ]
        images = _padded(np.stack(mirrored), forward.fixed_size)
        if boxes is None:
            maps = forward(images)
        elif takes_boxes(forward):
            shown = np.stack([_boxes_of_tile(boxes, tile, mirror) for tile, mirror in part])
            maps = forward.with_boxes(images, shown)
        else:
            raise ValueError("boxes are given, but the network does not look at boxes.")
        yield from zip(part, maps[..., :height, :width], strict=True)


def _padded(images: NDArray[np.uint8], fixed_size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Fill images up, right and below, to the one size that a network takes."""
    if fixed_size is None or images.shape[1:3] == fixed_size:
        return images
    filled = np.empty((len(images), *fixed_size, 3), np.uint8)
    filled[:] = _PADDING_RGB
    filled[:, : images.shape[1], : images.shape[2]] = images
    return filled
