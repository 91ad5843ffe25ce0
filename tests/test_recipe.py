from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from wsseg.errors import RecipeError
from wsseg.recipe import Recipe, load_recipe, shipped, shipped_text, to_yaml, validate


def dumped(recipe: Recipe) -> dict:
    return recipe.model_dump(mode="json")


# What recipes use besides tags.
MORE_THAN_TAGS = {
    "bb_unet": "boxes",
    "boxes": "boxes",
    "clip_es": "I+CLIP",
    "dense_crf_loss": "scribbles",
    "eps": "I+S",
    "filling_rate": "boxes",
    "gated_crf": "scribbles",
    "graphnet": "scribbles",
    "grabcut": "boxes",
    "mixed": "mixed",
    "oh_guided": "I+S",
    "point_prompts": "points",
    "points": "points",
    "points_objectness": "points",
    "scribbles": "scribbles",
    "scribblesup": "scribbles",
    "sdi": "boxes",
    "tree_energy": "scribbles",
}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_recipe_survives_writing_and_reading(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe), "utf-8")
    assert load_recipe(path) == recipe
    assert recipe.name == name


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_recipe_says_what_it_is_and_names_every_step(name: str) -> None:
    content = shipped()[name]
    assert content["name"] == name
    assert content["title"].endswith(".")
    assert content["supervision"] == MORE_THAN_TAGS.get(name, "I")
    assert yaml.safe_load(shipped_text(name)) == content


def test_changed_values_survive_writing_and_reading() -> None:
    changes = [
        "localize.training.lr=1e-5",
        "localize.training.ema_decay=0.99",
        "localize.inference.extractor={name: layer_cam, stages: [3, 4]}",
        "segment.inference.crf={}",
        "refine.steps=[background_power, {name: dense_crf, gt_prob: 0.7}]",
        "title='schön: yes # no'",
    ]
    recipe = load_recipe("cam", changes)
    again = validate(yaml.safe_load(to_yaml(recipe)))
    assert again == recipe
    assert again.title == "schön: yes # no"
    assert dumped(again)["localize"]["inference"]["extractor"]["stages"] == [3, 4]
    assert dumped(again)["segment"]["inference"]["crf"]["iterations"] == 10


def test_what_is_not_said_takes_its_default() -> None:
    recipe = validate({"localize": "cam"})
    assert recipe.name == "custom"
    assert recipe.segment is None
    assert recipe.refine.steps == ()
    assert dumped(recipe)["localize"]["name"] == "cam"


def test_a_recipe_is_frozen() -> None:
    recipe = load_recipe("cam")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_loading_does_not_change_the_dictionary_it_is_given() -> None:
    content = {"localize": {"name": "cam", "training": {"epochs": 2}}}
    assert load_recipe(content, ["localize.training.epochs=5"]).localize.training.epochs == 5
    assert content == {"localize": {"name": "cam", "training": {"epochs": 2}}}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "localize.training.epoch=3",
            ["localize.training.epoch: unknown key", 'Did you mean "epochs"?'],
        ),
        ("localize.epochs=3", ['Did you mean "localize.training.epochs"?']),
        ("seedd=1", ["seedd: unknown key", 'Did you mean "seed"?']),
        (
            "refine.steps.1.iteration=3",
            ["refine.steps.dense_crf.iteration: unknown key", '"iterations"'],
        ),
        (
            "localize.pooling.fraction=0.2",
            ["localize.pooling.fraction", "exists only with localize.pooling.name=topk"],
        ),
        ("localize.dropout=1.5", ["localize.dropout", "less than 1", "(got 1.5)"]),
        ("localize.training.lr=-1e-3", ["localize.training.lr", "greater than 0", "(got -0.001)"]),
        ("localize.inference.scales=[1, 9]", ["localize.inference.scales.1", "(got 9)"]),
        ("seed=half", ["seed", "valid integer", "(got 'half')"]),
        ("localize.training.precision=float8", ["'bfloat16'", "(got 'float8')"]),
        ("localize.inference.tile_px=none", ["localize.inference.tile_px", "write null for none"]),
        ("localize.name=camm", ['Unknown localizer "camm"', 'Did you mean "cam"?']),
        ("refine.steps=[densecrf]", ['Unknown refiner "densecrf"', "superpixel_pooling"]),
        ("segment.name=smq", ['Unknown segmenter "smq"', "smp"]),
        ("refine.steps.0=5", ["refine.steps.0", "a mapping with a `name`, got 5"]),
        ("localize=null", ["localize", "a mapping with a `name`, got None"]),
        ("localize.weights=none", []),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, parts: list[str]) -> None:
    if not parts:
        assert load_recipe("cam", [override])
        return
    with pytest.raises(RecipeError) as caught:
        load_recipe("cam", [override])
    text = str(caught.value)
    assert [part for part in parts if part not in text] == []
    assert text.startswith('The recipe "cam" is not valid:')
    assert "wsseg recipes explain" in text


def test_all_errors_are_told_at_once_and_each_once() -> None:
    wrong = ["seed=-1", "localize.training.epochs=0", "localize.inference.scales=[9]"]
    with pytest.raises(RecipeError) as caught:
        load_recipe("cam", wrong)
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0].removeprefix("  - ") for line in lines] == [
        "seed",
        "localize.training.epochs",
        "localize.inference.scales.0",
    ]


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(RecipeError, match="psa_poly needs schedule=poly"):
        load_recipe("cam", ["localize.training.optimiser=psa_poly"])
    with pytest.raises(RecipeError, match="random layers would stay random"):
        load_recipe("voc", ["localize.weights=none"])


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r'Unknown recipe "defect"\. Did you mean "defects"'):
        load_recipe("defect")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("a: [1", "is not valid YAML"),
        ("- cam\n- voc\n", "must be a mapping, got list"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("name: x\n", "localize: Field required"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_bad_recipe_file_is_named(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if isinstance(text, str):
        path.write_text(text)
    elif text is not None:
        path.write_bytes(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert "mine.yaml" in str(caught.value) or "localize" in str(caught.value)


def test_a_recipe_file_is_found_by_its_path_or_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(shipped_text("cam"))
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.yaml") == load_recipe("./mine.yaml") == load_recipe("cam")
