from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.refine.guided_labelling import GuidedLabelling, guided_labelling
from wsseg.refine.protocol import RefineContext

# Rows of pictures: letters are seeds of the classes A (id 3) and B (id 8), # is salient without
# a seed, a and b are seeds outside of what is salient, and dots are neither.
IDS = {"A": 3, "a": 3, "B": 8, "b": 8}
NO_COLOUR = CrfConfig(bilateral_compat=0)


def picture(text: str) -> tuple[Scores, np.ndarray]:
    """Read seeds and saliency from a drawing."""
    grid = np.array([list(line) for line in text.split()])
    values = np.zeros((3, *grid.shape), np.float32)
    values[1] = np.isin(grid, ["A", "a"]) * 0.9
    values[2] = np.isin(grid, ["B", "b"]) * 0.5
    return Scores(values, np.array([0, 3, 8], np.uint8), grid.shape), np.isin(
        grid, ["A", "B", "#"]
    ).astype(np.float32)


def labels(scores: Scores) -> np.ndarray:
    """Class ids, 255 where nothing is known; scores must be 0 or 1 and name one row at most."""
    assert set(np.unique(scores.values)) <= {0, 1}
    assert scores.values.sum(axis=0).max() <= 1
    found = scores.class_ids[scores.values.argmax(axis=0)]
    return np.where(scores.unknown, 255, found)


def labelled(text: str, mode: str, image=None, sample_id: str = "", **settings) -> np.ndarray:
    scores, cue = picture(text)
    image = np.zeros((*scores.size, 3), np.uint8) if image is None else image
    config = GuidedLabelling(mode=mode, **settings)
    context = RefineContext(sample_id=sample_id, cue=cue)
    return labels(guided_labelling(image, scores, config=config, context=context))


def expected(text: str) -> np.ndarray:
    grid = np.array([list(line) for line in text.split()])
    return np.vectorize(lambda c: {".": 0, "?": 255}.get(c, IDS.get(c)))(grid)


TWO_THINGS = """
    A##.##.
    ###.#B.
    .....B.
    .a.....
    ##.....
"""


def test_g0_gives_all_that_is_salient_one_tag():
    found = labelled(TWO_THINGS, "g0")
    salient = picture(TWO_THINGS)[1] > 0
    assert set(np.unique(found[~salient])) == {0}
    assert len(np.unique(found[salient])) == 1
    assert found[salient][0] in (3, 8)


def test_g0_draws_by_image_and_seed_and_repeats():
    drawn = {labelled(TWO_THINGS, "g0", sample_id=f"image-{i}").max() for i in range(12)}
    assert drawn == {3, 8}
    again = {i: labelled(TWO_THINGS, "g0", sample_id="x", seed=i).max() for i in range(12)}
    assert set(again.values()) == {3, 8}
    assert labelled(TWO_THINGS, "g0", sample_id="x", seed=5).max() == again[5]


def test_g1_gives_each_component_its_class_and_forgets_what_has_no_seed():
    want = """
        AAA.BB.
        AAA.BB.
        .....B.
        .......
        .......
    """
    np.testing.assert_array_equal(labelled(TWO_THINGS, "g1"), expected(want))


def test_a_component_without_seeds_may_be_left_open():
    for mode in ("g1", "g2"):
        found = labelled("A#.##", mode, no_seed="open", growth_px=0)
        np.testing.assert_array_equal(found, expected("AA.??"))


def test_g1_counts_seeds_and_takes_the_majority():
    np.testing.assert_array_equal(labelled("ABB#", "g1"), expected("BBBB"))
    np.testing.assert_array_equal(labelled("AAB#", "g1"), expected("AAAA"))
    # Of equally many the smaller id.
    np.testing.assert_array_equal(labelled("B#A", "g1"), expected("AAA"))


def test_diagonal_neighbours_are_one_component():
    np.testing.assert_array_equal(labelled("A. .#", "g1"), expected("A. .A"))


def test_g2_lets_touching_classes_share_a_component():
    """Dark on the left, bright on the right: the CRF spreads each seed over its colour."""
    text = "\n".join(["............", *[".A########B."] * 6, "............"])
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, 5:] = 220
    found = labelled(text, "g2", image)
    want = "\n".join(["............", *[".AAAABBBBBB."] * 6, "............"])
    np.testing.assert_array_equal(found, expected(want))
    assert len(np.unique(labelled(text, "g1", image)[1:-1, 1:-1])) == 1


def test_g2_with_one_class_per_component_is_g1():
    text = "A##.##\n###.#B\n......\n......\n###..."
    np.testing.assert_array_equal(labelled(text, "g2"), labelled(text, "g1"))


def test_g2_never_gives_a_component_a_class_without_a_seed_there():
    rng = np.random.default_rng(0)
    for _ in range(10):
        values = rng.random((3, 20, 24)).astype(np.float32) ** 8
        cue = ndimage.gaussian_filter(rng.random((20, 24)), 2)
        cue = ((cue - cue.min()) / (cue.max() - cue.min())).astype(np.float32)
        scores = Scores(values, np.array([0, 3, 8], np.uint8), (20, 24))
        image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        config = GuidedLabelling(min_seed=0.6)
        found = labels(
            guided_labelling(image, scores, config=config, context=RefineContext(cue=cue))
        )
        seeds = [values[row] >= 0.6 * values[row].max() for row in (1, 2)]
        better = values[1] >= values[2]
        only = [seeds[0] & (better | ~seeds[1]), seeds[1] & (~better | ~seeds[0])]
        numbers, count = ndimage.label(cue > 0.5, np.ones((3, 3)))
        for number in range(1, count + 1):
            inside = numbers == number
            seen = {i for i, seed in zip((3, 8), only, strict=True) if (seed & inside).any()}
            assert set(np.unique(found[inside])) <= (seen or {0})


def test_seeds_that_touch_nothing_salient_are_kept_and_their_surroundings_left_open():
    """The seed is bright, the rest dark: the CRF keeps growth within the bright square."""
    text = "\n".join(["#.............", *["." * 14] * 9])
    scores, cue = picture(text)
    scores.values[1, 4:6, 6:8] = 0.9
    image = np.zeros((10, 14, 3), np.uint8)
    image[3:7, 5:9] = 230
    config = GuidedLabelling(growth_px=3, crf=CrfConfig(gauss_compat=0))
    found = labels(guided_labelling(image, scores, config=config, context=RefineContext(cue=cue)))
    distance = ndimage.distance_transform_edt(scores.values[1] == 0)
    assert (found[4:6, 6:8] == 3).all()
    assert set(np.unique(found[distance > 3])) == {0}
    around = (distance > 0) & (distance <= 3)
    assert set(np.unique(found[around])) <= {3, 255}
    dark = around & (image[..., 0] == 0)
    assert (found[dark] == 255).mean() > 0.9


def test_a_seed_that_reaches_out_of_a_component_does_not_grow_there():
    found = labelled("#Aaa....", "g2")
    np.testing.assert_array_equal(found, expected("AA......"))


def test_seeds_are_relative_to_the_maximum_of_their_class():
    values = np.zeros((3, 1, 4), np.float32)
    values[1, 0] = [1.0, 0.15, 0.25, 0]
    values[2, 0] = [0, 0.03, 0.1, 0.1]
    scores = Scores(values, np.array([0, 3, 8], np.uint8), (1, 4))
    cue = np.array([[0.9, 0.0, 0.9, 0.0]], np.float32)
    config = GuidedLabelling(mode="g1")
    image = np.zeros((1, 4, 3), np.uint8)
    context = RefineContext(cue=cue)
    found = labels(guided_labelling(image, scores, config=config, context=context))
    assert found.tolist() == [[3, 0, 3, 0]]
    cue = np.array([[0.0, 0.9, 0.0, 0.9]], np.float32)
    context = RefineContext(cue=cue)
    found = labels(guided_labelling(image, scores, config=config, context=context))
    assert found.tolist() == [[0, 8, 0, 8]]


def test_salient_is_relative_to_the_maximum_of_the_map():
    scores, cue = picture("A#.B")
    context = RefineContext(cue=cue * np.float32(0.1))
    image = np.zeros((1, 4, 3), np.uint8)
    config = GuidedLabelling(mode="g1")
    found = labels(guided_labelling(image, scores, config=config, context=context))
    np.testing.assert_array_equal(found, expected("AA.B"))


@pytest.mark.parametrize("mode", ["g0", "g1", "g2"])
def test_a_map_of_zeros_makes_nothing_background(mode):
    found = labelled("....\n.a..\n....", mode, growth_px=0)
    assert (found[0] == 255).all()
    assert 0 not in found
    assert (found[1, 1] == 3) == (mode == "g2")


def test_a_class_without_evidence_gets_nothing_from_seeds():
    for mode in ("g1", "g2"):
        assert 8 not in labelled("A##", mode)


def test_a_missing_cue_is_told_with_a_remedy():
    scores, _ = picture("A#")
    with pytest.raises(DataError, match=r'guided_labelling needs a saliency cue for image "x"'):
        guided_labelling(
            np.zeros((1, 2, 3), np.uint8), scores, context=RefineContext(sample_id="x")
        )


def test_what_is_left_open_is_ignored_in_masks_and_a_miss_in_numbers(tmp_path, make_dataset):
    from wsseg.plan import evaluate_inputs, plan, pseudo_rule
    from wsseg.recipe import load_recipe
    from wsseg.rundir import RunDir

    dataset = make_dataset({"a": {"tags": {1}}})
    for name, is_open in (("oh_guided", True), ("cam", False)):
        recipe = load_recipe(name)
        stages = plan(RunDir(tmp_path), dataset, recipe, use_masks=False)
        assert pseudo_rule(recipe).no_evidence == ("ignore" if is_open else "background")
        assert evaluate_inputs(recipe, stages).refine[0].leaves_open == is_open
