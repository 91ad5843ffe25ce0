"""FT, frequency-tuned saliency: the distance of each colour from the mean colour of the image.

    S(x) = | mean Lab of the image - blurred Lab at x |,  stretched to [0, 1]

Reference: R. Achanta, S. Hemami, F. Estrada, S. Süsstrunk, "Frequency-tuned Salient Region
Detection", CVPR 2009. The blur is the 5 x 5 binomial window of the paper. It is the fastest of the
methods, has full resolution, and knows nothing of place: a large object becomes background.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.cues.lab import lab_image
from wsseg.cues.protocol import FROM_THE_IMAGE, CueConfig, CueContext, CueMap, check_rgb
from wsseg.cues.saliency import stretched

_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


class Ft(CueConfig):
    """Settings of the cue `ft`."""

    name: Literal["ft"] = Field("ft", description="Which cue: distance from the mean colour.")

    @property
    def origin(self) -> str:
        """Where the maps come from."""
        return FROM_THE_IMAGE


def ft(
    image: np.ndarray,
    *,
    config: Ft = Ft(),  # noqa: ARG001 - every cue has the same signature
    context: CueContext | None = None,  # noqa: ARG001
) -> CueMap:
    """Tell how far each colour is from the mean colour of the image.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        config: No settings.
        context: Not used.

    Returns:
        (H, W) float32 in [0, 1]; 0 everywhere where all pixels are equal.

    Raises:
        DataError: When the image is no (H, W, 3) uint8 array.

    Example:
        >>> image = np.zeros((9, 9, 3), np.uint8)
        >>> image[3:6, 3:6] = 255
        >>> float(ft(image)[4, 4])
        1.0
    """
    import cv2

    check_rgb(image)
    lab = lab_image(image)
    blurred = cv2.sepFilter2D(lab, -1, _BINOMIAL, _BINOMIAL, borderType=cv2.BORDER_REPLICATE)
    mean = lab.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    distance = np.sqrt(((blurred - mean.astype(np.float32)) ** 2).sum(axis=2))
    # A colour that differs from the mean by rounding only does not stand out.
    return stretched(distance if distance.max() > 1e-3 else np.zeros_like(distance))
