"""Tests of wsseg.report.label_shapes: what people drew is where they drew it."""

from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.labels import Boxes, ClassList, Points, Scribbles, WeakLabels
from wsseg.data.scores import Scores
from wsseg.report.gallery import cells_left_open
from wsseg.report.label_shapes import draw_shapes, shapes_text
from wsseg.report.overlays import display_palette, heatmap

CLASSES = ClassList(("a", "b"))
GREY = np.full((200, 240, 3), 128, np.uint8)


def _where(picture: np.ndarray, class_id: int) -> np.ndarray:
    return (picture == display_palette(CLASSES)[class_id]).all(axis=2)


def test_boxes_are_outlines_in_the_colour_of_their_class():
    # The picture is twice as large as the image.
    labels = WeakLabels(boxes=Boxes([[20, 10, 80, 60]], [2]))
    found = _where(draw_shapes(GREY, labels, (100, 120), CLASSES), 2)
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 119, 40, 159)
    assert not found[60:100, 80:140].any()


@pytest.mark.parametrize("xyxy", [[-5, -5, 500, 500], [0, 0, 120, 100], [119, 99, 120, 100]])
def test_boxes_at_the_border_stay_in_the_picture(xyxy):
    labels = WeakLabels(boxes=Boxes([xyxy], [1]))
    assert _where(draw_shapes(GREY, labels, (100, 120), CLASSES), 1).any()


def test_points_and_scribbles_are_seen_where_they_are():
    labels = WeakLabels(
        points=Points([[100, 80]], [1]),
        scribbles=Scribbles((np.array([[10.0, 20], [10, 70]]), np.array([[60.0, 50]])), [2, 1]),
    )
    found = draw_shapes(GREY, labels, (100, 120), CLASSES)
    assert _where(found, 1)[160, 200]
    assert _where(found, 1)[100, 120]
    assert _where(found, 2)[70:140, 20].all()
    assert not _where(found, 2)[70:140, 40:].any()


def test_strokes_of_the_background_are_light_and_not_black():
    labels = WeakLabels(scribbles=Scribbles((np.array([[10.0, 20], [10, 70]]),), [0]))
    assert (draw_shapes(GREY, labels, (100, 120), CLASSES)[70:140, 20] > 200).all()


def test_shapes_are_counted_in_words():
    labels = WeakLabels(
        boxes=Boxes([[0, 0, 1, 1], [0, 0, 2, 2]], [1, 1]),
        scribbles=Scribbles((np.array([[1.0, 1]]),), [0]),
    )
    assert shapes_text(labels) == "2 boxes, 1 scribble"
    assert shapes_text(WeakLabels(tags={1})) == ""


def test_cells_of_which_nothing_is_known_look_unlike_background_in_maps():
    values = np.zeros((2, 2), np.float32)
    left_open = np.array([[True, False], [False, False]])
    plain = heatmap(GREY, values)
    found = heatmap(GREY, values, left_open=left_open)
    assert (found[:90, :110] != plain[:90, :110]).any(axis=2).mean() > 0.3
    assert np.array_equal(found[100:], plain[100:])
    assert np.array_equal(found[:, 120:], plain[:, 120:])


def test_an_image_without_background_may_be_open_where_the_background_is_known():
    values = np.zeros((2, 1, 3), np.float32)
    values[1, 0, 1] = 1
    scores = Scores(values, np.array([0, 7], np.uint8), (1, 3))
    assert cells_left_open(scores, knows_background=False) is None
    found = cells_left_open(scores, knows_background=True)
    assert found.tolist() == [[True, False, True]]
