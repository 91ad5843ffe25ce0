"""Data of annotation tools go through the whole chain, and their drawn masks stay with the run."""

from __future__ import annotations

import shutil

import pytest

from wsseg.data.convert import convert_dataset
from wsseg.data.dataset import Dataset
from wsseg.pipeline import run


def test_a_run_on_polygons_keeps_the_masks_and_continues(
    template, recipe_path, tmp_path, results_of
):
    convert_dataset(template, tmp_path / "data", to="coco")
    arguments = {"recipe": recipe_path, "overrides": ["segment=null"], "out": tmp_path / "run"}
    ended = run(tmp_path / "data", **arguments)
    assert ended.failures == {}
    assert any(stage["stage"] == "pseudo" for stage in ended.metrics["stages"])
    kept = Dataset.from_jsonl(tmp_path / "run" / "samples.jsonl")
    with_mask = [sample for sample in kept if sample.mask_path is not None]
    assert with_mask
    for sample in with_mask:
        assert sample.mask_path == tmp_path / "run" / "drawn_masks" / f"{sample.id}.png"
        assert sample.mask_path.is_file()
    before = results_of(tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "masks").rglob("*.png")}
    run(tmp_path / "data", **arguments)
    assert results_of(tmp_path / "run") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
@pytest.mark.parametrize("to", ["yolo", "labelme", "cvat", "label-studio", "voc"])
def test_every_annotation_format_runs_to_the_end(to, template, recipe_path, tmp_path):
    convert_dataset(template, tmp_path / "data", to=to)
    out = tmp_path / "run"
    ended = run(tmp_path / "data", recipe=recipe_path, overrides=["segment=null"], out=out)
    assert ended.failures == {}
    assert any(stage["stage"] == "pseudo" for stage in ended.metrics["stages"])
    shutil.rmtree(out)
