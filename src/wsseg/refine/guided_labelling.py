"""Guided labelling: seeds of the classes name the salient regions of an image.

Reference: Oh, Benenson, Khoreva, Akata, Fritz and Schiele, "Exploiting Saliency for Object
Segmentation from Image Level Labels", CVPR 2017. Seeds are precise and small, a saliency mask is
large and has no classes. Three rules, each stronger than the one before (details are from memory):

* G0: all that is salient gets one of the image's tags, drawn at random;
* G1: each connected component of the saliency mask gets the class of most seeds in it; one
  without seeds is background;
* G2: in each component with seeds a dense CRF spreads them over the component, so that classes
  that touch share it. Seeds that touch no component are kept and grow a little by the CRF; what
  the CRF does not give them of their surroundings is left open. The rest is background.

A seed of a class is a place whose score is at least ``min_seed`` of the class's maximum; where
several classes have a seed, the one with the largest score counts.

Differences: the authors' seeds come from a network of their own (GAP-HighRes); here from any
localizer. How far outer seeds may grow, and how sure the CRF takes a seed for, are our numbers. A
map that is zero everywhere says nothing: what it would make background is left open.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.data.scores import Scores
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.refine.background import with_constant_background
from wsseg.refine.cue_settings import CueSettings, required_cue
from wsseg.refine.dense_crf import DenseCrf, dense_crf
from wsseg.refine.protocol import RefineContext, check_image

Rows = npt.NDArray[np.int64]
"""(H, W) rows of the scores: 0 background, from 1 the classes, `OPEN` not known."""

OPEN = -1


class GuidedLabelling(CueSettings):
    """Settings of `guided_labelling`."""

    writes_background: ClassVar[bool] = True
    leaves_open: ClassVar[bool] = True

    name: Literal["guided_labelling"] = Field(
        "guided_labelling", description="Which refiner: seeds name the salient regions."
    )
    mode: Literal["g0", "g1", "g2"] = Field(
        "g2",
        description="g0: one random tag for all that is salient. g1: the class of most seeds for "
        "each salient component. g2: seeds spread inside of components by a dense CRF.",
    )
    min_cue: float = Field(
        0.5, ge=0, lt=1, description="Above this part of the map's maximum a pixel is salient."
    )
    min_seed: float = Field(
        0.2, gt=0, le=1, description="From this part of its maximum on a class has a seed."
    )
    no_seed: Literal["background", "open"] = Field(
        "background", description="What a salient component without seeds is, for g1 and g2."
    )
    growth_px: float = Field(
        10.0, ge=0, le=1000, description="g2: how far seeds outside of components may grow, pixels."
    )
    seed_probability: float = Field(
        0.9, gt=0.5, lt=1, description="g2: how sure the CRF takes a seed for."
    )
    crf: CrfConfig = Field(CrfConfig(), description="g2: kernels and iterations of the CRF.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="g0: seed of the drawn tags.")


@dataclass(frozen=True)
class Evidence:
    """What the rules see of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        num_rows: K, rows of the scores.
        seeds: (H, W) row of the seed, 0 where there is none.
        components: (H, W) number of the salient component from 1, 0 where nothing is salient.
        sample_id: Id of the image.
        device: Where the CRF runs.
    """

    image: npt.NDArray[np.uint8]
    num_rows: int
    seeds: Rows
    components: Rows
    sample_id: str = ""
    device: str = "cpu"

    @property
    def seed_counts(self) -> npt.NDArray[np.int64]:
        """(components + 1, K) pixels of each row's seeds in each component; row 0: no seed."""
        num_regions = int(self.components.max()) + 1
        flat = self.components.ravel() * self.num_rows + self.seeds.ravel()
        counts = np.bincount(flat, minlength=num_regions * self.num_rows)
        return counts.reshape(num_regions, self.num_rows)


def guided_labelling(
    image: np.ndarray,
    scores: Scores,
    *,
    config: GuidedLabelling = GuidedLabelling(),
    context: RefineContext | None = None,
) -> Scores:
    """Label the salient regions of an image by the seeds of its classes.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        scores: Scores of the image; row 0 is not used.
        config: The rule and its numbers.
        context: ``context.cue`` is the saliency: (H, W) floating point in [0, 1], or bool.

    Returns:
        Scores at full size (K, H, W): 1 in the row of the label, all 0 where it is left open.

    Raises:
        DataError: When there is no cue, its shape, type or range is wrong, or the image does not
            belong to the scores.

    Example:
        >>> values = np.zeros((3, 1, 5), np.float32)
        >>> values[1, 0, 0], values[2, 0, 4] = 0.9, 0.5
        >>> scores = Scores(values, np.array([0, 3, 8], np.uint8), (1, 5))
        >>> context = RefineContext(cue=np.array([[1.0, 1, 0, 1, 1]]))
        >>> image = np.zeros((1, 5, 3), np.uint8)
        >>> config = GuidedLabelling(mode="g1")
        >>> refined = guided_labelling(image, scores, config=config, context=context)
        >>> refined.values.argmax(axis=0).tolist()
        [[1, 1, 0, 2, 2]]
    """
    check_image(image, scores)
    full = replace(scores, values=scores.resized())
    if len(scores.class_ids) == 1:
        return with_constant_background(full, 1.0)
    cue = required_cue("guided_labelling", scores, context)
    # In the order of their ids, so that the order of the rows decides nothing.
    order = np.argsort(scores.class_ids)
    evidence = Evidence(
        image=image,
        num_rows=len(order),
        seeds=seed_rows(full.values[order], config.min_seed),
        components=salient_components(cue, config.min_cue),
        sample_id=context.sample_id if context else "",
        device=context.device if context else "cpu",
    )
    rows = _RULES[config.mode](evidence, config)
    if not cue.any():
        rows = np.where(rows == 0, OPEN, rows)
    values = np.zeros_like(full.values)
    values[order] = rows == np.arange(len(order))[:, None, None]
    return replace(full, values=values)


def seed_rows(values: npt.NDArray[np.float32], min_seed: float) -> Rows:
    """Find the seeds of the classes.

    Args:
        values: (K, H, W) in [0, 1]; row 0 is not used.
        min_seed: Least part of a class's maximum.

    Returns:
        (H, W) row of the seed, 0 where there is none.

    Example:
        >>> seed_rows(np.array([[[0.0, 0, 0]], [[0.1, 0.4, 1]], [[0.3, 0, 0]]]), 0.2).tolist()
        [[2, 1, 1]]
    """
    peaks = values.max(axis=(1, 2), keepdims=True)
    is_seed = (values >= min_seed * peaks) & (peaks > 0)
    strength = np.where(is_seed, values, 0)
    strength[0] = 0
    return strength.argmax(axis=0)


def salient_components(cue: npt.NDArray[np.float32], min_cue: float) -> Rows:
    """Number the connected parts of what is salient; diagonal neighbours are connected.

    Args:
        cue: (H, W) in [0, 1].
        min_cue: Part of the map's maximum above which a pixel is salient.

    Returns:
        (H, W) numbers from 1, 0 where nothing is salient.

    Example:
        >>> salient_components(np.array([[0.2, 0, 0.2, 0.1]], np.float32), 0.5).tolist()
        [[1, 0, 2, 0]]
    """
    import cv2

    salient = cue > min_cue * cue.max()
    return np.asarray(cv2.connectedComponents(salient.astype(np.uint8), connectivity=8)[1], int)


def one_tag(evidence: Evidence, config: GuidedLabelling) -> Rows:
    """Give all that is salient one of the image's tags (G0).

    Args:
        evidence: Seeds and salient components; the seeds are not looked at.
        config: The seed of the draw; the image's id enters, too.

    Returns:
        (H, W) rows.
    """
    mark = zlib.crc32(evidence.sample_id.encode())
    drawn = np.random.default_rng([config.seed, mark]).integers(1, evidence.num_rows)
    return np.where(evidence.components > 0, drawn, 0)


def most_seeds(evidence: Evidence, config: GuidedLabelling) -> Rows:
    """Give each salient component the class of most seeds in it (G1).

    Args:
        evidence: Seeds and salient components.
        config: What a component without seeds is.

    Returns:
        (H, W) rows.
    """
    counts = evidence.seed_counts[:, 1:]
    chosen = np.where(counts.any(axis=1), counts.argmax(axis=1) + 1, _seedless(config))
    chosen[0] = 0
    return chosen[evidence.components]


def spread_seeds(evidence: Evidence, config: GuidedLabelling) -> Rows:
    """Spread seeds inside of salient components, and a little around the others (G2).

    Args:
        evidence: Seeds and salient components.
        config: Growth, CRF, and what a component without seeds is.

    Returns:
        (H, W) rows.
    """
    allowed, outer = _allowed(evidence, config)
    rows: Rows = allowed.argmax(axis=0)
    if (allowed.sum(axis=0) > 1).any():
        marginals = _marginals(evidence, allowed, config)
        rows = np.where(allowed, marginals, -1).argmax(axis=0)
    around = outer.any(axis=0)
    rows[around & (rows == 0)] = OPEN
    without_seed: npt.NDArray[np.bool_] = evidence.seed_counts[:, 1:].max(axis=1) == 0
    without_seed[0] = False
    rows[without_seed[evidence.components]] = _seedless(config)
    return rows


def _seedless(config: GuidedLabelling) -> int:
    return 0 if config.no_seed == "background" else OPEN


def _allowed(
    evidence: Evidence, config: GuidedLabelling
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tell which rows each pixel may get, and around which classes' outer seeds it lies."""
    import cv2

    table = evidence.seed_counts > 0
    table[:, 0] = ~table[:, 1:].any(axis=1)
    table[0] = np.arange(evidence.num_rows) == 0
    allowed = np.moveaxis(table[evidence.components], -1, 0).copy()
    outer = np.zeros_like(allowed)
    kept = np.zeros_like(evidence.seeds)
    free = evidence.components == 0
    for row in range(1, evidence.num_rows):
        seeds = _outer_seeds(evidence.seeds == row, ~free)
        if seeds.any():
            distance = cv2.distanceTransform(
                (~seeds).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
            )
            outer[row] = free & (distance <= config.growth_px)
            kept |= np.where(seeds, row, 0)
    allowed |= outer
    # These seeds stay what they are; only what lies around them is decided.
    allowed = np.where(kept > 0, np.arange(evidence.num_rows)[:, None, None] == kept, allowed)
    return allowed, outer


def _outer_seeds(
    seeds: npt.NDArray[np.bool_], salient: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Keep the connected seeds that nowhere reach into what is salient."""
    import cv2

    count, numbers = cv2.connectedComponents(seeds.astype(np.uint8), connectivity=8)
    touches = np.bincount(numbers[salient], minlength=count) > 0
    kept: npt.NDArray[np.bool_] = seeds & ~touches[numbers]
    return kept


def _marginals(
    evidence: Evidence, allowed: npt.NDArray[np.bool_], config: GuidedLabelling
) -> npt.NDArray[np.float32]:
    """Run the CRF: seeds nearly sure, other pixels undecided between what they may get."""
    rows = np.arange(evidence.num_rows)[:, None, None]
    counts = allowed.sum(axis=0)
    # Outside of components, seeds are either fixed or given up.
    counted = (evidence.seeds > 0) & (evidence.components > 0) & (counts > 1)
    rest = (1 - config.seed_probability) / np.maximum(counts - 1, 1)
    sure = np.where(rows == evidence.seeds, config.seed_probability, rest) * allowed
    values = np.where(counted, sure, allowed / counts).astype(np.float32)
    size = (values.shape[1], values.shape[2])
    scores = Scores(values, np.arange(evidence.num_rows, dtype=np.uint8), size)
    crf = DenseCrf(**config.crf.model_dump())
    context = RefineContext(device=evidence.device)
    return dense_crf(evidence.image, scores, config=crf, context=context).values


_RULES: dict[str, Callable[[Evidence, GuidedLabelling], Rows]] = {
    "g0": one_tag,
    "g1": most_seeds,
    "g2": spread_seeds,
}
