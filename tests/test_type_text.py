from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field

from wsseg.config import Config
from wsseg.type_text import choice_name, config_classes, type_text, yaml_text


class Red(Config):
    """A choice."""

    name: Literal["red"] = "red"


class Blue(Config):
    """Another choice."""

    name: Literal["blue"] = "blue"


@pytest.mark.parametrize(
    ("annotation", "limits", "words"),
    [
        (int, [], "integer"),
        (float, [Gt(0), Le(1)], "number (> 0, <= 1)"),
        (int | None, [Ge(1), Lt(9)], "integer (>= 1, < 9) or null"),
        (bool, [], "true or false"),
        (str | None, [], "text or null"),
        (Literal["a", 3], [], "a | 3"),
        (int | Literal["auto"], [Ge(0)], "integer (>= 0) or auto"),
        (tuple[int, float], [], "[integer, number]"),
        (tuple[Annotated[float, Field(gt=0, le=8)], ...], [MinLen(2)],
         "list of number (> 0, <= 8), at least 2"),
        (tuple[str, ...] | None, [], "list of text or null"),
        (Annotated[float, Gt(0)], [Le(2)], "number (> 0, <= 2)"),
        (Red, [], "settings"),
        (Red | None, [], "settings or null"),
        (Annotated[Red | Blue, Field(discriminator="name")], [], "settings by name: red, blue"),
        (Any, [], "Any"),
    ],
)  # fmt: skip
def test_a_type_is_said_in_words(annotation: Any, limits: list[Any], words: str) -> None:
    assert type_text(annotation, limits) == words


def test_the_settings_inside_an_annotation_are_found() -> None:
    assert config_classes(Annotated[Red | Blue | None, Field()]) == [Red, Blue]
    assert config_classes(tuple[Red, ...]) == [Red]
    assert config_classes(int | None) == []
    assert choice_name(Blue) == "blue"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (False, "false"),
        ("", '""'),
        ("word", "word"),
        (0.5, "0.5"),
        ((), "[]"),
        ((1, None), "[1, null]"),
    ],
)
def test_a_default_is_written_as_yaml(value: Any, text: str) -> None:
    assert yaml_text(value) == text
