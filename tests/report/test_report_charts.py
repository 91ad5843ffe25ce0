from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from wsseg.report.charts import WIDTH, Bar, Line, bar_chart, line_chart, meter


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def words(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in parsed(svg).iter("text")]


def test_a_chart_is_one_xml_element_with_title_and_description():
    svg = bar_chart([Bar("a & <b>", 0.5)], title='T "1"', description="d < e")
    root = parsed(svg)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'T "1"'
    assert [root[0].tag, root[0].text] == ["title", 'T "1"']
    assert [root[1].tag, root[1].text] == ["desc", "d < e"]
    assert "a & <b>" in words(svg)


def test_bars_are_as_long_as_their_values():
    svg = bar_chart([Bar("a", 0.25), Bar("b", 0.5)], title="t", description="d")
    bars = [r for r in parsed(svg).iter("rect") if "bar" in (r.get("class") or "").split()]
    tracks = [r for r in parsed(svg).iter("rect") if r.get("class") == "track"]
    full = float(tracks[0].get("width", 0))
    lengths = [float(bar.get("width", 0)) / full for bar in bars]
    assert lengths == pytest.approx([0.25, 0.5], abs=1e-3)


def test_an_undefined_bar_says_so_and_draws_nothing():
    svg = bar_chart([Bar("a", None), Bar("b", math.nan)], title="t", description="d")
    assert words(svg).count("not defined") == 2
    assert not list(parsed(svg).iter("rect"))


def test_a_long_label_is_cut_to_the_width_of_the_chart():
    svg = bar_chart([Bar("x" * 500, 0.5)], title="t", description="d")
    label = words(svg)[0]
    assert label.endswith("…")
    assert len(label) < 80


def test_a_line_runs_from_its_first_to_its_last_value():
    svg = line_chart(
        [Line("loss", [1, 2, 3], [2.0, 1.0, 0.0])], title="t", description="d", x_label="epoch"
    )
    places = parsed(svg).find("polyline").get("points").split()  # type: ignore[union-attr]
    points = [tuple(map(float, place.split(","))) for place in places]
    assert len(points) == 3
    assert points[0][0] < points[1][0] < points[2][0] <= WIDTH
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1], abs=0.2)


def test_a_value_that_is_no_number_leaves_a_gap():
    ys = [1.0, 2.0, math.nan, 4.0, 5.0, math.inf, 7.0]
    svg = line_chart([Line("a", range(7), ys)], title="t", description="d", x_label="epoch")
    assert len(list(parsed(svg).iter("polyline"))) == 2
    assert len(list(parsed(svg).iter("circle"))) == 1
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_chart_without_any_number_says_so():
    svg = line_chart([Line("a", [1], [math.nan])], title="t", description="d", x_label="epoch")
    assert words(svg) == ["no values"]


def test_a_single_epoch_is_a_dot():
    svg = line_chart([Line("a", [3], [0.5])], title="t", description="d", x_label="epoch")
    assert len(list(parsed(svg).iter("circle"))) == 1


@pytest.mark.parametrize("num_epochs", [1, 2, 3, 7, 100])
def test_epochs_are_labelled_with_whole_numbers(num_epochs: int):
    xs = list(range(1, num_epochs + 1))
    svg = line_chart([Line("a", xs, xs)], title="t", description="d", x_label="epoch")
    middle = [n for n in parsed(svg).iter("text") if n.get("text-anchor") == "middle"]
    labels = [node.text or "" for node in middle]
    assert labels
    assert all(re.fullmatch(r"\d+", label) for label in labels)
    assert len(labels) <= 8


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e6])
def test_every_point_lies_inside_the_drawing_at_any_scale(scale: float):
    ys = [scale * y for y in (0.3, 0.9, 0.1, 0.55)]
    svg = line_chart([Line("a", range(4), ys)], title="t", description="d", x_label="epoch")
    root = parsed(svg)
    height = float((root.get("viewBox") or "").split()[3])
    for place in root.find("polyline").get("points").split():  # type: ignore[union-attr]
        x, y = map(float, place.split(","))
        assert 0 <= x <= WIDTH
        assert 0 <= y <= height


def test_lines_are_told_apart_by_dashes_as_well_as_colours():
    lines = [Line(f"l{i}", [0, 1], [i, i + 1]) for i in range(3)]
    svg = line_chart(lines, title="t", description="d", x_label="epoch")
    classes = [node.get("class") for node in parsed(svg).iter("polyline")]
    assert classes == ["line s0", "line s1", "line s2"]
    assert [word for word in words(svg) if word.startswith("l")] == ["l0", "l1", "l2"]


def test_a_meter_is_hidden_from_screen_readers_because_the_number_stands_beside_it():
    root = parsed(meter(0.25))
    assert root.get("aria-hidden") == "true"
    assert root[1].get("width") == "25.0"
    assert parsed(meter(None))[1].get("width") == "0.0"
