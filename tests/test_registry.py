from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wsseg import registry
from wsseg.config import MethodConfig
from wsseg.data.scores import Scores
from wsseg.errors import RecipeError
from wsseg.explain import explain
from wsseg.recipe import load_recipe

MODULE = '''
from typing import Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.data.scores import Scores


class Halve(MethodConfig):
    """Settings of `halve`."""

    name: Literal["halve"] = Field("halve", description="Which refiner.")
    times: int = Field(1, ge=1, le=8, description="How often the scores are halved.")


def halve(image, scores, *, config=Halve(), context=None):
    return Scores(scores.values / 2**config.times, scores.class_ids, scores.size)


def no_config(image, scores):
    return scores
'''
ENTRY_POINTS = """
[wsseg.refiners]
halve = acme_methods:halve
dense_crf = acme_methods:halve
no_config = acme_methods:no_config
broken = acme_methods:missing
absent = acme_absent:thing
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package of somebody else with methods of its own."""
    (tmp_path / "acme_methods.py").write_text(MODULE)
    information = tmp_path / "acme_methods-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-methods\nVersion: 1\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.table.cache_clear()
    yield
    registry.table.cache_clear()
    sys.modules.pop("acme_methods", None)


@pytest.mark.usefixtures("acme")
def test_a_method_of_another_package_works_like_a_built_in_one() -> None:
    assert registry.table("refiners")["halve"] == "acme_methods:halve"
    recipe = load_recipe("cam", ["refine.steps=[{name: halve, times: 2}, dense_crf]"])
    step = recipe.refine.steps[0]
    scores = Scores(np.full((2, 1, 1), 0.8, np.float32), np.array([0, 3], np.uint8), (1, 1))
    refined = registry.load("refiners", "halve")(None, scores, config=step)
    assert refined.values.ravel().tolist() == pytest.approx([0.2, 0.2])
    assert explain("refine.steps.halve.times")[0].type == "integer (>= 1, <= 8)"


@pytest.mark.usefixtures("acme")
def test_a_broken_method_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    keys = {info.key for info in explain("refine.steps")}
    assert {"refine.steps.halve.times", "refine.steps.dense_crf.iterations"} <= keys
    assert '"broken" (acme_methods:missing) cannot be loaded' in caplog.text


@pytest.mark.usefixtures("acme")
def test_settings_of_another_package_are_checked_too() -> None:
    with pytest.raises(RecipeError, match=r"refine.steps.halve.times: .* \(got 9\)"):
        load_recipe("cam", ["refine.steps=[{name: halve, times: 9}]"])


@pytest.mark.usefixtures("acme")
def test_a_built_in_method_wins_over_one_of_the_same_name() -> None:
    assert registry.table("refiners")["dense_crf"] == registry.TABLES["refiners"]["dense_crf"]


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r'"broken" \(acme_methods:missing\) cannot be loaded: .*missing'),
        ("absent", r'"absent" \(acme_absent:thing\) cannot be loaded: .*acme_absent'),
        ("no_config", '"no_config" declares no configuration'),
    ],
)
def test_a_method_that_does_not_work_is_named(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        registry.config_class("refiners", name)


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("refiners", "dense-crf", 'Unknown refiner "dense-crf". Did you mean "dense_crf"?'),
        ("localizers", "came", 'Unknown localizer "came". Did you mean "cam"? Available: '),
        ("segmenters", "", 'Unknown segmenter "". Available: bb_unet, smp.'),
    ],
)
def test_an_unknown_name_is_answered_with_the_known(
    group: registry.Group, name: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        registry.load(group, name)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("group", ["localizers", "refiners", "regularisers", "segmenters"])
def test_every_method_loads_and_names_itself_in_its_settings(group: registry.Group) -> None:
    for name in registry.TABLES[group]:
        cls = registry.config_class(group, name)
        assert issubclass(cls, MethodConfig)
        assert cls.model_fields["name"].default == name
        assert callable(registry.load(group, name))
