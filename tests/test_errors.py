from __future__ import annotations

import pytest

from wsseg.errors import (
    MAX_PROBLEMS_SHOWN,
    DataError,
    MissingExtraError,
    MissingWeightsError,
    OutputError,
    RecipeError,
    WssegError,
    did_you_mean,
    unknown_name,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (WssegError, 2),
        (RecipeError, 2),
        (DataError, 3),
        (OutputError, 3),
        (MissingWeightsError, 4),
        (MissingExtraError, 4),
    ],
)
def test_each_kind_of_fault_has_its_exit_code(kind: type[WssegError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, WssegError)


def test_a_data_error_lists_its_problems() -> None:
    error = DataError("Two files are bad:", ["a.png: empty", "b.png: no image"])
    assert str(error) == "Two files are bad:\n  - a.png: empty\n  - b.png: no image"
    assert error.problems == ("a.png: empty", "b.png: no image")


def test_a_data_error_shows_the_first_twenty_and_counts_the_rest() -> None:
    error = DataError("Many:", [f"{index}" for index in range(MAX_PROBLEMS_SHOWN + 3)])
    lines = str(error).splitlines()
    assert len(lines) == 1 + MAX_PROBLEMS_SHOWN + 1
    assert lines[-1] == "  ... and 3 more"
    assert len(error.problems) == MAX_PROBLEMS_SHOWN + 3


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    assert str(MissingExtraError("ONNX export", "onnx")) == (
        'ONNX export needs the extra "onnx": pip install "wsseg[onnx]"'
    )


def test_nothing_is_suggested_for_a_name_like_no_other() -> None:
    assert did_you_mean("qqq", ["scratch", "dent"]) == ""
    assert did_you_mean("dnet", iter(["scratch", "dent"])) == ' Did you mean "dent"?'


def test_known_names_are_listed_in_order() -> None:
    text = unknown_name("class", "xyz", {"stain", "dent"})
    assert text == 'Unknown class "xyz". Available: dent, stain.'
