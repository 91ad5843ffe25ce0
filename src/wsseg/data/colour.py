"""The colours of training images: normalisation to ImageNet statistics and random jitter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wsseg.data.transforms import AugmentConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Grey networks take the mean of the three channel statistics.
GREY_MEAN = 0.449
GREY_STD = 0.226
# ITU-R BT.601 luma, the weights of cv2.COLOR_RGB2GRAY.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def normalise(image: NDArray[np.uint8], in_channels: Literal[1, 3] = 3) -> NDArray[np.float32]:
    """Scale an image to the values that ImageNet networks expect.

    Args:
        image: (H, W, 3) uint8 RGB.
        in_channels: 3: subtract :data:`IMAGENET_MEAN`, divide by :data:`IMAGENET_STD`.
            1: luma, minus :data:`GREY_MEAN`, divided by :data:`GREY_STD`.

    Returns:
        (in_channels, H, W) float32, contiguous, about [-2.2, 2.7].

    Example:
        >>> image = np.full((2, 2, 3), 255, np.uint8)
        >>> [round(float(value), 3) for value in normalise(image)[:, 0, 0]]
        [2.249, 2.429, 2.64]
        >>> normalise(image, in_channels=1).shape
        (1, 2, 2)
    """
    import cv2

    if in_channels == 1:
        planes = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)]
        statistics = [(GREY_MEAN, GREY_STD)]
    else:
        planes = list(cv2.split(image))
        statistics = list(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    output = np.empty((in_channels, *image.shape[:2]), np.float32)
    values = np.arange(256, dtype=np.float64) / 255
    for row, (plane, (mean, std)) in enumerate(zip(planes, statistics, strict=True)):
        cv2.LUT(plane, ((values - mean) / std).astype(np.float32), dst=output[row])
    return output


def jitter(
    patch: NDArray[np.uint8], rng: np.random.Generator, config: AugmentConfig
) -> NDArray[np.uint8]:
    """Change the colours of an image at random: one linear map, then hue, blur and noise if asked.

    Args:
        patch: (H, W, 3) uint8 RGB.
        rng: Source of all randomness.
        config: The amounts; its geometric fields are not looked at.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    import cv2

    linear = _colour_map(patch, rng, config)
    if linear is not None:
        patch = as_bytes(cv2.transform(patch, linear))
    if config.hue_deg > 0:
        patch = _turn_hue(patch, float(rng.uniform(-config.hue_deg, config.hue_deg)))
    if config.blur_px > 0:
        sigma = float(rng.uniform(0, config.blur_px))
        # Below a tenth of a pixel the kernel is one value: nothing changes.
        patch = as_bytes(cv2.GaussianBlur(patch, (0, 0), sigma)) if sigma > 0.1 else patch
    if config.noise > 0:
        deviation = 255 * float(rng.uniform(0, config.noise))
        noise = rng.standard_normal(patch.shape, dtype=np.float32)
        patch = np.clip(np.rint(patch + deviation * noise), 0, 255).astype(np.uint8)
    return patch


def _colour_map(
    patch: NDArray[np.uint8], rng: np.random.Generator, config: AugmentConfig
) -> NDArray[np.float32] | None:
    """Draw the (3, 4) affine colour map of brightness, contrast, saturation, or None.

    With b, c, s the factors, L the luma matrix and m the mean luma of the patch:
    ``x' = S (c b x + (1 - c) b m)`` where ``S = s I + (1 - s) L``; rows of S sum to 1.
    """
    amounts = (config.brightness, config.contrast, config.saturation)
    factors = [float(rng.uniform(1 - a, 1 + a)) if a > 0 else 1.0 for a in amounts]
    if config.grey > 0 and rng.random() < config.grey:
        factors[2] = 0.0
    if factors == [1.0, 1.0, 1.0]:
        return None
    import cv2

    brightness, contrast, saturation = factors
    mean_luma = float(np.dot(LUMA, cv2.mean(patch)[:3]))
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
    offset = np.full((3, 1), (1 - contrast) * brightness * mean_luma)
    return np.hstack([contrast * brightness * matrix, offset]).astype(np.float32)


def _turn_hue(patch: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turn the hue; 8-bit hue of OpenCV counts 2 degrees per step."""
    import cv2

    hsv = cv2.cvtColor(patch, cv2.COLOR_RGB2HSV)
    steps = round(degrees / 2)
    hsv[..., 0] = ((hsv[..., 0].astype(np.int16) + steps) % 180).astype(np.uint8)
    return as_bytes(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def as_bytes(array: Any) -> NDArray[np.uint8]:
    """Tell the type checker that OpenCV gave back what it was given."""
    return cast("NDArray[np.uint8]", array)
