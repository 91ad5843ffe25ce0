"""PAMR and PAR: average the scores over neighbours of like colour, without any training.

A local and cheap alternative to the dense CRF: 48 neighbours up to 24 px away, ten iterations.
Every row is averaged with the same weights, the background row too, so that a background rule may
come before or after.

References: N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR
2020 (PAMR); L. Ru, Y. Zhan, B. Yu, B. Du, "Learning Affinity from Attention: End-to-End
Weakly-Supervised Semantic Segmentation with Transformers", CVPR 2022 (PAR; its constants from
memory). The formulas are in `wsseg.kernels.pamr`.

Differences: maps are enlarged with half-pixel centres, as everywhere in wsseg (the published code
aligns corners); PAR's weights sum to one instead of 1.01.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.kernels.pamr_config import PamrConfig
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import RefineContext, check_image


class Pamr(PamrConfig, MethodConfig):
    """Settings of `pamr`."""

    name: Literal["pamr"] = Field(
        "pamr", description="Which refiner: scores averaged over neighbours of like colour."
    )
    scale_frac: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Work on the image at this fraction of its size; the published PAR halves it.",
    )

    def kernel(self) -> PamrConfig:
        """The settings of the kernel alone."""
        return PamrConfig(**{key: getattr(self, key) for key in PamrConfig.model_fields})


def pamr(
    image: np.ndarray,
    scores: Scores,
    *,
    config: Pamr = Pamr(),
    context: RefineContext | None = None,
) -> Scores:
    """Average the scores over neighbours of like colour.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        scores: Scores of the image; not changed.
        config: Which weights, neighbours, iterations.
        context: ``context.device`` other than the CPU runs the torch form.

    Returns:
        Scores at full size (K, H, W); row 0 is averaged like the others (1 for an image without
        classes).

    Raises:
        DataError: When the image does not belong to the scores.

    Example:
        >>> image = np.zeros((8, 8, 3), np.uint8)
        >>> image[:, 4:] = 255
        >>> values = np.zeros((2, 8, 8), np.float32)
        >>> values[1, :, 4:6] = 1.0
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (8, 8))
        >>> config = Pamr(dilations_px=(1, 2))
        >>> [round(float(score), 1) for score in pamr(image, scores, config=config).values[1, 0]]
        [0.0, 0.0, 0.0, 0.0, 0.4, 0.4, 0.4, 0.4]
    """
    check_image(image, scores)
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    device = "cpu" if context is None else context.device
    small_image, small = _reduced(image, full, config.scale_frac)
    run = _on_cpu if device.split(":")[0] == "cpu" else _on_device
    averaged = run(small_image, small, config.kernel(), device)
    # Weights sum to one up to rounding.
    values = np.clip(averaged, 0.0, 1.0)
    return replace(full, values=Scores(values, full.class_ids, full.size).resized())


def _reduced(image: np.ndarray, full: Scores, scale_frac: float) -> tuple[np.ndarray, np.ndarray]:
    """Return image and values (K, h, w) at a fraction of the size, at least one pixel."""
    import cv2

    height, width = (max(1, round(side * scale_frac)) for side in full.size)
    if (height, width) == full.size:
        return image, full.values
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    rows = [cv2.resize(row, (width, height), interpolation=cv2.INTER_AREA) for row in full.values]
    return image, np.stack(rows)


def _on_cpu(
    image: np.ndarray,
    values: np.ndarray,
    kernel: PamrConfig,
    device: str,  # noqa: ARG001 - both forms are called the same way
) -> np.ndarray:
    from wsseg.kernels.pamr import pamr as average

    return average(image, values, config=kernel)


def _on_device(
    image: np.ndarray, values: np.ndarray, kernel: PamrConfig, device: str
) -> np.ndarray:
    import torch

    from wsseg.kernels.pamr_torch import pamr as average
    from wsseg.kernels.pamr_torch import pamr_weights

    pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float()[None] / 255
    weights = pamr_weights(pixels, kernel)
    # One label at a time: the neighbours of all labels at once may not fit the device.
    averaged = [
        average(pixels, torch.from_numpy(row).to(device)[None, None], kernel, weights=weights)
        for row in values
    ]
    result: np.ndarray = torch.cat(averaged)[:, 0].cpu().numpy()
    return result
