"""Dense CRF between the sure parts of boxes (WSSL, Bbox-Seg).

Outside of all boxes is background, the centre of every box has its class, and the rest of the boxes
is free: all labels that are possible there cost the same, and a fully connected CRF decides by
position and colour. Where a smaller box lies in front of the centre of a larger one, its object may
hide that of the larger: both classes are possible there, the background is not.

Where a tagged class has no box, what is outside of all boxes is still none of their classes, so it
pulls as the background does. What the CRF gives to that side, inside of boxes or outside, may be
the class without a box, and is unknown.

Reference: G. Papandreou, L.-C. Chen, K. Murphy, A. Yuille, "Weakly- and Semi-Supervised Learning of
a Deep Convolutional Network for Semantic Image Segmentation", ICCV 2015 (Bbox-Seg; from memory).
Differences: possible labels of a free pixel are the background and the classes of the boxes around
it; the rules for boxes in front of centres and for classes without a box are ours; share of the
centre and kernels were chosen on pixel masks in the paper and are plain settings here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.data.labels import IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.localize.boxes.windows import BoxWindow, front_last, outside_of_boxes
from wsseg.localize.direct import DirectLocalizerConfig, LocalizeContext, scores_of_mask


class CrfBoxes(DirectLocalizerConfig):
    """Settings of `crf_boxes`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("boxes",)

    name: Literal["crf_boxes"] = Field(
        "crf_boxes", description="Dense CRF between the centres of boxes and their outside."
    )
    centre_frac: float = Field(
        0.2, gt=0, le=1, description="Share of a box's area, at its centre, that has the class."
    )
    crf: CrfConfig = Field(CrfConfig(), description="Kernels and iterations of the CRF.")


def crf_boxes(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: CrfBoxes = CrfBoxes(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Let a dense CRF decide the pixels between box centres and the outside.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with boxes, in pixels of the image.
        config: Size of the centres, and the CRF.
        context: Takes notes on what was left out.

    Returns:
        Scores (K, H, W): marginals that sum to one; 0 in all rows where the background wins and a
        tagged class without a box might be there instead.

    Raises:
        RecipeError: When a standard deviation is too small to number the lattice.
    """
    size = (image.shape[0], image.shape[1])
    outside = outside_of_boxes(labels, size, context)
    windows = front_last(labels, size, context)
    if not windows:
        return scores_of_mask(np.full(size, outside, np.uint8))
    from wsseg.kernels.dense_crf import dense_crf

    class_ids = np.array([0, *sorted({window.class_id for window in windows})], np.uint8)
    unary = box_energies(windows, class_ids, size, config.centre_frac)
    values = np.clip(dense_crf(image, unary, config=config.crf), 0.0, 1.0)
    if outside == IGNORE:
        values[:, values.argmax(axis=0) == 0] = 0.0
    return Scores(values.astype(np.float32, copy=False), class_ids, size)


def box_energies(
    windows: list[BoxWindow],
    class_ids: npt.NDArray[np.uint8],
    size: tuple[int, int],
    centre_frac: float,
) -> npt.NDArray[np.float32]:
    """Say which labels are possible at every pixel.

    Args:
        windows: Boxes from back to front.
        class_ids: (K,) label of each row, background first.
        size: (H, W) of the image.
        centre_frac: Share of a box's area that has its class for certain.

    Returns:
        (K, H, W) float32: 0 for possible labels, infinity for the others.

    Example:
        >>> window = BoxWindow(5, 0, 1, 1, 4)
        >>> box_energies([window], np.array([0, 5], np.uint8), (1, 5), 0.1)[:, 0].tolist()
        [[0.0, 0.0, inf, 0.0, 0.0], [inf, 0.0, 0.0, 0.0, inf]]
    """
    rows = {int(class_id): row for row, class_id in enumerate(class_ids)}
    possible = np.zeros((len(class_ids), *size), np.bool_)
    possible[0] = True
    for window in windows:
        possible[(rows[window.class_id], *window.slices)] = True
        centre = window.inner(centre_frac).slices
        possible[(slice(None), *centre)] = False
        possible[(rows[window.class_id], *centre)] = True
    return np.where(possible, np.float32(0), np.float32(np.inf))
