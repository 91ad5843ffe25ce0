"""Where the cues of a recipe come from, in words for report and model card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from wsseg import registry
from wsseg.cues.protocol import CueConfig
from wsseg.errors import RecipeError


def cue_origins(content: dict[str, Any]) -> tuple[str, ...]:
    """Say which method of a recipe uses which cue, and where its maps come from.

    Args:
        content: A recipe as a dictionary, as `wsseg.recipe.to_yaml` writes it.

    Returns:
        One line per use, such as ``"eps: rbd, computed from the image alone, ..."``.

    Example:
        >>> cue_origins({"localize": {"name": "eps", "cue": {"name": "rbd"}}})
        ('eps: rbd, computed from the image alone, without trained weights',)
    """
    return tuple(dict.fromkeys(_lines(content)))


def _lines(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        cue = node.get("cue")
        if cue is None and node.get("cue_folder") is not None:
            cue = {"name": "folder", "path": str(node["cue_folder"])}
        if isinstance(cue, dict) and cue.get("name") in registry.table("cues"):
            yield f"{node.get('name', 'cue')}: {cue['name']}, {_origin(cue)}"
        for value in node.values():
            yield from _lines(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _lines(value)


def _origin(cue: dict[str, Any]) -> str:
    try:
        config = registry.settings("cues", cue)
    except (RecipeError, ValueError, ValidationError):
        return "whose settings are not understood here"
    return config.origin if isinstance(config, CueConfig) else "whose origin is not described"
