from __future__ import annotations

import pytest

from wsseg.recipe import shipped, shipped_text


def test_recipes_are_listed_with_supervision_and_source(cli):
    done = cli("recipes")
    assert done.code == 0
    for name, content in shipped().items():
        line = next(line for line in done.out.splitlines() if line.startswith(f"{name} "))
        assert f"[{content['supervision']}]" in line
        assert content["title"] in line
    assert "Zhou" in done.out
    assert "wsseg recipes show NAME" in done.out


def test_recipes_are_listed_for_machines(cli):
    listed = cli("--json", "recipes").json
    assert list(listed) == sorted(shipped())
    assert listed["voc"]["supervision"] == "I"


def test_a_recipe_is_printed_with_its_comments(cli):
    done = cli("recipes", "show", "voc")
    assert done.out.rstrip("\n") == shipped_text("voc").rstrip("\n")
    assert "#" in done.out
    assert cli("recipes", "show", "voc", "--json").json == shipped()["voc"]


def test_an_unknown_recipe_exits_with_2(cli):
    done = cli("recipes", "show", "vox")
    assert done.code == 2
    assert 'Did you mean "voc"?' in done.err


def test_a_key_is_explained(cli):
    done = cli("recipes", "explain", "segment.training.epochs")
    assert done.code == 0
    assert done.out == (
        "segment.training.epochs: integer (>= 1, <= 100000) = 20\n"
        "    Passes over the training items.\n"
    )


def test_all_keys_are_explained_for_machines(cli):
    rows = cli("--json", "recipes", "explain").json
    assert {"key", "type", "default", "description", "only_with"} == set(rows[0])
    keys = {row["key"] for row in rows}
    assert {"seed", "localize.backbone", "refine.steps.dense_crf.iterations"} <= keys


def test_an_unknown_key_exits_with_2(cli):
    done = cli("recipes", "explain", "segment.trainin.epochs")
    assert done.code == 2
    assert 'Did you mean "segment.training' in done.err


@pytest.mark.parametrize("arguments", [["--json", "doctor"], ["doctor", "--json"]])
def test_doctor_speaks_to_machines_wherever_the_flag_stands(arguments, cli):
    facts = cli(*arguments).json
    assert facts["machine"]["cores"]
    assert set(facts) == {"wsseg", "packages", "machine", "extras", "weights", "advice"}
