"""What may teach and what may not: held-out images and ground-truth masks never do."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.data.image_io import write_mask
from wsseg.errors import DataError, RecipeError
from wsseg.pipeline import run

TRAINED = ("localize/training/last.safetensors", "segment/model/model.safetensors")


def _learned(results: dict[str, bytes]) -> dict[str, bytes]:
    """Everything that was learned: weights, and pseudo masks of the train split."""
    return {
        name: content
        for name, content in results.items()
        if name in TRAINED or name.startswith("masks/train/")
    }


def test_held_out_images_and_their_tags_teach_nothing(
    data, finished, recipe_path, tmp_path, results_of, write_rows
):
    rows = []
    for path in sorted((data / "images").rglob("*.png")):
        name = path.relative_to(data / "images").as_posix()
        if name.startswith("val/"):
            Image.fromarray(np.full((40, 48, 3), 7, np.uint8)).save(path)
            rows.append((name, "red", "val" if name < "val/02" else "test"))
    lines = (data / "labels.csv").read_text().splitlines()[1:]
    train = [tuple(line.split(",")) for line in lines if line.startswith("train/")]
    write_rows(data, [*train, *rows])
    run(data, recipe=recipe_path, out=tmp_path / "run")
    expected = _learned(results_of(finished.run.path))
    assert len(expected) == 14
    assert _learned(results_of(tmp_path / "run")) == expected


@pytest.mark.parametrize("change", ["removed", "other", "broken"])
def test_masks_teach_nothing_unless_the_user_says_so(
    change, data, finished, recipe_path, tmp_path, results_of
):
    for path in (data / "masks").rglob("*.png"):
        if change == "removed":
            path.unlink()
        elif change == "other":
            write_mask(path, np.full((40, 48), 2, np.uint8))
        else:
            path.write_bytes(b"no picture")
    ended = run(data, recipe=recipe_path, out=tmp_path / "run")
    assert _learned(results_of(tmp_path / "run")) == _learned(results_of(finished.run.path))
    assert len(ended.failures) == (16 if change == "broken" else 0)
    assert bool(ended.metrics["stages"]) == (change == "other")


@pytest.mark.parametrize(
    "override",
    ["refine.steps=[{name: threshold, method: sweep}]", "segment.validate_on=val_masks"],
)
def test_tuning_on_masks_needs_leave_and_is_told_everywhere(
    override, template, recipe_path, tmp_path
):
    with pytest.raises(RecipeError, match="--use-masks"):
        run(template, recipe=recipe_path, out=tmp_path / "refused", overrides=[override])
    ended = run(
        template, recipe=recipe_path, out=tmp_path / "run", overrides=[override], use_masks=True
    )
    last = {stage["stage"]: stage["tuned_on_masks"] for stage in ended.metrics["stages"]}
    assert last["segment"]
    assert last["pseudo"] == ("sweep" in override)
    assert "tuned on masks" in (tmp_path / "run" / "report.html").read_text()
    assert "TUNED ON MASKS" in ended.text()


def test_masks_alone_are_no_labels(template, tmp_path, recipe_path):
    """Images and masks without tags: what to do is said, and nothing is trained."""
    for name in ("images", "masks"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(template / name)
    (tmp_path / "data" / "classes.csv").write_text("id,name\n1,red\n2,green\n")
    with pytest.raises(DataError, match="--use-masks"):
        run(tmp_path / "data", recipe=recipe_path, out=tmp_path / "run")
    assert not (tmp_path / "run" / "localize" / "training").exists()
