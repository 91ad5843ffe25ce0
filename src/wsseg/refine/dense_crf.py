"""Dense CRF: sharpen scores along the edges of the image.

Every pixel is joined with every other one; pixels close to each other, and pixels close in
position and colour, are drawn to the same label. The scores become unary energies
U = -log(clip(s, 1e-5, 1)), and ten mean-field steps give the marginals.

Reference: P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian
Edge Potentials", NIPS 2011. Differences: labels that are improbable everywhere can be left out
(``prune_below``), which is off by default.

Parameter sets of published code (the rest is 10 iterations, gauss_compat 3):

=========  ============  =================  ==============  ================  =================
set        gauss_sxy_px  bilateral_sxy_px   bilateral_srgb  bilateral_compat  unary
=========  ============  =================  ==============  ================  =================
psa        3             80                 13              10                scores
irn        3             50                 5               10                labels, prob. 0.7
deeplab    1             67                 3               4                 probabilities
=========  ============  =================  ==============  ================  =================

The defaults are psa (also SEAM, S2C and most others). irn takes hard labels: give ``gt_prob``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.refine.protocol import RefineContext, check_image


class DenseCrf(CrfConfig, MethodConfig):
    """Settings of `dense_crf`."""

    name: Literal["dense_crf"] = Field(
        "dense_crf", description="Which refiner: fully connected CRF on position and colour."
    )
    gt_prob: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="How sure the strongest label of each pixel is, when only that label counts "
        "(IRN: 0.7); null: the scores themselves count.",
    )
    scale_factor: float = Field(
        1.0,
        gt=0,
        description="The position standard deviations are divided by this; use it for images "
        "that were made smaller by that factor.",
    )
    prune_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Classes whose probability stays below this at every pixel are left out: "
        "faster with many classes, marginals change by about their probability; 0: none.",
    )

    def kernel(self) -> CrfConfig:
        """Return the settings of the kernel, with scaled standard deviations."""
        return CrfConfig(
            iterations=self.iterations,
            gauss_sxy_px=self.gauss_sxy_px / self.scale_factor,
            gauss_compat=self.gauss_compat,
            bilateral_sxy_px=self.bilateral_sxy_px / self.scale_factor,
            bilateral_srgb=self.bilateral_srgb,
            bilateral_compat=self.bilateral_compat,
        )


def dense_crf(
    image: np.ndarray,
    scores: Scores,
    *,
    config: DenseCrf = DenseCrf(),
    context: RefineContext | None = None,
) -> Scores:
    """Replace scores by the marginals of a dense CRF.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        scores: Scores of that image, with a background row; they are interpolated to the size
            of the image and need not sum to one. Pixels without any evidence follow their
            neighbours. Not changed.
        config: Kernels, iterations and pruning.
        context: ``context.cache`` keeps the lattices for further CRFs on the image;
            ``context.device`` other than the CPU runs the torch form.

    Returns:
        Scores of the same classes at full size (K, H, W), which sum to one per pixel. An image
        without classes is background everywhere.

    Raises:
        DataError: When the image does not belong to the scores.
        RecipeError: When a standard deviation is too small to number the lattice.

    Example:
        >>> image = np.zeros((4, 6, 3), np.uint8)
        >>> image[:, 3:] = 200
        >>> values = np.full((2, 4, 6), 0.5, np.float32)
        >>> values[1, :, 4] = 0.9
        >>> scores = Scores(values, np.array([0, 3], np.uint8), (4, 6))
        >>> config = DenseCrf(gauss_compat=0, bilateral_sxy_px=10)
        >>> refined = dense_crf(image, scores, config=config)
        >>> refined.values.argmax(axis=0)[0].tolist()
        [0, 0, 0, 1, 1, 1]
    """
    check_image(image, scores)
    if len(scores.class_ids) == 1:
        return replace(scores, values=np.ones_like(scores.values))
    context = context or RefineContext()
    if context.device.split(":")[0] == "cpu":
        marginals = _on_cpu(image, _energies(scores, config), config, context)
    else:
        marginals = _on_device(image, _energies(scores, config), config, context)
    # Sums of rounded probabilities can exceed 1 by a rounding error.
    return replace(scores, values=np.clip(marginals, 0.0, 1.0))


def _energies(scores: Scores, config: DenseCrf) -> np.ndarray:
    """Return (K, H, W) unary energies."""
    from wsseg.kernels.dense_crf_unary import unary_from_labels, unary_from_scores

    values = scores.resized()
    if config.gt_prob is None:
        return unary_from_scores(values)
    unary = unary_from_labels(values.argmax(axis=0), len(values), config.gt_prob)
    # Where nothing is known all labels cost the same, and the neighbours decide.
    unary[:, ~values.any(axis=0)] = 0.0
    return unary


def _on_cpu(
    image: np.ndarray, unary: np.ndarray, config: DenseCrf, context: RefineContext
) -> np.ndarray:
    from wsseg.kernels.dense_crf import build_crf_lattices
    from wsseg.kernels.dense_crf import dense_crf as crf

    kernel = config.kernel()
    key = ("dense_crf", "cpu", *kernel.sigmas)
    if key not in context.cache:
        context.cache[key] = build_crf_lattices(image, kernel)
    lattice = context.cache[key]
    return crf(image, unary, config=kernel, lattice=lattice, prune_below=config.prune_below)


def _on_device(
    image: np.ndarray, unary: np.ndarray, config: DenseCrf, context: RefineContext
) -> np.ndarray:
    import torch

    from wsseg.kernels.dense_crf_torch import build_crf_lattices
    from wsseg.kernels.dense_crf_torch import dense_crf as crf

    kernel = config.kernel()
    pixels = torch.from_numpy(np.array(image)).to(context.device)
    key = ("dense_crf", context.device, *kernel.sigmas)
    if key not in context.cache:
        context.cache[key] = build_crf_lattices(pixels, kernel)
    marginals = crf(
        pixels,
        torch.from_numpy(unary).to(context.device),
        config=kernel,
        lattice=context.cache[key],
        prune_below=config.prune_below,
    )
    result: np.ndarray = marginals.cpu().numpy()
    return result
