"""The pseudo-mask rule: Scores in, label map out.

In this order:

1. an image that a person tagged as empty is background; classes outside the tags are dropped;
2. at the size of the image, the row with the highest score wins (ties go to the background);
3. pixels that are not sure become ignore (255): those that nothing speaks for, neither a class nor
   the background (``no_evidence``), a small lead of the winner (``min_margin``), a weak foreground
   winner (``min_confidence``), or a strongest class score inside [``band_low``, ``band_high``],
   where a low and a high threshold disagree (the rule of PSA, Ahn & Kwak, CVPR 2018, and IRN, Ahn,
   Cho & Kwak, CVPR 2019);
4. clean-up: small components go, small holes are filled;
5. a tagged class without any pixel gets its strongest region back, as ignore or as a seed
   (``keep_tagged``): a person said it is there, and training on "background" there would be
   training on an error.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from wsseg.config import Config
from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.data.scores import Scores

# A "strongest region" larger than this share of the image is not localised: no seed is planted.
_MAX_SEED_FRAC = 0.25


class PseudoMaskConfig(Config):
    """Settings of `pseudo_mask`; the defaults are a plain argmax."""

    no_evidence: Literal["auto", "ignore", "background"] = Field(
        "auto",
        description="What pixels become whose scores are all zero. auto: ignored, except in a run "
        "whose localizer makes maps of the classes alone (from tags) and whose refiners leave "
        "nothing open, where no class means background.",
    )
    min_margin: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Pixels whose best score leads the second best by less are ignored.",
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Foreground pixels whose score is below are ignored."
    )
    band_low: float | None = Field(
        None,
        ge=0,
        le=1,
        description="With `band_high`: pixels whose strongest class score lies between the two, "
        "ends included, are ignored. null: no band.",
    )
    band_high: float | None = Field(
        None, ge=0, le=1, description="Upper end of the ignored band; null: no band."
    )
    min_area_px: int = Field(
        0, ge=0, description="Connected components of fewer pixels are removed."
    )
    min_area_frac: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Connected components below this fraction of the image are removed.",
    )
    removed_to: Literal["background", "ignore"] = Field(
        "background", description="What the pixels of removed components become."
    )
    max_hole_frac: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Holes inside one object up to this fraction of the image are filled; "
        "0 fills none.",
    )
    keep_tagged: Literal["none", "ignore", "seed"] = Field(
        "none",
        description="What the strongest region of a tagged class becomes that got no pixel: "
        "nothing, ignored, or a seed of the class.",
    )
    keep_peak_frac: float = Field(
        0.8,
        gt=0,
        le=1,
        description="`keep_tagged`: the region reaches down to this fraction of the peak.",
    )
    corrections: str | None = Field(
        None,
        description="Folder of masks corrected by people, named and sized like the pseudo masks: 0 "
        "to C override, 254 ignores, 255 is untouched. A change of their content makes the masks "
        "anew. null: none.",
    )

    def resolved(self, *, leaves_open: bool) -> PseudoMaskConfig:
        """Say what pixels without evidence become, where the settings leave it to the run.

        Args:
            leaves_open: Whether the localizer or a refiner of the run leaves pixels open.

        Returns:
            These settings with ``no_evidence`` "ignore" or "background".
        """
        if self.no_evidence != "auto":
            return self
        return self.model_copy(update={"no_evidence": "ignore" if leaves_open else "background"})

    @model_validator(mode="after")
    def _check_band(self) -> PseudoMaskConfig:
        if (self.band_low is None) != (self.band_high is None):
            raise ValueError("band_low and band_high must be given together")
        if (self.band_low or 0.0) > (1.0 if self.band_high is None else self.band_high):
            raise ValueError(
                f"band_low must not exceed band_high, got {self.band_low} > {self.band_high}"
            )
        return self


def pseudo_mask(
    scores: Scores,
    config: PseudoMaskConfig = PseudoMaskConfig(),
    tags: frozenset[int] | None = None,
) -> np.ndarray:
    """Turn the scores of one image into a label map.

    Args:
        scores: Scores with a background row that a background rule, or the localizer, has
            written.
        config: The rule.
        tags: Class ids that a person gave, empty for an image without classes; None when the
            image is not tagged and every class of the scores may appear.

    Returns:
        (H, W) uint8: 0 background, class ids, 255 ignore.

    Example:
        >>> values = np.array([[[0.3, 0.3, 0.3]], [[0.1, 0.35, 0.9]]], np.float32)
        >>> scores = Scores(values, np.array([0, 4], np.uint8), (1, 3))
        >>> pseudo_mask(scores).tolist()
        [[0, 4, 4]]
        >>> pseudo_mask(scores, PseudoMaskConfig(min_margin=0.1)).tolist()
        [[0, 255, 4]]
        >>> pseudo_mask(scores, tags=frozenset()).tolist()
        [[0, 0, 0]]
    """
    from wsseg.pseudo.cleanup import fill_holes, remove_small

    kept = [
        row
        for row, class_id in enumerate(scores.class_ids.tolist())
        if row == 0 or tags is None or class_id in tags
    ]
    if len(kept) == 1 < len(scores.class_ids) or tags == frozenset():
        return np.zeros(scores.size, dtype=np.uint8)
    full = scores.resized()
    values, class_ids = full[kept], scores.class_ids[kept]
    mask = class_ids[values.argmax(axis=0)]
    if len(kept) > 1:
        mask[_unsure(values, mask, config)] = IGNORE
    if config.no_evidence != "background":
        # All rows count: a class that the tags rule out speaks against "nobody knows".
        mask[~full.any(axis=0)] = IGNORE
    min_area_px = max(config.min_area_px, math.ceil(config.min_area_frac * mask.size))
    if min_area_px > 1:
        replacement = BACKGROUND if config.removed_to == "background" else IGNORE
        mask = remove_small(mask, min_area_px, replacement)
    if config.max_hole_frac > 0:
        mask = fill_holes(mask, math.floor(config.max_hole_frac * mask.size))
    if config.keep_tagged != "none" and tags is not None:
        mask = _keep_tagged(mask, values, class_ids, config)
    return mask


def _unsure(values: np.ndarray, mask: np.ndarray, config: PseudoMaskConfig) -> np.ndarray:
    """Find the pixels (H, W) bool that one of the ignore rules applies to."""
    unsure = np.zeros(mask.shape, dtype=bool)
    if config.min_margin > 0:
        second, best = np.partition(values, (-2, -1), axis=0)[-2:]
        unsure |= best - second < config.min_margin
    if config.min_confidence > 0:
        unsure |= (mask != BACKGROUND) & (values.max(axis=0) < config.min_confidence)
    if config.band_low is not None and config.band_high is not None:
        strongest = values[1:].max(axis=0)
        unsure |= (strongest >= config.band_low) & (strongest <= config.band_high)
    return unsure


def _keep_tagged(
    mask: np.ndarray, values: np.ndarray, class_ids: np.ndarray, config: PseudoMaskConfig
) -> np.ndarray:
    """Give every tagged class without a pixel its strongest region.

    The region never takes the last pixels of another class. Where it meets other objects, the
    shared pixels become ignore, because two tagged classes claim them.
    """
    from wsseg.pseudo.cleanup import peak_region

    result = mask.copy()
    missing = [row for row in range(1, len(class_ids)) if not (mask == class_ids[row]).any()]
    for row in missing:
        region = peak_region(values[row], config.keep_peak_frac)
        if region is None:
            continue
        is_free = (result == BACKGROUND) | (result == IGNORE)
        for other in np.unique(result[region & ~is_free]):
            if not ((result == other) & ~region).any():
                region &= result != other
        plant = config.keep_tagged == "seed" and region.mean() <= _MAX_SEED_FRAC
        result[region] = IGNORE
        if plant:
            result[region & is_free] = class_ids[row]
    return result
