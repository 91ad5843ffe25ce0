"""Instances from displacements: which pixels point to the same centroid.

Reference: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations", CVPR 2019. Every cell follows the displacement field, u <- u + D(u), until it stands at
the centroid of its object. Connected cells with short displacements are one centroid, and the
cells that arrive there are one cluster. The class maps, cut to a cluster each, walk inside the
learned boundaries; where one of them wins at a pixel lies an instance.

Displacements are (rows, columns) in cells of the grid. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

INSTANCES_FOLDER = "instances"
# Bounds the memory where a field of an untrained network falls into hundreds of clusters.
_PARTS_AT_ONCE = 32

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Instance:
    """One object that was told apart.

    Attributes:
        class_id: Its class, 1..C.
        score: How strong its map is at its strongest pixel, in [0, 1]; 0 for a fragment.
        box: Left, top, width and height in pixels.
        mask: (height, width) bool, its pixels within the box.
    """

    class_id: int
    score: float
    box: tuple[int, int, int, int]
    mask: npt.NDArray[np.bool_]


def track_centroids(displacement: Floats, iterations: int = 300) -> Floats:
    """Let every cell follow the displacements, interpolated between the cells.

    Args:
        displacement: (2, h, w) float, rows and columns in cells.
        iterations: Number of steps.

    Returns:
        (2, h, w) float32, the row and column where each cell ends; never outside the grid.

    Example:
        >>> to_the_middle = np.zeros((2, 1, 3), np.float32)
        >>> to_the_middle[1, 0] = [1, 0, -1]
        >>> track_centroids(to_the_middle, 2)[1].tolist()
        [[1.0, 1.0, 1.0]]
    """
    _, height, width = displacement.shape
    field = displacement.reshape(2, -1).astype(np.float64)
    rows, columns = np.indices((height, width), dtype=np.float64).reshape(2, -1)
    for _ in range(iterations):
        step = _interpolated(field, rows, columns, (height, width))
        rows = np.clip(rows + step[0], 0, height - 1)
        columns = np.clip(columns + step[1], 0, width - 1)
    return np.stack([rows, columns]).reshape(2, height, width).astype(np.float32)


def _interpolated(
    field: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
    columns: npt.NDArray[np.float64],
    shape: tuple[int, int],
) -> npt.NDArray[np.float64]:
    """Read (2, h * w) values at n places of the grid, bilinearly: (2, n)."""
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    below, right = rows - top, columns - left
    next_row = np.minimum(top + 1, shape[0] - 1) * shape[1]
    next_column = np.minimum(left + 1, shape[1] - 1)
    top *= shape[1]
    upper = field[:, top + left] * (1 - right) + field[:, top + next_column] * right
    lower = field[:, next_row + left] * (1 - right) + field[:, next_row + next_column] * right
    result: npt.NDArray[np.float64] = upper * (1 - below) + lower * below
    return result


def cluster_map(
    centroids: Floats, displacement: Floats, max_displacement_cells: float = 2.5
) -> Ints:
    """Number the cells by the centroid that they arrive at.

    Args:
        centroids: (2, h, w) from `track_centroids`.
        displacement: (2, h, w), rows and columns in cells.
        max_displacement_cells: Connected cells (4 neighbours) with shorter displacements are one
            centroid.

    Returns:
        (h, w) int64 clusters, numbered from 0 without gaps. Cells that arrive at no centroid are
        one cluster of their own, as in the paper's code.

    Example:
        >>> displacement = np.zeros((2, 1, 5), np.float32)
        >>> displacement[1, 0] = [1, 0, 9, 0, -1]
        >>> centroids = np.zeros((2, 1, 5), np.float32)
        >>> centroids[1, 0] = [1, 1, 1, 3, 3]
        >>> cluster_map(centroids, displacement).tolist()
        [[0, 0, 0, 1, 1]]
    """
    from scipy import ndimage

    length = np.hypot(displacement[0], displacement[1])
    labels, _ = ndimage.label(length < max_displacement_cells)
    rows, columns = np.rint(centroids).astype(np.int64)
    arrived = labels[rows, columns]
    clusters = np.unique(arrived, return_inverse=True)[1]
    return clusters.reshape(arrived.shape).astype(np.int64, copy=False)


def separate(maps: Floats, clusters: Ints) -> Iterator[tuple[Floats, Ints]]:
    """Cut every class map to each cluster, a few at a time.

    Args:
        maps: (C, h, w) float32, one row per present class.
        clusters: (h, w) from `cluster_map`.

    Yields:
        (M, h, w) float32, class by class and cluster by cluster, without those that are zero
        everywhere; and (M,) int64, the row of the class of each.

    Example:
        >>> [(parts, rows)] = separate(np.ones((1, 1, 3), np.float32), np.array([[0, 0, 1]]))
        >>> parts[:, 0].tolist(), rows.tolist()
        ([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0, 0])
    """
    pairs = [(row, c) for row, values in enumerate(maps) for c in np.unique(clusters[values > 0])]
    for start in range(0, len(pairs), _PARTS_AT_ONCE):
        chunk = pairs[start : start + _PARTS_AT_ONCE]
        parts = [np.where(clusters == cluster, maps[row], np.float32(0)) for row, cluster in chunk]
        yield np.stack(parts), np.array([row for row, _ in chunk], np.int64)


def detect(
    walked: Iterable[tuple[Floats, Ints]],
    size: tuple[int, int],
    *,
    background: float = 0.25,
    min_fragment_frac: float = 0.01,
) -> list[Instance]:
    """Find the connected regions where a map wins.

    Args:
        walked: (M, h, w) float32 non-negative maps with the class ids (M,) of their rows, one row
            per class and cluster; in any number of pieces.
        size: (H, W) of the image in pixels.
        background: A pixel where no map is above this part of the largest value of all maps is
            background.
        min_fragment_frac: Regions that cover less of the image get score 0.

    Returns:
        The regions (4 neighbours), strongest first.

    Example:
        >>> maps = np.zeros((1, 2, 4), np.float32)
        >>> maps[0, :, 1:3] = 5
        >>> found = detect([(maps, np.array([7]))], (2, 4))
        >>> [(instance.class_id, instance.score, instance.box) for instance in found]
        [(7, 1.0, (1, 0, 2, 2))]
    """
    best = np.zeros(size, np.float32)
    winner = np.full(size, -1, np.int64)
    owners: list[int] = []
    largest = 0.0
    for maps, class_ids in walked:
        largest = max(largest, float(maps.max(initial=0)))
        for row, class_id in zip(maps, class_ids, strict=True):
            _compete(_enlarged(row, size), len(owners), best, winner)
            owners.append(int(class_id))
    if largest > 0:
        best /= np.float32(largest)
    winner[best <= background] = -1
    min_area_px = min_fragment_frac * size[0] * size[1]
    found = []
    for number in np.unique(winner[winner >= 0]):
        for box, mask, strength in _regions(winner == number, best):
            score = strength if mask.sum() >= min_area_px else 0.0
            found.append(Instance(owners[number], score, box, mask))
    return sorted(found, key=lambda instance: -instance.score)


def _enlarged(row: Floats, size: tuple[int, int]) -> Floats:
    import cv2

    full = cv2.resize(row, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return full.astype(np.float32, copy=False)


def _compete(values: Floats, number: int, best: Floats, winner: Ints) -> None:
    """Give a map the pixels where it is stronger than all before it."""
    is_better = values > best
    winner[is_better] = number
    best[is_better] = values[is_better]


def _regions(
    area: npt.NDArray[np.bool_], strengths: Floats
) -> list[tuple[tuple[int, int, int, int], npt.NDArray[np.bool_], float]]:
    """List box, mask and greatest strength of each connected region."""
    from scipy import ndimage

    labels, _ = ndimage.label(area)
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[rows, columns] == number
        box = (columns.start, rows.start, mask.shape[1], mask.shape[0])
        regions.append((box, mask, float(min(1.0, strengths[rows, columns][mask].max()))))
    return regions


def instances_document(instances: list[Instance], size: tuple[int, int]) -> dict[str, Any]:
    """Write instances as JSON can hold them.

    Args:
        instances: The instances of one image.
        size: (H, W) of the image in pixels.

    Returns:
        ``size`` and ``instances``: ``class_id``, ``score``, ``bbox`` (x, y, width, height),
        ``area`` in pixels, and ``segmentation`` in COCO's compressed run lengths.

    Example:
        >>> one = Instance(7, 0.5, (1, 0, 2, 1), np.ones((1, 2), bool))
        >>> instances_document([one], (1, 4))["instances"][0]["segmentation"]
        {'size': [1, 4], 'counts': '121'}
    """
    return {"size": list(size), "instances": [_entry(one, size) for one in instances]}


def _entry(instance: Instance, size: tuple[int, int]) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    left, top, width, height = instance.box
    whole = np.zeros(size, np.uint8, order="F")
    whole[top : top + height, left : left + width] = instance.mask
    encoded = coco_mask.encode(whole)
    return {
        "class_id": instance.class_id,
        "score": round(instance.score, 5),
        "bbox": list(instance.box),
        "area": int(instance.mask.sum()),
        "segmentation": {
            "size": list(size),
            "counts": encoded["counts"].decode("ascii"),
        },
    }
