from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from wsseg import registry
from wsseg.errors import RecipeError
from wsseg.explain import LISTS, all_keys, explain
from wsseg.recipe import Recipe, load_recipe
from wsseg.type_text import config_classes


def every_config(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield cls
    for field in cls.model_fields.values():
        for inner in config_classes(field.annotation):
            yield from every_config(inner)


def registered() -> list[type[BaseModel]]:
    groups: tuple[registry.Group, ...] = ("localizers", "refiners", "regularisers", "segmenters")
    methods = [registry.config_class(g, name) for g in groups for name in registry.table(g)]
    found = [inner for cls in (Recipe, *methods) for inner in every_config(cls)]
    return sorted(set(found), key=lambda cls: cls.__qualname__)


@pytest.mark.parametrize("cls", registered(), ids=lambda cls: cls.__name__)
def test_every_field_of_every_method_has_a_meaning_and_a_docstring(cls: type[BaseModel]) -> None:
    silent = [name for name, field in cls.model_fields.items() if not field.description]
    assert silent == []
    assert cls.__doc__


@pytest.mark.parametrize("cls", registered(), ids=lambda cls: cls.__name__)
def test_every_description_is_a_sentence(cls: type[BaseModel]) -> None:
    texts = [field.description or "" for field in cls.model_fields.values()]
    assert [text for text in texts if not text.endswith((".", ")"))] == []


@pytest.mark.parametrize("cls", registered(), ids=lambda cls: cls.__name__)
def test_every_number_has_a_range(cls: type[BaseModel]) -> None:
    free = [
        name
        for name, field in cls.model_fields.items()
        if field.annotation in (int, float, int | None, float | None)
        and not any(hasattr(limit, sign) for limit in field.metadata for sign in ("ge", "gt"))
    ]
    assert free == []


def test_types_are_free_of_python() -> None:
    noise = re.compile(r"typing|<class|NoneType|Annotated|wsseg\.|Literal|Optional|Union")
    assert [info.key for info in all_keys() if noise.search(info.type)] == []


def test_a_key_with_its_range_default_and_meaning() -> None:
    (info,) = explain("localize.training.epochs")
    assert info.key == "localize.training.epochs"
    assert info.type == "integer (>= 1, <= 100000)"
    assert info.default == "20"
    assert info.only_with == "a localizer that trains a network"
    assert info.text() == (
        "localize.training.epochs: integer (>= 1, <= 100000) = 20"
        "  [with a localizer that trains a network]\n"
        "    Passes over the training items."
    )
    assert info.as_dict()["description"] == "Passes over the training items."


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("seed", "integer (>= 0, <= 2147483647)"),
        ("max_side_px", "integer (>= 16) or null"),
        ("localize.grey", "true or false"),
        ("localize.backbone", "text"),
        ("localize.output_stride", "32 | 16 | 8 | 4"),
        ("localize.inference.scales", "list of number (> 0, <= 8), at least 1"),
        ("localize.augment.scale", "[number, number] or null"),
        ("localize.pooling.fraction", "number (> 0, <= 1)"),
    ],
)
def test_types_are_said_in_words(key: str, words: str) -> None:
    assert explain(key)[0].type == words


def test_alternatives_are_told_by_name() -> None:
    pooling, *below = explain("localize.pooling")
    assert pooling.type == "settings by name: gap, max, lse, topk, gwrp"
    assert pooling.default == "name: gap"
    names = [info.type for info in below if info.key.endswith(".name")]
    assert names == ["gap", "max", "lse", "topk", "gwrp"]
    decay = next(info for info in below if info.key == "localize.pooling.decay")
    assert decay.only_with == "localize.pooling.name=gwrp"
    assert decay.text().splitlines()[0].endswith("[with localize.pooling.name=gwrp]")


def test_methods_are_told_by_name() -> None:
    assert ", cam, " in explain("localize")[0].type
    assert explain("segment")[0].type == "settings by name: bb_unet, smp; or null"
    steps = explain("refine.steps")[0].type
    assert steps.startswith("list of settings by name: ")
    assert ", background_constant, background_cue, " in steps
    first = explain("localize")[0].text().splitlines()[0]
    assert first.startswith("localize: settings by name: ")
    assert first.endswith(" (required)")


@pytest.mark.parametrize(
    "key",
    [
        "localize.pooling.fraction",
        "localize.cam.pooling.fraction",
        "localize.pooling.topk.fraction",
        "localize.cam.pooling.topk.fraction",
        " localize.pooling.fraction. ",
    ],
)
def test_names_of_methods_and_choices_may_stand_in_a_key(key: str) -> None:
    assert [info.key for info in explain(key)] == ["localize.pooling.fraction"]


def test_a_group_is_explained_with_all_below_it_and_nothing_else() -> None:
    keys = {info.key for info in explain("refine.steps.dense_crf")}
    assert "refine.steps.dense_crf.iterations" in keys
    assert {key for key in keys if not key.startswith("refine.steps.dense_crf.")} == set()


def test_an_empty_key_explains_all_and_no_key_twice() -> None:
    infos = explain("")
    assert infos == all_keys()
    shown = [(info.key, info.only_with, info.type) for info in infos]
    assert len(set(shown)) == len(shown)


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r'"localize.trainin".* mean "localize.training"'):
        explain("localize.trainin")


def test_what_holds_settings_is_explained_down_to_their_keys() -> None:
    """A field of settings that GROUPS does not list would be named, but not explained."""
    infos = all_keys()
    groups = [i for i in infos if i.type.startswith(("settings", "list of settings"))]
    shown = {i.key.rpartition(".")[0] for i in infos}
    hidden = {i.key for i in groups} - shown
    assert {key for key in hidden if not any(s.startswith(f"{key}.") for s in shown)} == set()
    assert explain("localize.tags.regularisers.s2c.segments.sam.model")
    assert explain("localize.boxes.segments.folder.path")
    assert explain("localize.points.segments.superpixels.merge.colour_weight")
    assert explain("localize.tags.cue.folder.path")


def test_null_is_named_only_where_it_means_that_there_is_none() -> None:
    assert explain("localize.cue")[0].type.endswith("; or null")
    segments = explain("refine.steps.map_prompts.segments")[0]
    assert segments.type == "settings by name: folder, sam, superpixels"
    assert segments.default == "name: superpixels"
    assert "superpixels (null, too)" in segments.description
    assert not explain("localize.boxes")[0].type.endswith("null")


def test_every_key_without_a_choice_can_be_set_as_written() -> None:
    self_training = ["segment.rounds={count: 1, uncertainty: {}}", "segment.correction={}"]
    self_training.append("segment.trust={tags: 0.5}")
    recipe = load_recipe("cam", self_training)
    content = recipe.model_dump(mode="json")
    lists = (*LISTS, "segment.rounds.cleanups")
    for info in all_keys():
        inside_a_list = info.key.startswith(tuple(f"{key}." for key in lists))
        if info.only_with or inside_a_list or ".crf." in info.key:
            continue
        node = content
        for part in info.key.split("."):
            assert part in node, info.key
            node = node[part]


def test_two_methods_share_a_key_and_keep_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsseg.localize.tags.cam import Cam

    class Other(Cam):
        extra_px: int = 3

    classes = {"cam": Cam, "other": Other}
    real = registry.config_class
    monkeypatch.setattr(
        registry,
        "table",
        lambda group: classes if group == "localizers" else registry.TABLES[group],
    )
    monkeypatch.setattr(
        registry,
        "config_class",
        lambda group, name: classes[name] if group == "localizers" else real(group, name),
    )
    (shared,) = explain("localize.training.epochs")
    assert shared.only_with == ""
    (own,) = explain("localize.extra_px")
    assert own.only_with == "localize.name=other"
    assert explain("localize.other.training.epochs") == [shared]
