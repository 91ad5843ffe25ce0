"""What every key of a recipe means: type, range, default and meaning, read from the settings.

Keys are written as ``--set`` takes them: ``localize.pooling.fraction`` and
``refine.steps.dense_crf.iterations``. Where a key exists only with one method, or with one choice
of a group such as the pooling, that choice is named beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from wsseg import console, registry
from wsseg.errors import RecipeError, did_you_mean
from wsseg.type_text import choice_name, config_classes, type_text, yaml_text

GROUPS: dict[str, registry.Group] = {
    "localize": "localizers",
    "localize.tags": "localizers",
    "localize.tags.cue": "cues",
    "localize.tags.regularisers": "regularisers",
    "localize.tags.regularisers.s2c.segments": "segments",
    "localize.boxes": "localizers",
    "localize.boxes.segments": "segments",
    "localize.points": "localizers",
    "localize.points.segments": "segments",
    "localize.scribbles": "localizers",
    "localize.cue": "cues",
    "localize.regularisers": "regularisers",
    "localize.regularisers.s2c.segments": "segments",
    "localize.segments": "segments",
    "refine.steps": "refiners",
    "refine.steps.background_cue.cue": "cues",
    "refine.steps.background_cue_hard.cue": "cues",
    "refine.steps.guided_labelling.cue": "cues",
    "refine.steps.map_prompts.segments": "segments",
    "refine.steps.segment_merge.segments": "segments",
    "segment": "segmenters",
    "segment.loss.cue": "cues",
    "segment.rounds.cleanups.segments": "segments",
}
"""The keys whose settings are those of registered methods."""

LISTS = ("localize.regularisers", "localize.tags.regularisers", "refine.steps")
"""Those of them that hold a list of methods, each addressed by its name."""

REQUIRED = "required"

TRAINED = "a localizer that trains a network"
"""Stands for all localizers from tags, which share most of their keys."""


@dataclass(frozen=True)
class KeyInfo:
    """What is known about one key.

    Args:
        key: The key as ``--set`` takes it.
        only_with: Choice that the key exists with, such as ``localize.pooling.name=topk``, or
            ``""``.
        type: Type and range in words.
        default: The default as YAML, `REQUIRED`, or ``""`` for a group of settings.
        description: What it means, with its unit.
        full_key: The key with the names of methods and choices in it.
    """

    key: str
    only_with: str
    type: str
    default: str
    description: str
    full_key: str

    def text(self) -> str:
        """Say it for people, in two lines."""
        default = f" = {self.default}" if self.default else ""
        default = " (required)" if self.default == REQUIRED else default
        only = f"  [with {self.only_with}]" if self.only_with else ""
        return f"{self.key}: {self.type}{default}{only}\n    {self.description}"

    def as_dict(self) -> dict[str, str]:
        """Say it for machines."""
        return {
            "key": self.key,
            "type": self.type,
            "default": self.default,
            "description": self.description,
            "only_with": self.only_with,
        }


def explain(key: str = "") -> list[KeyInfo]:
    """Say what a key means, and every key below it.

    Args:
        key: A dotted key such as ``localize.training`` or ``refine.steps.dense_crf``; names of
            methods and choices may stand in it (``localize.cam.pooling.topk``). Empty for all.

    Returns:
        The key and those below it, in the order of the recipe.

    Raises:
        RecipeError: When no such key exists.

    Example:
        >>> explain("localize.training.epochs")[0].type
        'integer (>= 1, <= 100000)'
    """
    wanted = [part for part in key.strip().split(".") if part]
    found = [_merged(same) for same in _grouped() if any(_is_below(info, wanted) for info in same)]
    if not found:
        names = {name for info in all_keys() for name in (info.key, info.full_key)}
        raise RecipeError(
            f'No recipe key "{key}".{did_you_mean(key, names)} `wsseg recipes explain` lists all.'
        )
    return found


def suggest(path: Sequence[str]) -> str:
    """Say what was probably meant by a key that does not exist.

    Args:
        path: The parts of the key, from the top of the recipe.

    Returns:
        A sentence with a leading space, or ``""``: which choice the key exists with, a key beside
        it that is written alike, or the key of the same name elsewhere in the same part.
    """
    *parent, last = path
    infos = all_keys()
    beside = {}
    for info in infos:
        head, _, name = info.key.rpartition(".")
        if head == ".".join(parent):
            beside[name] = info
    part = [info for info in infos if parent and info.key.startswith(f"{parent[0]}.")]
    # What comes with one method only is hardly meant where that method is not used.
    same = [info.key for info in part if _ends_with(info, last) and "=" not in info.only_with]
    elsewhere = f' Did you mean "{same[0]}"?' if same else ""
    if last in beside and beside[last].only_with:
        return f" It exists only with {beside[last].only_with}.{elsewhere}"
    near = did_you_mean(last, beside)
    if near:
        return near
    if not same:
        same = [info.key for info in part if _ends_with(info, last)]
    return f' Did you mean "{same[0]}"?' if same else ""


def _ends_with(info: KeyInfo, name: str) -> bool:
    return info.key.rpartition(".")[2] == name


def _is_below(info: KeyInfo, wanted: Sequence[str]) -> bool:
    """Tell whether a key is the wanted one or below it; names of choices may be left out."""
    key = info.key.split(".")
    for part in info.full_key.split("."):
        if not wanted:
            break
        is_choice = not key or part != key[0]
        if part == wanted[0]:
            wanted = wanted[1:]
        elif not is_choice:
            return False
        if not is_choice:
            key = key[1:]
    return not wanted


def all_keys() -> list[KeyInfo]:
    """List every key of a recipe with every registered method.

    Returns:
        One entry per key and meaning: what several methods share is listed once.
    """
    return [_merged(same) for same in _grouped()]


def _grouped() -> list[list[KeyInfo]]:
    """Put the keys together that differ only in the method or choice that they belong to."""
    from wsseg.recipe import Recipe

    same: dict[KeyInfo, list[KeyInfo]] = {}
    for info in _walk(Recipe, _Place()):
        same.setdefault(replace(info, only_with="", full_key=""), []).append(info)
    return list(same.values())


def _merged(same: Sequence[KeyInfo]) -> KeyInfo:
    """Name the choices that a key exists with, unless it exists with every method of its group."""
    choices = list(dict.fromkeys(info.only_with for info in same))
    group = same[0].key.partition(".")[0]
    if group in GROUPS and choices == [f"{group}.name={name}" for name in _method_names(group)]:
        choices = []
    if group == "localize" and len(choices) > 1:
        names = _method_names("localize.tags")
        learners = [name for name in _method_names("localize") if name in names or _learns(name)]
        if choices in ([f"localize.name={name}" for name in those] for those in (names, learners)):
            choices = [TRAINED]
        if choices == [f"localize.tags.name={name}" for name in names]:
            choices = ["localize.name=mixed"]
    return replace(same[0], only_with=" or ".join(choices))


@dataclass(frozen=True)
class _Place:
    """Where in the recipe a group of settings stands."""

    key: str = ""
    full_key: str = ""
    only_with: str = ""
    group_only_with: str = ""  # what the group itself exists with, and so does its `name`


def _walk(cls: type[BaseModel], place: _Place) -> Iterator[KeyInfo]:
    # The name comes first: it says what the keys behind it belong to.
    for name, field in sorted(cls.model_fields.items(), key=lambda item: item[0] != "name"):
        key = f"{place.key}{name}"
        full_key = f"{place.full_key}{name}"
        type_words = _field_type(field, key)
        default = _default_text(field)
        is_label = default == type_words
        yield KeyInfo(
            key,
            place.group_only_with if is_label else place.only_with,
            type_words,
            "" if is_label else default,
            field.description or "",
            full_key,
        )
        for inner, inner_place in _inner(field, key, full_key, place.only_with):
            yield from _walk(inner, inner_place)


def _inner(
    field: FieldInfo, key: str, full_key: str, only_with: str
) -> Iterator[tuple[type[BaseModel], _Place]]:
    """Find the groups of settings inside a field: those of methods, of choices, or just one."""
    if key in GROUPS:
        for name in _method_names(key):
            try:
                method = registry.config_class(GROUPS[key], name)
            except (
                RecipeError
            ) as error:  # a broken package of somebody else hides nothing but itself
                console.warning(str(error))
                continue
            # Items of a list are addressed by their name, the one localizer and segmenter are not.
            inner_key = f"{key}.{name}." if key in LISTS else f"{key}."
            only = only_with if key in LISTS else f"{key}.name={name}"
            yield method, _Place(inner_key, f"{full_key}.{name}.", only, only_with)
        return
    classes = config_classes(field.annotation)
    for cls in classes:
        if len(classes) == 1:
            yield cls, _Place(f"{key}.", f"{full_key}.", only_with, only_with)
        else:
            choice = choice_name(cls)
            only = f"{key}.name={choice}"
            yield cls, _Place(f"{key}.", f"{full_key}.{choice}.", only, only_with)


def _method_names(key: str) -> list[str]:
    """List the methods that a key may name; a part of localizer mixed works from its own kind."""
    names = list(registry.table(GROUPS[key]))
    group, _, kind = key.partition(".")
    if group != "localize" or GROUPS[key] != "localizers" or not kind:
        return names
    return [name for name in names if _works_from(name, kind)]


def _works_from(name: str, kind: str) -> bool:
    from wsseg.localize.config import TagLocalizerConfig

    with contextlib.suppress(RecipeError):
        cls = registry.config_class("localizers", name)
        if kind == "tags":
            return issubclass(cls, TagLocalizerConfig)
        is_part = name != "mixed" and not _learns(name)
        return is_part and kind in getattr(cls, "label_kinds", ())
    return False


def _learns(name: str) -> bool:
    """Tell a localizer that learns from boxes, points or scribbles of all images."""
    from wsseg.localize.direct import FittedLocalizer

    with contextlib.suppress(RecipeError):
        return isinstance(registry.load("localizers", name), FittedLocalizer)
    return False


def _field_type(field: FieldInfo, key: str) -> str:
    if key not in GROUPS:
        return type_text(field.annotation, field.metadata)
    text = f"settings by name: {', '.join(_method_names(key))}"
    if key in LISTS:
        return f"list of {text}"
    return f"{text}; or null" if type(None) in get_args(field.annotation) else text


def _default_text(field: FieldInfo) -> str:
    """Write a default as a recipe does."""
    if field.is_required():
        return REQUIRED
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return f"name: {name}" if (name := getattr(default, "name", "")) else ""
    return yaml_text(default)
