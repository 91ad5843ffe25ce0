from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsseg.data.image_io import write_mask
from wsseg.finished import Finished
from wsseg.rundir import RunDir


class Spy:
    """Stands for a function of the package: remembers its call and returns a given result."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.arguments: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.arguments, self.options = arguments, options
        return self.result


class Said:
    """Any result that speaks to people and to machines."""

    def __init__(self, **failures: str) -> None:
        self.failures = failures

    def text(self) -> str:
        return "in words"

    def as_dict(self) -> dict[str, Any]:
        return {"in": "numbers"}


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    return Finished(RunDir(tmp_path / "run"), {}, {}, "wsseg predict RUN NEW_IMAGES")


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch):
    def put(place: str, result: Any) -> Spy:
        made = Spy(result)
        monkeypatch.setattr(place, made)
        return made

    return put


def test_run_hands_over_every_option(cli, spy, finished):
    called = spy("wsseg.pipeline.run", finished)
    done = cli(
        "run", "photos", "--recipe", "defects", "--set", "seed=3", "--set", "segment=null",
        "--out", "runs/x", "--use-masks", "--strict", "--format", "voc", "--classes", "a, b",
    )  # fmt: skip
    assert done.code == 0
    assert done.out == "Next:   wsseg predict RUN NEW_IMAGES\n"
    assert called.arguments == (Path("photos"),)
    assert called.options == {
        "recipe": "defects",
        "overrides": ["seed=3", "segment=null"],
        "out": Path("runs/x"),
        "use_masks": True,
        "strict": True,
        "classes": ("a", "b"),
        "format": "voc",
    }


def test_run_leaves_the_choices_to_the_pipeline(cli, spy, finished):
    called = spy("wsseg.pipeline.run", finished)
    cli("run", "photos")
    assert called.options == {
        "recipe": None,
        "overrides": (),
        "out": None,
        "use_masks": False,
        "strict": False,
        "classes": None,
        "format": None,
    }


def test_failed_images_give_the_exit_code_of_bad_data(cli, spy, tmp_path):
    failed = Finished(RunDir(tmp_path), {}, {"a": "a.png: the file is empty"})
    spy("wsseg.pipeline.run", failed)
    done = cli("run", "photos")
    assert done.code == 3
    assert "a.png: the file is empty" in done.out
    document = cli("run", "photos", "--json")
    assert document.code == 3
    assert document.json["failures"] == {"a": "a.png: the file is empty"}


@pytest.mark.parametrize("stage", ["localize", "refine", "pseudo", "segment"])
def test_each_stage_can_be_done_again(stage, cli, spy, finished):
    called = spy("wsseg.pipeline.again", finished)
    assert cli(stage, "runs/x", "--set", "seed=1", "--force").code == 0
    assert called.arguments == (Path("runs/x"), stage)
    assert called.options == {"overrides": ["seed=1"], "force": True}


def test_evaluating_a_run_does_it_anew(cli, spy, finished):
    called = spy("wsseg.pipeline.again", finished)
    assert cli("evaluate", "runs/x").code == 0
    assert called.arguments == (Path("runs/x"), "evaluate")
    assert called.options == {"overrides": (), "force": True}


def test_two_folders_of_masks_are_compared(cli, tmp_path):
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    write_mask(tmp_path / "truth" / "a.png", truth)
    write_mask(tmp_path / "predicted" / "a.png", np.array([[0, 1, 1, 1]], np.uint8))
    folders = (tmp_path / "predicted", tmp_path / "truth")
    done = cli("evaluate", *folders, "--classes", "dent, stain")
    assert done.code == 0
    rows = {line.split()[0]: line.split() for line in done.out.splitlines()}
    assert rows["background"][1] == "50.0"
    assert rows["dent"][1] == "66.7"
    assert rows["stain"][1] == "-"
    document = cli("evaluate", *folders, "--json").json
    assert document["stages"][0]["classes"][1]["name"] == "class 1"


def test_folders_that_do_not_match_exit_with_3(cli, tmp_path):
    write_mask(tmp_path / "truth" / "a.png", np.zeros((1, 2), np.uint8))
    write_mask(tmp_path / "predicted" / "b.png", np.zeros((1, 2), np.uint8))
    assert cli("evaluate", tmp_path / "predicted", tmp_path / "truth").code == 3


def test_a_folder_that_is_no_run_is_refused(cli, tmp_path):
    for arguments in (["localize"], ["evaluate"], ["export", "--to", "coco"], ["report"]):
        done = cli(arguments[0], tmp_path, *arguments[1:])
        assert done.code in (2, 3), arguments
        assert str(tmp_path) in done.err


def test_the_report_is_named(cli, spy):
    called = spy("wsseg.report.render.build_report", Path("runs/x/report.html"))
    done = cli("report", "runs/x")
    assert done.out == "Report: runs/x/report.html\n"
    assert called.arguments == (Path("runs/x"),)


def test_the_demo_takes_folder_and_seed(cli, spy, finished):
    called = spy("wsseg.demo.demo", finished)
    cli("demo", "--out", "runs/d", "--seed", "4")
    assert (called.arguments, called.options) == ((Path("runs/d"),), {"seed": 4})
    cli("demo")
    assert called.arguments == (Path("runs/demo"),)


def test_predict_hands_over_every_option(cli, spy):
    called = spy("wsseg.predict.predict_folder", Said())
    done = cli("predict", "runs/x", "new", "--out", "p", "--no-overlay", "--coco", "--json")
    assert done.json == {"in": "numbers"}
    assert called.arguments == (Path("runs/x"), Path("new"), Path("p"))
    assert called.options == {"overlay": False, "coco": True, "labels": None, "format": None}
    cli("predict", "runs/x", "new", "--labels", "data", "--format", "coco")
    assert called.arguments[2] == Path("predictions")
    assert called.options == {
        "overlay": True,
        "coco": False,
        "labels": Path("data"),
        "format": "coco",
    }


def test_images_that_cannot_be_predicted_give_the_exit_code_of_bad_data(cli, spy):
    spy("wsseg.predict.predict_folder", Said(a="broken"))
    assert cli("predict", "runs/x", "new").code == 3


def test_compare_hands_over_every_option(cli, spy):
    called = spy("wsseg.compare.compare", Said())
    done = cli("compare", "photos", "--recipes", "cam, defects,", "--seeds", "3", "--use-masks")
    assert done.out == "in words\n"
    assert called.arguments == (Path("photos"), ["cam", "defects"])
    assert called.options == {
        "num_seeds": 3,
        "overrides": (),
        "out": Path("runs/compare"),
        "use_masks": True,
    }


def test_export_hands_over_every_option(cli, spy):
    called = spy("wsseg.export.run.export_run", Said())
    cli("export", "runs/x", "--to", "voc", "--masks", "predicted", "--out", "v")
    assert called.arguments == (Path("runs/x"), "voc")
    assert called.options == {"out": Path("v"), "masks": "predicted"}
