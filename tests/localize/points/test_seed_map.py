from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from wsseg.cues.superpixels import superpixels
from wsseg.data.labels import Points, Scribbles, WeakLabels
from wsseg.localize.direct import LocalizeContext
from wsseg.localize.points.marks import draw_marks, point_radii, ridges, stroke_mask
from wsseg.localize.points.seed_map import (
    SeedLocalizerConfig,
    border_background,
    fill_from_seeds,
    seeds_of,
)
from wsseg.localize.points.seeds import Seeds, seeds

SIZE = (20, 30)


def points(*items) -> WeakLabels:
    return WeakLabels(points=Points([xy for xy, _ in items], [c for _, c in items]))


def segment_distance(x, y, start, end) -> float:
    """Distance from a point to a segment, by trying many places on it."""
    shares = np.linspace(0, 1, 2001)
    along = np.asarray(start)[None] + shares[:, None] * (np.asarray(end) - np.asarray(start))[None]
    return float(np.hypot(along[:, 0] - x, along[:, 1] - y).min())


def test_a_stroke_holds_the_pixels_close_to_its_line():
    line = np.array([[3.2, 4.1], [20.7, 12.3], [6.0, 17.5]])
    found = stroke_mask(line, 1.5, SIZE)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            distance = min(
                segment_distance(column + 0.5, row + 0.5, a, b) for a, b in pairwise(line)
            )
            if abs(distance - 1.5) > 1e-3:
                assert found[row, column] == (distance < 1.5), (row, column)


def test_a_straight_scribble_is_three_pixels_wide_with_round_ends():
    labels = WeakLabels(scribbles=Scribbles(([[5.5, 8.5], [12.5, 8.5]],), [2]))
    found = draw_marks(labels, SIZE).seeds
    assert (found[7:10, 5:13] == 2).all()
    assert found[8, 4] == found[8, 13] == 2
    assert (found[[6, 10]] == 255).all()
    assert (found == 2).sum() == 3 * 8 + 2 * 3


def test_a_line_is_not_closed_and_one_point_is_a_dot():
    corner = Scribbles(([[2.5, 2.5], [12.5, 2.5], [12.5, 12.5]], [[20.5, 10.5]]), [1, 3])
    found = draw_marks(WeakLabels(scribbles=corner), SIZE).seeds
    assert found[8, 7] == 255
    assert (found[9:12, 19:22] == 3).sum() == 9
    assert (found == 3).sum() == 9


def test_a_point_is_a_disc_around_the_centre_of_its_pixel():
    found = draw_marks(points(((10.9, 7.1), 4)), SIZE, point_radius_px=2).seeds
    rows, columns = np.nonzero(found == 4)
    assert ((rows - 7) ** 2 + (columns - 10) ** 2 <= 4).all()
    assert len(rows) == 13
    one = draw_marks(points(((10.9, 7.1), 4)), SIZE, point_radius_px=0.1).seeds
    assert np.argwhere(one == 4).tolist() == [[7, 10]]


def test_between_two_points_the_nearer_one_wins_and_ties_are_open():
    found = draw_marks(points(((5.5, 5.5), 1), ((9.5, 5.5), 2)), SIZE, point_radius_px=3).seeds
    assert found[5, 2:13].tolist() == [1, 1, 1, 1, 1, 255, 2, 2, 2, 2, 2]


def test_two_points_of_two_classes_on_one_pixel_are_open_and_of_one_class_are_not():
    contested = draw_marks(points(((5.5, 5.5), 1), ((5.5, 5.5), 2)), SIZE).seeds
    assert (contested == 255).all()
    same = draw_marks(points(((5.5, 5.5), 1), ((5.5, 5.5), 1)), SIZE).seeds
    assert same[5, 5] == 1


def test_where_strokes_of_two_classes_cross_nothing_is_known():
    crossing = Scribbles(([[5.5, 8.5], [15.5, 8.5]], [[10.5, 3.5], [10.5, 13.5]]), [1, 2])
    found = draw_marks(WeakLabels(scribbles=crossing), SIZE).seeds
    assert (found[7:10, 9:12] == 255).all()
    assert found[8, 6] == 1
    assert found[4, 10] == 2
    both = WeakLabels(scribbles=Scribbles(([[5.5, 8.5], [15.5, 8.5]],), [1]), points=Points(
        [[10.5, 8.5]], [2]))  # fmt: skip
    mixed = draw_marks(both, SIZE, point_radius_px=3).seeds
    assert mixed[8, 10] == 255
    assert mixed[11, 10] == 2
    assert mixed[8, 6] == 1


def test_points_outside_of_the_image_are_left_out_and_told():
    context = LocalizeContext()
    labels = points(((-1, 5), 1), ((30, 5), 1), ((5, 20.0), 2), ((29.9, 19.9), 2))
    found = draw_marks(labels, SIZE, context=context).seeds
    assert found[19, 29] == 2
    assert not (found == 1).any()
    assert context.facts["notes"] == ["3 point(s) outside of the image were left out"]


def test_automatic_background_is_superpixels_at_the_border_without_a_seed():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    seeds_map = np.full((40, 40), 255, np.uint8)
    seeds_map[2, 2] = 1
    found = border_background(image, seeds_map, Seeds().superpixels)
    assert not found[2, 2]
    assert not found[20, 20]
    assert found[-1, -1]
    assert found[0, -1]
    # Superpixels in the middle do not touch the border.
    assert not found[15:25, 15:25].any()


def test_automatic_background_stands_in_only_where_nobody_marked_any():
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    labels = points(((20, 20), 3))
    context = LocalizeContext()
    found = seeds_of(image, labels, Seeds(background="border"), context)
    assert (found == 0).any()
    assert context.facts["automatic_background"] == pytest.approx((found == 0).mean(), abs=1e-4)
    assert not (seeds_of(image, labels, Seeds(background="none")) == 0).any()
    marked = WeakLabels(points=labels.points, scribbles=Scribbles(([[2.5, 2.5], [8.5, 2.5]],), [0]))
    drawn = seeds_of(image, marked, Seeds(background="border"))
    assert (drawn == 0).sum() == 3 * 7 + 2 * 3


def test_seeds_that_cannot_grow_say_why():
    none = np.full((2, 2), 255, np.uint8)
    assert "no seed lies in the image" in fill_from_seeds(none)
    one = none.copy()
    one[0, 0] = 3
    assert "one class" in fill_from_seeds(one)
    two = one.copy()
    two[1, 1] = 0
    assert fill_from_seeds(two) == ""
    assert "every pixel" in fill_from_seeds(np.array([[0, 1]], np.uint8))


def test_seeds_are_the_marked_pixels_and_the_rest_is_unknown():
    labels = points(((10.5, 10.5), 4))
    scores = seeds(np.zeros((*SIZE, 3), np.uint8), labels)
    assert scores.class_ids.tolist() == [0, 4]
    drawn = draw_marks(labels, SIZE).seeds
    assert np.array_equal(scores.values[1] == 1, drawn == 4)
    assert np.array_equal(scores.unknown, drawn == 255)


def contradicting() -> WeakLabels:
    """Two points on one pixel at the border, and one of class 1 in the middle."""
    return points(((1.5, 20.5), 1), ((1.5, 20.5), 2), ((20.5, 20.5), 1))


def test_what_two_classes_claim_is_told_apart_from_what_nobody_marked():
    seeds_map, contested = draw_marks(contradicting(), (40, 40), point_radius_px=2)
    rows, columns = np.mgrid[:40, :40]
    np.testing.assert_array_equal(contested, (rows - 20) ** 2 + (columns - 1) ** 2 <= 4)
    assert (seeds_map[contested] == 255).all()
    # A nearer point settles it.
    labels = points(((5.5, 5.5), 1), ((9.5, 5.5), 2), ((7.5, 5.5), 1))
    assert draw_marks(points(*[((5.5, 5.5), 1), ((9.5, 5.5), 2)]), SIZE).contested[5, 7]
    assert not draw_marks(labels, SIZE).contested[5, 7]
    crossing = Scribbles(([[5.5, 8.5], [15.5, 8.5]], [[10.5, 3.5], [10.5, 13.5]]), [1, 2])
    found = draw_marks(WeakLabels(scribbles=crossing), SIZE).contested
    assert found[7:10, 9:12].all()
    assert found.sum() == 9


def test_a_superpixel_that_two_classes_claim_is_no_automatic_background():
    image = np.zeros((40, 40, 3), np.uint8)
    found = seeds_of(image, contradicting(), Seeds(background="border", point_radius_px=2))
    cells = superpixels(image, Seeds().superpixels)
    assert (found[cells == cells[20, 1]] == 255).all()
    assert (found[0] == 0).all()


def test_the_border_is_no_background_where_a_tagged_class_has_no_seed():
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    marked = Points([[20, 20]], [1])
    config, context = Seeds(background="border"), LocalizeContext()
    found = seeds_of(image, WeakLabels(tags={1, 2}, points=marked), config, context)
    assert set(np.unique(found)) == {1, 255}
    assert "may be that class" in context.facts["notes"][0]
    for tags in (None, {1}):
        assert (seeds_of(image, WeakLabels(tags=tags, points=marked), config)[0] == 0).all()


def test_ridges_lie_where_the_nearest_mark_changes():
    labels = WeakLabels(
        points=Points([[2.5, 3.5], [8.5, 1.5], [20.5, 3.5]], [1, 2, 1]),
        scribbles=Scribbles([np.array([[2.5, 9.5], [7.5, 9.5]]), np.array([[0.5, 6.5]])], [1, 0]),
    )
    found = ridges(labels, (12, 12))
    y, x = np.mgrid[:12, :12] + 0.5
    ends = [((2.5, 3.5), (2.5, 3.5)), ((8.5, 1.5), (8.5, 1.5)), ((2.5, 9.5), (7.5, 9.5))]
    far = []
    for (x0, y0), (x1, _) in ends:
        near = np.clip(x, x0, x1)
        far.append((x - near) ** 2 + (y - y0) ** 2)
    order = np.sort(far, axis=0)
    nearest = np.argmin(far, axis=0)
    expected = np.zeros((12, 12), bool)
    expected[:, :-1] |= nearest[:, :-1] != nearest[:, 1:]
    expected[:-1] |= nearest[:-1] != nearest[1:]
    # Between two marks at the same distance either may count as the nearest.
    is_tied = ndimage.binary_dilation(order[0] == order[1], np.ones((3, 3)))
    assert np.array_equal(found[~is_tied], expected[~is_tied])
    assert (found | ~expected | is_tied).all()
    assert found.any()


def test_ridges_are_background_but_never_over_a_seed_and_only_when_asked_for():
    image = np.full((9, 20, 3), 90, np.uint8)
    labels = WeakLabels(points=Points([[4.5, 4.5], [8.5, 4.5], [15.5, 4.5]], [1, 1, 1]))
    config = SeedLocalizerConfig(name="seeds", background="none", point_radius_px=2.0)
    assert not (seeds_of(image, labels, config) == 0).any()
    seeds = seeds_of(image, labels, config.model_copy(update={"ridges": True}))
    assert (seeds[:, 11:12] == 0).all()
    plain = seeds_of(image, labels, config)
    assert (seeds[plain == 1] == 1).all()
    one = WeakLabels(points=Points([[4.5, 4.5]], [1]))
    assert not ridges(one, (9, 20)).any()


def test_discs_shrink_where_the_next_point_is_close():
    image = np.full((40, 60, 3), 90, np.uint8)
    labels = points(([10.5, 20.5], 1), ([18.5, 20.5], 1), ([58.5, 20.5], 1))
    config = SeedLocalizerConfig(name="seeds", background="none", point_spacing_frac=0.125)
    drawn = seeds_of(image, labels, config) == 1
    rows, columns = np.mgrid[:40, :60] + 0.5
    expected = np.zeros((40, 60), bool)
    for x, radius in ((10.5, 1.0), (18.5, 1.0), (58.5, 3.0)):
        expected |= (columns - x) ** 2 + (rows - 20.5) ** 2 <= radius**2
    assert np.array_equal(drawn, expected)


def test_two_points_on_one_place_do_not_shrink_each_other():
    radii = point_radii(np.array([[5.0, 5.0], [5.0, 5.0]]), 3.0, 0.125)
    assert radii.tolist() == [3.0, 3.0]
