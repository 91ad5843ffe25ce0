"""GraphNet, label propagation and ScribbleSup's cut against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from wsseg.data.labels import Boxes, Points, Scribbles, WeakLabels
from wsseg.localize.direct import LocalizeContext
from wsseg.localize.points.marks import draw_marks
from wsseg.localize.scribbles.affinity_graph import affinities, node_features
from wsseg.localize.scribbles.graph import Nodes, neighbours, nodes_of, seeds_with_boxes
from wsseg.localize.scribbles.graphnet import (
    Graphnet,
    deep_features,
    forward,
    graphnet,
    learn,
    normalised,
    standardised,
)
from wsseg.localize.scribbles.label_propagation import (
    LabelPropagation,
    label_propagation,
    propagate,
)
from wsseg.localize.scribbles.scribblesup import (
    CutConfig,
    Scribblesup,
    edge_weights,
    histograms,
    scribblesup,
    unary_of,
)

METHODS = {graphnet: Graphnet, label_propagation: LabelPropagation, scribblesup: Scribblesup}


def hard(scores) -> np.ndarray:
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


@pytest.fixture
def discs():
    """A red and a green disc on grey, what is where, and a stroke on each and on the ground."""
    rows, columns = np.mgrid[:60, :90]
    truth = np.zeros((60, 90), np.uint8)
    truth[(rows - 30) ** 2 + (columns - 25) ** 2 <= 15**2] = 1
    truth[(rows - 30) ** 2 + (columns - 65) ** 2 <= 15**2] = 2
    colours = np.array([[110, 110, 110], [210, 40, 40], [40, 190, 40]])
    noise = np.random.default_rng(0).integers(0, 12, (60, 90, 3))
    strokes = ([[18, 30], [32, 30]], [[60, 26], [70, 34]], [[3, 3], [87, 3]])
    labels = WeakLabels(scribbles=Scribbles(strokes, [1, 2, 0]))
    return np.clip(colours[truth] + noise, 0, 255).astype(np.uint8), truth, labels


def ious(found: np.ndarray, truth: np.ndarray) -> list[float]:
    pairs = [(found == class_id, truth == class_id) for class_id in (0, 1, 2)]
    return [(mine & true).sum() / (mine | true).sum() for mine, true in pairs]


@pytest.mark.parametrize("method", METHODS)
def test_strokes_reach_the_edges_of_the_objects(method, discs):
    image, truth, labels = discs
    # The graph network also goes by position, and stays further from the edges.
    least = 0.7 if method is graphnet else 0.8
    assert min(ious(hard(method(image, labels)), truth)) > least


@pytest.mark.parametrize("method", [graphnet, label_propagation])
def test_boxes_are_seeds_in_their_middle_and_outside(method, discs):
    image, truth, _ = discs
    labels = WeakLabels(boxes=Boxes([[10, 15, 41, 46], [50, 15, 81, 46]], [1, 2]))
    found = hard(method(image, labels))
    assert min(ious(found, truth)) > 0.8
    assert (found[:15] == 0).all()
    assert (found[27:34, 22:29] == 1).all()


@pytest.mark.parametrize("method", [graphnet, label_propagation])
def test_a_tagged_class_without_any_mark_opens_the_ground_and_not_the_objects(method, discs):
    image = discs[0]
    boxes = Boxes([[10, 15, 41, 46], [50, 15, 81, 46]], [1, 2])
    found = hard(method(image, WeakLabels(tags={1, 2, 3}, boxes=boxes)))
    complete = hard(method(image, WeakLabels(tags={1, 2}, boxes=boxes)))
    assert np.array_equal(found, np.where(complete == 0, 255, complete))
    assert (found[:15] == 255).all()


@pytest.mark.parametrize("tags", [None, {1, 2}])
def test_a_class_with_strokes_alone_grows_outside_of_the_boxes_of_the_others(tags, discs):
    image, truth, _ = discs
    labels = WeakLabels(
        tags=tags,
        boxes=Boxes([[10, 15, 41, 46]], [1]),
        scribbles=Scribbles(([[60, 26], [70, 34]],), [2]),
    )
    context = LocalizeContext()
    found = hard(label_propagation(image, labels, context=context))
    assert min(ious(found, truth)) > 0.8
    assert context.facts["automatic_background"] > 0


@pytest.mark.parametrize("method", [graphnet, label_propagation])
def test_a_box_off_the_image_changes_nothing(method, discs):
    image = discs[0]
    points = Points([[25, 30], [65, 30]], [1, 2])
    off = WeakLabels(points=points, boxes=Boxes([[200, 5, 220, 9]], [1]))
    assert np.array_equal(hard(method(image, off)), hard(method(image, WeakLabels(points=points))))


def test_ridges_count_beside_boxes_too():
    image = np.zeros((20, 40, 3), np.uint8)
    points = Points([[4.5, 10.5], [12.5, 10.5]], [1, 1])
    labels = WeakLabels(points=points, boxes=Boxes([[0, 0, 40, 20]], [1]))
    seeds = seeds_with_boxes(image, labels, LabelPropagation(ridges=True), 0.2)
    plain = seeds_with_boxes(image, labels, LabelPropagation(), 0.2)
    assert (seeds[:, 8] == 0).all()
    assert (plain != 0).all()
    assert np.array_equal(seeds[plain != 255], plain[plain != 255])


@pytest.mark.parametrize("method", METHODS)
def test_no_seed_is_ever_overruled(method):
    """Strokes that cross, touch and contradict the picture."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        image = rng.integers(0, 255, (32, 41, 3)).astype(np.uint8)
        lines = [rng.uniform(0, 41, (3, 2)) * [1, 32 / 41] for _ in range(5)]
        labels = WeakLabels(
            points=Points(rng.uniform(0, 32, (4, 2)), [1, 2, 3, 3]),
            scribbles=Scribbles(lines, [0, 1, 2, 2, 3]),
        )
        config = METHODS[method](**({"epochs": 5} if method is graphnet else {}))
        found = hard(method(image, labels, config=config, context=LocalizeContext(seed=seed)))
        spacing = config.point_spacing_frac
        seeds = draw_marks(labels, (32, 41), point_spacing_frac=spacing).seeds
        assert np.array_equal(found[seeds != 255], seeds[seeds != 255])


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_seeds_and_one_with_seeds_of_one_class_stay_as_marked(method, discs):
    image = discs[0]
    context = LocalizeContext()
    away = WeakLabels(points=Points([[-4, 900]], [1]))
    assert (hard(method(image, away, context=context)) == 255).all()
    one = WeakLabels(points=Points([[25, 30]], [1]))
    config = METHODS[method](background="none")
    found = hard(method(image, one, config=config, context=context))
    assert np.array_equal(found, draw_marks(one, (60, 90)).seeds)
    assert sum("only the seeds were kept" in note for note in context.facts["notes"]) == 2


def test_superpixels_that_two_classes_marked_are_split():
    cells = np.array([[0, 0, 0, 0], [1, 1, 2, 2]])
    seeds = np.array([[255, 4, 7, 255], [4, 255, 255, 255]], np.uint8)
    nodes = nodes_of(cells, seeds)
    assert len(nodes) == 5
    # The rest of the first superpixel is one node, though it is in two pieces.
    assert nodes.cells[0, 0] == nodes.cells[0, 3]
    assert nodes.seeds[nodes.cells].tolist() == [[255, 4, 7, 255], [4, 4, 255, 255]]
    assert nodes.sizes.tolist() == [1, 1, 2, 2, 2]


def test_the_normalised_adjacency_is_that_of_a_small_graph_by_hand():
    # A path of three nodes: degrees with loops are 3, 4 and 2.
    path = csr_array(np.array([[0.0, 2, 0], [2, 0, 1], [0, 1, 0]]))
    by_hand = [
        [1 / 3, 2 / 12**0.5, 0],
        [2 / 12**0.5, 1 / 4, 1 / 8**0.5],
        [0, 1 / 8**0.5, 1 / 2],
    ]
    np.testing.assert_allclose(normalised(path).toarray(), by_hand, atol=1e-12)


def test_edges_join_what_touches_and_what_is_alike():
    features = np.array([[0.0, 0], [3, 4], [100, 0], [1, 0]])
    config = Graphnet(neighbours=1, sigma=5.0)
    found = affinities(features, np.array([[1, 2]]), config).toarray()
    expected = np.zeros((4, 4))
    # 0 and 3 are nearest to each other, 1 is nearest to 3, 2 is nearest to 1 and touches it.
    for a, b in ((0, 3), (1, 3), (1, 2)):
        squared = ((features[a] - features[b]) ** 2).sum()
        expected[a, b] = expected[b, a] = max(np.exp(-squared / 50), 1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_nodes_are_described_by_mean_colour_and_place():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 2:] = 255
    nodes = nodes_of(np.array([[0, 0, 1, 1]] * 2), np.full((2, 4), 255, np.uint8))
    found = node_features(image, nodes, 8.0)
    np.testing.assert_allclose(found, [[0, 0, 0, 2, 2], [100, 0, 0, 6, 2]], atol=1e-3)


def test_the_forward_pass_is_two_graph_convolutions():
    rng = np.random.default_rng(0)
    dense = rng.random((5, 5))
    features, first, second = (
        rng.normal(size=(5, 3)),
        rng.normal(size=(3, 4)),
        rng.normal(size=(4, 2)),
    )
    found = forward(csr_array(dense), features, first, second)
    for node in range(5):
        logits = np.zeros(2)
        for other in range(5):
            mixed = sum(dense[other, k] * features[k] for k in range(5))
            hidden = [max(0.0, float(mixed @ first[:, unit])) for unit in range(4)]
            logits += dense[node, other] * np.array([hidden @ second[:, c] for c in range(2)])
        odds = np.exp(logits)
        np.testing.assert_allclose(found[node], odds / odds.sum(), atol=1e-12)


def test_one_step_of_learning_is_that_of_adam_written_out():
    """Without dropout: gradients by differences in float64, Adam's first step, weight decay."""
    rng = np.random.default_rng(1)
    graph = csr_array(normalised(csr_array(np.ones((4, 4)) - np.eye(4))))
    features, targets = rng.normal(size=(4, 2)), np.array([0, -1, 1, 1])
    config = Graphnet(hidden=3, dropout=0.0, epochs=1, lr=0.05, weight_decay=0.1, balance=False)
    found = learn(graph, features, targets, config, seed=7)
    draws = np.random.default_rng(7)
    limits = {shape: (6 / sum(shape)) ** 0.5 for shape in ((2, 3), (3, 2))}
    weights = [draws.uniform(-limit, limit, shape) for shape, limit in limits.items()]

    def loss() -> float:
        values = forward(graph, features, *weights)
        return -np.mean([np.log(values[n, t]) for n, t in enumerate(targets) if t >= 0])

    steps = []
    for weight in weights:
        slope = np.zeros_like(weight)
        for place in np.ndindex(weight.shape):
            kept = weight[place]
            weight[place] = kept + 1e-6
            above = loss()
            weight[place] = kept - 1e-6
            slope[place] = (above - loss()) / 2e-6
            weight[place] = kept
        steps.append(slope + 0.1 * weight)
    # Adam's first step is the learning rate times the sign.
    moved = [w - 0.05 * s / (np.abs(s) + 1e-8) for w, s in zip(weights, steps, strict=True)]
    np.testing.assert_allclose(found, forward(graph, features, *moved), atol=1e-6)


def test_many_steps_with_dropout_are_those_of_torch():
    """Autograd and torch's Adam, fed with the same draws."""
    import torch

    rng = np.random.default_rng(2)
    affinity = np.triu(rng.random((9, 9)), 1)
    graph = normalised(csr_array(affinity + affinity.T))
    features, targets = rng.normal(size=(9, 4)), np.array([0, 2, -1, 1, -1, 0, 0, -1, 2])
    config = Graphnet(hidden=5, epochs=25, balance=True)
    found = learn(graph, features, targets, config, seed=3)
    draws = np.random.default_rng(3)
    limits = {shape: (6 / sum(shape)) ** 0.5 for shape in ((4, 5), (5, 3))}
    first, second = (
        torch.tensor(draws.uniform(-limit, limit, shape), requires_grad=True)
        for shape, limit in limits.items()
    )
    optimiser = torch.optim.Adam([first, second], lr=0.01, weight_decay=5e-4)
    dense, x = torch.tensor(graph.toarray()), torch.tensor(features)
    known = torch.tensor(targets >= 0)
    wanted = torch.tensor(targets)[known]
    weight = 1 / torch.bincount(wanted).double()
    for _ in range(25):
        kept = torch.tensor(draws.random((9, 5)) >= 0.5)
        logits = dense @ ((dense @ x @ first).relu() * kept * 2) @ second
        loss = torch.nn.functional.cross_entropy(logits[known], wanted, weight=weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    expected = ((dense @ ((dense @ x @ first).relu() @ second)).softmax(dim=1)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_learning_tells_seeds_apart_and_depends_on_the_seed_alone():
    rng = np.random.default_rng(0)
    features = standardised(rng.normal(size=(30, 3)) + 3 * (np.arange(30) % 2)[:, None])
    ring = np.roll(np.eye(30), 2, axis=1)
    graph = normalised(csr_array(ring + ring.T))
    targets = np.where(np.arange(30) < 8, np.arange(30) % 2, -1)
    first = learn(graph, features, targets, Graphnet(), seed=3)
    np.testing.assert_array_equal(first, learn(graph, features, targets, Graphnet(), seed=3))
    assert not np.array_equal(first, learn(graph, features, targets, Graphnet(), seed=4))
    assert (first.argmax(axis=1) == np.arange(30) % 2).mean() > 0.9
    np.testing.assert_allclose(first.sum(axis=1), 1, atol=1e-9)


def test_balanced_classes_are_not_outvoted_by_more_seeds():
    # Nodes that cannot be told apart: the loss alone decides, by number or evenly.
    graph = csr_array(np.eye(10))
    targets = np.array([0] * 9 + [1])
    kwargs = {"epochs": 2000, "dropout": 0.0, "weight_decay": 0.0}
    outvoted = learn(graph, np.ones((10, 1)), targets, Graphnet(balance=False, **kwargs), seed=0)
    even = learn(graph, np.ones((10, 1)), targets, Graphnet(balance=True, **kwargs), seed=0)
    np.testing.assert_allclose(outvoted[0], [0.9, 0.1], atol=0.02)
    np.testing.assert_allclose(even[0], [0.5, 0.5], atol=0.02)


def test_features_of_a_network_are_averaged_over_nodes(discs):
    image = discs[0]
    nodes = nodes_of(
        np.arange(60)[:, None] // 20 + np.zeros((60, 90), int), np.full((60, 90), 255, np.uint8)
    )
    context = LocalizeContext(seed=5)
    config = Graphnet(backbone="test_resnet", weights="none")
    found = deep_features(image, nodes, config, context)
    (net,) = context.shared.values()
    assert found.shape == (3, net.num_features)
    np.testing.assert_array_equal(
        found, deep_features(image, nodes, config, LocalizeContext(seed=5))
    )
    import torch

    from wsseg.data.colour import normalise

    with torch.inference_mode():
        cells = net(torch.from_numpy(normalise(image)[None]))[0].double().numpy()
    rows = np.arange(60) * cells.shape[1] // 60
    columns = np.arange(90) * cells.shape[2] // 90
    full = cells[:, rows][:, :, columns]
    np.testing.assert_allclose(found[1], full[:, 20:40].mean(axis=(1, 2)), atol=1e-6)


def test_propagation_solves_its_equation():
    rng = np.random.default_rng(0)
    dense = rng.random((6, 6))
    dense = np.triu(dense, 1) + np.triu(dense, 1).T
    given = np.zeros((6, 2))
    given[0, 0] = given[5, 1] = 1
    roots = np.diag(dense.sum(axis=1) ** -0.5)
    solved = np.linalg.inv(np.eye(6) - 0.9 * roots @ dense @ roots) @ given
    np.testing.assert_allclose(propagate(csr_array(dense), given, 0.9), solved, atol=1e-12)


def test_balance_lets_a_point_stand_against_a_long_background(discs):
    image, truth, _ = discs
    labels = WeakLabels(points=Points([[25, 30], [65, 30]], [1, 2]))
    plain = label_propagation(image, labels, config=LabelPropagation(balance=False))
    even = label_propagation(image, labels, config=LabelPropagation(balance=True))
    assert min(ious(hard(even), truth)) > 0.8
    # The discs have 2 seeds, the border dozens: their classes gain nearly everywhere.
    for class_id in (1, 2):
        is_free = plain.values.max(axis=0) < 1
        gain = even.values[class_id][is_free] - plain.values[class_id][is_free]
        assert (gain > 0).mean() > 0.9


def test_histograms_count_colours_and_differences():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 2:] = [255, 11, 0]
    cells = np.array([[0, 0, 1, 1]] * 2)
    colour, texture = histograms(image, Nodes(cells, np.full(2, 255, np.uint8)))
    assert colour.shape == (2, 75)
    assert texture.shape == (2, 20)
    # Red fills the last of 25 bins, green 11 the second (256 / 25 wide), blue the first.
    assert np.flatnonzero(colour[1]).tolist() == [24, 26, 50]
    assert colour[1, [24, 26, 50]].tolist() == [1, 1, 1]
    # Grey rises by 88.67 at the second column: bin int(343.67 / 51.1) of 10; zero lies in bin 4.
    assert texture[0, [4, 6]].tolist() == [0.5, 0.5]
    assert texture[1, [4, 14]].tolist() == [1, 1]


def test_what_a_cut_costs_is_the_formula():
    rng = np.random.default_rng(0)
    colour, texture = rng.random((3, 75)), rng.random((3, 20))
    edges = np.array([[0, 1], [1, 2]])
    found = edge_weights(colour, texture, edges, CutConfig(delta_colour=3, delta_texture=2))
    for (a, b), weight in zip(edges, found, strict=True):
        by_colour = sum((x - y) ** 2 for x, y in zip(colour[a], colour[b], strict=True)) / 9
        by_texture = sum((x - y) ** 2 for x, y in zip(texture[a], texture[b], strict=True)) / 4
        assert weight == pytest.approx(np.exp(-by_colour - by_texture))


def test_unmarked_superpixels_pay_for_what_the_network_doubts():
    nodes = nodes_of(np.array([[0, 0, 1, 1]]), np.array([[255, 255, 5, 255]], np.uint8))
    probabilities = np.array([[[0.5, 0.25, 1, 1]], [[0.5, 0.75, 0, 0]]], np.float32)
    found = unary_of(nodes, np.array([0, 5], np.uint8), probabilities)
    mean = [-(np.log(0.5) + np.log(p)) / 2 + np.log(2) for p in (0.25, 0.75)]
    np.testing.assert_allclose(found[0], mean, atol=1e-6)
    assert found[1, 0] == np.inf
    assert found[1, 1] == pytest.approx(-np.log(1e-5))


def test_neighbours_are_listed_once():
    assert neighbours(np.array([[0, 0, 2], [1, 1, 2]])).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert neighbours(np.zeros((1, 1), np.int64)).shape == (0, 2)
