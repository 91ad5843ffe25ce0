"""Recipes: one YAML with everything that a run depends on, named after its paper.

Order of precedence: defaults < recipe (a shipped name or a YAML file) < ``--set key=value``.
Every key is checked; the resolved recipe is written to the run and can be fed back unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny, ValidationError

from wsseg import registry
from wsseg.config import Config, MethodConfig
from wsseg.errors import RecipeError, did_you_mean, unknown_name
from wsseg.pseudo.masks import PseudoMaskConfig
from wsseg.segment.config import SegmenterConfig

Supervision = Literal["I", "I+S", "I+SAM", "I+CLIP", "boxes", "points", "scribbles", "masks"]


def _method(group: registry.Group, value: Any) -> Any:
    """Validate one method's settings with the class that its name stands for."""
    if isinstance(value, MethodConfig):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"expected a mapping with a `name`, got {value!r}")
    try:
        cls = registry.config_class(group, value["name"])
    except RecipeError as error:
        raise ValueError(str(error)) from error
    return cls.model_validate(value)


def _localizer(value: Any) -> Any:
    return _method("localizers", value)


def _refiner(value: Any) -> Any:
    return _method("refiners", value)


def _segmenter(value: Any) -> Any:
    return None if value is None else _method("segmenters", value)


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
        "S = saliency, SAM, CLIP.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of everything random.")
    max_side_px: int | None = Field(
        None,
        ge=16,
        description="Images with a longer side (pixels) are shrunk to it when read; masks come "
        "back at the original size. None reads them as they are.",
    )
    localize: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_localizer)] = Field(
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
        _apply(content, text)
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


def _apply(content: dict[str, Any], text: str) -> None:
    """Set one dotted key; the key itself is checked by the validation afterwards."""
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


def _scientific(value: str) -> Any:
    """Read 1e-3 as a number, which YAML 1.1 takes for text."""
    try:
        return float(value)
    except ValueError:
        return value


def _child(node: Any, part: str, key: str, text: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, key, text)]
    if isinstance(node, dict):
        if node.get(part) is None:
            node[part] = {}
        elif isinstance(node[part], str):
            node[part] = {"name": node[part]}
        return node[part]
    raise RecipeError(f'--set {text}: "{key}" leads through {node!r}, which has no keys.')


def _index(node: list[Any], part: str, key: str, text: str) -> int:
    if part.isdigit() and int(part) < len(node):
        return int(part)
    names = [item.get("name") if isinstance(item, dict) else item for item in node]
    if part in names:
        return names.index(part)
    raise RecipeError(
        f'--set {text}: "{part}" in "{key}" is neither an index from 0 to {len(node) - 1} nor one '
        f"of {', '.join(map(str, names))}."
    )


def _explain_errors(error: ValidationError, content: dict[str, Any]) -> str:
    lines = [f'The recipe "{content.get("name", "custom")}" is not valid:']
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"] if part != "SerializeAsAny") or "recipe"
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = f"unknown key.{_suggest(item['loc'])}"
        elif item["type"] != "missing" and "input" in item and not isinstance(item["input"], dict):
            text = f"{text} (got {item['input']!r})"
        lines.append(f"  - {where}: {text}")
    lines.append("`wsseg recipes explain KEY` shows every field with its unit and range.")
    return "\n".join(lines)


def _suggest(location: tuple[int | str, ...]) -> str:
    names = [name.rsplit(".", 1)[-1] for name, _ in all_fields()]
    return did_you_mean(str(location[-1]), names)


def all_fields() -> Iterator[tuple[str, Any]]:
    """Walk over every field of every shipped method: ``(dotted key, pydantic field)``."""
    yield from _fields("", Recipe)
    groups: dict[registry.Group, str] = {
        "localizers": "localize",
        "refiners": "refine.steps",
        "segmenters": "segment",
    }
    for group, prefix in groups.items():
        for name in registry.table(group):
            yield from _fields(f"{prefix}.{name}.", registry.config_class(group, name))


def _fields(prefix: str, cls: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in cls.model_fields.items():
        yield prefix + name, field
        for inner in _config_classes(field.annotation):
            yield from _fields(f"{prefix}{name}.", inner)


def _config_classes(annotation: Any) -> list[type[Config]]:
    """Find the configuration classes inside an annotation such as ``A | B | None``."""
    if isinstance(annotation, type):
        is_leaf = issubclass(annotation, Config) and annotation not in _REGISTERED_BASES
        return [annotation] if is_leaf else []
    inner = getattr(annotation, "__args__", ())
    return [cls for part in inner for cls in _config_classes(part)]


_REGISTERED_BASES: tuple[type[Config], ...] = (MethodConfig, SegmenterConfig)


def explain(key: str) -> list[tuple[str, str, str, str]]:
    """Say what a key means, and every key below it.

    Args:
        key: A dotted key such as ``localize.cam.training`` or ``refine.steps.dense_crf``; also
            without the method's name (``localize.training.epochs``). Empty for all.

    Returns:
        Rows of (dotted key, type, default, description).

    Raises:
        RecipeError: When no such key exists.
    """
    wanted = key.strip(".")
    rows = []
    for name, field in all_fields():
        short = _without_method(name)
        if not wanted or any(
            full == wanted or full.startswith(wanted + ".") for full in (name, short)
        ):
            rows.append((name, _type_text(field), _default_text(field), field.description or ""))
    if not rows:
        keys = {name for name, _ in all_fields()} | {_without_method(n) for n, _ in all_fields()}
        raise RecipeError(
            f'No recipe key "{key}".{did_you_mean(wanted, keys)} `wsseg recipes explain` lists all.'
        )
    return rows


def _without_method(name: str) -> str:
    parts = name.split(".")
    if parts[0] in ("localize", "segment") and len(parts) > 2:
        return ".".join([parts[0], *parts[2:]])
    return name


def _type_text(field: Any) -> str:
    annotation = field.annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = text.replace("typing.", "").replace("NoneType", "None")
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return " ".join([text, *bounds])


def _default_text(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if isinstance(default, BaseModel) else repr(default)


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe as YAML that `load_recipe` reads back to an equal recipe."""
    content = recipe.model_dump(mode="json")
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
