from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.data.labels import Points, Scribbles, WeakLabels
from wsseg.errors import DataError
from wsseg.localize.points.marks import draw_marks
from wsseg.localize.scribbles.graph import neighbours, nodes_of
from wsseg.localize.scribbles.scribblesup import CutConfig, edge_weights, histograms
from wsseg.segment.config import Smp
from wsseg.segment.draft import Draft, ImageFacts, scaled_labels
from wsseg.segment.graph_cut import graph_cut
from wsseg.segment.rounds import check_self_training
from wsseg.segment.rounds_cleanup import clean
from wsseg.segment.rounds_config import GraphCutCleanup

PIXELS = SuperpixelConfig(method="slic", area_px=99)


def draft_of(rng, num: int, size) -> Draft:
    values = rng.dirichlet(np.ones(num), size=size).transpose(2, 0, 1)
    return Draft.of(values.astype(np.float32))


def test_the_cut_is_the_cheapest_labelling_of_scribbles_and_network():
    """Against all labelings of a picture of 3 x 4 pixels, each a superpixel."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (3, 4, 3)).astype(np.uint8)
    labels = WeakLabels(scribbles=Scribbles(([[0.5, 0.5]], [[3.5, 2.5]]), [0, 2]))
    draft = draft_of(rng, 3, (3, 4))
    # Edges must count against a network that is unsure.
    cut = CutConfig(delta_colour=3, delta_texture=3)
    config = GraphCutCleanup(scribble_width_px=1, superpixels=PIXELS, cut=cut)
    facts = ImageFacts("a", image, labels, np.zeros((3, 4), np.uint8))
    found = graph_cut(draft, facts, config).mask
    cells = superpixels(image, PIXELS)
    assert len(np.unique(cells)) == 12
    nodes = nodes_of(cells, np.full((3, 4), 255, np.uint8))
    edges = neighbours(nodes.cells)
    weights = edge_weights(*histograms(image, nodes), edges, cut)
    prices = -np.log(np.maximum(draft.probabilities[[0, 2]].reshape(2, 12).T.astype(float), 1e-5))

    def price(chosen: np.ndarray) -> float:
        differs = chosen[edges[:, 0]] != chosen[edges[:, 1]]
        return prices[np.arange(12), chosen].sum() + weights[differs].sum()

    best = min(
        (np.array((0, *inner, 1)) for inner in itertools.product((0, 1), repeat=10)), key=price
    )
    assert found.ravel().tolist() == (2 * best).tolist()
    # The edges decide somewhere, or the test would say nothing of them.
    assert best[1:-1].tolist() != prices.argmin(axis=1)[1:-1].tolist()


def test_classes_that_nobody_marked_are_not_chosen_but_background_is():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    labels = WeakLabels(scribbles=Scribbles(([[4, 4], [20, 14]],), [2]))
    values = np.full((4, 20, 30), 0.01, np.float32)
    values[3, :, 15:], values[0, :, :15] = 0.97, 0.97
    facts = ImageFacts("a", image, labels, np.zeros((20, 30), np.uint8))
    small = SuperpixelConfig(method="slic", area_px=16)
    config = GraphCutCleanup(background="none", superpixels=small)
    found = clean(Draft.of(values), facts, [config]).mask
    assert set(np.unique(found).tolist()) <= {0, 2}
    assert (found == 0).any()
    seeds = draw_marks(labels, (20, 30)).seeds
    assert (found[seeds == 2] == 2).all()


def test_an_image_without_marks_is_left_as_it_is():
    draft = draft_of(np.random.default_rng(0), 3, (5, 6))
    image = np.zeros((5, 6, 3), np.uint8)
    for labels in (WeakLabels(tags={1}), WeakLabels(points=Points([[-3, 2]], [1]))):
        facts = ImageFacts("a", image, labels, np.zeros((5, 6), np.uint8))
        assert graph_cut(draft, facts) is draft


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_any_size_works(size):
    draft = draft_of(np.random.default_rng(0), 3, size)
    labels = WeakLabels(points=Points([[0.5, 0.5]], [1]))
    facts = ImageFacts("a", np.zeros((*size, 3), np.uint8), labels, np.zeros(size, np.uint8))
    found = graph_cut(draft, facts, GraphCutCleanup(point_radius_px=0.5)).mask
    assert found[0, 0] == 1
    assert set(np.unique(found).tolist()) <= {0, 1}


def test_points_and_scribbles_shrink_with_their_image():
    labels = WeakLabels(points=Points([[4, 8]], [1]), scribbles=Scribbles(([[2, 4], [6, 8]],), [2]))
    scaled = scaled_labels(labels, (0.5, 0.25))
    assert scaled.points.xy.tolist() == [[1, 4]]
    assert scaled.scribbles.lines[0].tolist() == [[0.5, 2], [1.5, 4]]


def test_data_without_marks_are_refused_before_the_run(make_dataset):
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 1
    dataset = make_dataset({"a": {"mask": mask}})
    config = Smp.model_validate({"rounds": {"count": 1, "cleanups": ["graph_cut"]}})
    with pytest.raises(DataError, match="graph_cut, but no image of the train split has"):
        check_self_training(dataset, config)
    marked = tuple(
        replace(s, labels=replace(s.labels, points=Points([[1, 1]], [1]))) for s in dataset.samples
    )
    check_self_training(replace(dataset, samples=marked), config)
