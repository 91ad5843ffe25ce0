"""Spectral residual: what is unexpected in the spectrum of a small image.

    A = log(|F| + noise),  P = phase of F,  F the Fourier transform of the grey image at 64 x 64
    S = blur( | F^-1 exp(A - box3(A) + i P) |² ),  enlarged and stretched to [0, 1]

Reference: X. Hou, L. Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007. The
spectrum is periodic, so the 3 x 3 mean of its logarithm wraps around; the noise, of rounding to 8
bits, is an addition for drawn images. It finds where something
small is, not how far it reaches.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.cues.protocol import FROM_THE_IMAGE, CueConfig, CueContext, CueMap, check_rgb
from wsseg.cues.saliency import stretched

# Deviation of grey values in [0, 1] that rounding to 8 bits makes. Drawn images have spectra with
# exact zeros, whose logarithm would outweigh all the rest; what is below this noise says nothing.
_ROUNDING = 1 / (255 * 12**0.5)


class SpectralResidual(CueConfig):
    """Settings of the cue `spectral_residual`."""

    name: Literal["spectral_residual"] = Field(
        "spectral_residual", description="Which cue: what is unexpected in the spectrum."
    )
    side_px: int = Field(
        64,
        ge=8,
        le=1024,
        description="The image is shrunk to a square of this side; it sets the size of what is "
        "found.",
    )
    sigma_px: float = Field(
        8.0, gt=0, le=100, description="Gaussian blur of the result, in pixels of that square."
    )

    @property
    def origin(self) -> str:
        """Where the maps come from."""
        return FROM_THE_IMAGE


def spectral_residual(
    image: np.ndarray,
    *,
    config: SpectralResidual = SpectralResidual(),
    context: CueContext | None = None,  # noqa: ARG001 - every cue has the same signature
) -> CueMap:
    """Tell where the image holds what its spectrum does not lead to expect.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        config: Size and blur.
        context: Not used.

    Returns:
        (H, W) float32 in [0, 1]; 0 everywhere where all pixels are equal.

    Raises:
        DataError: When the image is no (H, W, 3) uint8 array.

    Example:
        >>> image = np.full((64, 64, 3), 80, np.uint8)
        >>> image[40:44, 10:14] = 255
        >>> row, column = np.unravel_index(spectral_residual(image).argmax(), (64, 64))
        >>> bool(abs(row - 42) < 6), bool(abs(column - 12) < 6)
        (True, True)
    """
    import cv2

    check_rgb(image)
    height, width = image.shape[:2]
    side = (config.side_px, config.side_px)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.min() == grey.max():
        return np.zeros((height, width), np.float32)
    small = cv2.resize(grey, side, interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    blurred = cv2.GaussianBlur(residual_energy(small), (0, 0), config.sigma_px)
    full = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    return stretched(full / max(float(full.max()), np.finfo(np.float64).tiny))


def residual_energy(grey: np.ndarray) -> np.ndarray:
    """Transform back the log spectrum minus its local mean, with the phase it had.

    Args:
        grey: (n, m) float64 in [0, 1].

    Returns:
        (n, m) float64 >= 0, squared magnitude.
    """
    from scipy.ndimage import uniform_filter

    spectrum = np.fft.fft2(grey)
    noise = _ROUNDING * grey.size**0.5
    log_amplitude = np.log(np.abs(spectrum) + noise)
    residual = log_amplitude - uniform_filter(log_amplitude, 3, mode="wrap")
    phase = np.angle(spectrum)
    energy: np.ndarray = np.abs(np.fft.ifft2(np.exp(residual + 1j * phase))) ** 2
    return energy
