"""Affinities in whole runs: bad input is told clearly, and everything else is done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsseg.data.image_io import read_mask
from wsseg.data.scores import Scores, load_scores, save_scores
from wsseg.pipeline import again

TRAINING = "{epochs: 1, batch_size: 4, num_workers: 0, precision: float32}"
PSA = (
    "name: affinity_net, stride_px: 4, links: all, radius: 3, augment: {scale: null, crop_px: 48}, "
    f"training: {TRAINING}"
)
IRN = (
    "name: irn, pair_radius: 4, steps: 8, augment: {scale: null, crop_px: 48}, "
    f"training: {TRAINING}"
)
FILLED = "train/00"  # one class, everywhere


def steps(*texts: str) -> tuple[str, str]:
    return "--set", f"refine.steps=[{', '.join('{' + text + '}' for text in texts)}]"


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def run(finished_copy: Path, template: Path) -> Path:
    """A finished run whose maps are those of a good classifier, and which has no segmenter."""
    for path in sorted((finished_copy / "localize" / "scores").rglob("*.npz")):
        name = path.relative_to(finished_copy / "localize" / "scores").with_suffix("").as_posix()
        scores, mask = load_scores(path), read_mask(template / "masks" / f"{name}.png")
        rows = [(mask == class_id) * np.float32(0.9) for class_id in scores.class_ids[1:]]
        values = np.stack([np.zeros(mask.shape, np.float32), *rows])
        if len(values) == 1:
            values[0] = 1
        if name == FILLED:
            values[1:] = 1
        save_scores(path, Scores(values, scores.class_ids, mask.shape))
    return finished_copy


@pytest.fixture
def refine(run, cli):
    """Do the steps of a run until the numbers, without the segmenter."""

    def call(*texts: str):
        return cli("--json", "pseudo", run, *steps(*texts), "--set", "segment=null")

    return call


@pytest.mark.parametrize("text", [PSA, IRN])
def test_an_image_filled_by_one_class_trains_along_and_stays_filled(text, refine, run):
    done = refine(text)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["failures"] == {}
    assert len(list((run / "masks").rglob("*.png"))) == 16
    scores = load_scores(next((run / "refine").glob("*/scores")) / f"{FILLED}.npz")
    mask = read_mask(run / "masks" / f"{FILLED}.png")
    assert np.isin(mask, [scores.present[0], 255]).all()
    assert (mask == scores.present[0]).mean() > 0.9


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # No class ever beats its background, and no background ever beats all classes.
        (
            PSA + ", alpha_low: 0.001, alpha_high: 1000, crf: {bilateral_compat: 0}",
            ("affinity_net finds no training image with two labels", "raise alpha_low"),
        ),
        (
            IRN + ", min_foreground: 1.0, max_background: 0.0",
            ("irn cannot learn boundaries", "Lower min_foreground or raise max_background"),
        ),
        # Confident areas, but never of two labels within the radius.
        (
            IRN + ", min_foreground: 1.0, max_background: 0.5",
            ("min_foreground=1.0", "no two of different labels lie within 4 cells"),
        ),
    ],
    ids=["psa: nothing confident", "irn: nothing confident", "irn: no pair"],
)
def test_a_data_set_that_teaches_nothing_is_told_with_the_shares_and_a_remedy(
    text, told, refine, run
):
    done = refine(text)
    assert done.exit_code == 3
    for part in told:
        assert part in words(done.stderr), done.stderr
    assert "confident foreground" in words(done.stderr)
    assert not list((run / "refine").glob("*/training"))
    # What was made before is still there, and another recipe goes on from it.
    assert refine("name: background_constant, value: 0.3").exit_code == 0


@pytest.mark.parametrize("text", [PSA, IRN])
def test_an_image_without_maps_is_left_out_and_the_others_go_on(text, refine, run):
    (run / "localize" / "scores" / "train" / "01.npz").write_bytes(b"torn")
    done = refine(text)
    assert done.exit_code == 3
    failures = json.loads(done.stdout)["failures"]
    assert list(failures) == ["train/01"]
    assert "not a valid Scores file" in failures["train/01"]
    assert len(list((run / "refine").rglob("scores/**/*.npz"))) == 15


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Weights of a network that none of the recipes names."""
    path = tmp_path / "foreign.safetensors"
    save_file({"encoder.0.weight": torch.zeros(4, 4, 3, 3)}, path)
    return path


@pytest.mark.parametrize(
    "text",
    [
        PSA + ", init: FILE, backbone: test_resnet",
        IRN + ", init: FILE, backbone: test_resnet",
        "name: attention_affinity, backbone: test_vit, weights: FILE",
    ],
    ids=["affinity_net", "irn", "attention_affinity"],
)
def test_weights_of_another_architecture_are_refused_before_an_image_is_read(
    text, foreign, data, recipe_path, tmp_path, cli
):
    arguments = ("run", data, "--recipe", recipe_path, "--out", tmp_path / "run")
    done = cli(*arguments, *steps(text.replace("FILE", str(foreign))), "--set", "segment=null")
    assert done.exit_code == 4
    assert "foreign.safetensors" in words(done.stderr)
    assert "do not fit" in words(done.stderr)
    assert not (tmp_path / "run" / "localize").exists()


def test_random_walker_alone_has_its_row_in_the_table(run):
    metrics = again(run, "evaluate", overrides=["refine.steps=[random_walker]", "segment=null"])
    stages = {(entry["stage"], entry["split"]) for entry in metrics.metrics["stages"]}
    assert ("refine/random_walker", "train") in stages
