"""SDI's M∩G+: what the best segment of a box and GrabCut agree on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.cues.segments import Segments
from wsseg.cues.segments_folder import FolderSegments
from wsseg.data.labels import Boxes, WeakLabels
from wsseg.errors import DataError
from wsseg.localize.boxes import sdi_consensus as module
from wsseg.localize.boxes.grabcut_jitter import GrabcutJitter, foreground_votes
from wsseg.localize.boxes.sdi_consensus import (
    SdiConsensus,
    best_segment,
    paint_consensus,
    sdi_consensus,
)
from wsseg.localize.boxes.windows import BoxWindow
from wsseg.localize.direct import LocalizeContext
from wsseg.preflight import preflight
from wsseg.recipe import load_recipe

SIZE = (40, 50)


def hard(scores) -> np.ndarray:
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


@pytest.fixture
def square():
    """A red square that GrabCut finds, and a box around it."""
    image = np.full((*SIZE, 3), 30, np.uint8)
    image[10:30, 12:36] = (200, 40, 40)
    return image, WeakLabels(tags={3}, boxes=Boxes([[9, 7, 39, 33]], [3]))


def write_segments(tmp_path, numbers) -> FolderSegments:
    Image.fromarray(numbers).save(tmp_path / "a.png")
    return FolderSegments(path=str(tmp_path))


def test_the_rule_is_class_ignore_or_not_the_object():
    rng = np.random.default_rng(0)
    window = BoxWindow(4, 3, 13, 5, 25)
    segment, sure = rng.random((2, 10, 20)) < 0.5
    possible = sure | (rng.random((10, 20)) < 0.3)
    mask = np.full((20, 30), 7, np.uint8)
    assert paint_consensus(mask, window, segment, (sure, possible), 0.1)
    for y in range(20):
        for x in range(30):
            expected = 7
            if 3 <= y < 13 and 5 <= x < 25:
                m, g, maybe = (one[y - 3, x - 5] for one in (segment, sure, possible))
                expected = 4 if m and g else 255 if m or maybe else 7
            assert mask[y, x] == expected


def test_a_missing_opinion_is_the_box_itself_and_two_are_none():
    window = BoxWindow(4, 0, 2, 0, 4)
    left = np.zeros((2, 4), bool)
    left[:, :2] = True
    for segment, cut in ((left, None), (None, (left, left))):
        mask = np.zeros((2, 5), np.uint8)
        assert paint_consensus(mask, window, segment, cut, 0.1)
        assert mask.tolist() == [[4, 4, 255, 255, 0]] * 2
    mask = np.zeros((2, 5), np.uint8)
    assert not paint_consensus(mask, window, None, None, 0.1)
    assert not paint_consensus(mask, window, left, (~left, ~left), 0.1)
    assert not mask.any()


def test_the_segment_is_the_one_whose_own_box_overlaps_most():
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 10:30, 12:20] = masks[1, 8, 9:40] = masks[2, 0:3, 0:3] = True
    masks[1, 8:33, 9] = masks[1, 32, 9:41] = True  # a thin ring has the box of a full one
    segments = Segments.of_masks(masks, np.array([0.9, 0.5, 0.4]))
    window = BoxWindow(1, 6, 34, 8, 40)
    np.testing.assert_array_equal(best_segment(segments, window, 0.5), masks[1, 6:34, 8:40])
    overlap = (25 * 31) / (28 * 32 + 25 * 32 - 25 * 31)
    assert best_segment(segments, window, overlap + 0.01) is None
    assert best_segment(segments, window, overlap - 0.01) is not None
    empty = Segments.of_masks(np.zeros((0, *SIZE), bool), np.zeros(0))
    assert best_segment(empty, window, 0.0) is None
    assert best_segment(segments, BoxWindow(1, 36, 40, 44, 50), 0.0) is None


@pytest.mark.parametrize("ask", ["all", "box"])
def test_where_segment_and_grabcut_differ_nothing_is_known(square, tmp_path, ask):
    image, labels = square
    numbers = np.zeros(SIZE, np.uint8)
    numbers[10:30, 12:38] = 1
    numbers[10:30, 12:16] = 0
    config = SdiConsensus(segments=write_segments(tmp_path, numbers), ask=ask)
    context = LocalizeContext(sample_id="a")
    found = hard(sdi_consensus(image, labels, config=config, context=context))
    expected = np.zeros(SIZE, int)
    expected[10:30, 16:36] = 3
    expected[10:30, 12:16] = expected[10:30, 36:38] = 255
    np.testing.assert_array_equal(found, expected)
    assert context.facts == {"boxes": 1, "without_segment": 0, "fallback_boxes": 0}


def test_a_box_without_a_segment_trusts_grabcut_and_leaves_its_rest_open(square, tmp_path):
    image, labels = square
    config = SdiConsensus(segments=write_segments(tmp_path, np.zeros(SIZE, np.uint8)))
    context = LocalizeContext(sample_id="a")
    found = hard(sdi_consensus(image, labels, config=config, context=context))
    expected = np.zeros(SIZE, int)
    expected[7:33, 9:39] = 255
    expected[10:30, 12:36] = 3
    np.testing.assert_array_equal(found, expected)
    assert context.facts["without_segment"] == 1


@pytest.mark.parametrize(("fallback", "sure"), [("inner", 0.2), ("filled", 1.0)])
def test_a_box_without_any_opinion_falls_back(tmp_path, fallback, sure):
    image = np.full((*SIZE, 3), 90, np.uint8)
    labels = WeakLabels(boxes=Boxes([[8, 6, 40, 34]], [3]))
    segments = write_segments(tmp_path, np.zeros(SIZE, np.uint8))
    config = SdiConsensus(segments=segments, fallback=fallback)
    context = LocalizeContext(sample_id="a")
    found = hard(sdi_consensus(image, labels, config=config, context=context))
    assert (found == 3).sum() == pytest.approx(sure * 28 * 32, rel=0.05)
    assert context.facts["fallback_boxes"] == 1
    assert "taken by themselves" in context.facts["notes"][0]


def test_several_runs_vote_as_grabcut_jitter_does(square, tmp_path, monkeypatch):
    image, labels = square
    seen = []

    def remember(image, window, config, rng):
        seen.append(config)
        return foreground_votes(image, window, config, rng)

    monkeypatch.setattr(module, "foreground_votes", remember)
    numbers = np.zeros(SIZE, np.uint8)
    numbers[10:30, 12:36] = 1
    settings = {"runs": 3, "jitter_frac": 0.1, "foreground": 0.6, "background": 0.3}
    config = SdiConsensus(segments=write_segments(tmp_path, numbers), **settings)
    context = LocalizeContext(sample_id="a")
    found = hard(sdi_consensus(image, labels, config=config, context=context))
    assert (found[12:28, 14:34] == 3).all()
    [used] = seen
    assert isinstance(used, GrabcutJitter)
    assert {key: getattr(used, key) for key in settings} == settings
    assert used.max_side_px == config.max_side_px


def test_the_recipe_takes_it_and_missing_segments_are_told_before_the_run(make_dataset, tmp_path):
    from wsseg.context import RunContext
    from wsseg.plan import plan
    from wsseg.rundir import RunDir

    dataset = make_dataset({"a": {"size": SIZE}, "b": {"size": SIZE}})
    recipe = load_recipe("sdi", ["localize=sdi_consensus"])
    assert recipe.localize.name == "sdi_consensus"
    none = tmp_path / "none"
    recipe = load_recipe(
        "sdi", [f"localize={{name: sdi_consensus, segments: {{name: folder, path: {none}}}}}"]
    )
    samples = tuple(
        s.__class__(s.id, s.image_path, WeakLabels(boxes=Boxes([[1, 1, 9, 9]], [1])), s.split)
        for s in dataset
    )
    boxed = dataset.__class__(dataset.root, dataset.classes, samples)
    stages = plan(RunDir(tmp_path / "run"), boxed, recipe, False)
    with pytest.raises(DataError, match="none"):
        preflight(boxed, recipe, stages, ("localize",), RunContext())


def test_votes_that_contradict_each_other_are_told_before_the_run():
    with pytest.raises(ValueError, match=r"background is 0\.5.*foreground \(0\.4\)"):
        SdiConsensus(runs=3, foreground=0.4, background=0.5)
    assert SdiConsensus(runs=1, foreground=0.4, background=0.5).runs == 1
