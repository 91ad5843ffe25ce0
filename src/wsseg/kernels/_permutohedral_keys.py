"""How the vertices of a permutohedral lattice are packed into 64-bit keys."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsseg.errors import RecipeError

_MAX_KEY_BITS = 62


def feature_bounds(
    shape: tuple[int, int], values: npt.NDArray[np.generic], sigmas: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the smallest and the largest value of each feature, (d, 2)."""
    bounds = np.zeros((2 + values.shape[1], 2))
    bounds[0, 1] = (shape[1] - 1) / sigmas[0]
    bounds[1, 1] = (shape[0] - 1) / sigmas[0]
    if values.shape[1]:
        bounds[2:] = np.array([values.min(), values.max()], np.float64) / sigmas[1]
    return bounds


def key_radix(
    bounds: npt.NDArray[np.float64], sigmas: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Choose factors that pack the d key coordinates of a vertex into one integer.

    Args:
        bounds: (d, 2) smallest and largest scaled feature.
        sigmas: For the message.

    Returns:
        (d + 1,) factors of the coordinates, then the constant that makes all keys >= 0.
    """
    dims = len(bounds)
    # Rows of the elevation matrix: E_i = sum_{j >= i} cf_j - i * cf_{i-1}.
    elevation = np.triu(np.ones((dims, dims)))
    elevation[np.arange(1, dims), np.arange(dims - 1)] = -np.arange(1, dims)
    # The most significant digit is y alone, E_0 + E_1 - 2 E_2 = 6 cf_1: sorted vertices then lie
    # in memory in about the order in which the rows of the image need them.
    digits = np.eye(dims)
    digits[0, 1] = 1
    if dims > 2:
        digits[0, 2] = -2
    forms = digits @ elevation
    positive, negative = forms.clip(min=0), forms.clip(max=0)
    # Coordinates of corners and of their neighbours are less than 2(d + 1) from the point's.
    margin = 2 * (dims + 1) * np.abs(digits).sum(axis=1)
    low = np.floor(positive @ bounds[:, 0] + negative @ bounds[:, 1]) - margin
    high = np.ceil(positive @ bounds[:, 1] + negative @ bounds[:, 0]) + margin
    spans = high - low + 1
    if not np.log2(spans).sum() < _MAX_KEY_BITS or spans.max() >= 2**31:
        raise RecipeError(
            f"The CRF's sigmas are too small for this image: {sigmas[0]:g} px"
            + (f" and {sigmas[1]:g} in value" if dims > 2 else "")
            + f" need {np.log2(spans).sum():.0f} bits to number the lattice, {_MAX_KEY_BITS} are "
            "possible. Use larger sigmas; below about one pixel or one grey level a Gaussian "
            "joins nothing."
        )
    sizes = [int(span) for span in spans]
    strides = np.ones(dims, np.int64)
    for i in range(dims - 2, -1, -1):
        strides[i] = strides[i + 1] * sizes[i + 1]
    offset = -sum(int(start) * int(stride) for start, stride in zip(low, strides, strict=True))
    return np.array([*(strides @ digits.astype(np.int64)), offset], np.int64)
