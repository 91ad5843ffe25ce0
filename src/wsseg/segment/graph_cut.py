"""ScribbleSup's other half: the graph cut of scribbles, with what the network has learned.

In each self-training round the cut of `wsseg.localize.scribbles.scribblesup` is made again; a
superpixel that nobody marked pays, on top, the mean of -log P over its pixels for every class. The
background may always be chosen.

Reference: Lin et al., "ScribbleSup: Scribble-Supervised Convolutional Networks for Semantic
Segmentation", CVPR 2016 (from memory): three rounds of cut and training.
"""

from __future__ import annotations

import numpy as np

from wsseg.cues.superpixels import superpixels
from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.localize.direct import has_kind
from wsseg.localize.points.seed_map import seeds_of
from wsseg.localize.scribbles.scribblesup import Scribblesup, cut_mask
from wsseg.segment.draft import Draft, ImageFacts
from wsseg.segment.rounds_config import GraphCutCleanup


def graph_cut(
    draft: Draft, facts: ImageFacts, config: GraphCutCleanup = GraphCutCleanup()
) -> Draft:
    """Let scribbles and network decide together on every superpixel.

    Args:
        draft: The prediction.
        facts: The image and its labels.
        config: Superpixels, how seeds are drawn, and what labels cost.

    Returns:
        A draft that is certain everywhere; an image without scribbles and points in it is left as
        it is.
    """
    if not has_kind(facts.labels, ("points", "scribbles")):
        return draft
    settings = Scribblesup.model_validate(config.model_dump(exclude={"name"}))
    seeds = seeds_of(facts.image, facts.labels, settings)
    if not (seeds != IGNORE).any():
        return draft
    class_ids = np.unique(np.append(seeds[seeds != IGNORE], np.uint8(BACKGROUND)))
    cells = superpixels(facts.image, config.superpixels)
    probabilities = draft.probabilities[class_ids]
    mask = cut_mask(facts.image, cells, seeds, class_ids, config.cut, probabilities)
    return draft.assigned(np.ones(mask.shape, np.bool_), mask)
