"""A background threshold from maps and tags alone, without any mask.

Let m be the strongest class score of a pixel.
Pixels of tagged images are a mixture of objects (high m) and surroundings (low m); the
histogram of m, each image with the same weight, is split by Otsu's criterion (Otsu, "A
Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 1979): t maximises
w0(t) w1(t) (μ0(t) - μ1(t))². Three bounds from the tags then hold it in place:

- from below by the height of the objects: a fraction ``min_peak_frac`` of the median peak of
  the tagged classes. Where objects are small, Otsu's rule would split the noise instead;
- from below by known-empty maps, where the localizer gives scores for classes of images that
  are tagged as empty: the quantile ``ok_quantile`` of their m. Maps scaled to a maximum of 1
  per image say nothing about level and are not used (a note in the state says so);
- from above by the tags: a share ``min_found_frac`` of all tagged classes must keep a pixel.
  Where the bounds contradict each other, the upper one wins; where that happens because
  empty images score as high as tagged ones, a note says so.

What to expect: Otsu's rule assumes that maps are roughly two-valued. It comes close to the
best threshold for maps that cover the objects; it is somewhat low for objects smaller than the
blur of the map, and too high for maps that light up only a small part of the objects: no
histogram shows what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.refine.protocol import FitInputs

_NUM_BINS = 256
# Maps divided by their own maximum reach 1 up to the rounding of 8-bit files.
_NORMALISED_MAXIMUM = 0.98


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


def label_free_threshold(
    inputs: FitInputs, *, ok_quantile: float, min_found_frac: float, min_peak_frac: float
) -> dict[str, Any]:
    """Choose the background score from the maps and tags of the training split.

    Args:
        inputs: The data set with its scores.
        ok_quantile: Share of the pixels of known-empty images that must stay background.
        min_found_frac: Share of the tagged classes that must keep a pixel.
        min_peak_frac: Lowest threshold, as a fraction of the median peak of the tagged classes.

    Returns:
        JSON-able: ``threshold``, the numbers that it was made of (``otsu``, ``peak_floor``,
        ``ok_floor`` and ``tag_ceiling``; None where unknown), and ``notes`` in words.

    Raises:
        DataError: When no training image has tags and scores, or all maps are constant.
    """
    statistics = _MapStatistics()
    for sample, scores in inputs.split("train"):
        tags = sample.labels.tags
        if tags is not None and (tags & set(scores.present) or (not tags and scores.present)):
            statistics.add(scores, tags)
    if statistics.num_tagged == 0:
        raise DataError(
            "A label-free threshold needs training images with tags, and there is none with "
            'scores. Set the method of the threshold to "fixed".'
        )
    otsu = otsu_threshold(statistics.histogram)
    notes: list[str] = []
    ok_floor = _ok_floor(statistics, ok_quantile, notes)
    peak_floor, ceiling = _peak_bounds(statistics, min_found_frac, min_peak_frac, notes)
    chosen = max(otsu, peak_floor, ok_floor or 0.0)
    if chosen > ceiling:
        chosen = ceiling
        if ok_floor is not None and ok_floor > ceiling:
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
        "peak_floor": peak_floor,
        "ok_floor": ok_floor,
        "tag_ceiling": ceiling,
        "notes": notes,
    }


def _ok_floor(statistics: _MapStatistics, ok_quantile: float, notes: list[str]) -> float | None:
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
    index = int(np.searchsorted(share, ok_quantile - 1e-12))
    return min(index + 1, _NUM_BINS) / _NUM_BINS


def _peak_bounds(
    statistics: _MapStatistics, min_found_frac: float, min_peak_frac: float, notes: list[str]
) -> tuple[float, float]:
    """Give the lowest and the highest threshold that the peaks of the tagged classes allow.

    Maps without any evidence are not counted: no threshold can save a class that the localizer
    does not see at all.
    """
    maxima = np.asarray(statistics.class_maxima)
    seen = maxima[maxima > 1 / _NUM_BINS]
    if len(seen) < len(maxima):
        notes.append(
            f"{len(maxima) - len(seen)} of {len(maxima)} tagged classes have a map without any "
            "evidence, which no threshold can change"
        )
    maxima = seen if len(seen) else maxima
    floor = min_peak_frac * float(np.median(maxima))
    level = float(np.quantile(maxima, 1 - min_found_frac, method="lower"))
    # A pixel must lie strictly above the background score to count; one step of 8-bit scores.
    return floor, max(level - 1 / _NUM_BINS, 0.0)


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
