"""From an image to Scores: class maps at several scales and mirrored, tiled where it is large.

As in Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision", CVPR
2018: rectified maps of all scales and of the mirrored image are brought to one size, summed, and
normalised per class. Differences: one forward pass per scale and mirror image gives all classes;
the sum is kept at a few pixels per cell instead of at full size; images are resized to multiples
of the network's stride, so that cells and pixels line up; large images are cut into overlapping
tiles, and normalised only when the tiles have been merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsseg.data.colour import normalise
from wsseg.data.scores import Scores
from wsseg.data.tiling import TileMerger, tiles
from wsseg.errors import DataError
from wsseg.localize.adv_cam import adv_cam
from wsseg.localize.config import AdvCamExtractor, InferenceConfig
from wsseg.localize.extract import Explainable, Extraction, extract
from wsseg.nets.cam_head import ClassMapNet

# Smaller images are enlarged to this side, so that every network has something to look at.
MIN_SIDE_PX = 32
# Keeps a map without any evidence at zero (as in IRN and PSA).
EPSILON = 1e-5


def prepare(
    net: Explainable, config: InferenceConfig, device: torch.device | str = "cpu"
) -> Explainable:
    """Make the fast inference copy of a trained network; do it once, not per image.

    Args:
        net: The trained network; left unchanged.
        config: Its ``precision`` is used.
        device: Where to run.

    Returns:
        A copy in evaluation mode with folded batch normalisation, for `class_maps`.
    """
    from wsseg.nets.fuse import fused

    side = 2 * _multiple(net)
    images = torch.zeros(1, net.backbone.in_channels, side, side)
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    original_device = next(net.parameters()).device
    copy = fused(net, images.to(original_device), run=_compared_output, dtype=dtype)
    if not isinstance(copy, type(net)):
        raise TypeError(f"Expected a {type(net).__name__}, but got {type(copy).__name__}.")
    return copy.to(device)


def _compared_output(net: nn.Module, images: Tensor) -> Tensor:
    # Raw: a refinement may pick the larger of two nearly equal values, and rounding decides which.
    output: Tensor = net.raw_maps(images) if isinstance(net, ClassMapNet) else net(images)
    return output


def class_maps(
    net: Explainable,
    image: NDArray[np.uint8],
    tags: Iterable[int] | None,
    config: InferenceConfig | None = None,
) -> tuple[Scores, NDArray[np.float32]]:
    """Extract the scores of one image.

    Args:
        net: A trained network, best made by `prepare`; set to evaluation mode.
        image: (H, W, 3) uint8 RGB of any size.
        tags: Ids of the classes in the image, from 1 to C; empty: none. None is allowed where
            ``config.tags`` is ``predicted``, which does not look at them.
        config: Scales, normalisation, tiles and so on.

    Returns:
        Scores with row 0 zero (one everywhere where no class is present) and one row per present
        class in the order of the ids; and the probabilities (C,) float32 of all classes.

    Raises:
        DataError: When the image has no tags and they are not to be predicted, or a tag is not a
            class of the network.
    """
    config = InferenceConfig() if config is None else config
    image = _checked(image)
    num_classes = _num_classes(net)
    wanted: list[int] | None = None
    if config.tags == "oracle":
        wanted = _checked_tags(tags, num_classes)
    elif isinstance(config.extractor, AdvCamExtractor):
        # Every map is costly, so that only those of found classes are made.
        found = np.flatnonzero(classify(net, image, config) >= config.min_tag_probability)
        wanted = [int(index) + 1 for index in found]
    maps, logits = _maps_and_logits(net.eval(), image, wanted, config)
    probabilities = _sigmoid(logits)
    if wanted is None:
        found = np.flatnonzero(probabilities >= config.min_tag_probability)
        maps, wanted = maps[found], [int(index) + 1 for index in found]
    values = np.zeros((1 + len(wanted), *maps.shape[1:]), np.float32)
    values[1:] = normalised(maps, config.normalise)
    if not wanted:
        values[0] = 1
    size = (image.shape[0], image.shape[1])
    return Scores(values, np.array([0, *wanted], np.uint8), size), probabilities


def classify(
    net: Explainable, image: NDArray[np.uint8], config: InferenceConfig | None = None
) -> NDArray[np.float32]:
    """Tell the probability of every class in one image.

    The logits are averaged over scales and mirror images; of a tiled image the highest tile
    counts.

    Args:
        net: A trained network; set to evaluation mode.
        image: (H, W, 3) uint8 RGB.
        config: Scales, mirroring and tiles.

    Returns:
        (C,) float32 in [0, 1].
    """
    config = InferenceConfig() if config is None else config
    _, logits = _maps_and_logits(net.eval(), _checked(image), [], config)
    return _sigmoid(logits)


@torch.no_grad()
def mean_features(net: ClassMapNet, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Average the features of one image over all cells.

    Args:
        net: A trained network; set to evaluation mode.
        image: (H, W, 3) uint8 RGB, fed at its own size, not mirrored.

    Returns:
        (D,) float32.
    """
    image = _checked(image)
    resized = _resized(image, _network_size(image, 1.0, _multiple(net)))
    parameter = next(net.parameters())
    planes = normalise(resized, 1 if net.backbone.in_channels == 1 else 3)
    features = net.eval().features(torch.from_numpy(planes)[None].to(parameter))
    vector: NDArray[np.float32] = features.float().mean(dim=(2, 3))[0].cpu().numpy()
    return vector


def normalised(maps: NDArray[np.float32], rule: str) -> NDArray[np.float32]:
    """Bring averaged class maps to [0, 1].

    ``max`` and ``minmax`` stretch every map to the full range, so that the strongest place of
    every present class has a score near one, however weak it is. ``absolute`` does not: it is
    ``2 sigmoid(M) - 1``, so that a map whose evidence is weak stays weak, and images can be
    compared. ``median`` stretches from the median, the level of the surroundings of small objects,
    and cuts what lies below.

    Args:
        maps: (K, h, w) float32; not negative, unless the rule is ``minmax`` or ``median``.
        rule: ``max``, ``minmax``, ``median`` or ``absolute``.

    Returns:
        (K, h, w) float32 in [0, 1].

    Example:
        >>> maps = np.array([[[0.0, 1.0, 4.0]]], np.float32)
        >>> normalised(maps, "max").round(2).tolist()
        [[[0.0, 0.25, 1.0]]]
        >>> normalised(maps, "absolute").astype(float).round(2).tolist()
        [[[0.0, 0.46, 0.96]]]
    """
    if len(maps) == 0:
        return maps
    if rule == "absolute":
        return np.tanh(maps / 2)
    highest = maps.max(axis=(1, 2), keepdims=True)
    if rule == "max":
        return maps / (highest + EPSILON)
    if rule == "median":
        lowest = np.median(maps, axis=(1, 2), keepdims=True)
    else:
        lowest = maps.min(axis=(1, 2), keepdims=True)
    stretched = (maps - lowest - EPSILON) / (highest - lowest + EPSILON)
    return np.clip(stretched, 0, 1, out=stretched)


def _maps_and_logits(
    net: Explainable,
    image: NDArray[np.uint8],
    wanted: Sequence[int] | None,
    config: InferenceConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Average the maps (K, h, w) and logits (C,) of one image, tile by tile where it is large."""
    stride = config.map_stride_px
    height, width = (-(-side // stride) for side in image.shape[:2])
    if config.tile_px is None or max(image.shape[:2]) <= config.tile_px:
        return _averaged(net, image, (height, width), wanted, config)
    # Stretched by less than a cell, so that tiles are whole numbers of cells everywhere.
    image = _resized(image, (height * stride, width * stride))
    num_rows = _num_classes(net) if wanted is None else len(wanted)
    tile_cells = max(1, config.tile_px // stride)
    overlap_cells = min(config.tile_overlap_px // stride, tile_cells - 1)
    merger = TileMerger(num_rows, (height, width), overlap_cells)
    highest: NDArray[np.float32] | None = None
    for tile in tiles((height, width), tile_cells, overlap_cells):
        patch = image[
            tile.top * stride : tile.bottom * stride, tile.left * stride : tile.right * stride
        ]
        grid = (tile.bottom - tile.top, tile.right - tile.left)
        maps, logits = _averaged(net, patch, grid, wanted, config)
        merger.add(tile, maps)
        highest = logits if highest is None else np.maximum(highest, logits)
    if highest is None:
        raise ValueError(f"An image of shape {image.shape} has no tiles.")
    return merger.merged(), highest


def _averaged(
    net: Explainable,
    patch: NDArray[np.uint8],
    grid: tuple[int, int],
    wanted: Sequence[int] | None,
    config: InferenceConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Average over scales and mirror images: one forward pass for each, all classes at once."""
    parameter = next(net.parameters())
    maps: Tensor | None = None
    logits: Tensor | None = None
    num_passes = 0
    for scale in config.scales:
        size = _network_size(patch, scale, _multiple(net))
        planes = normalise(_resized(patch, size), 1 if net.backbone.in_channels == 1 else 3)
        images = torch.from_numpy(planes)[None].to(
            parameter.device, parameter.dtype, memory_format=torch.channels_last
        )
        for found in _extractions(net, images, wanted, scale, config):
            for raw, row in zip(found.maps, found.logits, strict=True):
                one = _on_grid(raw, grid)
                maps = one if maps is None else maps.add_(one)
                logits = row.clone() if logits is None else logits.add_(row)
                num_passes += 1
    if maps is None or logits is None:
        raise ValueError("scales is empty; expected at least one.")
    return (maps / num_passes).cpu().numpy(), (logits / num_passes).cpu().numpy()


def _extractions(
    net: Explainable,
    images: Tensor,
    wanted: Sequence[int] | None,
    scale: float,
    config: InferenceConfig,
) -> Iterator[Extraction]:
    """Extract from one image (1, c, h, w) and its mirror image, whose maps are turned back."""
    parts = [images]
    if config.flip:
        both = torch.cat([images, images.flip(3)])
        # Two images at once need twice the cache of a CPU; on a GPU they fill it better.
        parts = [images, both[1:]] if images.device.type == "cpu" else [both]
    if isinstance(config.extractor, AdvCamExtractor):
        yield adv_cam(net, torch.cat(parts), wanted or [], config.extractor, scale=scale)
        return
    for part in parts:
        found = extract(net, part, wanted, config.extractor)
        if config.flip and part is parts[-1]:
            found.maps[-1] = found.maps[-1].flip(2)
        yield found


def _on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring (K, h, w) maps to the cells that are kept; finer maps are averaged, not sampled."""
    if maps.shape[0] == 0:
        return maps.new_zeros(0, *grid)
    resized = F.interpolate(
        maps[None], size=grid, mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0]


def _network_size(patch: NDArray[np.uint8], scale: float, multiple: int) -> tuple[int, int]:
    """Tell the size to feed: scaled, not below the smallest side, a multiple of the stride."""
    least = -(-MIN_SIDE_PX // multiple) * multiple
    height, width = (
        max(least, round(side * scale / multiple) * multiple) for side in patch.shape[:2]
    )
    return height, width


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    import cv2

    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    shrinks = size[0] < image.shape[0] and size[1] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, size[::-1], interpolation=method)
    return np.asarray(resized, np.uint8)


def _multiple(net: Explainable) -> int:
    return max(net.backbone.stride, net.backbone.size_multiple)


def _num_classes(net: Explainable) -> int:
    return int(net.num_classes if isinstance(net, ClassMapNet) else net.model.num_classes)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # The tanh form cannot overflow.
    return (0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)


def _checked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"Expected an image of shape (H, W, 3) and dtype uint8, but got {image.shape} and "
            f"{image.dtype}."
        )
    return image


def _checked_tags(tags: Iterable[int] | None, num_classes: int) -> list[int]:
    if tags is None:
        raise DataError(
            "An image without tags gets no maps; tag it, or let the classifier tag it with "
            "--set localize.inference.tags=predicted."
        )
    ids = sorted({int(tag) for tag in tags})
    outside = [class_id for class_id in ids if not 1 <= class_id <= num_classes]
    if outside:
        raise DataError(
            f"Tags {outside} are not classes of the network, which has {num_classes}. Train it "
            "again on the present class list."
        )
    return ids
