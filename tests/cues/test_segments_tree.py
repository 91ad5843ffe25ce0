from __future__ import annotations

import numpy as np
import pytest

from wsseg.cues.region_tree import RegionTree
from wsseg.cues.segments import Prompt, open_segments
from wsseg.cues.segments_tree import Superpixels, lifetimes, superpixel_tree
from wsseg.cues.superpixels import SuperpixelConfig
from wsseg.errors import DataError

# Superpixels of one colour each, cut exactly along the drawn things.
EXACT = Superpixels(
    superpixels=SuperpixelConfig(method="felzenszwalb", sigma_px=0, scale=1, min_area_px=4)
)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def drawn():
    """A box with a red mark on it, and a dark disc, on light ground."""
    image = np.full((80, 120, 3), 210, np.uint8)
    things = {name: np.zeros((80, 120), bool) for name in ("box", "mark", "disc")}
    things["box"][20:50, 20:60] = True
    things["mark"][25:45, 26:50] = True
    rows, columns = np.mgrid[:80, :120]
    things["disc"][(rows - 55) ** 2 + (columns - 92) ** 2 < 12**2] = True
    image[things["box"]] = 130
    image[things["mark"]] = (160, 110, 110)
    image[things["disc"]] = 20
    return image, things


@pytest.fixture(scope="module")
def scene():
    image, things = drawn()
    return open_segments(image, EXACT), things


def test_everything_holds_each_thing_exactly(scene):
    opened, things = scene
    found = opened.everything()
    for thing in (things["mark"], things["disc"], things["box"]):
        assert max(iou(mask, thing) for mask in found.masks) == 1
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.max() <= 1


def test_what_lasts_longer_in_the_tree_is_more_stable(scene):
    opened, things = scene
    found = opened.everything()
    score = {
        name: float(found.scores[[iou(mask, thing) == 1 for mask in found.masks]][0])
        for name, thing in things.items()
    }
    # The mark lasts from nothing to the box, the box from there to the ground, which is less.
    assert score["disc"] > score["mark"] > score["box"] > 0.2


def test_a_point_gives_the_part_and_the_whole(scene):
    opened, things = scene
    [answer] = opened.at([Prompt([(37, 35)])])
    assert iou(answer.mask(0), things["mark"]) == 1
    assert iou(answer.mask(1), things["box"]) == 1
    assert (np.diff(answer.areas()) > 0).all()


def test_a_negative_point_cuts_the_part_off(scene):
    opened, things = scene
    [answer] = opened.at([Prompt([(22, 22), (37, 35)], [True, False])])
    assert iou(answer.mask(0), things["box"] & ~things["mark"]) == 1
    assert not any(mask[35, 37] for mask in answer.masks)


def test_several_points_give_what_they_are_on_together(scene):
    opened, things = scene
    [answer] = opened.at([Prompt([(22, 22), (92, 55)])])
    both = (things["box"] & ~things["mark"]) | things["disc"]
    assert iou(answer.mask(0), both) == 1
    assert all(mask[22, 22] and mask[55, 92] for mask in answer.masks)


def test_a_box_gives_the_thing_in_it_and_not_the_ground(scene):
    opened, things = scene
    answers = opened.at([Prompt(box=(17.5, 16, 63, 53)), Prompt(box=(78, 41, 106, 70))])
    assert iou(answers[0].masks[answers[0].scores.argmax()], things["box"]) == 1
    assert iou(answers[1].masks[answers[1].scores.argmax()], things["disc"]) == 1


def test_a_box_with_a_point_gives_the_part_that_is_meant(scene):
    opened, things = scene
    [answer] = opened.at([Prompt([(37, 35)], box=(17, 16, 63, 53))])
    assert iou(answer.mask(0), things["mark"]) == 1
    [rest] = opened.at([Prompt([(37, 35)], [False], box=(17, 16, 63, 53))])
    assert iou(rest.masks[rest.scores.argmax()], things["box"] & ~things["mark"]) == 1


def test_prompts_are_answered_one_by_one(scene):
    opened, _ = scene
    prompts = [Prompt([(92, 55)]), Prompt(box=(17, 16, 63, 53)), Prompt([(3, 3)])]
    together = opened.at(prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        [alone] = opened.at([prompt])
        np.testing.assert_array_equal(alone.packed, answer.packed)
        assert len(answer) <= 3


def test_a_box_smaller_than_any_region_has_no_answer(scene):
    opened, _ = scene
    [answer] = opened.at([Prompt(box=(22, 22, 24, 24))])
    assert len(answer) == 0


@pytest.mark.parametrize("point", [(-1, 5), (120, 5), (5, 80)])
def test_a_point_outside_of_the_image_is_refused(scene, point):
    with pytest.raises(DataError, match="lies outside of the image of 120 x 80 px"):
        scene[0].at([Prompt([point])])


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 30), (40, 50)])
def test_an_image_of_one_colour_has_no_segment(size):
    opened = open_segments(np.full((*size, 3), 99, np.uint8))
    assert len(opened.everything()) == 0
    assert opened.everything().masks.shape == (0, *size)
    answers = opened.at([Prompt([(0, 0)]), Prompt(box=(0, 0, size[1], size[0]))])
    assert [len(answer) for answer in answers] == [0, 0]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40), (9, 7)])
def test_tiny_images_are_answered(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    opened = superpixel_tree(image, config=Superpixels(min_area_px=1, min_stability=0))
    found = opened.everything()
    assert found.size == size
    for answer in opened.at([Prompt([(0, 0)]), Prompt(box=(0, 0, 1, 1))]):
        assert answer.size == size
        assert all(mask[0, 0] for mask in answer.masks)


def test_grey_images_are_cut_alike():
    image, things = drawn()
    grey = np.repeat(image[..., :1], 3, axis=2)
    found = open_segments(grey, EXACT).everything()
    assert max(iou(mask, things["disc"]) for mask in found.masks) == 1


def test_more_than_255_segments_are_kept_apart():
    image = np.full((200, 200, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    for row in range(4, 200, 10):
        for column in range(4, 200, 10):
            image[row : row + 6, column : column + 6] = rng.integers(0, 256, 3)
    config = EXACT.model_copy(update={"min_area_px": 10, "max_segments": 1000})
    found = open_segments(image, config).everything()
    assert len(found) > 255
    by_area = np.argsort(-found.areas(), kind="stable").tolist()
    assert len(np.unique(found.label_map(by_area))) > 256


def test_nothing_repeats_a_better_segment_and_limits_hold(scene):
    image, _ = drawn()
    noisy = (image + np.random.default_rng(0).integers(0, 30, image.shape)).astype(np.uint8)
    found = open_segments(noisy, Superpixels(max_segments=12, max_iou=0.5)).everything()
    masks = found.masks
    assert len(found) == 12
    for one in range(12):
        for other in range(one):
            assert iou(masks[one], masks[other]) <= 0.5
    assert (found.areas() <= 0.9 * 80 * 120).all()
    assert (found.areas() >= 20).all()


def test_the_image_stays_as_it_is_and_the_answer_the_same():
    image, _ = drawn()
    before = image.copy()
    first, second = (open_segments(image).everything() for _ in range(2))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(first.packed, second.packed)
    with pytest.raises(DataError, match=r"expected \(H, W, 3\) uint8"):
        open_segments(image[..., 0])


def test_tree_distances_are_the_heights_of_common_regions():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    config = Superpixels(superpixels=SuperpixelConfig(area_px=16))
    opened = superpixel_tree(image, config=config)
    tree: RegionTree = opened.tree
    found = opened._distances(np.array([[3.0, 7.0], [15.0, 2.0]]))
    for rank in range(tree.num_leaves):
        place = tree.ranks == rank
        common = []
        for x, y in ((3, 7), (15, 2)):
            holders = [
                tree.heights[node]
                for node in range(len(tree.parents))
                if tree.mask(node)[y, x] and tree.mask(node)[place].all()
            ]
            common.append(min(holders))
        assert found[rank] == min(common)


def test_lifetimes_end_where_an_area_has_grown_by_a_ninth():
    times = np.array([0.0, 1.0, 4.0, 6.0])
    areas = np.array([50.0, 90.0, 100.0, 300.0])
    assert lifetimes(times, areas, 10.0).tolist() == [1.0, 5.0, 5.0, 4.0]
