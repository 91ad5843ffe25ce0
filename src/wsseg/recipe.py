"""Recipes: one YAML with everything that a run depends on, named after its paper.

Order of precedence: defaults < recipe (a shipped name or a YAML file) < ``--set key=value``.
Every key is checked; the resolved recipe is written to the run and can be fed back unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from wsseg import registry
from wsseg.config import Config, MethodConfig
from wsseg.errors import RecipeError, unknown_name
from wsseg.explain import explain, suggest
from wsseg.localize.config import LocalizerConfig
from wsseg.overrides import apply_override
from wsseg.pseudo.masks import PseudoMaskConfig
from wsseg.segment.config import SegmenterConfig

__all__ = [
    "EvaluateConfig",
    "Recipe",
    "RefineConfig",
    "Supervision",
    "explain",
    "load_recipe",
    "shipped",
    "shipped_text",
    "to_yaml",
    "validate",
]

Supervision = Literal[
    "I", "I+S", "I+SAM", "I+CLIP", "boxes", "points", "scribbles", "mixed", "masks"
]


def _localizer(value: Any) -> Any:
    return registry.settings("localizers", value)


def _refiner(value: Any) -> Any:
    return registry.settings("refiners", value)


def _segmenter(value: Any) -> Any:
    return None if value is None else registry.settings("segmenters", value)


class RefineConfig(Config):
    """The refiners, in the order in which they are applied."""

    steps: tuple[Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_refiner)], ...] = Field(
        default=(), description="Refiners applied one after the other; each has a `name`."
    )


class EvaluateConfig(Config):
    """What is measured where ground truth exists."""

    boundary: bool = Field(True, description="Measure boundary IoU too (slower).")
    boundary_width_frac: float = Field(
        0.02, gt=0, le=0.2, description="Boundary IoU band, as a fraction of the image diagonal."
    )


class Recipe(Config):
    """Everything that a run depends on besides the data."""

    name: str = Field("custom", description="Name, usually that of the paper.")
    title: str = Field("", description="One line that says what it does.")
    paper: str = Field("", description="Authors, title, venue and year of the source.")
    supervision: Supervision = Field(
        "I",
        description="What the labels are and which outside knowledge enters: I = image tags, "
        "S = saliency, SAM, CLIP; mixed = several kinds of label.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of everything random.")
    max_side_px: int | None = Field(
        None,
        ge=16,
        description="Images with a longer side (pixels) are shrunk to it when read; masks come "
        "back at the original size. null: read as they are.",
    )
    localize: Annotated[SerializeAsAny[LocalizerConfig], BeforeValidator(_localizer)] = Field(
        description="The localizer: weak labels to scores."
    )
    refine: RefineConfig = Field(RefineConfig(), description="Scores to scores.")
    pseudo: PseudoMaskConfig = Field(PseudoMaskConfig(), description="Scores to pseudo masks.")
    segment: Annotated[SerializeAsAny[SegmenterConfig] | None, BeforeValidator(_segmenter)] = Field(
        None, description="The segmenter trained on the pseudo masks, or null for none."
    )
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="What is measured.")


def shipped() -> dict[str, dict[str, Any]]:
    """List the recipes that come with wsseg.

    Returns:
        ``{name: the YAML as a dictionary}``, sorted by name.
    """
    folder = files("wsseg") / "recipes"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = yaml.safe_load(entry.read_text("utf-8"))
    return found


def shipped_text(name: str) -> str:
    """Read a shipped recipe's YAML with its comments.

    Raises:
        RecipeError: When there is no recipe of that name.
    """
    path = files("wsseg") / "recipes" / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(unknown_name("recipe", name, shipped()))
    return path.read_text("utf-8")


def load_recipe(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name or file and apply overrides.

    Args:
        source: A shipped recipe's name, the path of a YAML file, or the content of one.
        overrides: ``"dotted.key=value"`` texts; values are read as YAML, numbers in the key
            index lists.

    Returns:
        The validated recipe.

    Raises:
        RecipeError: When the recipe does not exist, is not YAML, or a key or value is wrong.

    Example:
        >>> load_recipe("cam", ["localize.training.epochs=3"]).localize.training.epochs
        3
    """
    content = source if isinstance(source, dict) else _read(source)
    content = _deep_copy(content)
    for text in overrides:
        apply_override(content, text)
    return validate(content)


def validate(content: dict[str, Any]) -> Recipe:
    """Validate a recipe given as a dictionary.

    Raises:
        RecipeError: Naming each wrong key, its value and what is allowed.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(_explain_errors(error, content)) from error


def _read(source: str | Path) -> dict[str, Any]:
    text = str(source)
    is_file = isinstance(source, Path) or text.endswith((".yaml", ".yml")) or "/" in text
    if is_file:
        path = Path(source)
        if not path.is_file():
            raise RecipeError(f"Recipe file {path} does not exist.")
        try:
            raw = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"Recipe file {path} cannot be read: {error}.") from error
    else:
        raw = shipped_text(text)
    try:
        content = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise RecipeError(f"Recipe {source} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"Recipe {source} must be a mapping, got {type(content).__name__}.")
    return content


def _deep_copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _deep_copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_deep_copy(item) for item in value]
    return value


def _explain_errors(error: ValidationError, content: dict[str, Any]) -> str:
    lines = [f'The recipe "{content.get("name", "custom")}" is not valid:']
    errors = error.errors()
    for item in errors:
        if any(_is_inside(other["loc"], item["loc"]) for other in errors):
            continue  # pydantic counts wrong items of a list as missing, too
        path = _path(item["loc"], content)
        where = ".".join(path) or "recipe"
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = f"unknown key.{suggest(path)}"
        elif item["type"] not in ("missing", "value_error") and not isinstance(item["input"], dict):
            text = f"{text} (got {item['input']!r})"
            if item["input"] in ("none", "None"):
                text += "; write null for none"
        lines.append(f"  - {where}: {text}")
    lines.append("`wsseg recipes explain KEY` shows every field with its unit and range.")
    return "\n".join(lines)


def _is_inside(location: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(location) > len(outer) and location[: len(outer)] == outer


def _path(location: Sequence[int | str], content: Any) -> list[str]:
    """Write an error's place as ``--set`` would: steps by name, without pydantic's own labels."""
    path = []
    for depth, part in enumerate(location):
        if isinstance(content, dict):
            if part not in content and depth < len(location) - 1:
                continue  # the label of a choice, such as the name of a pooling
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int):
            content = content[part]
            part = content.get("name", part) if isinstance(content, dict) else part
        else:
            continue  # the label of an alternative, such as the int of "int | Literal"
        path.append(str(part))
    return path


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe as YAML that `load_recipe` reads back to an equal recipe."""
    content = recipe.model_dump(mode="json")
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
