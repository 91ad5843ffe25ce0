"""The two lattices of a dense CRF: built once per image, the one of position once per size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsseg.kernels.dense_crf_config import PSA, CrfConfig
from wsseg.kernels.permutohedral import Lattice, build_lattice

_GAUSSIAN_CACHE_BYTES = 256 * 2**20
_GAUSSIAN_CACHE_ENTRIES = 16


@dataclass(frozen=True, eq=False)
class CrfLattices:
    """The two lattices of an image, shared by all CRFs with the same standard deviations.

    Args:
        gaussian: Lattice over position, the same for all images of one size.
        bilateral: Lattice over position and colour.
        sigmas: ``(gauss_sxy_px, bilateral_sxy_px, bilateral_srgb)`` they were built for.
    """

    gaussian: Lattice
    bilateral: Lattice
    sigmas: tuple[float, float, float]


class _GaussianCache:
    """Gaussian lattices by image size and sigma, least recently used first, bounded in bytes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[tuple[int, int], float], Lattice] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, shape: tuple[int, int], sigma: float, threads: int | None) -> Lattice:
        key = (shape, sigma)
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        lattice = build_lattice(shape, sigma, threads=threads)
        with self._lock:
            self._entries[key] = lattice
            while self._entries and (
                len(self._entries) > _GAUSSIAN_CACHE_ENTRIES
                or sum(entry.nbytes for entry in self._entries.values()) > _GAUSSIAN_CACHE_BYTES
            ):
                self._entries.popitem(last=False)
        return lattice

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()


_gaussian_cache = _GaussianCache()


def clear_lattice_cache() -> None:
    """Forget the Gaussian lattices of all image sizes (at most 256 MB are kept)."""
    _gaussian_cache.clear()


def build_crf_lattices(
    image: npt.NDArray[np.uint8], config: CrfConfig = PSA, *, threads: int | None = None
) -> CrfLattices:
    """Build what all CRFs on one image share.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: The standard deviations; the other settings do not matter here.
        threads: How many threads work; None for all available cores.

    Returns:
        The lattices; the Gaussian one comes from a cache when the size was seen before.

    Raises:
        ValueError: When the image is no (H, W, 3) uint8 array.
        RecipeError: When a sigma is too small to number the lattice.
    """
    check_image(image)
    shape = (image.shape[0], image.shape[1])
    return CrfLattices(
        gaussian=_gaussian_cache.get(shape, config.gauss_sxy_px, threads),
        bilateral=build_lattice(
            shape, config.bilateral_sxy_px, image, config.bilateral_srgb, threads=threads
        ),
        sigmas=config.sigmas,
    )


def check_image(image: npt.NDArray[np.uint8]) -> None:
    """Raise ValueError when an image is no (H, W, 3) uint8 array with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"The image has shape {image.shape} and type {image.dtype}; expected (H, W, 3) uint8."
        )


def check_lattices(lattice: CrfLattices, image: npt.NDArray[np.uint8], config: CrfConfig) -> None:
    """Raise ValueError when lattices belong to another image size or to other sigmas."""
    if lattice.bilateral.shape != image.shape[:2]:
        raise ValueError(
            f"The lattice was built for an image of {lattice.bilateral.shape}, this one has "
            f"{image.shape[:2]} (H, W)."
        )
    if lattice.sigmas != config.sigmas:
        raise ValueError(
            f"The lattice was built for sigmas {lattice.sigmas}, the configuration has "
            f"{config.sigmas} (gauss_sxy_px, bilateral_sxy_px, bilateral_srgb)."
        )
