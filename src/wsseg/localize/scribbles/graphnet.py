"""GraphNet: per image, a graph convolutional network learns the class of superpixels from seeds.

Nodes are superpixels, described by mean colour (Lab) and position, and by mean features of a
network where one is named; edges join what touches and what is alike (`affinity_graph`). With
A_hat = D^-1/2 (A + I) D^-1/2 and X the features,

    H = dropout(ReLU(A_hat X W0)),    P = softmax(A_hat H W1),

and cross-entropy on the seed nodes, trained anew for every image (Adam). P, without dropout, is the
score of each superpixel; seeds keep their class.

Reference: M. Pu, Y. Huang, Q. Guan, Q. Zou, "GraphNet: Learning Image Pseudo Annotations for
Weakly-Supervised Semantic Segmentation", ACM MM 2018 (known by its abstract alone; authors from
memory). The formulas and numbers are those of T. Kipf, M. Welling, "Semi-Supervised Classification
with Graph Convolutional Networks", ICLR 2017. What stands in neither and is ours: the columns of X
have mean 0 and deviation 1, a column of ones stands in for the biases, weight decay counts for both
layers, X has no dropout.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.data.labels import WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.direct import LocalizeContext, scores_of_mask
from wsseg.localize.points.seed_map import fill_from_seeds
from wsseg.localize.scribbles.affinity_graph import (
    AffinityGraphConfig,
    Floats,
    graph_of,
    image_nodes,
)
from wsseg.localize.scribbles.graph import Nodes, seed_classes, seeds_with_boxes
from wsseg.localize.scribbles.label_propagation import scores_of_nodes

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from wsseg.data.dataset import Dataset


class Graphnet(AffinityGraphConfig):
    """Settings of `graphnet`."""

    name: Literal["graphnet"] = Field(
        "graphnet", description="A graph network learns the classes of superpixels from seeds."
    )
    hidden: int = Field(16, ge=1, le=1024, description="Units of the hidden layer.")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Share of hidden units left out at each step."
    )
    lr: float = Field(0.01, gt=0, le=10, description="Learning rate of Adam.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay, of both layers.")
    epochs: int = Field(200, ge=1, le=100_000, description="Steps per image.")
    balance: bool = Field(
        False, description="Every class counts the same in the loss, however many seeds it has."
    )
    backbone: str | None = Field(
        None,
        description="A timm network whose features, averaged over each node, are added to colour "
        "and position in X; null: none. Without weights it tells little.",
    )
    weights: str = Field(
        "imagenet", description="Weights of the backbone: imagenet, none, or the path of a file."
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Pixels whose best probability is below stay unknown."
    )

    def check(self, dataset: Dataset, *, allow_masks: bool) -> None:
        """Refuse data without seeds, and make the backbone once to know of missing weights.

        Args:
            dataset: The data set.
            allow_masks: Not used.

        Raises:
            DataError: When no image of the train split has seeds.
            RecipeError: When the backbone does not exist.
            MissingWeightsError: When its weights cannot be had or do not fit.
        """
        super().check(dataset, allow_masks=allow_masks)
        if self.backbone is not None:
            _backbone(self, LocalizeContext())


def graphnet(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: Graphnet = Graphnet(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Learn the classes of an image's superpixels from its seeds.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        labels: Labels with points, scribbles or boxes, in pixels of the image.
        config: Graph, network and training.
        context: Its seed and sample id decide what is drawn; keeps the backbone; takes notes.

    Returns:
        Scores (K, H, W): probabilities; doubtful pixels are 0 in all rows.

    Raises:
        RecipeError: When the backbone does not exist.
        MissingWeightsError: When its weights cannot be had or do not fit.
    """
    context = context or LocalizeContext()
    seeds = seeds_with_boxes(image, labels, config, config.box_inner_frac, context)
    reason = fill_from_seeds(seeds)
    if reason:
        context.note(f"{reason}; only the seeds were kept")
        return scores_of_mask(seeds)
    nodes = image_nodes(image, seeds, config)
    graph, features = graph_of(image, nodes, config)
    if config.backbone is not None:
        deep = deep_features(image, nodes, config, context)
        features = np.concatenate([features, deep], axis=1)
    class_ids = seed_classes(nodes.seeds)
    targets = np.searchsorted(class_ids, nodes.seeds)
    targets[nodes.seeds == 255] = -1
    seed = zlib.crc32(f"{context.seed}/{context.sample_id}".encode())
    values = learn(normalised(graph), standardised(features), targets, config, seed)
    return scores_of_nodes(nodes, class_ids, values, config.min_confidence)


def normalised(affinities: csr_array) -> csr_array:
    """Compute ``D^-1/2 (A + I) D^-1/2`` with D the row sums of A + I.

    Args:
        affinities: Sparse symmetric (n, n) A >= 0, diagonal empty.

    Returns:
        Sparse (n, n) float64.

    Example:
        >>> from scipy.sparse import csr_array
        >>> normalised(csr_array(np.array([[0.0, 3.0], [3.0, 0.0]]))).toarray().tolist()
        [[0.25, 0.75], [0.75, 0.25]]
    """
    from scipy.sparse import csr_array, diags_array, eye_array

    looped = affinities + eye_array(affinities.shape[0])
    scale = diags_array(1 / np.sqrt(np.asarray(looped.sum(axis=1)).ravel()))
    return csr_array(scale @ looped @ scale)


def standardised(features: Floats) -> Floats:
    """Give every column mean 0 and deviation 1, and add a column of ones.

    Args:
        features: (n, d) float64; a constant column becomes 0.

    Returns:
        (n, d + 1) float64.

    Example:
        >>> standardised(np.array([[2.0, 7.0], [6.0, 7.0]])).tolist()
        [[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    """
    centred = features - features.mean(axis=0)
    spread = features.std(axis=0)
    # Rounding alone is no spread.
    is_spread = spread > 1e-9 * np.maximum(1.0, np.abs(features).max(axis=0))
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=is_spread)
    return np.concatenate([scaled, np.ones((len(features), 1))], axis=1)


def learn(
    adjacency: csr_array,
    features: Floats,
    targets: npt.NDArray[np.int64],
    config: Graphnet,
    seed: int,
) -> Floats:
    """Train the two layers on the seed nodes, and return the probabilities of all nodes.

    Args:
        adjacency: Sparse (n, n), from `normalised`.
        features: (n, d) float64.
        targets: (n,) int64 classes from 0, -1 where a node is no seed.
        config: Size and training of the network.
        seed: Seed of the first weights and of dropout.

    Returns:
        (n, K) float64, rows sum to 1.
    """
    import torch

    # Small products on the CPU repeat exactly, whatever device the rest of the run uses.
    draws = torch.Generator().manual_seed(seed)
    num_classes = int(targets.max()) + 1
    graph = _as_tensor(adjacency)
    # A_hat X does not change while W0 learns.
    mixed = torch.from_numpy(np.asarray(adjacency @ features)).float()
    known = torch.from_numpy(np.flatnonzero(targets >= 0))
    wanted = torch.from_numpy(targets[targets >= 0])
    price = _class_weights(wanted, num_classes) if config.balance else None
    first = _glorot(mixed.shape[1], config.hidden, draws)
    second = _glorot(config.hidden, num_classes, draws)
    optimiser = torch.optim.Adam([first, second], lr=config.lr, weight_decay=config.weight_decay)
    for _ in range(config.epochs):
        hidden = (mixed @ first).relu()
        if config.dropout:
            kept = torch.rand(hidden.shape, generator=draws) >= config.dropout
            hidden = hidden * kept / (1 - config.dropout)
        logits = torch.sparse.mm(graph, hidden @ second)
        loss = torch.nn.functional.cross_entropy(logits[known], wanted, weight=price)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    weights = (first.detach().double().numpy(), second.detach().double().numpy())
    return forward(adjacency, features, *weights)


def forward(adjacency: csr_array, features: Floats, first: Floats, second: Floats) -> Floats:
    """Compute ``softmax(A_hat ReLU(A_hat X W0) W1)``.

    Args:
        adjacency: Sparse (n, n), A_hat.
        features: (n, d) float64, X.
        first: (d, hidden) float64, W0.
        second: (hidden, K) float64, W1.

    Returns:
        (n, K) float64, rows sum to 1.
    """
    from scipy.special import softmax

    hidden = np.maximum(adjacency @ features @ first, 0.0)
    probabilities: Floats = softmax(adjacency @ hidden @ second, axis=1)
    return probabilities


def _as_tensor(adjacency: csr_array) -> Any:
    import torch

    entries = adjacency.tocoo()
    places = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    values = torch.from_numpy(entries.data).float()
    return torch.sparse_coo_tensor(
        places, values, adjacency.shape, check_invariants=True
    ).coalesce()


def _glorot(rows: int, columns: int, draws: Any) -> Any:
    """Draw weights evenly within ``sqrt(6 / (rows + columns))`` of zero (Glorot and Bengio)."""
    import torch

    limit = (6 / (rows + columns)) ** 0.5
    drawn = (torch.rand(rows, columns, generator=draws) * 2 - 1) * limit
    return drawn.requires_grad_()


def _class_weights(targets: Any, num_classes: int) -> Any:
    """Weigh classes by the reciprocal of their number of seeds; absent ones count nothing."""
    counts = targets.bincount(minlength=num_classes)
    return (1.0 / counts.clamp(min=1)).float()


def deep_features(
    image: npt.NDArray[np.uint8], nodes: Nodes, config: Graphnet, context: LocalizeContext
) -> Floats:
    """Average a backbone's features over each node.

    Every pixel has the features of the cell that it lies in.

    Args:
        image: (H, W, 3) uint8 RGB.
        nodes: Its nodes.
        config: Which backbone and weights.
        context: Keeps the backbone for the other images; its device.

    Returns:
        (n, d) float64.

    Raises:
        RecipeError: When the backbone does not exist.
        MissingWeightsError: When its weights cannot be had or do not fit.
    """
    import torch
    from scipy.sparse import csr_array

    from wsseg.data.colour import normalise

    net = _backbone(config, context)
    with torch.inference_mode():
        batch = torch.from_numpy(normalise(image)[None]).to(context.device)
        cells = net(batch)[0].float().cpu().numpy().astype(np.float64)
    depth, height, width = cells.shape
    rows = np.arange(image.shape[0]) * height // image.shape[0]
    columns = np.arange(image.shape[1]) * width // image.shape[1]
    cell = (rows[:, None] * width + columns).ravel()
    entries = (np.ones(cell.size), (nodes.cells.ravel(), cell))
    pooling = csr_array(entries, shape=(len(nodes), height * width))
    return np.asarray(pooling @ cells.reshape(depth, -1).T) / nodes.sizes[:, None]


def _backbone(config: Graphnet, context: LocalizeContext) -> Any:
    import torch

    from wsseg.nets.build import build_backbone

    key: Hashable = ("graphnet", config.backbone, config.weights)
    if key not in context.shared:
        # Without weights the features are drawn, and a second run must draw the same.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            net = build_backbone(str(config.backbone), weights=config.weights, output_stride=16)
        context.shared[key] = net.to(context.device).eval()
    return context.shared[key]
