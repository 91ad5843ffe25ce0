from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from wsseg.data.image_io import read_mask, write_mask
from wsseg.errors import DataError, RecipeError
from wsseg.pipeline import plan, run
from wsseg.pseudo.corrections import (
    Given,
    check_corrections,
    corrections_fingerprint,
    find_corrections,
)
from wsseg.recipe import validate
from wsseg.rundir import RunDir


def recipe(folder=None, **pseudo):
    content = {"localize": "filled_boxes", "supervision": "boxes"}
    corrections = None if folder is None else str(folder)
    return validate({**content, "pseudo": {"corrections": corrections, **pseudo}})


@pytest.fixture
def dataset(make_dataset):
    """Two images with boxes and one without any label."""
    import dataclasses

    from wsseg.data.labels import Boxes, WeakLabels

    sizes = {"size": (8, 10)}
    made = make_dataset({"a": sizes, "sub/b": sizes, "bare": {"tags": None, **sizes}})
    drawn = WeakLabels(tags={1}, boxes=Boxes([[2, 2, 6, 6]], [1]))
    samples = [s if s.id == "bare" else dataclasses.replace(s, labels=drawn) for s in made]
    return dataclasses.replace(made, samples=tuple(samples))


@pytest.fixture
def folder(tmp_path):
    """A folder with a correction of sub/b: the first row is class 2, the second background."""
    drawn = np.full((8, 10), 255, np.uint8)
    drawn[0], drawn[3] = 2, 0
    write_mask(tmp_path / "corrections" / "sub" / "b.png", drawn)
    return tmp_path / "corrections"


def masks(tmp_path):
    return {name: read_mask(tmp_path / "run" / "masks" / f"{name}.png") for name in ("a", "sub/b")}


def test_a_correction_overrides_where_it_is_drawn_and_nowhere_else():
    mask = np.array([[0, 1, 2, 255, 1]], np.uint8)
    correction = np.array([[255, 255, 0, 2, 2]], np.uint8)
    assert Given.of_correction(correction).over(mask).tolist() == [[0, 1, 0, 2, 2]]


def test_pixels_that_nobody_can_tell_are_ignored_in_the_masks(dataset, folder, tmp_path):
    drawn = np.full((8, 10), 255, np.uint8)
    drawn[3], drawn[0, 0] = 254, 2
    write_mask(folder / "a.png", drawn)
    run(dataset, recipe=recipe(folder), out=tmp_path / "run")
    after = masks(tmp_path)["a"]
    assert (after[3] == 255).all()
    assert after[0, 0] == 2
    assert (after[4, 3:5] == 1).all()


def test_of_two_sources_the_stronger_wins_where_both_say_something():
    weak = Given.of_mask(np.array([[1, 2, 255]], np.uint8))
    both = weak.also(Given.of_correction(np.array([[254, 255, 255]], np.uint8)))
    assert both.is_given.tolist() == [[True, True, False]]
    assert both.over(np.array([[3, 3, 3]], np.uint8)).tolist() == [[255, 2, 3]]


def test_suffixes_in_capitals_count_and_two_files_for_one_image_are_refused(
    dataset, folder, tmp_path
):
    (folder / "sub" / "b.png").rename(folder / "sub" / "b.PNG")
    mark = corrections_fingerprint(folder)
    run(dataset, recipe=recipe(folder), out=tmp_path / "run")
    assert (masks(tmp_path)["sub/b"][0] == 2).all()
    assert mark != corrections_fingerprint(tmp_path / "none")
    assert set(find_corrections(folder)) == {"sub/b"}
    write_mask(folder / "sub" / "b.png", np.zeros((8, 10), np.uint8))
    with pytest.raises(DataError, match=r"b\.png and .*b\.PNG are for the same image"):
        check_corrections(folder, dataset, tmp_path / "masks")


def test_corrections_reach_the_masks_and_survive_a_new_recipe(dataset, folder, tmp_path):
    run(dataset, recipe=recipe(), out=tmp_path / "run")
    before = masks(tmp_path)
    run(dataset, recipe=recipe(folder), out=tmp_path / "run")
    after = masks(tmp_path)
    expected = before["sub/b"].copy()
    expected[0], expected[3] = 2, 0
    assert np.array_equal(after["sub/b"], expected)
    assert np.array_equal(after["a"], before["a"])
    run(dataset, recipe=recipe(folder, min_area_px=100), out=tmp_path / "run")
    again = masks(tmp_path)["sub/b"]
    assert (again[0] == 2).all()
    assert (again[1:] == 0).all()


def test_a_correction_that_changes_makes_the_masks_anew_and_its_place_does_not(
    dataset, folder, tmp_path
):
    def mark():
        chosen = recipe(folder)
        return plan(RunDir(tmp_path / "run"), dataset, chosen, use_masks=False).pseudo.fingerprint

    first = mark()
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    folder_before, folder = folder, moved
    assert mark() == first
    drawn = read_mask(folder / "sub" / "b.png")
    drawn[7] = 1
    write_mask(folder / "sub" / "b.png", drawn)
    assert mark() != first
    assert not folder_before.exists()
    assert corrections_fingerprint(tmp_path / "none") == corrections_fingerprint(folder_before)


def test_without_corrections_the_fingerprint_is_what_it_was(dataset, tmp_path):
    from wsseg.pseudo.stage import fingerprint_settings

    rule = recipe().pseudo.model_copy(update={"no_evidence": "background"})
    assert not {"corrections", "no_evidence"} & set(fingerprint_settings(rule))


def test_an_image_with_a_correction_alone_gets_a_mask(dataset, tmp_path):
    drawn = np.full((8, 10), 255, np.uint8)
    drawn[:2] = 1
    write_mask(tmp_path / "corrections" / "bare.png", drawn)
    run(dataset, recipe=recipe(tmp_path / "corrections"), out=tmp_path / "run")
    assert np.array_equal(read_mask(tmp_path / "run" / "masks" / "bare.png"), drawn)
    doubt = (tmp_path / "run" / "masks" / "doubt.jsonl").read_text("utf-8")
    assert '"a"' in doubt
    assert '"bare"' not in doubt


def test_all_bad_corrections_are_named_before_anything_starts(dataset, folder, tmp_path):
    write_mask(folder / "a.png", np.zeros((10, 8), np.uint8))
    write_mask(folder / "sub" / "b.png", np.full((8, 10), 7, np.uint8))
    Image.new("RGB", (10, 8)).save(folder / "bare.png")
    with pytest.raises(DataError) as caught:
        run(dataset, recipe=recipe(folder), out=tmp_path / "run")
    text = str(caught.value)
    for part in ("a.png: the correction is 8 x 10 px", "b.png", "7", "bare.png"):
        assert part in text
    assert not (tmp_path / "run" / "masks").exists()


def test_a_folder_that_is_missing_or_that_the_run_empties_is_refused(dataset, folder, tmp_path):
    with pytest.raises(RecipeError, match="which is no folder"):
        run(dataset, recipe=recipe(tmp_path / "none"), out=tmp_path / "run")
    run(dataset, recipe=recipe(), out=tmp_path / "run")
    own = tmp_path / "run" / "masks"
    with pytest.raises(RecipeError, match="a folder of their own"):
        run(dataset, recipe=recipe(own), out=tmp_path / "run")
    assert (own / "a.png").is_file()
    with pytest.raises(RecipeError, match=r"which holds the folder .* \(--out\)"):
        check_corrections(tmp_path, dataset, own)
    check_corrections(folder, dataset, own)


def test_a_folder_that_is_named_like_a_picture_is_no_correction(dataset, folder, tmp_path):
    before = corrections_fingerprint(folder)
    (folder / "a.png").mkdir()
    check_corrections(folder, dataset, tmp_path / "masks")
    assert corrections_fingerprint(folder) == before


def test_corrections_of_no_image_are_told(dataset, folder, tmp_path, caplog):
    write_mask(folder / "sub" / "bb.png", np.zeros((8, 10), np.uint8))
    with caplog.at_level(logging.WARNING, logger="wsseg"):
        check_corrections(folder, dataset, tmp_path / "masks")
    assert "1 correction(s)" in caplog.text
    assert 'sub/bb.png. Did you mean "sub/b"?' in caplog.text


def test_images_that_are_no_png_are_told(dataset, folder, tmp_path, caplog):
    Image.new("L", (10, 8)).save(folder / "a.tif")
    with caplog.at_level(logging.WARNING, logger="wsseg"):
        check_corrections(folder, dataset, tmp_path / "masks")
    assert "a.tif" in caplog.text
    assert "index PNG" in caplog.text


def test_a_full_class_list_has_no_value_left_for_ignored_pixels(dataset, folder, tmp_path):
    import dataclasses

    from wsseg.data.labels import ClassList

    full = dataclasses.replace(dataset, classes=ClassList(tuple(f"c{i}" for i in range(254))))
    with pytest.raises(RecipeError, match="254 classes"):
        check_corrections(folder, full, tmp_path / "masks")
