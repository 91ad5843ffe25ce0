"""Label propagation over superpixels: seeds pass their class on to what is alike.

With A the affinities of the graph (`affinity_graph`), D its degrees and S = D^-1/2 A D^-1/2,

    F = (I - alpha S)^-1 Y,

Y (n, K) one where a node is a seed of a class; with `balance` (ours), columns are divided by their
sums. Rows of F are divided by their sums. Seeds keep
their class. It is the baseline that GraphNet is to be compared with, on the same graph.

Reference: D. Zhou, O. Bousquet, T. Lal, J. Weston, B. Schölkopf, "Learning with Local and Global
Consistency", NIPS 2003 (title and formula from memory); alpha = 0.99 as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.data.labels import WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.direct import LocalizeContext, scores_of_mask
from wsseg.localize.points.left_open import left_open
from wsseg.localize.points.seed_map import fill_from_seeds
from wsseg.localize.scribbles.affinity_graph import (
    AffinityGraphConfig,
    Floats,
    graph_of,
    image_nodes,
)
from wsseg.localize.scribbles.graph import Nodes, seed_classes, seeds_with_boxes

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class LabelPropagation(AffinityGraphConfig):
    """Settings of `label_propagation`."""

    name: Literal["label_propagation"] = Field(
        "label_propagation", description="Seeds spread over a graph of superpixels."
    )
    alpha: float = Field(
        0.99, gt=0, lt=1, description="How much a node listens to its neighbours; the rest to Y."
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Pixels whose best value is below stay unknown."
    )


def label_propagation(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: LabelPropagation = LabelPropagation(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Spread points, scribbles and the middle of boxes over alike superpixels.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with points, scribbles or boxes, in pixels of the image.
        config: The graph, and how far seeds reach.
        context: Takes notes.

    Returns:
        Scores (K, H, W); doubtful pixels are 0 in all rows.
    """
    seeds = seeds_with_boxes(image, labels, config, config.box_inner_frac, context)
    reason = fill_from_seeds(seeds)
    if reason:
        if context is not None:
            context.note(f"{reason}; only the seeds were kept")
        return left_open(scores_of_mask(seeds), labels, config, context)
    nodes = image_nodes(image, seeds, config)
    graph, _ = graph_of(image, nodes, config)
    class_ids = seed_classes(nodes.seeds)
    given = (nodes.seeds[:, None] == class_ids).astype(np.float64)
    if config.balance:
        given /= np.maximum(given.sum(axis=0), 1.0)
    values = propagate(graph, given, config.alpha)
    sums = values.sum(axis=1, keepdims=True)
    values = np.divide(values, sums, out=np.zeros_like(values), where=sums > 0)
    scores = scores_of_nodes(nodes, class_ids, values, config.min_confidence)
    return left_open(scores, labels, config, context)


def propagate(affinities: csr_array, given: Floats, alpha: float) -> Floats:
    """Solve ``(I - alpha S) F = Y`` with S the symmetrically normalised affinities.

    Args:
        affinities: Sparse symmetric (n, n).
        given: (n, K) float64, Y.
        alpha: In (0, 1).

    Returns:
        (n, K) float64, not negative.
    """
    from scipy.sparse import csc_array, diags_array, eye_array
    from scipy.sparse.linalg import splu

    degrees = np.asarray(affinities.sum(axis=1)).ravel()
    roots = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    scale = diags_array(roots)
    system = eye_array(len(degrees)) - alpha * (scale @ affinities @ scale)
    solved = splu(csc_array(system)).solve(given)
    return np.maximum(solved, 0.0)


def scores_of_nodes(
    nodes: Nodes, class_ids: npt.NDArray[np.uint8], values: Floats, min_confidence: float
) -> Scores:
    """Give pixels the values of their nodes; seeds keep their class, doubt stays open.

    Args:
        nodes: The nodes of the image.
        class_ids: (K,) classes of the columns.
        values: (n, K) float64 in [0, 1].
        min_confidence: Nodes whose best value is below are unknown.

    Returns:
        Scores (K, H, W).
    """
    values = np.clip(values, 0.0, 1.0)
    values[values.max(axis=1) < min_confidence] = 0.0
    pinned = nodes.seeds != 255
    values[pinned] = nodes.seeds[pinned, None] == class_ids
    full = np.ascontiguousarray(values.astype(np.float32)[nodes.cells].transpose(2, 0, 1))
    return Scores(full, class_ids, (full.shape[1], full.shape[2]))
