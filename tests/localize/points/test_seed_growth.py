from __future__ import annotations

import heapq

import numpy as np
import pytest

from wsseg.cues.lab import lab_image
from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.data.labels import Boxes, Points, Scribbles, WeakLabels
from wsseg.localize.direct import LocalizeContext
from wsseg.localize.points.geodesic import Geodesic, adjacency, geodesic, nearest_class
from wsseg.localize.points.marks import draw_marks
from wsseg.localize.points.random_walker_seeds import (
    RandomWalkerSeeds,
    coarse_seeds,
    first_reached,
    random_walker_seeds,
)
from wsseg.localize.points.seed_map import seeds_of
from wsseg.localize.scribbles.grabcut_scribbles import GrabcutScribbles, grabcut_scribbles
from wsseg.localize.scribbles.graphnet import graphnet
from wsseg.localize.scribbles.label_propagation import label_propagation
from wsseg.localize.scribbles.scribblesup import scribblesup


def hard(scores) -> np.ndarray:
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 12, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def discs():
    """A red and a green disc on grey, what is where, and a stroke on each and on the ground."""
    rows, columns = np.mgrid[:60, :90]
    truth = np.zeros((60, 90), np.uint8)
    truth[(rows - 30) ** 2 + (columns - 25) ** 2 <= 15**2] = 1
    truth[(rows - 30) ** 2 + (columns - 65) ** 2 <= 15**2] = 2
    colours = np.array([[110, 110, 110], [210, 40, 40], [40, 190, 40]])
    strokes = ([[18, 30], [32, 30]], [[60, 26], [70, 34]], [[3, 3], [87, 3]])
    labels = WeakLabels(scribbles=Scribbles(strokes, [1, 2, 0]))
    return noisy(colours[truth]), truth, labels


METHODS = [random_walker_seeds, geodesic, grabcut_scribbles]


@pytest.mark.parametrize("method", METHODS)
def test_strokes_grow_to_the_edges_of_the_objects(method, discs):
    image, truth, labels = discs
    found = hard(method(image, labels))
    known = found != 255
    assert known.mean() > 0.8
    assert (found[known] == truth[known]).mean() > 0.96
    for class_id in (1, 2):
        mine, true = found == class_id, truth == class_id
        assert (mine & true).sum() / (mine | true).sum() > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_points_grow_against_automatic_background(method, discs):
    image, truth, _ = discs
    labels = WeakLabels(points=Points([[25, 30], [65, 30]], [1, 2]))
    context = LocalizeContext()
    found = hard(method(image, labels, context=context))
    assert context.facts["automatic_background"] > 0
    assert (found[0] == 0).mean() > 0.9
    for class_id in (1, 2):
        mine, true = found == class_id, truth == class_id
        # Small seeds far from the edges leave much open, and little wrong.
        assert (mine & true).sum() / mine.sum() > 0.93
        assert (mine & true).sum() / true.sum() > 0.4
        assert (found[true] == 0).mean() < 0.15


@pytest.mark.parametrize("method", METHODS)
def test_seeds_keep_their_class_even_against_the_image(method, discs):
    image, _, _ = discs
    # A stroke of class 2 lies on the red disc of class 1.
    strokes = ([[18, 24], [32, 24]], [[18, 36], [32, 36]], [[3, 3], [87, 3]])
    labels = WeakLabels(scribbles=Scribbles(strokes, [1, 2, 0]))
    found = hard(method(image, labels))
    seeds = draw_marks(labels, (60, 90)).seeds
    assert np.array_equal(found[seeds != 255], seeds[seeds != 255])


@pytest.mark.parametrize("method", METHODS)
def test_seeds_of_one_class_alone_stay_as_they_are(method, discs):
    image, _, _ = discs
    labels = WeakLabels(points=Points([[25, 30]], [1]))
    context = LocalizeContext()
    config_class = {
        random_walker_seeds: RandomWalkerSeeds,
        geodesic: Geodesic,
        grabcut_scribbles: GrabcutScribbles,
    }[method]
    scores = method(image, labels, config=config_class(background="none"), context=context)
    assert np.array_equal(hard(scores), draw_marks(labels, (60, 90)).seeds)
    assert "only the seeds were kept" in context.facts["notes"][-1]


GROWERS = [*METHODS, graphnet, label_propagation, scribblesup]


@pytest.mark.parametrize("method", GROWERS)
def test_pixels_that_two_classes_claim_stay_open(method, discs):
    image, _, labels = discs
    strokes = (*labels.scribbles.lines, [[20, 24], [30, 36]], [[20, 36], [30, 24]])
    crossing = WeakLabels(scribbles=Scribbles(strokes, [1, 2, 0, 1, 2]))
    marks = draw_marks(crossing, (60, 90))
    found = hard(method(image, crossing))
    assert marks.contested.any()
    assert (found[marks.contested] == 255).all()
    sure = marks.seeds != 255
    np.testing.assert_array_equal(found[sure], marks.seeds[sure])


@pytest.mark.parametrize("method", GROWERS)
@pytest.mark.parametrize("tags", [{1, 2, 3}, {1, 2}])
def test_a_tagged_class_without_a_seed_leaves_no_background_but_what_was_marked(
    method, tags, discs
):
    image, truth, labels = discs
    context = LocalizeContext()
    labels = WeakLabels(tags=tags, scribbles=labels.scribbles)
    found = hard(method(image, labels, context=context))
    is_open = tags == {1, 2, 3}
    marked = draw_marks(labels, (60, 90)).seeds == 0
    assert (found[marked] == 0).all()
    assert (found[~marked] == 0).any() != is_open
    assert (found[truth == 1] == 1).mean() > 0.6
    told = any("class(es) 3 have no seed" in note for note in context.facts.get("notes", []))
    assert told == is_open


@pytest.mark.parametrize("method", GROWERS)
def test_automatic_background_is_only_to_grow_against_where_a_class_has_no_seed(method, discs):
    image, truth, _ = discs
    labels = WeakLabels(tags={1, 2}, points=Points([[25, 30]], [1]))
    found = hard(method(image, labels))
    assert set(np.unique(found)) == {1, 255}
    assert (found[truth == 1] == 1).mean() > 0.3


@pytest.mark.parametrize("method", [graphnet, label_propagation])
def test_points_that_contradict_each_other_do_not_become_what_the_boxes_say(method, discs):
    image, _, _ = discs
    twice = Points([[25, 3], [25, 3], [25, 30]], [1, 2, 1])
    boxes = Boxes([[9, 14, 41, 46], [49, 14, 81, 46]], [1, 2])
    labels = WeakLabels(points=twice, boxes=boxes)
    found = hard(method(image, labels))
    contested = draw_marks(labels, (60, 90)).contested
    assert contested[3, 25]
    assert (found[contested] == 255).all()
    assert (found[0, 50:] == 0).all()


def test_the_walk_solves_the_harmonic_equations():
    """Against a dense solution of the linear system in float64, weights as in the book."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (7, 9, 3)).astype(np.uint8)
    seeds = np.full((7, 9), 255, np.uint8)
    seeds[0, 0], seeds[6, 8], seeds[3, 4] = 0, 1, 2
    found = first_reached(image, seeds, np.array([0, 1, 2], np.uint8), 3.0)
    data = image.astype(np.float64) / 255
    index = np.arange(63).reshape(7, 9)
    laplacian = np.zeros((63, 63))
    edges = [*zip(index[:, :-1].ravel(), index[:, 1:].ravel(), strict=True),
             *zip(index[:-1].ravel(), index[1:].ravel(), strict=True)]  # fmt: skip
    flat = data.reshape(-1, 3)
    contrast = np.mean([((flat[a] - flat[b]) ** 2).sum() for a, b in edges])
    for a, b in edges:
        squared = ((flat[a] - flat[b]) ** 2).sum()
        weight = np.exp(-3.0 * squared / contrast) + 1e-10
        laplacian[[a, b], [b, a]] -= weight
        laplacian[a, a] += weight
        laplacian[b, b] += weight
    known = seeds.ravel() != 255
    given = (seeds.ravel()[known][:, None] == [0, 1, 2]).astype(float)
    solved = np.linalg.solve(laplacian[~known][:, ~known], -laplacian[~known][:, known] @ given)
    np.testing.assert_allclose(found.reshape(3, -1)[:, ~known], solved.T, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_a_walk_without_edges_does_not_divide_by_zero():
    image = np.full((5, 9, 3), 77, np.uint8)
    seeds = np.full((5, 9), 255, np.uint8)
    seeds[:, 0], seeds[:, 8] = 0, 3
    found = first_reached(image, seeds, np.array([0, 3], np.uint8), 5.0)
    np.testing.assert_allclose(found[1], np.tile(np.arange(9) / 8, (5, 1)), atol=1e-4)


def test_pixels_that_no_class_is_sure_of_stay_open():
    image = np.full((5, 41, 3), 77, np.uint8)
    strokes = ([[0.5, 0.5], [0.5, 4.5]], [[40.5, 0.5], [40.5, 4.5]])
    labels = WeakLabels(scribbles=Scribbles(strokes, [0, 3]))
    config = RandomWalkerSeeds(min_confidence=0.7, scribble_width_px=1)
    found = hard(random_walker_seeds(image, labels, config=config))[2]
    # The probability falls evenly from 1 at one stroke to 0 at the other, 40 columns on.
    assert found[:13].tolist() == [0] * 13
    assert (found[13:28] == 255).all()
    assert found[28:].tolist() == [3] * 13


def test_the_walk_on_a_shrunk_image_keeps_thin_strokes(discs):
    image, truth, labels = discs
    found = hard(random_walker_seeds(image, labels, config=RandomWalkerSeeds(max_side_px=30)))
    known = found != 255
    assert (found[known] == truth[known]).mean() > 0.93
    thin = WeakLabels(scribbles=Scribbles(([[10, 30], [80, 30]],), [2]))
    config = RandomWalkerSeeds(scribble_width_px=1)
    coarse = coarse_seeds(
        draw_marks(thin, (60, 90), scribble_width_px=1).seeds, thin, config, (6, 9)
    )
    assert (coarse[2:4] == 2).any(axis=0)[1:8].all()


@pytest.mark.parametrize("max_side_px", [128, 32, 16])
def test_automatic_background_survives_any_shrinking(max_side_px):
    image = np.full((256, 256, 3), 60, np.uint8)
    image[100:156, 100:156] = 200
    labels = WeakLabels(points=Points([[128, 128]], [1]))
    config = RandomWalkerSeeds(max_side_px=max_side_px)
    found = hard(random_walker_seeds(image, labels, config=config))
    truth = np.zeros((256, 256), np.uint8)
    truth[100:156, 100:156] = 1
    assert (found[truth == 0] == 1).mean() < 0.05
    assert (found[truth == 1] == 1).mean() > 0.5


def shortest(neighbours: dict, sources: set) -> dict:
    """Dijkstra by the book."""
    found: dict = {}
    queue = [(0.0, node) for node in sources]
    while queue:
        distance, node = heapq.heappop(queue)
        if node in found:
            continue
        found[node] = distance
        for other, length in neighbours[node].items():
            if other not in found:
                heapq.heappush(queue, (distance + length, other))
    return found


def test_superpixels_take_the_class_of_the_nearest_seed_by_an_independent_search():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)
    cells = superpixels(image, SuperpixelConfig(area_px=16))
    lab = lab_image(image)
    means = [lab[cells == k].astype(np.float64).mean(axis=0) for k in range(cells.max() + 1)]
    neighbours: dict = {k: {} for k in range(len(means))}
    for a, b in [*zip(cells[:, :-1].ravel(), cells[:, 1:].ravel(), strict=True),
                 *zip(cells[:-1].ravel(), cells[1:].ravel(), strict=True)]:  # fmt: skip
        if a != b:
            length = 2.0 + float(np.linalg.norm(means[a] - means[b]))
            neighbours[a][b] = neighbours[b][a] = length
    seeds = np.full((24, 24), 255, np.uint8)
    seeds[2, 2], seeds[20, 4], seeds[12, 20] = 0, 5, 9
    ways = {c: shortest(neighbours, set(cells[seeds == c].tolist())) for c in (0, 5, 9)}
    graph = adjacency(image, cells, 2.0)
    class_ids = np.array([0, 5, 9], np.uint8)
    found = nearest_class(graph, cells, seeds, class_ids, min_lead=0.2)
    for node in range(len(means)):
        ordered = sorted((ways[c][node], c) for c in (0, 5, 9))
        is_open = ordered[1][0] - ordered[0][0] < 0.2 * ordered[1][0]
        assert found[node] == (255 if is_open else ordered[0][1])
    assert 0 < (found == 255).sum() < len(means)


def test_a_superpixel_with_seeds_of_two_classes_is_open_but_for_the_seeds():
    image = np.zeros((30, 30, 3), np.uint8)
    labels = WeakLabels(points=Points([[14.5, 15.5], [16.5, 15.5]], [1, 2]))
    config = Geodesic(background="none", point_radius_px=0.5, superpixels={"area_px": 900})
    # One superpixel per pixel where the image is that small; so a larger one is needed.
    config = config.model_copy(update={"superpixels": SuperpixelConfig(area_px=400)})
    cells = superpixels(image, config.superpixels)
    found = hard(geodesic(image, labels, config=config))
    assert found[15, 14] == 1
    assert found[15, 16] == 2
    if cells[15, 14] == cells[15, 16]:
        same = cells == cells[15, 14]
        assert (found[same] == 255).sum() == same.sum() - 2


def test_a_class_whose_cut_covers_everything_keeps_its_seeds():
    image = noisy(np.full((40, 40, 3), 120))
    strokes = ([[10, 20], [30, 20]], [[2, 2], [38, 2]])
    labels = WeakLabels(scribbles=Scribbles(strokes, [1, 0]))
    context = LocalizeContext()
    config = GrabcutScribbles(max_frac=0.05)
    found = hard(grabcut_scribbles(image, labels, config=config, context=context))
    assert np.array_equal(found, draw_marks(labels, (40, 40)).seeds)
    assert "keep their seeds alone" in context.facts["notes"][0]


def test_lines_between_points_keep_objects_apart_on_a_coarse_grid():
    image = np.full((128, 256, 3), 60, np.uint8)
    labels = WeakLabels(points=Points([[64, 64], [192, 64]], [1, 1]))
    config = RandomWalkerSeeds(max_side_px=64, ridges=True, background="none")
    coarse = coarse_seeds(seeds_of(image, labels, config), labels, config, (32, 64))
    lines = np.flatnonzero((coarse == 0).any(axis=0))
    assert set(lines.tolist()) <= {31, 32}
    assert (coarse[:, lines] == 0).any(axis=1).all()
    plain = RandomWalkerSeeds(max_side_px=64, background="none")
    assert not (coarse_seeds(seeds_of(image, labels, plain), labels, plain, (32, 64)) == 0).any()
