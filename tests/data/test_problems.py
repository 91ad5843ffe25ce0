import pytest

from wsseg.data.problems import Problems
from wsseg.errors import DataError


def test_errors_and_warnings_are_kept_apart_in_order():
    problems = Problems()
    problems.error("a", "is bad.", "Fix it.")
    problems.warning("b", "is odd.", "Look at it.")
    problems.error("c", "is bad.", "Fix it.")
    assert [p.file for p in problems] == ["a", "b", "c"]
    assert [p.file for p in problems.errors] == ["a", "c"]
    assert [p.file for p in problems.warnings] == ["b"]


def test_first_twenty_errors_are_shown_and_the_rest_counted():
    problems = Problems()
    for number in range(23):
        problems.error(f"{number}.png", "is bad.", "Fix it.")
    with pytest.raises(DataError) as caught:
        problems.raise_errors("The data set has errors.")
    text = str(caught.value)
    assert "19.png: is bad. Fix it." in text
    assert "20.png" not in text
    assert text.endswith("... and 3 more")


def test_warnings_alone_do_not_raise():
    problems = Problems()
    problems.warning("a", "is odd.", "Look at it.")
    problems.raise_errors("The data set has errors.")
    assert problems.num_errors == 0
