"""Changes of a recipe on the command line: ``--set dotted.key=value``."""

from __future__ import annotations

import re
from typing import Any

import yaml

from wsseg.errors import RecipeError


def apply_override(content: dict[str, Any], text: str) -> None:
    """Set one dotted key; whether the key exists is checked by the validation afterwards.

    Args:
        content: The recipe's YAML; changed in place.
        text: ``"dotted.key=value"``. The value is YAML, and ``1e-3`` is a number in it. Items of
            a list are reached by their index or their ``name``.

    Raises:
        RecipeError: When the text has no key, the value is not YAML, or the key leads through
            something that has no keys or no such item.

    Example:
        >>> content = {"refine": {"steps": ["dense_crf"]}}
        >>> apply_override(content, "refine.steps.dense_crf.iterations=5")
        >>> content
        {'refine': {'steps': [{'name': 'dense_crf', 'iterations': 5}]}}
    """
    key, separator, raw = text.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f'--set {text}: expected "key=value", such as segment.training.epochs=3.')
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: the value is not valid YAML: {error}") from error
    if isinstance(value, str):
        value = _scientific(value)
    *path, last = key.strip().split(".")
    node: Any = content
    for depth, part in enumerate(path):
        node = _child(node, part, ".".join(path[: depth + 1]), text)
    if isinstance(node, list):
        index = _index(node, last, key, text)
        node[index] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f'--set {text}: "{".".join(path)}" is {node!r}, it has no key "{last}".')


def _scientific(value: str) -> str | float:
    """Read 1e-3 as a number, which YAML 1.1 takes for text."""
    return float(value) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


def _child(node: Any, part: str, key: str, text: str) -> Any:
    place: int | str
    if isinstance(node, list):
        place = _index(node, part, key, text)
    elif isinstance(node, dict):
        place = part
        if node.get(part) is None:
            node[part] = {}
    else:
        raise RecipeError(f'--set {text}: "{key}" leads through {node!r}, which has no keys.')
    if isinstance(node[place], str):
        node[place] = {"name": node[place]}
    return node[place]


def _index(node: list[Any], part: str, key: str, text: str) -> int:
    if part.isdigit() and int(part) < len(node):
        return int(part)
    names = [item.get("name") if isinstance(item, dict) else item for item in node]
    if names.count(part) == 1:
        return names.index(part)
    if part in names:
        places = ", ".join(str(index) for index, name in enumerate(names) if name == part)
        raise RecipeError(
            f'--set {text}: "{part}" in "{key}" occurs several times; give its index ({places}).'
        )
    raise RecipeError(
        f'--set {text}: "{part}" in "{key}" is neither an index from 0 to {len(node) - 1} nor one '
        f"of {', '.join(map(str, names))}."
    )
