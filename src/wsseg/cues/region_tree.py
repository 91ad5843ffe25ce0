"""The region merging tree of an image: superpixels that merge step by step to the whole image.

Leaves are the superpixels; the two neighbouring regions that differ least merge first. How two
regions differ is a mix of their mean Lab colours and of the mean strength of the image's edges
along their common border, less where one of them is tiny. A region's height says at which
difference it was formed; the heights on the way to the root never fall, so that cutting the tree at
any height gives a segmentation, and cuts at larger heights are coarser.

Trees of this kind: P. Arbeláez, M. Maire, C. Fowlkes, J. Malik, "Contour Detection and Hierarchical
Image Segmentation", IEEE TPAMI 2011, with learned contours; P. Salembier, L. Garrido, "Binary
Partition Tree as an Efficient Representation for Image Processing, Segmentation, and Information
Retrieval", IEEE TIP 2000, with colour (both from memory). The measure of difference is our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.config import Config
from wsseg.cues.lab import lab_image

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


class MergeConfig(Config):
    """How regions are compared while they merge."""

    colour_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight of the difference of mean colours against the strength of the border "
        "between two regions.",
    )
    small_area_px: float = Field(
        100.0,
        ge=0,
        le=100_000,
        description="Regions below about this area merge more easily; 0: as easily as all.",
    )
    edge_sigma_px: float = Field(
        1.0, ge=0, le=20, description="Gaussian blur before edges are measured, in pixels."
    )


@dataclass(frozen=True, eq=False)
class RegionTree:
    """A binary tree over the n superpixels of an image; nodes 0..n-1 are the superpixels.

    The leaves below a node are a range of `ranks`, so that its mask is one comparison.

    Args:
        ranks: (H, W) int32, place of each pixel's superpixel in the order of the leaves.
        parents: (2n - 1,) int64, -1 for the root, which is the last node.
        heights: (2n - 1,) float64 in Lab units, 0 for leaves.
        areas: (2n - 1,) float64 in pixels.
        children: (2n - 1, 2) int64, -1 for leaves.
        first: (2n - 1,) int64, rank of the first leaf below a node.
        after: (2n - 1,) int64, rank behind the last leaf below a node.
    """

    ranks: npt.NDArray[np.int32]
    parents: Ints
    heights: Doubles
    areas: Doubles
    children: Ints
    first: Ints
    after: Ints

    @property
    def num_leaves(self) -> int:
        """How many superpixels there are."""
        return (len(self.parents) + 1) // 2

    def mask(self, node: int) -> npt.NDArray[np.bool_]:
        """Draw a region: (H, W) bool."""
        inside: npt.NDArray[np.bool_] = (self.ranks >= self.first[node]) & (
            self.ranks < self.after[node]
        )
        return inside

    def labels_at(self, height: float) -> Ints:
        """Cut the tree: regions that formed at or below a height stay whole.

        Args:
            height: In Lab units, >= 0.

        Returns:
            (H, W) int64, numbered from 0.
        """
        is_cut = (self.heights <= height) & ~np.append(
            self.heights[self.parents[:-1]] <= height, False
        )
        numbers = np.zeros(self.num_leaves, np.int64)
        for number, node in enumerate(np.flatnonzero(is_cut)):
            numbers[self.first[node] : self.after[node]] = number
        return numbers[self.ranks]


def build_tree(
    image: np.ndarray, labels: np.ndarray, config: MergeConfig = MergeConfig()
) -> RegionTree:
    """Merge the superpixels of an image.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: (H, W) int64 superpixels, numbered from 0 without gaps.
        config: How regions are compared.

    Returns:
        The tree.

    Example:
        >>> image = np.zeros((2, 6, 3), np.uint8)
        >>> image[:, 2:4], image[:, 4:] = 20, 200
        >>> labels = np.repeat([[0, 0, 1, 1, 2, 2]], 2, axis=0)
        >>> tree = build_tree(image, labels)
        >>> tree.parents.tolist(), tree.areas.tolist()
        ([3, 3, 4, 4, -1], [4.0, 4.0, 4.0, 8.0, 12.0])
    """
    from wsseg.kernels._region_tree_passes import merge_regions

    lab = lab_image(image)
    flat = labels.reshape(-1)
    areas = np.bincount(flat).astype(np.float64)
    sums = [np.bincount(flat, weights=lab[..., channel].reshape(-1)) for channel in range(3)]
    colours = np.stack(sums, axis=1) / areas[:, None]
    pairs, borders = borders_of(labels, edge_strength(lab, config.edge_sigma_px))
    weights = (config.colour_weight, config.small_area_px)
    parents, heights = merge_regions(pairs, borders, areas, colours, weights)
    return _ordered(labels, parents, heights, areas)


def edge_strength(lab: np.ndarray, sigma_px: float) -> npt.NDArray[np.float32]:
    """Measure how strongly the colour changes at each pixel.

    Args:
        lab: (H, W, 3) float32.
        sigma_px: Gaussian blur before, in pixels; 0: none.

    Returns:
        (H, W) float32 >= 0 in Lab units: the change over two pixels, along the axis that changes
        more, so that a step that is not blurred gives its height.
    """
    import cv2

    if sigma_px > 0:
        lab = cv2.GaussianBlur(lab, (0, 0), sigma_px)
    padded = np.pad(lab, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    squared = np.maximum((across**2).sum(axis=2), (down**2).sum(axis=2))
    strength: npt.NDArray[np.float32] = np.sqrt(squared)
    return strength


def borders_of(labels: np.ndarray, strength: np.ndarray) -> tuple[Ints, Doubles]:
    """List the borders between neighbouring regions.

    Args:
        labels: (H, W) int64, numbered from 0.
        strength: (H, W) float, edge strength per pixel.

    Returns:
        (e, 2) int64 pairs, the smaller number first, sorted; and (e, 2) float64: how many edges of
        pixels they share, and the sum of the strength over these edges (mean of the two pixels).
    """
    sides = (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        (
            (slice(None, -1), slice(None)),
            (slice(1, None), slice(None)),
        ),
    )
    num_regions = int(labels.max()) + 1
    keys, values = [], []
    for one, other in sides:
        a, b = labels[one], labels[other]
        is_border = a != b
        a, b = a[is_border].astype(np.int64), b[is_border].astype(np.int64)
        keys.append(np.minimum(a, b) * num_regions + np.maximum(a, b))
        values.append((strength[one][is_border] + strength[other][is_border]) / 2)
    found, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    lengths = np.bincount(inverse, minlength=len(found)).astype(np.float64)
    totals = np.bincount(inverse, weights=np.concatenate(values), minlength=len(found))
    pairs = np.stack([found // num_regions, found % num_regions], axis=1)
    return pairs, np.stack([lengths, totals], axis=1)


def _ordered(labels: np.ndarray, parents: Ints, heights: Doubles, areas: Doubles) -> RegionTree:
    """Find children, areas and the order of the leaves from the parents."""
    num_nodes, num_leaves = len(parents), len(areas)
    children = np.full((num_nodes, 2), -1, np.int64)
    all_areas = np.zeros(num_nodes)
    all_areas[:num_leaves] = areas
    counts = np.zeros(num_nodes, np.int64)
    counts[:num_leaves] = 1
    # Children have lower numbers than their parents.
    for node in range(num_nodes - 1):
        parent = parents[node]
        children[parent, 0 if children[parent, 0] < 0 else 1] = node
        all_areas[parent] += all_areas[node]
        counts[parent] += counts[node]
    first = np.zeros(num_nodes, np.int64)
    for node in range(num_nodes - 1, num_leaves - 1, -1):
        left, right = children[node]
        first[left] = first[node]
        first[right] = first[node] + counts[left]
    ranks = first[:num_leaves].astype(np.int32)[labels]
    return RegionTree(ranks, parents, heights, all_areas, children, first, first + counts)
