"""Types, ranges and defaults of settings in words that need no Python."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from wsseg.config import Config

_WORDS = {int: "integer", float: "number", bool: "true or false", str: "text", type(None): "null"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def config_classes(annotation: Any) -> list[type[Config]]:
    """Find the configuration classes inside an annotation such as ``A | B | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [cls for part in get_args(annotation) for cls in config_classes(part)]


def choice_name(cls: type[BaseModel]) -> str:
    """Read the name that picks a class among several: the value of its literal ``name``."""
    return str(get_args(cls.model_fields["name"].annotation)[0])


def type_text(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Write a type and its range in words.

    Args:
        annotation: The type of a pydantic field.
        metadata: Its limits.

    Example:
        >>> from annotated_types import Gt
        >>> type_text(float | None, [Gt(0)])
        'number (> 0) or null'
        >>> type_text(tuple[int, int])
        '[integer, integer]'
    """
    metadata = list(metadata)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [limit for item in arguments[1:] for limit in getattr(item, "metadata", [item])]
        return type_text(arguments[0], [*inner, *metadata])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return _union_text(arguments, metadata)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            least = next((m.min_length for m in metadata if hasattr(m, "min_length")), 0)
            return f"list of {type_text(arguments[0])}" + (f", at least {least}" if least else "")
        return f"[{', '.join(map(type_text, arguments))}]"
    if origin is dict:
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    word = _WORDS.get(annotation, str(annotation).removeprefix("typing."))
    return f"{word}{_range_text(metadata)}"


def _union_text(arguments: tuple[Any, ...], metadata: list[Any]) -> str:
    classes = [cls for argument in arguments for cls in config_classes(argument)]
    if len(classes) > 1:
        return f"settings by name: {', '.join(map(choice_name, classes))}"
    parts = []
    for argument in arguments:
        is_number = argument in (int, float) or get_origin(argument) is tuple
        parts.append(type_text(argument, metadata if is_number else ()))
    return " or ".join(parts)


def _range_text(metadata: Iterable[Any]) -> str:
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in metadata
        for name, sign in _SIGNS.items()
        if getattr(item, name, None) is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def yaml_text(value: Any) -> str:
    """Write a plain value on one line of YAML.

    Example:
        >>> yaml_text((0.5, 1.0)), yaml_text(None), yaml_text(True)
        ('[0.5, 1.0]', 'null', 'true')
    """
    if isinstance(value, tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", "settings"))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else '""'
