"""MBD, minimum barrier distance: what no smooth path joins with the border of the image.

A path's barrier is the highest minus the lowest value on it. Per Lab channel I, with D = 0 on the
border of the image and infinite inside, raster and inverse raster scans in turn let every pixel
take over the better path of its two neighbours y that the scan has passed (U, L: highest and
lowest value of a path):

    beta = max(U(y), I(x)) - min(L(y), I(x)),      D(x) <- beta where beta < D(x)

The distances of the channels are added. To that comes how far a colour is from those of the
border: per border strip k the Mahalanobis distance u_k of the pixel from the strip's colours,
divided by its maximum; the sum over the strips minus the largest, so that one strip covered by
the object does no harm. Both are divided by their maximum and added. Behind that, holes and specks
are closed and opened by reconstruction, values are weighted by exp(-d) with d the distance from
the centre relative to half the diagonal, and a sigmoid raises the contrast.

Reference: J. Zhang, S. Sclaroff, Z. Lin, X. Shen, B. Price, R. Mech, "Minimum Barrier Salient
Object Detection at 80 FPS", ICCV 2015. Working at 300 pixels and the size of the window of the
reconstruction (50 times the square root of the mean saliency, for an image whose longer side is
300 pixels) are from memory.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.cues.lab import lab_image
from wsseg.cues.protocol import FROM_THE_IMAGE, CueConfig, CueContext, CueMap, check_rgb
from wsseg.cues.saliency import stretched
from wsseg.data.working import working_size

Floats = npt.NDArray[np.float32]

# Added to the strips' covariances (Lab units squared): strips of one colour have none.
_COLOUR_NOISE = 1.0
# Sum of barriers over the channels (Lab units) below which an image shows rounding only.
_MIN_BARRIER = 1e-3
# The window of the reconstruction was given for images of this longer side.
_PAPER_SIDE_PX = 300


class Mbd(CueConfig):
    """Settings of the cue `mbd`."""

    name: Literal["mbd"] = Field(
        "mbd", description="Which cue: what no smooth path joins with the border of the image."
    )
    max_side_px: int | None = Field(
        300,
        ge=16,
        le=8192,
        description="Images with a longer side (pixels) are shrunk to it before; null: never.",
    )
    num_passes: int = Field(3, ge=1, le=20, description="Raster and inverse raster scans, in turn.")
    border_frac: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="Width of the border strips as a fraction of the side of the image.",
    )
    backgroundness: bool = Field(
        True, description="Add how far a colour is from those of the border strips."
    )
    smoothing: float = Field(
        50.0,
        ge=0,
        le=500,
        description="Window of the reconstruction, in pixels of an image of 300: this times the "
        "square root of the mean saliency. 0: none.",
    )
    centre_prior: bool = Field(True, description="Weigh by exp(-distance from the centre).")
    steepness: float = Field(
        10.0, ge=0, le=100, description="Steepness of the final sigmoid. 0: none."
    )

    @property
    def origin(self) -> str:
        """Where the maps come from."""
        return FROM_THE_IMAGE


def mbd(
    image: np.ndarray,
    *,
    config: Mbd = Mbd(),
    context: CueContext | None = None,  # noqa: ARG001 - every cue has the same signature
) -> CueMap:
    """Tell what no smooth path joins with the border of the image.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        config: Size, scans and what comes behind them.
        context: Not used.

    Returns:
        (H, W) float32 in [0, 1]; 0 everywhere where all pixels are equal.

    Raises:
        DataError: When the image is no (H, W, 3) uint8 array.

    Example:
        >>> image = np.full((40, 60, 3), 90, np.uint8)
        >>> image[12:28, 20:40] = 200, 60, 60
        >>> found = mbd(image)
        >>> bool(found[20, 30] > 0.9), bool(found[2, 2] < 0.1)
        (True, True)
    """
    import cv2

    check_rgb(image)
    height, width = image.shape[:2]
    small = working_size((height, width), config.max_side_px)
    if small != (height, width):
        image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
    lab = lab_image(image)
    barriers = barrier_distance(lab, config.num_passes)
    if barriers.max() < _MIN_BARRIER:
        return np.zeros((height, width), np.float32)
    found = barriers / barriers.max()
    if config.backgroundness:
        found = found + _divided_by_max(border_contrast(lab, config.border_frac))
    found = _raised(_smoothed(stretched(found), config.smoothing), config)
    return stretched(cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR))


def barrier_distance(lab: np.ndarray, num_passes: int = 3) -> Floats:
    """Compute the minimum barrier distance from the border of the image, summed over channels.

    Args:
        lab: (H, W, C) float32.
        num_passes: Raster and inverse raster scans, in turn.

    Returns:
        (H, W) float32 >= 0, in units of the image; 0 on its border.

    Example:
        >>> plane = np.zeros((5, 5, 1), np.float32)
        >>> plane[2, 2] = 7
        >>> barrier_distance(plane)[2].tolist()
        [0.0, 0.0, 7.0, 0.0, 0.0]
    """
    from wsseg.kernels._barrier_passes import scan_barriers

    total = np.zeros(lab.shape[:2], np.float32)
    for channel in range(lab.shape[2]):
        plane = np.ascontiguousarray(lab[..., channel])
        distance = np.full(plane.shape, np.inf, np.float32)
        distance[[0, -1]] = 0
        distance[:, [0, -1]] = 0
        scan_barriers(plane, distance, plane.copy(), plane.copy(), num_passes)
        total += distance
    return total


def border_contrast(lab: np.ndarray, border_frac: float) -> Floats:
    """Measure how far each colour is from those of the four border strips.

    Args:
        lab: (H, W, 3) float32.
        border_frac: Width of the strips as a fraction of the side of the image.

    Returns:
        (H, W) float32 in [0, 3]: distances divided by their maxima, summed over the strips but
        for the largest.
    """
    rows, columns = (max(1, round(side * border_frac)) for side in lab.shape[:2])
    strips = (lab[:rows], lab[-rows:], lab[:, :columns], lab[:, -columns:])
    pixels = lab.reshape(-1, 3).astype(np.float64)
    found = []
    for strip in strips:
        colours = strip.reshape(-1, 3).astype(np.float64)
        offset = pixels - colours.mean(axis=0)
        covariance = np.cov(colours, rowvar=False, bias=True) + _COLOUR_NOISE * np.eye(3)
        whitened = offset @ np.linalg.cholesky(np.linalg.inv(covariance))
        found.append(_divided_by_max(np.sqrt((whitened**2).sum(axis=1))))
    distances = np.stack(found)
    return (distances.sum(axis=0) - distances.max(axis=0)).reshape(lab.shape[:2]).astype(np.float32)


def _divided_by_max(values: np.ndarray) -> np.ndarray:
    highest = float(values.max())
    return values / highest if highest > 0 else values


def _smoothed(values: CueMap, smoothing: float) -> Floats:
    """Open and close by reconstruction, which keeps the outlines of what is large enough."""
    side = round(smoothing * float(np.sqrt(values.mean())) * max(values.shape) / _PAPER_SIDE_PX)
    if side < 2:
        return values
    import cv2
    from skimage.morphology import reconstruction

    window = np.ones((side, side), np.uint8)
    seed = np.minimum(cv2.erode(values, window), values)
    opened = reconstruction(seed, values, method="dilation")
    opened = opened.astype(np.float32)
    # A window of even side is off centre, so that it may miss the pixel itself.
    seed = np.maximum(cv2.dilate(opened, window), opened)
    return reconstruction(seed, opened, method="erosion").astype(np.float32)


def _raised(values: Floats, config: Mbd) -> CueMap:
    """Weigh by the distance from the centre and raise the contrast, to [0, 1]."""
    if config.centre_prior:
        height, width = values.shape
        y = (np.arange(height) + 0.5 - height / 2)[:, None]
        x = (np.arange(width) + 0.5 - width / 2)[None, :]
        values = values * np.exp(-np.hypot(y, x) / (np.hypot(height, width) / 2))
    values = stretched(values)
    if config.steepness > 0:
        values = stretched(1 / (1 + np.exp(-config.steepness * (values - 0.5))))
    return values
