import numpy as np
import pytest

from wsseg.data.labels import Boxes, ClassList, Points, Scribbles, WeakLabels, voc_palette
from wsseg.errors import DataError


def test_palette_is_the_published_voc_colour_map():
    palette = voc_palette()
    # Class colours as printed in the VOC 2012 development kit.
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {key: tuple(palette[key].tolist()) for key in published} == published
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8


def test_palette_gives_every_id_its_own_colour():
    assert len(np.unique(voc_palette(), axis=0)) == 256


def test_class_ids_count_from_one_in_the_order_of_the_list():
    classes = ClassList(("흠집", "dent"))
    assert [classes.id_of(name) for name in ("background", "흠집", "dent")] == [0, 1, 2]
    assert [classes.name_of(i) for i in (0, 1, 2, 255)] == ["background", "흠집", "dent", "ignore"]


def test_unknown_class_name_suggests_the_nearest():
    with pytest.raises(DataError, match=r'"scrach".*scratch, dent.*Did you mean "scratch"\?'):
        ClassList(("scratch", "dent")).id_of("scrach")


def test_class_id_outside_the_list_says_what_is_allowed():
    with pytest.raises(DataError, match=r"Class id 3 .* 0 to 2 and 255"):
        ClassList(("a", "b")).name_of(3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        (" a", "blanks"),
        ("a;b", 'contains ";"'),
        ("?", "not tagged"),
        ("a\nb", "control character"),
        ("Background", "reserved"),
    ],
)
def test_class_names_that_cannot_be_written_to_a_csv_cell_are_refused(name, reason):
    with pytest.raises(DataError, match=reason):
        ClassList((name,))


def test_repeated_class_name_is_refused():
    with pytest.raises(DataError, match='"a" occurs more than once'):
        ClassList(("a", "b", "a"))


def test_more_classes_than_an_8_bit_mask_holds_are_refused():
    assert ClassList(tuple(f"c{i}" for i in range(254))).num_classes == 254
    with pytest.raises(DataError, match="255 classes; at most 254"):
        ClassList(tuple(f"c{i}" for i in range(255)))


def test_box_without_area_is_refused():
    with pytest.raises(ValueError, match=r"right > left.*\[3.0, 0.0, 3.0, 5.0\]"):
        Boxes(np.array([[0, 0, 1, 1], [3, 0, 3, 5]]), np.array([1, 1]))


def test_shapes_need_one_class_id_each():
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        Points(np.zeros((1, 2)), np.array([1, 2]))


def test_shapes_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        Points(np.array([[0, np.nan]]), np.array([1]))


def test_only_scribbles_may_mark_background():
    assert Scribbles((np.zeros((1, 2)),), np.array([0])).class_ids.tolist() == [0]
    with pytest.raises(ValueError, match=r"1\.\.254"):
        Boxes(np.array([[0, 0, 1, 1]]), np.array([0]))


def test_empty_scribble_line_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        Scribbles((np.zeros((0, 2)),), np.array([1]))


def test_shapes_compare_by_value():
    boxes = [Boxes(np.array([[0, 0, 1, right]]), np.array([1])) for right in (1, 1, 2)]
    assert boxes[0] == boxes[1]
    assert boxes[0] != boxes[2]
    assert hash(boxes[0]) == hash(boxes[1])


def test_no_boxes_is_a_legal_answer_and_differs_from_not_asked():
    empty = Boxes(np.zeros((0, 4)), np.zeros(0))
    assert WeakLabels(boxes=empty).kinds == ("boxes",)
    assert WeakLabels(boxes=empty) != WeakLabels()


def test_untagged_and_ok_are_different():
    assert WeakLabels().is_untagged
    assert not WeakLabels().is_ok
    assert WeakLabels(tags=frozenset()).is_ok
    assert not WeakLabels(tags=frozenset()).is_untagged


def test_class_ids_of_all_kinds_are_joined_without_background():
    labels = WeakLabels(
        tags=frozenset({1}),
        points=Points(np.zeros((1, 2)), np.array([3])),
        scribbles=Scribbles((np.zeros((2, 2)), np.ones((1, 2))), np.array([0, 4])),
    )
    assert labels.class_ids() == {1, 3, 4}


def test_tag_zero_is_refused():
    with pytest.raises(ValueError, match=r"1\.\.254, got \[0, 1\]"):
        WeakLabels(tags=frozenset({0, 1}))


@pytest.mark.parametrize("kind", [Points, Scribbles])
def test_points_and_scribbles_compare_by_value(kind):
    def make(x):
        values = np.array([[x, 1.0]]) if kind is Points else (np.array([[x, 1.0]]),)
        return kind(values, np.array([1]))

    assert make(0) == make(0)
    assert make(0) != make(2)
    assert hash(make(0)) == hash(make(0))
    assert len(make(0)) == 1


def test_coordinates_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match=r"xyxy must have shape \(n, 4\), got \(1, 3\)"):
        Boxes(np.zeros((1, 3)), np.array([1]))


def test_scribble_classes_are_checked():
    line = np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        Scribbles((line,), np.array([1, 2]))
    with pytest.raises(ValueError, match=r"0\.\.254"):
        Scribbles((line,), np.array([255]))
