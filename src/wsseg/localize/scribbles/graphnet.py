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
layers, X has no dropout, and classes count the same in the loss (`balance`), because background has
many seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, Literal

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
from wsseg.localize.scribbles.label_propagation import scores_of_nodes
from wsseg.outside import WeightsPath

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
    backbone: str | None = Field(
        None,
        description="A timm network whose features, averaged over each node, are added to colour "
        "and position in X; null: none. Without weights it tells little.",
    )
    weights: WeightsPath = Field(
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
        return left_open(scores_of_mask(seeds), labels, config, context)
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
    scores = scores_of_nodes(nodes, class_ids, values, config.min_confidence)
    return left_open(scores, labels, config, context)


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
    from scipy.special import softmax

    rng = np.random.default_rng(seed)
    num_classes = int(targets.max()) + 1
    known = np.flatnonzero(targets >= 0)
    # A_hat X does not change while W0 learns, and only seed nodes have a loss.
    mixed, graph = adjacency @ features, adjacency[known]
    wanted = (targets[known, None] == np.arange(num_classes)).astype(np.float64)
    price = _node_prices(wanted, balance=config.balance)
    shapes = ((mixed.shape[1], config.hidden), (config.hidden, num_classes))
    weights = [_glorot(shape, rng) for shape in shapes]
    adam = _Adam(weights, config.lr, config.weight_decay)
    for _ in range(config.epochs):
        hidden = np.maximum(mixed @ weights[0], 0.0)
        if config.dropout:
            kept = (rng.random(hidden.shape) >= config.dropout) / (1 - config.dropout)
            hidden *= kept
        found = softmax(graph @ (hidden @ weights[1]), axis=1)
        # Gradients of the mean cross-entropy, from the last layer to the first.
        slope = graph.T @ (price * (found - wanted))
        back = (slope @ weights[1].T) * (hidden > 0)
        if config.dropout:
            back *= kept
        adam.step((mixed.T @ back, hidden.T @ slope))
    return forward(adjacency, features, *weights)


def _node_prices(wanted: Floats, *, balance: bool) -> Floats:
    """Weigh the seed nodes (m, 1), sum 1: all alike, or all classes alike."""
    if not balance:
        return np.full((len(wanted), 1), 1 / len(wanted))
    counts = np.maximum(wanted.sum(axis=0), 1.0)
    prices: Floats = (wanted / counts).sum(axis=1, keepdims=True)
    return prices / prices.sum()


class _Adam:
    """Adam with weight decay in the gradient (Kingma and Ba, ICLR 2015); changes the weights."""

    def __init__(self, weights: list[Floats], lr: float, weight_decay: float) -> None:
        self.weights, self.lr, self.weight_decay = weights, lr, weight_decay
        self.count = 0
        self.first = [np.zeros_like(weight) for weight in weights]
        self.second = [np.zeros_like(weight) for weight in weights]

    def step(self, slopes: Iterable[Floats]) -> None:
        self.count += 1
        for index, slope in enumerate(slopes):
            decayed = slope + self.weight_decay * self.weights[index]
            self.first[index] += 0.1 * (decayed - self.first[index])
            self.second[index] += 0.001 * (decayed**2 - self.second[index])
            first = self.first[index] / (1 - 0.9**self.count)
            second = self.second[index] / (1 - 0.999**self.count)
            self.weights[index] -= self.lr * first / (np.sqrt(second) + 1e-8)


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


def _glorot(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Draw weights evenly within ``sqrt(6 / (rows + columns))`` of zero (Glorot and Bengio)."""
    limit = (6 / sum(shape)) ** 0.5
    return rng.uniform(-limit, limit, shape)


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
