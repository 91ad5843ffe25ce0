"""Bad input: a message with file and remedy, the exit code, and everything else done."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.image_io import write_mask


@pytest.fixture
def rows(data):
    """The rows of the data set's labels.csv as lists of cells."""
    return [line.split(",") for line in (data / "labels.csv").read_text().splitlines()[1:]]


def _masks(run: Path) -> int:
    return len(list((run / "masks").rglob("*.png")))


def test_every_bad_image_and_row_is_named_and_the_others_are_done(
    data, rows, recipe_path, tmp_path, cli, write_rows
):
    images, run = data / "images", tmp_path / "run"
    whole = (images / "train" / "00.png").read_bytes()
    (images / "train" / "00.png").write_bytes(whole[: len(whole) // 2])
    (images / "train" / "01.png").write_bytes(b"")
    (images / "train" / "02.png").unlink()
    shutil.copy(images / "train" / "03.png", images / "train" / "03.bmp")
    rows[4][1] = "gren"
    rows[5][1] = "?"
    write_rows(data, rows)
    arguments = ("run", data, "--recipe", recipe_path, "--out", run)
    done = cli(*arguments)
    assert done.exit_code == 3
    for words in (
        "train/00.png: the image is damaged or truncated",
        "train/01.png: the file is empty (0 bytes). Copy it again or remove it.",
        "labels.csv line 4: column file:",
        "has the duplicate stem of 03.bmp",
        'column file: "train/03.png" is not in images/. Did you mean "train/03.bmp"?',
        'labels.csv line 6: column tags: class "gren" is not in the class list (red, green). '
        'Did you mean "green"?',
        "1 images have no tags and get no maps (train/05)",
    ):
        assert words in " ".join(done.stderr.split()), words
    # Of 16 rows, five have no usable image or tag (the duplicate is named as file and as row),
    # and one is not tagged.
    assert "6 failed; the reasons:" in done.stdout
    assert _masks(run) == 10
    assert (run / "report.html").exists()
    assert "train/01" in (run / "report.html").read_text()
    again = cli(*arguments)
    assert again.exit_code == 3
    strict = cli(*arguments, "--strict")
    assert strict.exit_code == 3
    assert "has 4 error(s); 13 image(s) are fine" in strict.stderr


def test_many_problems_are_counted(data, rows, recipe_path, tmp_path, cli, write_rows):
    more = [[f"train/none{number:02d}.png", "red", "train"] for number in range(30)]
    write_rows(data, [*rows, *more])
    done = cli("run", data, "--recipe", recipe_path, "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert done.stderr.count("column file:") == 20
    assert "and 10 more errors; `wsseg data check` lists all" in done.stderr
    assert "30 failed; the reasons:" in done.stdout
    assert "... and 10 more" in done.stdout
    assert _masks(tmp_path / "run") == 16


def test_a_repaired_image_joins_in(data, recipe_path, tmp_path, cli):
    path, run = data / "images" / "train" / "02.png", tmp_path / "run"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    arguments = ("run", data, "--recipe", recipe_path, "--out", run, "--set", "segment=null")
    assert cli(*arguments).exit_code == 3
    assert _masks(run) == 15
    path.write_bytes(whole)
    assert cli(*arguments).exit_code == 0
    assert _masks(run) == 16


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "labels.csv"),
        ("image,tag\ntrain/00.png,red\n", 'column "file"'),
        ("file,tags\ntrain/00.png,red\ntrain/01.png,red,train,x\n", "labels.csv line 3"),
        ('file,tags\ntrain/00.png,"red\n', "labels.csv line 2"),
        ("file,tags\ntrain/00.png,red\ntrain/01.png,gren\n", "labels.csv line 3: column tags"),
    ],
    ids=["empty", "no file column", "more cells", "open quote", "unknown tag"],
)
def test_a_malformed_table_is_told_with_line_and_column(
    content, words, data, recipe_path, tmp_path, cli
):
    (data / "labels.csv").write_text(content)
    done = cli("run", data, "--recipe", recipe_path, "--out", tmp_path / "run", "--strict")
    assert done.exit_code == 3
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_bad_mask_is_named_with_its_values_and_does_not_end_the_run(
    data, recipe_path, tmp_path, cli
):
    strange = np.zeros((40, 48), np.uint8)
    strange[0, :3] = (7, 9, 255)
    write_mask(data / "masks" / "val" / "01.png", strange)
    write_mask(data / "masks" / "val" / "02.png", np.zeros((48, 40), np.uint8))
    Image.new("RGB", (48, 40), (128, 0, 0)).save(data / "masks" / "val" / "03.png")
    done = cli("--json", "run", data, "--recipe", recipe_path, "--out", tmp_path / "run")
    assert done.exit_code == 3
    import json

    told = json.loads(done.stdout)
    assert sorted(told["failures"]) == ["val/01", "val/02", "val/03"]
    reasons = told["failures"]
    assert (
        "val/01.png: the mask has the values 7, 9, which are not in the class list"
        in (reasons["val/01"])
    )
    assert "the mask is 40 x 48 px (width x height), but its image" in reasons["val/02"]
    assert "a mask stores class ids, but this is a RGB picture" in reasons["val/03"]
    scored = {(s["stage"], s["split"]): s["num_images"] for s in told["metrics"]["stages"]}
    assert scored["segment", "val"] == 1
    assert scored["pseudo", "train"] == 12
    assert _masks(tmp_path / "run") == 16


def test_what_a_classifier_cannot_learn_is_refused_with_a_remedy(
    data, rows, recipe_path, tmp_path, cli, write_rows
):
    arguments = ("run", data, "--recipe", recipe_path, "--out", tmp_path / "run")
    (data / "classes.csv").unlink()
    write_rows(data, [[name, "red", split] for name, _, split in rows])
    (data / "classes.csv").write_text("id,name\n1,red\n")
    always = cli(*arguments)
    assert always.exit_code == 3
    assert "Every train image carries red" in always.stderr
    assert "Add images without it (a folder `ok/`" in always.stderr
    write_rows(data, [[name, "", split] for name, _, split in rows])
    never = cli(*arguments)
    assert never.exit_code == 3
    assert "all are tagged as ok" in never.stderr
    write_rows(data, [[name, tags, "val"] for name, tags, _ in rows])
    nothing = cli(*arguments)
    assert nothing.exit_code == 3
    assert "The train split has no tagged image" in nothing.stderr


def test_an_empty_class_is_told_and_the_rest_is_done(data, recipe_path, tmp_path, cli):
    (data / "classes.csv").write_text("id,name\n1,red\n2,green\n3,blue\n")
    done = cli("run", data, "--recipe", recipe_path, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert "No train image carries blue" in done.stderr
    assert _masks(tmp_path / "run") == 16


def test_folders_without_data_are_told(tmp_path, recipe_path, cli):
    arguments = ("--recipe", recipe_path, "--out", tmp_path / "run")
    missing = cli("run", tmp_path / "nowhere", *arguments)
    assert missing.exit_code == 3
    assert f"{tmp_path / 'nowhere'}: no such folder" in missing.stderr
    (tmp_path / "empty").mkdir()
    empty = cli("run", tmp_path / "empty", *arguments)
    assert empty.exit_code == 3
    assert "no known data format. Seen: nothing" in empty.stderr
    (tmp_path / "file").write_text("x")
    assert "is a file; give the folder" in cli("run", tmp_path / "file", *arguments).stderr
    (tmp_path / "bad" / "ok").mkdir(parents=True)
    (tmp_path / "bad" / "red").mkdir()
    (tmp_path / "bad" / "ok" / "a.png").write_bytes(b"")
    (tmp_path / "bad" / "red" / "b.png").write_bytes(b"x")
    broken = cli("run", tmp_path / "bad", *arguments)
    assert broken.exit_code == 3
    assert "No image can be read" in broken.stderr
    assert "a.png: the file is empty" in broken.stderr


def test_an_ambiguous_folder_needs_a_format(data, recipe_path, tmp_path, cli):
    (data / "JPEGImages").mkdir()
    shutil.copy(data / "images" / "train" / "00.png", data / "JPEGImages")
    arguments = ("run", data, "--recipe", recipe_path, "--set", "segment=null")
    unsure = cli(*arguments, "--out", tmp_path / "run")
    assert unsure.exit_code == 3
    assert "Choose one with --format" in unsure.stderr
    wrong = cli(*arguments, "--out", tmp_path / "run", "--format", "label_csv")
    assert 'Did you mean "labels_csv"?' in wrong.stderr
    assert cli(*arguments, "--out", tmp_path / "run", "--format", "labels_csv").exit_code == 0
    assert _masks(tmp_path / "run") == 16


def test_classes_can_be_given(data, recipe_path, tmp_path, cli):
    (data / "classes.csv").unlink()
    arguments = ("run", data, "--recipe", recipe_path, "--set", "segment=null")
    run = tmp_path / "run"
    assert cli(*arguments, "--out", run, "--classes", "red, green").exit_code == 0
    assert '"classes":["red","green"]' in (run / "samples.jsonl").read_text().replace(" ", "")
    unknown = cli(*arguments, "--out", tmp_path / "other", "--classes", "rad,green")
    assert unknown.exit_code == 3
    assert 'Did you mean "rad"?' in unknown.stderr


def test_a_run_is_not_mixed_with_other_data(data, finished_copy, recipe_path, cli, results_of):
    before = results_of(finished_copy)
    done = cli("run", data, "--recipe", recipe_path, "--out", finished_copy)
    assert done.exit_code == 3
    assert "holds a run on other data" in done.stderr
    assert results_of(finished_copy) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_is_told(
    number, template, recipe_path, tmp_path, cli, monkeypatch
):
    real = Path.mkdir

    def mkdir(path: Path, *args, **kwargs) -> None:
        if path.is_relative_to(tmp_path / "run"):
            raise OSError(number, os.strerror(number), str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    done = cli("run", template, "--recipe", recipe_path, "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert f"Cannot write {tmp_path / 'run'}" in done.stderr
    assert "--out" in done.stderr


def test_output_that_is_a_file_is_told(template, recipe_path, tmp_path, cli):
    (tmp_path / "run").write_text("mine")
    done = cli("run", template, "--recipe", recipe_path, "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert "Cannot write" in done.stderr
    assert (tmp_path / "run").read_text() == "mine"


def test_a_wrong_recipe_is_told_before_anything_is_written(template, tmp_path, cli):
    run = tmp_path / "run"
    unknown = cli("run", template, "--recipe", "defect", "--out", run)
    assert unknown.exit_code == 2
    assert 'Did you mean "defects"?' in unknown.stderr
    wrong = cli(
        "run", template, "--recipe", "cam", "--set", "localize.training.epoch=3", "--out", run
    )
    assert wrong.exit_code == 2
    assert 'Did you mean "epochs"?' in wrong.stderr
    assert not run.exists()
