"""RBD, robust background detection: what is not connected to the border of the image.

Over about 250 superpixels with Lab distances d_app, geodesic distances d_geo (shortest paths over
neighbours; all border superpixels are neighbours of each other), σ = 10:

    Area(p)   = sum_q exp(-d_geo²(p,q) / 2σ²)       Len(p) = the same over border superpixels
    w_bg(p)   = 1 - exp(-BndCon²(p) / 2),           BndCon = Len / sqrt(Area)
    wCtr(p)   = sum_q d_app(p,q) exp(-d_spa²(p,q) / (2 * 0.25²)) w_bg(q),     stretched to [0, 1]
    s         = argmin sum w_bg s² + sum wCtr (s - 1)² + sum_{neighbours} w_pq (s_p - s_q)²
    w_pq      = exp(-d_app² / 2σ²) + 0.1

d_spa is relative to the diagonal of the image. s is stretched to [0, 1].

Reference: W. Zhu, S. Liang, Y. Wei, J. Sun, "Saliency Optimization from Robust Background
Detection", CVPR 2014. Every pixel gets the value of its superpixel. Known failures: an object that
touches the border of the image, and one with hardly any contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.cues.lab import lab_image
from wsseg.cues.protocol import FROM_THE_IMAGE, CueConfig, CueContext, CueMap, check_rgb
from wsseg.cues.saliency import stretched
from wsseg.cues.superpixels import SuperpixelConfig, superpixels

Doubles = npt.NDArray[np.float64]

_SIGMA_SPACE = 0.25
_SIGMA_BOUNDARY = 1.0
# Lab; colours of superpixels nearer than this are equal up to rounding.
_MIN_COLOUR_RANGE = 1e-2


class Rbd(CueConfig):
    """Settings of the cue `rbd`."""

    name: Literal["rbd"] = Field(
        "rbd", description="Which cue: what is not connected to the border of the image."
    )
    num_superpixels: int = Field(
        250, ge=4, le=4000, description="About how many superpixels; time grows with the cube."
    )
    compactness: float = Field(
        10.0, gt=0, le=1000, description="SLIC: weight of distance against colour (Lab units)."
    )
    sigma_colour: float = Field(
        10.0, gt=0, le=200, description="σ: Lab distance up to which colours count as alike."
    )
    smoothness: float = Field(
        0.1, ge=0, le=10, description="μ: least weight that joins neighbouring superpixels."
    )

    @property
    def origin(self) -> str:
        """Where the maps come from."""
        return FROM_THE_IMAGE


@dataclass(frozen=True)
class Regions:
    """The superpixels of an image as a graph.

    Args:
        colours: (n, 3) float64 mean Lab colours.
        centres: (n, 2) float64 centres, relative to the diagonal of the image.
        neighbours: (e, 2) int64 pairs that share an edge, smaller number first, each once.
        border: (n,) bool, True where a superpixel touches the border of the image.
    """

    colours: Doubles
    centres: Doubles
    neighbours: npt.NDArray[np.int64]
    border: npt.NDArray[np.bool_]


def rbd(
    image: np.ndarray,
    *,
    config: Rbd = Rbd(),
    context: CueContext | None = None,  # noqa: ARG001 - every cue has the same signature
) -> CueMap:
    """Tell what is not connected to the border of the image.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        config: Superpixels and constants.
        context: Not used.

    Returns:
        (H, W) float32 in [0, 1]; 0 everywhere where all superpixels have one colour.

    Raises:
        DataError: When the image is no (H, W, 3) uint8 array.

    Example:
        >>> image = np.full((40, 60, 3), 90, np.uint8)
        >>> image[12:28, 20:40] = 200, 60, 60
        >>> found = rbd(image)
        >>> bool(found[20, 30] > 0.9), bool(found[2, 2] < 0.1)
        (True, True)
    """
    check_rgb(image)
    height, width = image.shape[:2]
    area = int(np.clip(height * width // config.num_superpixels, 4, 100_000))
    labels = superpixels(image, SuperpixelConfig(area_px=area, compactness=config.compactness))
    regions = region_graph(lab_image(image), labels)
    return region_saliency(regions, config)[labels]


def region_graph(lab: np.ndarray, labels: np.ndarray) -> Regions:
    """Describe superpixels by colour, place and neighbours.

    Args:
        lab: (H, W, 3) float32.
        labels: (H, W) int64, numbered from 0 without gaps.

    Returns:
        The graph.
    """
    flat = labels.reshape(-1)
    areas = np.bincount(flat).astype(np.float64)
    height, width = labels.shape
    diagonal = np.hypot(height, width)

    def means(values: np.ndarray) -> Doubles:
        return np.bincount(flat, weights=values.reshape(-1)) / areas

    rows, columns = np.mgrid[:height, :width]
    border = np.zeros(len(areas), bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        border[edge] = True
    return Regions(
        np.stack([means(lab[..., channel]) for channel in range(3)], axis=1),
        np.stack([means(rows), means(columns)], axis=1) / diagonal,
        neighbour_pairs(labels),
        border,
    )


def neighbour_pairs(labels: np.ndarray) -> npt.NDArray[np.int64]:
    """List the pairs of regions that share an edge of a pixel.

    Args:
        labels: (H, W) int64, numbered from 0.

    Returns:
        (e, 2) int64, the smaller number first, each pair once, sorted.

    Example:
        >>> neighbour_pairs(np.array([[0, 0, 1], [2, 2, 1]])).tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    sides = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    first = np.concatenate([a[a != b] for a, b in sides]).astype(np.int64)
    second = np.concatenate([b[a != b] for a, b in sides]).astype(np.int64)
    num_regions = int(labels.max()) + 1
    keys = np.unique(np.minimum(first, second) * num_regions + np.maximum(first, second))
    return np.stack([keys // num_regions, keys % num_regions], axis=1)


def region_saliency(regions: Regions, config: Rbd = Rbd()) -> CueMap:
    """Compute the saliency of superpixels.

    Args:
        regions: The superpixels as a graph.
        config: Constants.

    Returns:
        (n,) float32 in [0, 1].
    """
    if np.ptp(regions.colours, axis=0).max() < _MIN_COLOUR_RANGE:
        return np.zeros(len(regions.colours), np.float32)
    colour = _distances(regions.colours)
    background = _background_weights(regions, colour, config.sigma_colour)
    near = np.exp(-(_distances(regions.centres) ** 2) / (2 * _SIGMA_SPACE**2))
    contrast = stretched((colour * near) @ background).astype(np.float64)
    smooth = np.zeros_like(colour)
    first, second = regions.neighbours.T
    alike = np.exp(-(colour[first, second] ** 2) / (2 * config.sigma_colour**2))
    smooth[first, second] = smooth[second, first] = alike + config.smoothness
    system = np.diag(background + contrast + smooth.sum(axis=1)) - smooth
    return stretched(_solved(system, contrast))


def _distances(points: Doubles) -> Doubles:
    from scipy.spatial.distance import cdist

    found: Doubles = cdist(points, points)
    return found


def _background_weights(regions: Regions, colour: Doubles, sigma: float) -> Doubles:
    """Compute w_bg from boundary connectivity, (n,) in [0, 1)."""
    alike = np.exp(-(_geodesic(regions, colour) ** 2) / (2 * sigma**2))
    area = alike.sum(axis=1)
    length = alike[:, regions.border].sum(axis=1)
    connectivity = length / np.sqrt(area)
    weights: Doubles = 1 - np.exp(-(connectivity**2) / (2 * _SIGMA_BOUNDARY**2))
    return weights


def _geodesic(regions: Regions, colour: Doubles) -> Doubles:
    """Compute shortest paths over neighbours and over pairs of border superpixels, (n, n)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    is_linked = np.zeros(colour.shape, bool)
    first, second = regions.neighbours.T
    is_linked[first, second] = is_linked[second, first] = True
    is_linked |= regions.border[:, None] & regions.border[None, :]
    np.fill_diagonal(is_linked, False)
    rows, columns = np.nonzero(is_linked)
    # Links of length 0, between equal colours, are links all the same: sparse graphs keep them.
    graph = csr_array((colour[rows, columns], (rows, columns)), shape=colour.shape)
    lengths: Doubles = dijkstra(graph, directed=True)
    return lengths


def _solved(system: Doubles, target: Doubles) -> Doubles:
    """Solve the symmetric system; it is singular only where nothing is said of a component."""
    from scipy.linalg import LinAlgError, solve

    try:
        found: Doubles = solve(system, target, assume_a="pos")
    except LinAlgError:
        found = np.linalg.lstsq(system, target, rcond=None)[0].astype(np.float64)
    return found
