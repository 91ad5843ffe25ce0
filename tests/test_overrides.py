from __future__ import annotations

from typing import Any

import pytest

from wsseg.errors import RecipeError
from wsseg.overrides import apply_override


def changed(content: dict[str, Any], *texts: str) -> dict[str, Any]:
    for text in texts:
        apply_override(content, text)
    return content


def test_a_value_is_read_as_yaml() -> None:
    found = changed({}, "a=1", "b=0.5", "c=true", "d=null", "e=[1, 2]", "f={x: y}", "g=word", "h=")
    assert found == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": [1, 2],
        "f": {"x": "y"},
        "g": "word",
        "h": None,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("-2.5e+2", -250.0), ("1.e-2", 0.01)],
)
def test_scientific_notation_is_a_number(text: str, value: float) -> None:
    assert changed({}, f"lr={text}") == {"lr": value}


@pytest.mark.parametrize("text", ["nan", "inf", "e5", "1e", "0x1", "resnet18.a1_in1k", "1e-3.pth"])
def test_words_that_look_like_numbers_stay_words(text: str) -> None:
    value = changed({}, f"weights={text}")["weights"]
    assert value == (1 if text == "0x1" else text)


def test_a_value_may_hold_equals_signs_and_spaces() -> None:
    assert changed({}, " paper = a = b") == {"paper": "a = b"}


def test_the_last_override_of_a_key_wins() -> None:
    assert changed({}, "a.b=1", "a.b=2") == {"a": {"b": 2}}


def test_groups_that_are_not_there_are_made() -> None:
    assert changed({"segment": None}, "segment.training.epochs=3", "localize.a.b=1") == {
        "segment": {"training": {"epochs": 3}},
        "localize": {"a": {"b": 1}},
    }


def test_a_bare_name_becomes_settings_with_that_name() -> None:
    content = {"localize": "cam", "steps": ["crf"]}
    assert changed(content, "localize.grey=true", "steps.crf.n=3") == {
        "localize": {"name": "cam", "grey": True},
        "steps": [{"name": "crf", "n": 3}],
    }


def test_items_of_a_list_are_reached_by_index_and_by_name() -> None:
    steps = [{"name": "background_constant"}, {"name": "dense_crf"}]
    found = changed({"steps": steps}, "steps.0.value=0.3", "steps.dense_crf.iterations=5")
    assert found["steps"] == [
        {"name": "background_constant", "value": 0.3},
        {"name": "dense_crf", "iterations": 5},
    ]


def test_an_item_of_a_list_can_be_replaced() -> None:
    content = {"scales": [0.5, 1.0], "steps": [{"name": "a"}, {"name": "b"}]}
    assert changed(content, "scales.1=2.0", "steps.b={name: c}") == {
        "scales": [0.5, 2.0],
        "steps": [{"name": "a"}, {"name": "c"}],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", 'expected "key=value"'),
        ("=3", 'expected "key=value"'),
        ("a=[1", "not valid YAML"),
        ("steps.2.x=1", r'"2" in "steps.2" is neither an index from 0 to 1 nor one of a, b'),
        ("steps.-1.x=1", r'"-1"'),
        ("steps.c=1", r'"c" in "steps.c" is neither'),
        ("seed.x.y=1", "leads through 3, which has no keys"),
        ("seed.x=1", '"seed" is 3, it has no key "x"'),
        ("twice.a.x=1", r"occurs several times; give its index \(0, 2\)"),
    ],
)
def test_a_text_that_cannot_be_applied_says_why(text: str, message: str) -> None:
    content = {
        "seed": 3,
        "steps": [{"name": "a"}, {"name": "b"}],
        "twice": [{"name": "a"}, {"name": "b"}, {"name": "a"}],
    }
    with pytest.raises(RecipeError, match=message) as caught:
        apply_override(content, text)
    assert f"--set {text}" in str(caught.value)
