"""What is done to a segmenter's predictions before they become the next pseudo masks.

* `tags`: classes that the image does not carry are removed before the best one is chosen.
* `crf`: the marginals of a dense CRF (Krähenbühl and Koltun, NIPS 2011) replace probabilities.
* `boxes`: the first two clean-ups of Khoreva et al., "Simple Does It: Weakly Supervised Instance
  and Semantic Segmentation", CVPR 2017 (from memory): pixels outside of every box of their class
  become background; a box of which the prediction fills less than half is reset to its first
  label. As what is outside is gone by then, the IoU of segment and box is the filled share.
* `confidence`: pixels that are not sure are ignored.
* `keep_first`: a class that vanished from an image gets its first mask back.
* `proposals`: see `wsseg.segment.proposals`.
* `graph_cut`: see `wsseg.segment.graph_cut`.

Every clean-up maps a `Draft` to a new one and changes no input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wsseg.data.labels import IGNORE
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.segment.draft import (
    Bools,
    Draft,
    Floats,
    ImageFacts,
    box_pixels,
    inside_boxes,
    without_absent,
)
from wsseg.segment.rounds_config import (
    BoxesCleanup,
    Cleanup,
    ConfidenceCleanup,
    CrfCleanup,
    GraphCutCleanup,
    KeepFirstCleanup,
    ProposalsCleanup,
    TagsCleanup,
)


def clean(draft: Draft, facts: ImageFacts, cleanups: Sequence[Cleanup]) -> Draft:
    """Apply clean-ups in the given order.

    Args:
        draft: The prediction.
        facts: What is known of the image.
        cleanups: Their settings.

    Returns:
        The cleaned draft; call `wsseg.segment.draft.enforce` on it last.
    """
    for cleanup in cleanups:
        draft = _FUNCTIONS[type(cleanup)](draft, facts, cleanup)
    return draft


def tags(draft: Draft, facts: ImageFacts, _config: TagsCleanup = TagsCleanup()) -> Draft:
    """Remove the classes that the image does not carry."""
    return without_absent(draft, facts.labels)


def crf(draft: Draft, facts: ImageFacts, config: CrfCleanup = CrfCleanup()) -> Draft:
    """Replace probabilities by the marginals of a dense CRF.

    Classes without any probability take no part and keep none.
    """
    kernel = CrfConfig.model_validate(config.model_dump(exclude={"name", "prune_below"}))
    refined = crf_marginals(facts, draft.probabilities, kernel, prune_below=config.prune_below)
    return Draft(refined, draft.ignored)


def crf_marginals(
    facts: ImageFacts, probabilities: Floats, kernel: CrfConfig, *, prune_below: float = 0.0
) -> Floats:
    """Run a dense CRF over the classes that have any probability.

    Args:
        facts: The image; its lattice is kept in ``facts.cache``.
        probabilities: (K, H, W) float32 >= 0; only ratios matter.
        kernel: The CRF.
        prune_below: Classes that stay below this are left out, too.

    Returns:
        (K, H, W) float32, summing to 1 over K.
    """
    from wsseg.kernels.dense_crf import build_crf_lattices, dense_crf, unary_from_scores

    rows = np.flatnonzero(probabilities.any(axis=(1, 2)))
    refined = np.zeros_like(probabilities)
    if len(rows) == 1:
        refined[rows] = 1
        return refined
    key = ("dense_crf", *kernel.sigmas)
    if key not in facts.cache:
        facts.cache[key] = build_crf_lattices(facts.image, kernel)
    refined[rows] = dense_crf(
        facts.image,
        unary_from_scores(probabilities[rows]),
        config=kernel,
        lattice=facts.cache[key],
        prune_below=prune_below,
    )
    return refined


def boxes(draft: Draft, facts: ImageFacts, config: BoxesCleanup = BoxesCleanup()) -> Draft:
    """Keep the prediction inside of its boxes, and reset boxes that it hardly fills.

    An image without boxes is left as it is.
    """
    given = facts.labels.boxes
    if given is None or not len(given):
        return draft
    draft = inside_boxes(draft, facts.labels)
    found = draft.mask
    reset = np.zeros(found.shape, np.bool_)
    places = box_pixels(given, (found.shape[0], found.shape[1]))
    for place, class_id in zip(places, given.class_ids.tolist(), strict=True):
        if (found[place] == class_id).mean() < config.min_iou:
            reset[place] = True
    return draft.assigned(reset, facts.first)


def confidence(
    draft: Draft, _facts: ImageFacts, config: ConfidenceCleanup = ConfidenceCleanup()
) -> Draft:
    """Ignore pixels that the network is not sure of."""
    values = draft.probabilities
    second, best = np.partition(values, (-2, -1), axis=0)[-2:]
    unsure: Bools = (best < config.min_confidence) | (best - second < config.min_margin)
    if config.band_low is not None and config.band_high is not None:
        strongest = values[1:].max(axis=0)
        unsure |= (strongest >= config.band_low) & (strongest <= config.band_high)
    return Draft(values, draft.ignored | unsure)


def keep_first(
    draft: Draft, facts: ImageFacts, config: KeepFirstCleanup = KeepFirstCleanup()
) -> Draft:
    """Give classes that vanished from the image their first mask back."""
    found = draft.mask
    back = np.zeros(found.shape, np.bool_)
    for class_id in np.unique(facts.first).tolist():
        if class_id in (0, IGNORE):
            continue
        before = facts.first == class_id
        if (found == class_id).sum() <= config.min_frac * before.sum():
            back |= before
    return draft.assigned(back, facts.first)


def _proposals(draft: Draft, facts: ImageFacts, config: ProposalsCleanup) -> Draft:
    from wsseg.segment.proposals import proposals

    return proposals(draft, facts, config)


def _graph_cut(draft: Draft, facts: ImageFacts, config: GraphCutCleanup) -> Draft:
    from wsseg.segment.graph_cut import graph_cut

    return graph_cut(draft, facts, config)


_FUNCTIONS: dict[type, Callable[[Draft, ImageFacts, Any], Draft]] = {
    TagsCleanup: tags,
    CrfCleanup: crf,
    BoxesCleanup: boxes,
    ConfidenceCleanup: confidence,
    KeepFirstCleanup: keep_first,
    ProposalsCleanup: _proposals,
    GraphCutCleanup: _graph_cut,
}
