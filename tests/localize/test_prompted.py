from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.cues.segments import Segments
from wsseg.cues.segments_folder import FolderSegments
from wsseg.data.labels import Boxes, Points, WeakLabels
from wsseg.localize.direct import LocalizeContext
from wsseg.localize.prompted import (
    BoxPrompts,
    PointPrompts,
    box_prompts,
    chosen_mask,
    painted,
    point_prompts,
)
from wsseg.localize.prompted import _Found as Found

SIZE = (20, 30)
IMAGE = np.zeros((*SIZE, 3), np.uint8)
NUMBERS = np.zeros(SIZE, np.uint8)
NUMBERS[2:12, 2:12] = 1
NUMBERS[4:10, 16:28] = 2
NUMBERS[14:19, 3:20] = 3


@pytest.fixture
def segments(tmp_path):
    Image.fromarray(NUMBERS).save(tmp_path / "a.png")
    return FolderSegments(path=str(tmp_path))


@pytest.fixture
def context():
    return LocalizeContext(sample_id="a")


def shown(scores):
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


def test_points_get_the_segments_under_them(segments, context):
    labels = WeakLabels(points=Points([[5, 5], [20, 6], [5, 16]], [4, 4, 9]))
    found = point_prompts(IMAGE, labels, config=PointPrompts(segments=segments), context=context)
    np.testing.assert_array_equal(shown(found), np.array([0, 4, 4, 9])[NUMBERS])
    assert found.class_ids.tolist() == [0, 4, 9]
    assert context.facts == {}
    joined = PointPrompts(segments=segments, join=True)
    together = point_prompts(IMAGE, labels, config=joined, context=context)
    np.testing.assert_array_equal(together.values, found.values)


def test_a_point_without_a_segment_is_its_disc_and_the_rest_is_unknown(segments, context):
    labels = WeakLabels(points=Points([[5, 5], [25.5, 16.5]], [4, 9]))
    config = PointPrompts(segments=segments, point_radius_px=2)
    mask = shown(point_prompts(IMAGE, labels, config=config, context=context))
    np.testing.assert_array_equal(mask == 4, NUMBERS == 1)
    y, x = np.mgrid[:20, :30] + 0.5
    np.testing.assert_array_equal(mask == 9, (x - 25.5) ** 2 + (y - 16.5) ** 2 <= 4)
    assert not (mask == 0).any()
    assert context.facts["without_segment"] == 1
    assert "only the point itself is known" in context.facts["notes"][0]


def test_answers_that_hold_a_point_of_another_class_are_rejected():
    masks = np.zeros((3, 4, 6), bool)
    masks[0, 1, 1] = masks[1, :3, :3] = masks[2] = True
    answer = Segments.of_masks(masks, np.array([0.2, 0.5, 0.9]))
    nobody, corner, near = np.zeros((0, 2)), np.array([[5.5, 3.5]]), np.array([[2.5, 0.5]])
    np.testing.assert_array_equal(chosen_mask(answer, nobody, "score"), masks[2])
    np.testing.assert_array_equal(chosen_mask(answer, corner, "score"), masks[1])
    np.testing.assert_array_equal(chosen_mask(answer, near, "whole"), masks[0])
    assert chosen_mask(answer, np.array([[1.5, 1.5]]), "score") is None


def test_the_smaller_mask_lies_on_top():
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 2:6, 2:6] = masks[1, :10, :10] = True
    for order in ((0, 1), (1, 0)):
        found = painted([Found(i + 1, masks[i]) for i in order], SIZE)
        np.testing.assert_array_equal(found, np.where(masks[0], 1, np.where(masks[1], 2, 0)))


def test_boxes_get_the_segment_in_them_and_without_one_their_pixels_are_unknown(segments, context):
    boxes = [[15, 3, 29, 11], [2, 13, 21, 20], [22, 14, 40, 19], [50, 2, 60, 9]]
    labels = WeakLabels(boxes=Boxes(boxes, [4, 9, 4, 4]))
    config = BoxPrompts(segments=segments)
    mask = shown(box_prompts(IMAGE, labels, config=config, context=context))
    expected = np.array([0, 0, 4, 9])[NUMBERS]
    expected[14:19, 22:30] = 255
    np.testing.assert_array_equal(mask, expected)
    assert context.facts["without_segment"] == 1


def test_an_empty_image_is_background_and_shapes_outside_of_it_say_nothing(segments, context):
    config = PointPrompts(segments=segments)
    empty = point_prompts(IMAGE, WeakLabels(tags=frozenset()), config=config, context=context)
    assert empty.class_ids.tolist() == [0]
    assert (empty.values == 1).all()
    outside = WeakLabels(points=Points([[-4, 2], [31, 2]], [4, 4]))
    found = point_prompts(IMAGE, outside, config=config, context=context)
    assert found.unknown.all()
    assert "no point lies in the image" in context.facts["notes"][0]


def test_a_tagged_class_without_a_point_or_a_box_may_be_anywhere(segments, context):
    points, boxes = Points([[5, 5]], [4]), Boxes([[15, 3, 29, 11]], [4])
    asked = {
        point_prompts: (PointPrompts(segments=segments), {"points": points}, NUMBERS == 1),
        box_prompts: (BoxPrompts(segments=segments), {"boxes": boxes}, NUMBERS == 2),
    }
    for method, (config, shapes, truth) in asked.items():
        for tags, ground in (({4, 9}, 255), ({4}, 0), (None, 0)):
            labels = WeakLabels(tags=tags, **shapes)
            context.facts.clear()
            mask = shown(method(IMAGE, labels, config=config, context=context))
            np.testing.assert_array_equal(mask, np.where(truth, 4, ground))
            told = any("class(es) 9 have no" in n for n in context.facts.get("notes", []))
            assert told == (ground == 255)


def test_a_class_with_points_alone_leaves_the_outside_of_boxes_unknown(segments, context):
    labels = WeakLabels(boxes=Boxes([[15, 3, 29, 11]], [4]), points=Points([[5, 16]], [9]))
    config = BoxPrompts(segments=segments)
    mask = shown(box_prompts(IMAGE, labels, config=config, context=context))
    expected = np.where(NUMBERS == 2, 4, 255)
    expected[16, 5] = 9
    np.testing.assert_array_equal(mask, expected)


def test_answers_are_cut_at_their_box(segments, context):
    labels = WeakLabels(boxes=Boxes([[16.5, 4, 26, 10]], [4]), points=Points([[20, 6]], [4]))
    config = BoxPrompts(segments=segments)
    mask = shown(box_prompts(IMAGE, labels, config=config, context=context))
    expected = np.where(NUMBERS == 2, 4, 0)
    expected[:, 26:] = 0
    np.testing.assert_array_equal(mask, expected)


def test_points_in_a_box_are_sent_with_it_and_pinned(monkeypatch, context):
    asked = []

    class Nothing:
        size = SIZE

        def at(self, prompts):
            asked.extend(prompts)
            return [Segments.of_masks(np.zeros((0, *SIZE), bool), np.zeros(0)) for _ in prompts]

    monkeypatch.setattr("wsseg.localize.prompted.open_kept", lambda *_: Nothing())
    boxes = Boxes([[0, 0, 20, 18], [2, 2, 10, 10]], [4, 4])
    points = Points(
        [[5.5, 5.5], [15.5, 5.5], [6.5, 3.5], [25, 2], [7, 7], [7, 7]], [4, 4, 9, 9, 4, 9]
    )
    labels = WeakLabels(boxes=boxes, points=points)
    mask = shown(box_prompts(IMAGE, labels, config=BoxPrompts(), context=context))
    large, small = asked
    # A point of the class belongs to the smallest box of the class that holds it.
    assert large.points.tolist() == [[15.5, 5.5], [6.5, 3.5], [7, 7]]
    assert large.positive.tolist() == [True, False, False]
    assert small.points.tolist() == [[5.5, 5.5], [6.5, 3.5], [7, 7], [7, 7]]
    assert small.positive.tolist() == [True, False, True, False]
    assert mask[5, 5] == mask[5, 15] == 4
    assert mask[3, 6] == mask[2, 25] == 9
    assert mask[7, 7] == 255


def test_a_box_with_a_point_of_another_class_takes_what_does_not_hold_it(segments, context):
    boxes = Boxes([[0, 0, 30, 20]], [4])
    labels = WeakLabels(boxes=boxes, points=Points([[20, 6], [5, 5]], [9, 4]))
    config = BoxPrompts(segments=segments)
    mask = shown(box_prompts(IMAGE, labels, config=config, context=context))
    assert (mask[NUMBERS == 1] == 4).all()
    assert mask[6, 20] == 9
    assert (mask[(NUMBERS == 2)] != 4).all()
