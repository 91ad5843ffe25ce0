"""PAMR and PAR: scores averaged over neighbours of like colour, compiled for the CPU.

The weights are softmax over 48 neighbours (8 at each of 6 distances) of minus their colour
difference, measured in local standard deviations σ:

    PAMR   w_ip = softmax_p( -mean_c |x_i - x_p| / (1e-8 + 0.1 σ_i) )
    PAR    w_ip = softmax_p( -mean_c (|x_i - x_p| / (0.3 σ_i))² ) + 0.01 softmax_p( position )

    repeat:  m_i <- sum_p w_ip m_p

σ_i is the unbiased deviation of a channel over the nine pixels of all dilations for PAMR (the
pixel itself counts once per dilation), over the neighbours for PAR. Outside of the image the
outermost pixels are repeated.

References: N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR
2020 (PAMR); L. Ru, Y. Zhan, B. Yu, B. Du, "Learning Affinity from Attention: End-to-End
Weakly-Supervised Semantic Segmentation with Transformers", CVPR 2022 (PAR; its constants from
memory).

Differences: PAR's weights sum to 1.01 in the published code, so that scores grow with every
iteration; here they are divided by that sum. Scores must have the size of the image.

The published form copies the scores of all neighbours of all labels, K x 48 x H x W numbers. This
one keeps the weights alone, 4 bytes per neighbour and pixel (192 bytes per pixel by default),
and reads the scores in place. `wsseg.kernels.pamr_torch` is the published form.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsseg.kernels import _pamr_passes as passes
from wsseg.kernels._jit import Team, num_threads
from wsseg.kernels.dense_crf_lattices import check_image
from wsseg.kernels.pamr_config import EPSILON, PamrConfig

Floats = npt.NDArray[np.float32]

__all__ = ["PamrConfig", "pamr", "pamr_planes", "pamr_weights"]

# The kernel handles eight weights at once; P is a multiple of eight.
_LANES = (0,) * 8


def pamr_weights(
    image: np.ndarray, *, config: PamrConfig = PamrConfig(), threads: int | None = None
) -> Floats:
    """Compute how much each neighbour of each pixel counts.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        config: Neighbours and scales.
        threads: How many threads work; None for all available cores.

    Returns:
        (H, P, W) float32 >= 0, which sum to one over the P neighbours of ``config.offsets``.

    Raises:
        ValueError: When the image is not (H, W, 3) uint8.

    Example:
        >>> image = np.full((2, 3, 3), 7, np.uint8)
        >>> weights = pamr_weights(image, config=PamrConfig(dilations_px=(1,)))
        >>> weights.shape, weights[0, :, 0].tolist()
        ((2, 8, 3), [0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125])
    """
    check_image(image)
    # The formula is for images in [0, 1].
    return _weights(image.transpose(2, 0, 1), 255 * EPSILON, config, threads)


def pamr(
    image: np.ndarray,
    values: np.ndarray,
    *,
    config: PamrConfig = PamrConfig(),
    weights: Floats | None = None,
    threads: int | None = None,
) -> Floats:
    """Average scores over neighbours of like colour, again and again.

    The result does not depend on the number of threads.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        values: (K, H, W) floating point scores; not changed.
        config: Neighbours, scales and iterations.
        weights: What `pamr_weights` returned for this image and these settings; None computes
            it.
        threads: How many threads work; None for all available cores.

    Returns:
        (K, H, W) float32 within the range of ``values``, up to rounding.

    Raises:
        ValueError: When a shape does not fit.

    Example:
        >>> image = np.zeros((1, 4, 3), np.uint8)
        >>> image[:, 2:] = 255
        >>> values = np.array([[[1.0, 0.0, 0.0, 0.0]]])
        >>> config = PamrConfig(dilations_px=(1,), iterations=8)
        >>> [round(float(score), 2) for score in pamr(image, values, config=config)[0, 0]]
        [0.62, 0.62, 0.0, 0.0]
    """
    check_image(image)
    values = _checked(values, (image.shape[0], image.shape[1]))
    if weights is None:
        weights = pamr_weights(image, config=config, threads=threads)
    height, width = image.shape[:2]
    expected = (height, len(config.offsets), width)
    if weights.shape != expected or weights.dtype != np.float32:
        raise ValueError(
            f"weights has shape {weights.shape} and type {weights.dtype}; expected {expected} "
            "float32. Compute it by pamr_weights with the same image and settings."
        )
    return _averaged(values, weights, config, threads)


def pamr_planes(
    planes: np.ndarray,
    values: np.ndarray,
    *,
    config: PamrConfig = PamrConfig(),
    threads: int | None = None,
) -> Floats:
    """Average scores over neighbours of like value in any image, such as a normalised one.

    The result does not depend on the number of threads.

    Args:
        planes: (D, H, W) float32, any number D of channels; not changed. Their scale does not
            matter unless it is below 1e-6.
        values: (K, H, W) floating point scores; not changed.
        config: Neighbours, scales and iterations.
        threads: How many threads work; None for all available cores.

    Returns:
        (K, H, W) float32 within the range of ``values``, up to rounding.

    Raises:
        ValueError: When a shape or type does not fit.

    Example:
        >>> planes = np.array([[[0, 0, 1, 1]]], np.float32)
        >>> values = np.array([[[1.0, 0.0, 0.0, 0.0]]])
        >>> config = PamrConfig(dilations_px=(1,), iterations=8)
        >>> [round(float(score), 2) for score in pamr_planes(planes, values, config=config)[0, 0]]
        [0.62, 0.62, 0.0, 0.0]
    """
    if planes.ndim != 3 or planes.dtype != np.float32 or not planes.size:
        raise ValueError(
            f"planes has shape {planes.shape} and type {planes.dtype}; expected (D, H, W) float32, "
            "none 0."
        )
    values = _checked(values, (planes.shape[1], planes.shape[2]))
    return _averaged(values, _weights(planes, EPSILON, config, threads), config, threads)


def _weights(planes: np.ndarray, epsilon: float, config: PamrConfig, threads: int | None) -> Floats:
    """Compute the weights (H, P, W) of neighbours in planes (D, H, W)."""
    height, width = planes.shape[1:]
    grid, steps = _layout(width, config)
    padded = _padded(planes, grid[0])
    weights = np.empty((height, len(steps), width), np.float32)
    colour = (config.scale, epsilon, config.power, config.num_centres)
    position = (config.position_weights().astype(np.float32), config.position_share)
    with Team(num_threads(threads)) as team:
        shared = (grid, steps, colour, position)
        spans = team.ranges(height)
        team.run(passes.weigh_rows, [(_LANES, padded, weights, *span, *shared) for span in spans])
    return weights


def _checked(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 3 or values.shape[1:] != size or not len(values):
        raise ValueError(f"values has shape {values.shape}; expected (K, {size[0]}, {size[1]}).")
    return values


def _averaged(
    values: np.ndarray, weights: Floats, config: PamrConfig, threads: int | None
) -> Floats:
    """Iterate between two padded buffers."""
    height, _, width = weights.shape
    (pad, stride), steps = _layout(width, config)
    source = _padded(np.asarray(values, np.float32), pad)
    target = np.empty_like(source)
    with Team(num_threads(threads)) as team:
        spans = team.ranges(height)
        for _ in range(config.iterations):
            shared = ((pad, stride), steps)
            tasks = [(source, target, weights, *span, *shared) for span in spans]
            team.run(passes.average_rows, tasks)
            source, target = target, source
    planes = source.reshape(len(values), height + 2 * pad, stride)
    return planes[:, pad : pad + height, pad : pad + width].copy()


def _layout(width: int, config: PamrConfig) -> tuple[tuple[int, int], npt.NDArray[np.int64]]:
    """Return (pad, stride) of padded planes and the (P,) distances of neighbours in them."""
    pad = max(config.dilations_px)
    stride = width + 2 * pad
    steps = [dy * stride + dx for dy, dx in config.offsets]
    return (pad, stride), np.array(steps, np.int64)


def _padded(planes: np.ndarray, pad: int) -> np.ndarray:
    """Repeat the outermost pixels of (K, H, W) planes: (K, (H + 2 pad) * (W + 2 pad))."""
    padded = np.pad(planes, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    return np.ascontiguousarray(padded.reshape(len(planes), -1))
