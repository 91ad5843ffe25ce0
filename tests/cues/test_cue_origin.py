from __future__ import annotations

import pytest
import yaml

from wsseg import registry
from wsseg.cues.origin import cue_origins
from wsseg.export.bundle import ModelInfo, model_card
from wsseg.recipe import load_recipe, shipped, to_yaml
from wsseg.report.provenance import read_recipe

WEIGHT_FREE = "computed from the image alone, without trained weights"
SETTINGS = {"folder": {"path": "a/maps"}, "model": {"model": "hub/net"}, "anomaly": {}}


def origins(name: str, *overrides: str) -> tuple[str, ...]:
    return cue_origins(load_recipe(name, overrides).model_dump(mode="json"))


def test_every_cue_says_where_it_comes_from() -> None:
    found = {}
    for name in registry.TABLES["cues"]:
        cue = {"name": name, **SETTINGS.get(name, {})}
        [found[name]] = cue_origins({"refine": {"steps": [{"name": "x", "cue": cue}]}})
    for name in ("rbd", "mbd", "ft", "spectral_residual"):
        assert found.pop(name) == f"x: {name}, {WEIGHT_FREE}"
    assert found["model"] == "x: model, maps of the trained network hub/net"
    assert "tagged ok, by features of the run's localizer" in found["anomaly"]
    assert "maps of another tool" in found["folder"]
    assert not any("does not say" in text for text in found.values())


def test_weights_of_an_anomaly_cue_are_named() -> None:
    cue = {"name": "anomaly", "init": "/data/weights/r18.safetensors", "backbone": "resnet18"}
    [text] = cue_origins({"cue": cue})
    assert text.endswith("by features of resnet18 with weights r18.safetensors")


def test_recipes_without_a_cue_have_no_origin_and_those_with_saliency_have_one() -> None:
    assert not origins("cam")
    with_saliency = {name for name, one in shipped().items() if one["supervision"] == "I+S"}
    assert with_saliency >= {"eps", "oh_guided"}
    assert all(cue_origins(shipped()[name]) for name in with_saliency)
    assert origins("cam", "refine.steps=[{name: background_cue, cue_folder: m}]") == (
        "background_cue: folder, maps of another tool; what it was trained on is not known here",
    )


@pytest.mark.parametrize("name", ["eps", "oh_guided"])
def test_report_and_model_card_name_the_extra_supervision_and_its_cue(name, tmp_path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    summary = read_recipe(tmp_path, problems := [])
    assert not problems
    assert summary.supervision == ("I: image tags", "+S: saliency")
    [line] = [value for what, value in summary.facts if what == "cue of"]
    assert WEIGHT_FREE in line
    info = ModelInfo(
        segmenter={"name": "smp"}, classes=("a",), supervision="I+S", cues=origins(name)
    )
    card = model_card(info)
    assert "(I+S): image tags and saliency maps." in card
    assert f"- Cue of {line}" in card
    assert yaml.safe_load(to_yaml(recipe))["supervision"] == "I+S"


def test_the_model_card_of_a_recipe_without_a_cue_names_none() -> None:
    assert "Cue of" not in model_card(ModelInfo(segmenter={"name": "smp"}, classes=("a",)))
