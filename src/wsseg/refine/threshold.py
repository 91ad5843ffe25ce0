"""Threshold selection: one constant background score, chosen over the whole data set.

Three ways:

* ``fixed``: the number in the recipe.
* ``sweep``: the threshold with the best mIoU on a split with ground-truth masks. It is refused
  unless masks may be used, and its state says ``tuned_on_masks``.
* ``label_free``: from the maps and the tags alone; see `wsseg.refine.label_free`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.dataset import Dataset, Sample, Split
from wsseg.data.scores import Scores
from wsseg.errors import DataError, RecipeError
from wsseg.refine.background import with_constant_background
from wsseg.refine.label_free import label_free_threshold
from wsseg.refine.protocol import FitInputs, RefineContext


class Threshold(MethodConfig):
    """Settings of `threshold`."""

    writes_background: ClassVar[bool] = True

    name: Literal["threshold"] = Field(
        "threshold", description="Which refiner: a background score chosen over the data set."
    )
    method: Literal["fixed", "sweep", "label_free"] = Field(
        "label_free",
        description="How the score is chosen: `fixed` takes `value`; `sweep` the best mIoU on "
        "`split` (needs masks and --use-masks); `label_free` maps and tags alone.",
    )
    value: float = Field(0.2, ge=0, le=1, description="Background score for `fixed`.")
    split: Split = Field("val", description="Split with masks that `sweep` looks at.")
    max_value: float = Field(0.59, ge=0, le=1, description="Highest score that `sweep` tries.")
    step: float = Field(0.01, gt=0, le=1, description="Distance of the scores that `sweep` tries.")
    ok_quantile: float = Field(
        0.99,
        ge=0,
        le=1,
        description="`label_free`: share of the pixels of images without classes that must stay "
        "background, where the localizer gives scores for them.",
    )
    min_found_frac: float = Field(
        0.95,
        ge=0,
        le=1,
        description="`label_free`: share of the tagged classes that must keep a pixel.",
    )
    min_peak_frac: float = Field(
        0.33,
        ge=0,
        le=1,
        description="`label_free`: lowest threshold, as a fraction of the median peak of the "
        "tagged classes.",
    )
    factor: float = Field(
        1.0,
        gt=0,
        le=1,
        description="`label_free`: the chosen score is multiplied by this. A dense CRF behind the "
        "threshold takes thin foreground away, so that maps should be cut generously before it.",
    )


class ThresholdRefiner:
    """Writes a constant background score that was chosen over the data set."""

    config_class: type[MethodConfig] = Threshold

    def check(self, dataset: Dataset, *, config: Threshold, allow_masks: bool) -> None:
        """Refuse to tune on masks that may not be used, or are not there.

        Args:
            dataset: The data set.
            config: How to choose.
            allow_masks: Whether ground-truth masks may tune.

        Raises:
            RecipeError: When ``sweep`` is asked for and masks may not be used.
            DataError: When the split that ``sweep`` looks at has no mask.
        """
        if config.method != "sweep":
            return
        if not allow_masks:
            raise RecipeError(
                'threshold with method "sweep" tunes on ground-truth masks, which is not allowed '
                "here. Pass --use-masks to allow it, or set method to label_free or fixed."
            )
        _require_masks(dataset.split(config.split), config)

    def fit(self, inputs: FitInputs, *, config: Threshold) -> dict[str, Any]:
        """Choose the background score.

        Args:
            inputs: The data set with its scores.
            config: How to choose.

        Returns:
            JSON-able: ``threshold``, ``method``, ``tuned_on_masks``, and what led to it.

        Raises:
            RecipeError: When ``sweep`` is asked for and masks may not be used.
            DataError: When the data set holds nothing to choose by.
        """
        self.check(inputs.dataset, config=config, allow_masks=inputs.allow_masks)
        if config.method == "sweep":
            return _sweep(inputs, config)
        if config.method == "label_free":
            state = label_free_threshold(
                inputs,
                ok_quantile=config.ok_quantile,
                min_found_frac=config.min_found_frac,
                min_peak_frac=config.min_peak_frac,
            )
            return state | {"threshold": config.factor * state["threshold"]}
        return {"threshold": config.value, "method": "fixed", "tuned_on_masks": False}

    def __call__(
        self,
        image: np.ndarray,  # noqa: ARG002 - every refiner has the same signature
        scores: Scores,
        *,
        config: Threshold = Threshold(),
        context: RefineContext | None = None,
    ) -> Scores:
        """Write the chosen background score into row 0.

        Args:
            image: (H, W, 3) uint8 RGB; not used.
            scores: Scores of the image.
            config: How the score was chosen.
            context: ``context.state`` is what `fit` returned; not needed for ``fixed``.

        Returns:
            Scores of the same shape (row 0 is 1 for an image without classes).

        Raises:
            RecipeError: When the score must be chosen first and was not.
        """
        state = {} if context is None else context.state
        if "threshold" in state:
            return with_constant_background(scores, float(state["threshold"]))
        if config.method == "fixed":
            return with_constant_background(scores, config.value)
        raise RecipeError(
            f'threshold with method "{config.method}" must look at the data set first: call '
            "threshold.fit and pass its result as context.state, or set method=fixed."
        )


threshold = ThresholdRefiner()


def _sweep(inputs: FitInputs, config: Threshold) -> dict[str, Any]:
    """Choose the threshold with the best mIoU on a split with masks."""
    from wsseg.evaluate.sweep import ThresholdSweep

    labelled = _require_masks(inputs.split(config.split).samples, config)
    num_steps = int(config.max_value / config.step + 1e-9) + 1
    grid = [min(step * config.step, 1.0) for step in range(num_steps)]
    classes = inputs.dataset.classes
    sweep = ThresholdSweep(classes.num_classes, grid)
    for sample, scores in inputs.of(labelled):
        truth = _truth(sample, inputs)
        # Maps of images that were shrunk when read are compared at the size of the mask.
        sweep.add(replace(scores, size=truth.shape), truth)
    curve = sweep.curve().to_json()
    return {
        "threshold": curve["best_threshold"],
        "method": "sweep",
        "tuned_on_masks": True,
        "split": config.split,
        "num_images": curve["num_images"],
        "curve": curve,
    }


def _require_masks(samples: Iterable[Sample], config: Threshold) -> tuple[Sample, ...]:
    """Keep the samples that have a mask; there must be one."""
    labelled = tuple(sample for sample in samples if sample.mask_path is not None)
    if not labelled:
        raise DataError(
            f'threshold with method "sweep" found no mask in the split "{config.split}". Choose '
            "another split, or set method to label_free or fixed."
        )
    return labelled


def _truth(sample: Sample, inputs: FitInputs) -> np.ndarray:
    """Read the mask (H, W) uint8 of a sample that has one, and check that it fits the image."""
    from wsseg.data.image_io import image_size, read_mask

    if sample.mask_path is None:
        raise DataError(f"{sample.id} has no mask.")
    truth = read_mask(sample.mask_path, inputs.dataset.classes)
    height, width = image_size(sample.image_path)
    if truth.shape != (height, width):
        raise DataError(
            f"{sample.mask_path} is {truth.shape[1]} x {truth.shape[0]} px, but its image is "
            f"{width} x {height} px (width x height). Save the mask at the size of the image."
        )
    return truth
