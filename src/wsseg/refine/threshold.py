"""Threshold selection: one constant background score, chosen over the whole data set.

Three ways:

* ``fixed``: the number in the recipe.
* ``sweep``: the threshold with the best mIoU on a split with ground-truth masks. It is refused
  unless masks may be used, and its state says ``tuned_on_masks``.
* ``label_free``: from the maps and the tags alone. Let m be the strongest class score of a pixel.
  Pixels of tagged images are a mixture of objects (high m) and surroundings (low m); the
  histogram of m, each image with the same weight, is split by Otsu's criterion (Otsu, "A
  Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 1979): t maximises
  w0(t) w1(t) (μ0(t) - μ1(t))². Two bounds from the tags then hold it in place:

  - from below by known-empty maps, where the localizer gives scores for classes of images that
    are tagged as empty: the quantile ``ok_quantile`` of their m. Maps scaled to a maximum of 1
    per image say nothing about level and are not used (a note in the state says so);
  - from above by the tags: a share ``min_found_frac`` of all tagged classes must keep a pixel.
    Where the bounds contradict each other, the upper one wins, and a note says so.

  What to expect: Otsu's rule assumes that maps are roughly two-valued. It comes close to the
  best threshold for maps that cover the objects, and is too high for maps that light up only a
  small part of them: no histogram shows what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.dataset import Split
from wsseg.data.scores import Scores
from wsseg.errors import DataError, RecipeError
from wsseg.refine.background import with_constant_background
from wsseg.refine.protocol import FitInputs, RefineContext

_NUM_BINS = 256
# Maps divided by their own maximum reach 1 up to the rounding of 8-bit files.
_NORMALISED_MAXIMUM = 0.98


class Threshold(MethodConfig):
    """Settings of `threshold`."""

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


class ThresholdRefiner:
    """Writes a constant background score that was chosen over the data set."""

    config_class: type[MethodConfig] = Threshold

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
        if config.method == "sweep":
            return _sweep(inputs, config)
        if config.method == "label_free":
            return label_free_threshold(inputs, config)
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
    from wsseg.data.image_io import read_mask
    from wsseg.evaluate.sweep import ThresholdSweep

    if not inputs.allow_masks:
        raise RecipeError(
            'threshold with method "sweep" tunes on ground-truth masks, which is not allowed '
            "here. Pass --use-masks to allow it, or set method to label_free or fixed."
        )
    labelled = tuple(
        sample for sample in inputs.split(config.split).samples if sample.mask_path is not None
    )
    if not labelled:
        raise DataError(
            f'threshold with method "sweep" found no mask in the split "{config.split}". Choose '
            "another split, or set method to label_free or fixed."
        )
    num_steps = int(config.max_value / config.step + 1e-9) + 1
    grid = [min(step * config.step, 1.0) for step in range(num_steps)]
    classes = inputs.dataset.classes
    sweep = ThresholdSweep(classes.num_classes, grid)
    for sample, scores in inputs.of(labelled):
        if sample.mask_path is not None:
            try:
                sweep.add(scores, read_mask(sample.mask_path, classes))
            except DataError as error:
                raise DataError(f"{sample.mask_path}: {error}") from error
    curve = sweep.curve().to_json()
    return {
        "threshold": curve["best_threshold"],
        "method": "sweep",
        "tuned_on_masks": True,
        "split": config.split,
        "num_images": curve["num_images"],
        "curve": curve,
    }


@dataclass
class _MapStatistics:
    """What the label-free rule gathers in one pass."""

    histogram: np.ndarray = field(default_factory=lambda: np.zeros(_NUM_BINS))
    num_tagged: int = 0
    class_maxima: list[float] = field(default_factory=list)
    ok_histogram: np.ndarray = field(default_factory=lambda: np.zeros(_NUM_BINS))
    ok_maxima: list[float] = field(default_factory=list)

    def add(self, scores: Scores, tags: frozenset[int]) -> None:
        """Add one tagged image."""
        strongest = scores.values[1:].max(axis=0)
        histogram, _ = np.histogram(strongest, bins=_NUM_BINS, range=(0, 1))
        share = histogram / strongest.size
        if tags:
            self.histogram += share
            self.num_tagged += 1
            self.class_maxima += [
                float(row.max())
                for row, class_id in zip(scores.values[1:], scores.present, strict=True)
                if class_id in tags
            ]
        else:
            self.ok_histogram += share
            self.ok_maxima.append(float(strongest.max()))


def label_free_threshold(inputs: FitInputs, config: Threshold) -> dict[str, Any]:
    """Choose the background score from the maps and tags of the training split.

    Args:
        inputs: The data set with its scores.
        config: The quantiles of the two bounds.

    Returns:
        JSON-able: ``threshold``, the three numbers that it was made of (``otsu``, ``ok_floor``
        and ``tag_ceiling``; None where unknown), and ``notes`` in words.

    Raises:
        DataError: When no training image has tags and scores, or all maps are constant.
    """
    statistics = _MapStatistics()
    for sample, scores in inputs.split("train"):
        if sample.labels.tags is not None and len(scores.class_ids) > 1:
            statistics.add(scores, sample.labels.tags)
    if statistics.num_tagged == 0:
        raise DataError(
            "A label-free threshold needs training images with tags, and there is none with "
            'scores. Set the method of the threshold to "fixed".'
        )
    otsu = otsu_threshold(statistics.histogram)
    notes: list[str] = []
    floor = _ok_floor(statistics, config, notes)
    ceiling = _tag_ceiling(statistics, config)
    chosen = otsu if floor is None else max(otsu, floor)
    if ceiling is not None and chosen > ceiling:
        chosen = ceiling
        if floor is not None and floor > ceiling:
            notes.append(
                "images without classes score as high as tagged ones: the localizer does not "
                "separate them, and the threshold keeps the tagged classes"
            )
    return {
        "threshold": chosen,
        "method": "label_free",
        "tuned_on_masks": False,
        "num_images": statistics.num_tagged,
        "otsu": otsu,
        "ok_floor": floor,
        "tag_ceiling": ceiling,
        "notes": notes,
    }


def _ok_floor(statistics: _MapStatistics, config: Threshold, notes: list[str]) -> float | None:
    """Give the level that known-empty maps stay below; None where they do not tell."""
    if not statistics.ok_maxima:
        return None
    if float(np.median(statistics.ok_maxima)) >= _NORMALISED_MAXIMUM:
        notes.append(
            "the maps of images without classes are scaled to a maximum of 1 each, so their "
            "level says nothing and they were not used"
        )
        return None
    share = np.cumsum(statistics.ok_histogram) / statistics.ok_histogram.sum()
    # The first bin whose upper edge has the wanted share below it.
    index = int(np.searchsorted(share, config.ok_quantile - 1e-12))
    return min(index + 1, _NUM_BINS) / _NUM_BINS


def _tag_ceiling(statistics: _MapStatistics, config: Threshold) -> float | None:
    """Give the highest level that enough tagged classes still reach."""
    if not statistics.class_maxima:
        return None
    maxima = np.asarray(statistics.class_maxima)
    level = float(np.quantile(maxima, 1 - config.min_found_frac, method="lower"))
    # A pixel must lie strictly above the background score to count; one step of 8-bit scores.
    return max(level - 1 / _NUM_BINS, 0.0)


def otsu_threshold(histogram: np.ndarray) -> float:
    """Split a histogram of values in [0, 1] by Otsu's criterion.

    Args:
        histogram: (B,) counts or shares of B equal bins of [0, 1].

    Returns:
        The upper edge of the last lower bin; the middle of the range where several bins in a row
        are equally good, as between two separate peaks.

    Raises:
        DataError: When all values lie in one bin.

    Example:
        >>> otsu_threshold(np.array([5.0, 0, 0, 0, 0, 0, 0, 5.0]))
        0.5
    """
    num_bins = len(histogram)
    if np.count_nonzero(histogram) < 2:
        raise DataError(
            "All maps have the same value everywhere, so no threshold separates anything: the "
            "localizer has learnt nothing. Train it longer, or check the tags."
        )
    centres = (np.arange(num_bins) + 0.5) / num_bins
    shares = histogram / histogram.sum()
    below = np.cumsum(shares)[:-1]
    moment = np.cumsum(shares * centres)
    above = 1 - below
    weight = below * above
    # w0 w1 (μ0 - μ1)² = (μ w0 - moment0)² / (w0 w1).
    numerator = (moment[-1] * below - moment[:-1]) ** 2
    between = np.divide(numerator, weight, out=np.zeros(num_bins - 1), where=weight > 1e-12)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float((best[0] + best[-1]) / 2 + 1) / num_bins
