"""The whole job on every layout and kind of image; what is up to date is not done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.image_io import image_size, read_mask
from wsseg.pipeline import again, run
from wsseg.segment.predict import Predictor

ORIENTATION = 0x0112


def _stamps(folder: Path) -> dict[str, int]:
    """When every file of the stages was written."""
    stages = ("images", "ground_truth", "localize", "refine", "masks", "segment", "predictions")
    return {
        str(path): path.stat().st_mtime_ns
        for stage in (*stages, "evaluate", "metrics.json")
        for path in [folder / stage, *(folder / stage).rglob("*")]
    }


def test_a_run_leaves_masks_model_numbers_and_report(finished, template):
    folder = finished.run.path
    lines = (folder / "samples.jsonl").read_text().splitlines()[1:]
    ids = [json.loads(line)["id"] for line in lines]
    assert len(ids) == 16
    for image_id in ids:
        with Image.open(folder / "masks" / f"{image_id}.png") as mask:
            assert (mask.mode, mask.size) == ("P", (48, 40))
    predicted = sorted(p.stem for p in (folder / "predictions").rglob("*.png"))
    assert predicted == ["00", "01", "02", "03"]
    assert finished.failures == {}
    stages = {(stage["stage"], stage["split"]) for stage in finished.metrics["stages"]}
    assert {("localize", "val"), ("refine/dense_crf", "val"), ("pseudo", "train")} <= stages
    assert ("segment", "val") in stages
    assert ("segment", "train") not in stages
    assert json.loads((folder / "metrics.json").read_text()) == finished.metrics
    assert "train/00" in (folder / "report.html").read_text()
    assert Predictor.load(folder).classes.names == ("red", "green")
    assert finished.next_command.startswith("wsseg predict")


def test_no_tag_appears_in_a_mask_that_its_image_does_not_carry(finished):
    folder = finished.run.path
    for line in (folder / "samples.jsonl").read_text().splitlines()[1:]:
        sample = json.loads(line)
        mask = read_mask(folder / "masks" / f"{sample['id']}.png")
        assert set(np.unique(mask)) <= {0, 255, *sample["labels"]["tags"]}


def test_a_second_call_does_nothing_again(finished_copy, template, recipe_path, results_of):
    before, stamps = results_of(finished_copy), _stamps(finished_copy)
    second = run(template, recipe=recipe_path, out=finished_copy)
    assert _stamps(finished_copy) == stamps
    assert results_of(finished_copy) == before
    assert second.metrics["stages"]


def test_changed_settings_redo_the_stages_that_depend_on_them(finished_copy, template, recipe_path):
    stamps = _stamps(finished_copy)
    run(template, recipe=recipe_path, out=finished_copy, overrides=["pseudo.min_area_px=3"])
    redone = {
        Path(path).relative_to(finished_copy).parts[0]
        for path, stamp in _stamps(finished_copy).items()
        if stamps.get(path) != stamp
    }
    assert redone == {"masks", "segment", "predictions", "evaluate", "metrics.json"}


def test_one_stage_again_keeps_its_settings_and_run_does_the_rest(
    finished_copy, template, results_of
):
    changed = again(finished_copy, "localize", overrides=["localize.training.epochs=1"])
    assert "--recipe" in changed.next_command
    recipe = finished_copy / "recipe.yaml"
    assert "epochs: 1" in recipe.read_text()
    old_masks = {k: v for k, v in results_of(finished_copy).items() if k.startswith("masks/")}
    rest = run(template, recipe=recipe, out=finished_copy)
    assert rest.next_command.startswith("wsseg predict")
    log = (finished_copy / "localize" / "training" / "metrics.jsonl").read_text().splitlines()
    assert len(log) == 1
    new_masks = {k: v for k, v in results_of(finished_copy).items() if k.startswith("masks/")}
    assert new_masks.keys() == old_masks.keys()
    assert new_masks != old_masks


def test_force_does_a_stage_and_what_builds_on_it_again(finished_copy, results_of):
    before, stamps = results_of(finished_copy), _stamps(finished_copy)
    again(finished_copy, "segment", force=True)
    evaluated = again(finished_copy, "evaluate")
    redone = {p for p, stamp in _stamps(finished_copy).items() if stamps.get(p) != stamp}
    assert str(finished_copy / "predictions" / "val" / "00.png") in redone
    assert str(finished_copy / "masks" / "val" / "00.png") not in redone
    # The same settings and seed give the same results.
    assert results_of(finished_copy) == before
    assert evaluated.next_command.startswith("wsseg predict")


def test_steps_and_segmenter_of_an_earlier_recipe_do_not_linger(
    finished_copy, template, recipe_path
):
    overrides = ["refine.steps=[{name: background_constant, value: 0.4}]", "segment=null"]
    changed = run(template, recipe=recipe_path, out=finished_copy, overrides=overrides)
    assert [p.name for p in (finished_copy / "refine").iterdir()] == ["1_background_constant"]
    assert not (finished_copy / "segment").exists()
    assert not (finished_copy / "predictions").exists()
    assert {stage["stage"] for stage in changed.metrics["stages"]} == {
        "localize", "refine/background_constant", "pseudo"
    }  # fmt: skip
    assert "dense_crf" not in (finished_copy / "report.html").read_text()


def test_one_refiner_twice_is_two_steps(template, recipe_path, tmp_path):
    overrides = [
        "refine.steps=[{name: background_constant, value: 0.3}, {name: dense_crf, iterations: 1},"
        " {name: dense_crf, iterations: 3}]",
        "segment=null",
    ]
    run(template, recipe=recipe_path, out=tmp_path / "run", overrides=overrides)
    first, second = (
        sorted((tmp_path / "run" / "refine" / step / "scores").rglob("*.npz"))
        for step in ("2_dense_crf", "3_dense_crf")
    )
    assert len(first) == len(second) == 16
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(first, second, strict=True))


def test_predicted_tags_give_untagged_images_maps_and_masks(
    data, recipe_path, tmp_path, write_rows
):
    files = sorted((data / "images").rglob("*.png"))
    rows = []
    for number, path in enumerate(files):
        name = path.relative_to(data / "images").as_posix()
        tags = ("red", "green", "", "?")[number % 4]
        rows.append((name, tags, name.partition("/")[0]))
    write_rows(data, rows)
    untagged = [name.removesuffix(".png") for name, tags, _ in rows if tags == "?"]
    oracle = run(data, recipe=recipe_path, out=tmp_path / "oracle", overrides=["segment=null"])
    made = {
        p.relative_to(tmp_path / "oracle/masks") for p in (tmp_path / "oracle/masks").rglob("*.png")
    }
    assert not {Path(f"{image_id}.png") for image_id in untagged} & made
    overrides = [
        "localize.inference.tags=predicted", "localize.inference.min_tag_probability=0.3"
    ]  # fmt: skip
    predicted = run(data, recipe=recipe_path, out=tmp_path / "predicted", overrides=overrides)
    for image_id in untagged:
        assert read_mask(tmp_path / "predicted" / "masks" / f"{image_id}.png").shape == (40, 48)
    assert {s["tags"] for s in predicted.metrics["stages"] if s["stage"] == "pseudo"} == {
        "predicted"
    }
    assert {s["tags"] for s in oracle.metrics["stages"]} == {"oracle"}


def test_every_kind_of_image_gets_a_mask_of_its_upright_size(
    recipe_path, tmp_path, write_rows, paint
):
    folder = tmp_path / "data"
    names = _write_kinds(folder / "images", paint)
    tags = ("red", "green", "")
    rows = [
        (name, "red" if "same/" in name else tags[i % 3], "val" if i % 5 == 4 else "train")
        for i, name in enumerate(names)
    ]
    write_rows(folder, rows)
    assert run(folder, recipe=recipe_path, out=tmp_path / "run").failures == {}
    for name in names:
        path = folder / "images" / name
        mask = tmp_path / "run" / "masks" / f"{name.rpartition('.')[0]}.png"
        assert read_mask(mask).shape == image_size(path), name
    masks = tmp_path / "run" / "masks"
    upright = read_mask(masks / "same" / "upright.png")
    np.testing.assert_array_equal(read_mask(masks / "same" / "turned.png"), upright)


def _write_kinds(folder: Path, paint) -> list[str]:
    """Write one image of each kind; the last two show the same when they are upright."""
    (folder / "a b" / "한글").mkdir(parents=True)
    (folder / "same").mkdir()
    pixels, _ = paint(frozenset({1}), 0, (40, 56))
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture.save(folder / "a b" / "turned.jpg", exif=exif)
    picture.save(folder / "a b" / "한글" / "빨강 1.webp")
    picture.convert("L").save(folder / "grey.png")
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    deep.save(folder / "deep.png")
    deep.save(folder / "deep.v2.tif")
    rgba = picture.convert("RGBA")
    rgba.putalpha(128)
    rgba.save(folder / "alpha.png")
    picture.quantize(16).save(folder / "palette.png")
    picture.convert("CMYK").save(folder / "print.jpg")
    picture.save(folder / "plain.tiff")
    picture.save(folder / "plain2.bmp")
    picture.resize((1, 1)).save(folder / "pixel.png")
    picture.resize((90, 3)).save(folder / "strip.PNG")
    picture.save(folder / "same" / "upright.png")
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "same" / "turned.png", exif=exif)
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _as_folders(data: Path, out: Path) -> None:
    for number, path in enumerate(sorted((data / "images").rglob("*.png"))):
        target = out / path.parent.name / ("red", "green", "ok")[number % 3] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _as_index_masks(data: Path, out: Path) -> None:
    for name in ("images", "masks"):
        shutil.copytree(data / name, out / name)
    shutil.copy(data / "classes.csv", out)


def _as_voc(data: Path, out: Path) -> None:
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (out / name).mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for path in sorted((data / "images").rglob("*.png")):
        stem = f"{path.parent.name}_{path.stem}"
        Image.open(path).save(out / "JPEGImages" / f"{stem}.jpg")
        shutil.copy(data / "masks" / path.parent.name / path.name,
                    out / "SegmentationClass" / f"{stem}.png")  # fmt: skip
        mask = read_mask(out / "SegmentationClass" / f"{stem}.png")
        names = [("red", "green")[value - 1] for value in np.unique(mask) if value]
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        (out / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
        lists[path.parent.name].append(stem)
    for split, stems in lists.items():
        (out / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    shutil.copy(data / "classes.csv", out)


@pytest.mark.parametrize(
    ("write", "source"),
    [
        (_as_folders, "folder_per_class"), (_as_index_masks, "index_masks"), (_as_voc, "voc")
    ],
)  # fmt: skip
def test_every_layout_runs_to_the_end(write, source, template, recipe_path, tmp_path):
    folder = tmp_path / "data"
    write(template, folder)
    use_masks = source == "index_masks"
    ended = run(folder, recipe=recipe_path, out=tmp_path / "run", use_masks=use_masks)
    assert ended.failures == {}
    assert f'"source": "{source}"' in (tmp_path / "run" / "samples.jsonl").read_text()
    assert len(list((tmp_path / "run" / "masks").rglob("*.png"))) == 16
    assert len(list((tmp_path / "run" / "predictions").rglob("*.png"))) == 4
    kinds = {stage["stage"] for stage in ended.metrics["stages"]}
    assert ("segment" in kinds) == (source != "folder_per_class")
    if use_masks:
        # A default recipe tunes nothing on masks; the tags came from them, which the notes say.
        assert "masks" in (tmp_path / "run" / "report.html").read_text()
