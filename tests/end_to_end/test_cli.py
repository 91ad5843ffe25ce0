"""Every verb of the command line for real: text for people, one JSON document, bad arguments."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from wsseg.data.image_io import read_mask
from wsseg.pipeline import run as run_pipeline


@pytest.fixture
def as_json(cli):
    """Run a verb with --json; give the one document that stdout must hold."""

    def call(*arguments: Any, code: int = 0) -> Any:
        done = cli("--json", *arguments)
        assert done.exit_code == code, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.mark.slow
def test_flags_may_stand_anywhere_and_stdout_holds_json_only(
    wsseg, template, recipe_path, tmp_path
):
    arguments = ("run", template, "-r", recipe_path, "--out", tmp_path / "run", "--set",
                 "segment=null", "--json")  # fmt: skip
    done = wsseg(*arguments)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["run"] == str(tmp_path / "run")
    assert told["failures"] == {}
    assert {stage["stage"] for stage in told["metrics"]["stages"]} >= {"localize", "pseudo"}
    assert done.stderr == ""
    refused = wsseg("run", tmp_path / "none", "--json")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["exit_code"] == 3
    assert "Traceback" not in refused.stderr


def test_single_stages_and_evaluate_and_report_of_a_run(as_json, finished_copy, results_of):
    before = results_of(finished_copy)
    for verb in ("localize", "refine", "pseudo", "segment"):
        assert as_json(verb, finished_copy)["run"] == str(finished_copy)
    (finished_copy / "report.html").unlink()
    assert as_json("report", finished_copy) == {"report": str(finished_copy / "report.html")}
    assert (finished_copy / "report.html").exists()
    metrics = json.loads((finished_copy / "metrics.json").read_text())
    (finished_copy / "metrics.json").unlink()
    assert as_json("evaluate", finished_copy)["metrics"] == metrics
    assert results_of(finished_copy) == before


def test_localize_with_set_and_then_run(as_json, cli, finished_copy, template):
    told = as_json("localize", finished_copy, "--set", "localize.training.epochs=1")
    assert told["next"].startswith("wsseg run")
    assert told["next"].endswith(f"--out {finished_copy}")
    done = cli(*told["next"].split()[1:])
    assert done.exit_code == 0, done.stderr
    assert f"Next:   wsseg predict {finished_copy} NEW_IMAGES" in done.stdout


def test_evaluate_two_folders(as_json, cli, finished, template):
    masks = finished.run.path / "masks"
    told = as_json("evaluate", masks, template / "masks", "--classes", "red,green")
    (stage,) = told["stages"]
    assert [row["name"] for row in stage["classes"]] == ["background", "red", "green"]
    by_split = [s for s in finished.metrics["stages"] if s["stage"] == "pseudo"]
    both = sum(np.array(s["confusion"]) for s in by_split)
    np.testing.assert_array_equal(stage["confusion"], both)
    unnamed = as_json("evaluate", masks, template / "masks")
    assert unnamed["stages"][0]["miou"] == pytest.approx(stage["miou"])
    text = cli("evaluate", masks, template / "masks", "--classes", "red, green").stdout
    assert "green" in text
    assert "mIoU" in text
    few = cli("evaluate", masks, template / "masks", "--classes", "red")
    assert few.exit_code == 3
    assert "the values 2" in few.stderr
    assert "expected class ids 0 to 1" in " ".join(few.stderr.split())


def test_predict_writes_masks_overlays_and_coco(as_json, finished, template, tmp_path):
    out = tmp_path / "out"
    told = as_json("predict", finished.run.path, template / "images", "--out", out, "--coco")
    assert (told["images"], told["failures"]) == (16, {})
    for name in ("00", "03"):
        np.testing.assert_array_equal(
            read_mask(out / "masks" / "val" / f"{name}.png"),
            read_mask(finished.run.path / "predictions" / "val" / f"{name}.png"),
        )
    coco = json.loads((out / "coco.json").read_text())
    assert [entry["name"] for entry in coco["categories"]] == ["red", "green"]
    assert len(coco["images"]) == 16
    with Image.open(out / "overlays" / "train" / "05.jpg") as overlay:
        assert overlay.size == (48, 40)


def test_predict_again_does_what_is_missing_or_another_image(as_json, finished, template, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(template / "images" / "val", images)
    arguments = ("predict", finished.run.path, images, "--out", out)
    as_json(*arguments, "--no-overlay")
    stamps = {path: path.stat().st_mtime_ns for path in (out / "masks").glob("*.png")}
    assert not (out / "overlays").exists()
    as_json(*arguments, "--no-overlay")
    assert {p: p.stat().st_mtime_ns for p in (out / "masks").glob("*.png")} == stamps
    as_json(*arguments)
    assert len(list((out / "overlays").glob("*.jpg"))) == 4
    # Another folder with an image of the same name.
    (tmp_path / "other").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "other" / "01.png")
    as_json("predict", finished.run.path, tmp_path / "other", "--out", out)
    assert read_mask(out / "masks" / "01.png").shape == (20, 30)
    assert read_mask(out / "masks" / "00.png").shape == (40, 48)


def test_predict_names_bad_images_and_does_the_others(cli, finished, template, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(template / "images" / "val", images)
    (images / "01.png").write_bytes(b"")
    (images / "broken image.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    shutil.copy(images / "02.png", images / "02.bmp")
    done = cli("predict", finished.run.path, images, "--out", out)
    assert done.exit_code == 3
    for words in ("01.png: the file is empty", "broken image.jpg", "duplicate stem of 02.bmp"):
        assert words in done.stderr
        assert words in done.stdout
    assert "3 masks in" in done.stdout
    assert "3 failed:" in done.stdout
    missing = cli("predict", finished.run.path, tmp_path / "nowhere", "--out", out)
    assert missing.exit_code == 3
    assert "does not exist. Give an image or a folder" in missing.stderr
    no_model = cli("predict", tmp_path, images, "--out", out)
    assert no_model.exit_code == 4
    assert "There is no model in" in no_model.stderr
    no_file = cli("predict", tmp_path / "none.onnx", images, "--out", out)
    assert no_file.exit_code == 4
    assert "none.onnx" in no_file.stderr


@pytest.mark.slow
def test_the_exported_onnx_file_predicts_the_same(wsseg, finished_copy, template, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = wsseg("export", finished_copy, "--to", "onnx", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    model = Path(told["path"])
    assert model == finished_copy / "export" / "model.onnx"
    single = template / "images" / "val" / "02.png"
    for name, path in (("torch", finished_copy), ("onnx", model)):
        done = wsseg("predict", path, single, "--out", tmp_path / name, "--json")
        assert json.loads(done.stdout)["images"] == 1, done.stderr
    torch_mask, onnx_mask = (
        read_mask(tmp_path / name / "masks" / "02.png") for name in ("torch", "onnx")
    )
    assert (torch_mask == onnx_mask).mean() > 0.999


def test_export_masks(as_json, cli, finished_copy, tmp_path):
    told = as_json("export", finished_copy, "--to", "coco")
    coco = json.loads(Path(told["path"]).read_text())
    assert len(coco["annotations"]) == told["annotations"]
    assert len(coco["images"]) == 16
    predicted = as_json(
        "export", finished_copy, "--to", "voc", "--masks", "predicted", "--out", tmp_path / "voc"
    )
    assert predicted["images"] == 4
    assert len(list((tmp_path / "voc" / "SegmentationClass").rglob("*.png"))) == 4
    unknown = cli("export", finished_copy, "--to", "cocoo")
    assert unknown.exit_code == 2
    assert 'Did you mean "coco"?' in unknown.stderr
    assert cli("export", finished_copy, "--to", "coco", "--masks", "best").exit_code == 2
    foreign = cli("export", tmp_path, "--to", "coco")
    assert foreign.exit_code == 2
    assert "is not the folder of a run" in foreign.stderr


def test_data_verbs(as_json, cli, data, tmp_path):
    assert as_json("data", "check", data)["counts"]["error"] == 0
    (data / "images" / "train" / "00.png").write_bytes(b"")
    found = as_json("data", "check", data, code=3)
    assert any("00.png" in item["file"] for item in found["findings"])
    assert "0 bytes" in cli("data", "check", data).stdout
    (data / "images" / "train" / "00.png").unlink()
    lines = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert as_json("data", "convert", data, "--out", tmp_path / "csv")["images"] == 15
    again = cli("data", "convert", data, "--out", tmp_path / "csv")
    assert again.exit_code == 3
    assert "has a labels.csv already" in again.stderr
    assert cli("data", "convert", data, "--out", tmp_path / "x", "--to", "cvs").exit_code == 2
    split = as_json("data", "split", data, "--out", tmp_path / "split.csv", "--val", "0.4")
    assert (tmp_path / "split.csv").exists()
    assert "counts" in split
    wrong = cli("data", "split", data, "--val", "0.8", "--test", "0.7")
    assert wrong.exit_code in (2, 3)
    assert "Traceback" not in wrong.stderr
    simulated = as_json(
        "data", "simulate", data, "--out", tmp_path / "sim", "--kinds", "tags,boxes"
    )
    assert simulated["images"] == 15
    assert cli("data", "simulate", data, "--out", tmp_path / "y", "--kinds", "tag").exit_code != 0
    scenes = as_json(
        "data", "scenes", "parts", "--out", tmp_path / "parts",
        "--train", 2, "--val", 1, "--size", 48,
    )  # fmt: skip
    assert (scenes["train"], scenes["val"]) == (2, 1)
    assert len(list((tmp_path / "parts" / "masks").iterdir())) == 3
    unknown = cli("data", "scenes", "part", "--out", tmp_path / "z")
    assert unknown.exit_code == 3
    assert 'Did you mean "parts"?' in unknown.stderr


def test_explaining_verbs(as_json, cli):
    assert set(as_json("recipes")) >= {"cam", "defects", "voc"}
    assert as_json("recipes", "show", "cam")["name"] == "cam"
    assert cli("recipes", "show", "cam").stdout.startswith("#")
    rows = as_json("recipes", "explain", "segment.training.epochs")
    assert any(row["key"].endswith("epochs") for row in rows)
    for arguments in (("show", "cma"), ("explain", "segment.trainin")):
        wrong = cli("recipes", *arguments)
        assert wrong.exit_code == 2
        assert "Did you mean" in wrong.stderr
    assert "packages" in as_json("doctor")


@pytest.mark.slow
def test_compare_draws_a_table_over_seeds(as_json, cli, template, recipe_path, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(recipe_path.read_text().replace("value: 0.3", "value: 0.5"))
    out = tmp_path / "compare"
    arguments = (
        "compare", template, "--recipes", f"{recipe_path},{other}", "--seeds", 2, "--out", out,
        "--set", "segment=null",
    )  # fmt: skip
    told = as_json(*arguments)
    rows = {(row["recipe"], row["stage"], row["split"]): row for row in told["rows"]}
    assert rows["tiny", "Pseudo masks", "val"]["num_seeds"] == 2
    other_row = rows["other", "Pseudo masks", "val"]
    assert other_row["gain_mean"] == pytest.approx(
        other_row["miou_mean"] - rows["tiny", "Pseudo masks", "val"]["miou_mean"]
    )
    assert rows["tiny", "Pseudo masks", "val"]["gain_mean"] is None
    assert {path.name for path in out.iterdir()} >= {
        "tiny-seed0", "tiny-seed1", "other-seed0", "other-seed1",
        "comparison.csv", "comparison.json", "comparison.png",
    }  # fmt: skip
    assert told["seconds"]["tiny"] > 0
    assert 0.1 < told["memory_gb"]["tiny"] < 100
    with (out / "comparison.csv").open(newline="") as stream:
        assert {line["recipe"] for line in csv.DictReader(stream)} == {"tiny", "other"}
    # Finished runs keep what they took.
    again = as_json(*arguments)
    assert again["seconds"] == told["seconds"]
    assert all(again["memory_gb"][name] >= told["memory_gb"][name] for name in ("tiny", "other"))
    assert "±" in cli(*arguments).stdout
    same = cli("compare", template, "--recipes", "cam,cam", "--out", out)
    assert same.exit_code == 2
    assert "needs different names" in same.stderr


def test_compare_checks_all_recipes_before_the_first_trains(cli, template, recipe_path, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    content = yaml.safe_load(recipe_path.read_text())
    content["refine"] = {"steps": [{"name": "threshold", "method": "sweep"}]}
    wrong.write_text(yaml.safe_dump(content))
    out = tmp_path / "compare"
    done = cli(
        "compare", template, "--recipes", f"{recipe_path},{wrong}", "--out", out,
        "--set", "segment=null",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "Recipe wrong: " in done.stderr
    assert "tunes on ground-truth masks" in " ".join(done.stderr.split())
    assert not out.exists()


@pytest.mark.parametrize("verb", ["localize", "refine", "pseudo", "segment", "evaluate"])
def test_a_folder_that_is_no_run_is_told(verb, cli, tmp_path):
    done = cli(verb, tmp_path)
    assert done.exit_code == 2
    assert "is not the folder of a run" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_report_of_no_run_is_told(cli, tmp_path):
    done = cli("report", tmp_path)
    assert done.exit_code == 3
    assert "is not a run" in done.stderr


def test_a_stage_that_left_images_out_exits_with_3(cli, data, recipe_path, tmp_path):
    (data / "images" / "train" / "07.png").write_bytes(b"")
    folder = tmp_path / "run"
    run_pipeline(data, recipe=recipe_path, out=folder, overrides=["segment=null"])
    done = cli("pseudo", folder, "--force")
    assert done.exit_code == 3
    assert "07.png: the file is empty" in done.stdout
