"""Which seed does a random walker reach first, on an image whose edges it avoids?

Neighbouring pixels (4 of each) are linked by

    w_ij = exp(-beta |I_i - I_j|² / mean |I_i - I_j|²) + 1e-10

and the probabilities solve the linear system of L. Grady, "Random Walks for Image Segmentation",
TPAMI 2006, here by scikit-image with a direct sparse factorisation. The mean over all links of the
image makes ``beta`` mean the same on dark, pale and colourful images, as in GrabCut (Rother,
Kolmogorov, Blake, SIGGRAPH 2004); scikit-image divides by the deviation of the image instead, with
which its default of 130 hardly sees an edge in colours of [0, 1].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def seeded_walk(
    image: npt.NDArray[np.floating], seeds: npt.NDArray[np.integer], beta: float
) -> npt.NDArray[np.float64]:
    """Compute the probability that a walker reaches the seeds of each label first.

    Args:
        image: (h, w, channels) float; any range.
        seeds: (h, w) integers: 0 unknown, labels from 1 on, all of them present; at least one
            pixel is unknown.
        beta: How much edges stop walkers, >= 0; 0 ignores the image.

    Returns:
        (number of labels, h, w) float64 in [0, 1].

    Example:
        >>> image = np.array([[[0.0], [0.0], [1.0], [1.0]]])
        >>> seeds = np.array([[1, 0, 0, 2]])
        >>> seeded_walk(image, seeds, beta=4.0)[1].round(2).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    from skimage.segmentation import random_walker

    picture = np.asarray(image, np.float64)
    contrast = mean_contrast(picture)
    deviation = float(picture.std())
    if contrast == 0 or deviation == 0:
        # scikit-image divides by the deviation; without edges the walk does not depend on beta.
        picture = np.linspace(0, 1, seeds.size).reshape((*seeds.shape, 1))
        factor = 0.0
    else:
        factor = beta * 10 * deviation * np.sqrt(picture.shape[2]) / contrast
    walked: npt.NDArray[np.float64] = random_walker(
        picture, seeds, beta=factor, mode="bf", return_full_prob=True, channel_axis=-1
    )
    return np.clip(walked, 0.0, 1.0)


def mean_contrast(image: npt.NDArray[np.float64]) -> float:
    """Average the squared difference of neighbours over all links.

    Args:
        image: (h, w, channels) float.

    Returns:
        The mean of the sum over channels; 0 for a single pixel.

    Example:
        >>> mean_contrast(np.array([[[0.0], [2.0]], [[0.0], [2.0]]]))
        2.0
    """
    squared = [(np.diff(image, axis=axis) ** 2).sum(axis=2) for axis in (0, 1)]
    count = sum(part.size for part in squared)
    return float(sum(part.sum() for part in squared)) / count if count else 0.0
