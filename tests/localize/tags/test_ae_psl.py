from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsseg.context import RunContext
from wsseg.data.image_io import read_image, read_mask
from wsseg.data.scores import load_scores
from wsseg.localize.data import TagData
from wsseg.localize.rounds import Round, RoundInputs
from wsseg.localize.stage import train_localizer
from wsseg.localize.tags.ae_psl import AePsl, ErasedData, ae_psl, erasing_colour
from wsseg.rundir import StageDir


@pytest.fixture
def dataset(make_dataset):
    return make_dataset(
        {
            "a/x": {"tags": {1}, "size": (32, 40)},
            "b": {"tags": {2}, "size": (36, 32)},
            "c": {"tags": {1, 2}, "size": (32, 32)},
            "ok": {"tags": set(), "size": (32, 32)},
            "val": {"tags": {2}, "size": (32, 32), "split": "val"},
        }
    )


# Without limits: networks of noise learn nothing, and every rule would stop them.
FREE: dict[str, Any] = {"max_loss_ratio": None, "min_probability": None, "max_erased": None}


def mined(folder: Path, number: int, name: str) -> np.ndarray:
    return read_mask(folder / f"training/round_{number}/mined/regions/{name}.png") > 0


def facts_of(folder: Path, number: int) -> dict[str, Any]:
    found = json.loads((folder / f"training/round_{number}/round.json").read_text())["facts"]
    assert isinstance(found, dict)
    return found


def test_regions_grow_from_round_to_round_and_make_the_maps(runs, dataset, tmp_path):
    config = runs.small("ae_psl", rounds=2, **FREE)
    scores = runs.run_stage(dataset, config, tmp_path / "run")
    assert set(scores) == {"a/x", "b", "c", "ok", "val"}
    for sample in dataset.samples:
        rounds = [
            load_scores(tmp_path / f"run/training/round_{n}/mined/scores/{sample.id}.npz")
            for n in (1, 2)
        ]
        regions = [mined(tmp_path / "run", n, sample.id) for n in (1, 2)]
        assert np.array_equal(regions[0], (rounds[0].resized()[1:] > 0.2).any(axis=0))
        later = (rounds[1].resized()[1:] > 0.2).any(axis=0)
        assert np.array_equal(regions[1], regions[0] | later)
        expected = np.maximum(rounds[0].values, rounds[1].values)
        assert np.array_equal(scores[sample.id], expected)
    facts = facts_of(tmp_path / "run", 2)
    shares = [mined(tmp_path / "run", 2, name).mean() for name in ("a/x", "b", "c")]
    assert facts["erased"] == pytest.approx(np.mean(shares))
    assert facts["kept"]


def test_the_second_round_trains_on_erased_images(runs, dataset, tmp_path):
    config = runs.small("ae_psl", rounds=1, **FREE)
    runs.run_stage(dataset, config, tmp_path / "run")
    train = tuple(s for s in dataset.split("train") if s.labels.tags is not None)
    inputs = RoundInputs(
        dataset, train, dataset.samples, config, RunContext(), tmp_path / "run/training", "f"
    )
    data = ErasedData(Round(2, True, inputs))
    pictures = [read_image(sample.image_path) for sample in train]
    mean = np.concatenate([p.reshape(-1, 3) for p in pictures]).astype(np.float64).mean(axis=0)
    assert erasing_colour(inputs).tolist() == np.rint(mean).astype(int).tolist()
    for sample, picture in zip(train, pictures, strict=True):
        region = mined(tmp_path / "run", 1, sample.id)
        seen = data.read(sample)
        assert (seen[region] == np.rint(mean)).all()
        assert np.array_equal(seen[~region], picture[~region])
    assert isinstance(ae_psl.data(Round(1, False, inputs)), TagData)


def test_a_round_that_goes_too_far_is_dropped_and_ends_the_rounds(runs, dataset, tmp_path):
    config = runs.small("ae_psl", rounds=3, **{**FREE, "max_erased": 1e-6})
    scores = runs.run_stage(dataset, config, tmp_path / "run")
    assert facts_of(tmp_path / "run", 1)["kept"]
    second = facts_of(tmp_path / "run", 2)
    assert not second["kept"]
    assert "erased on average" in second["stop"]
    assert not (tmp_path / "run/training/round_3").exists()
    first = load_scores(tmp_path / "run/training/round_1/mined/scores/c.npz")
    assert np.array_equal(scores["c"], first.values)


def test_the_numbers_of_a_round_are_those_of_its_images_and_its_log(runs, dataset, tmp_path):
    runs.run_stage(dataset, runs.small("ae_psl", rounds=1, **FREE), tmp_path / "run")
    stage = StageDir(tmp_path / "run", "f")
    lines = stage.manifest()
    present = [
        np.mean([lines[name]["probabilities"][tag - 1] for tag in tags])
        for name, tags in {"a/x": [1], "b": [2], "c": [1, 2]}.items()
    ]
    facts = facts_of(tmp_path / "run", 1)
    assert facts["probability"] == pytest.approx(np.mean(present), abs=1e-4)
    log = (tmp_path / "run/training/round_1/metrics.jsonl").read_text().splitlines()
    assert facts["loss"] == json.loads(log[-1])["loss"]


def test_the_localizer_of_the_run_is_the_one_that_saw_whole_images(runs, dataset, tmp_path):
    from safetensors.numpy import load_file

    config = runs.small("ae_psl", rounds=2, **FREE)
    runs.run_stage(dataset, config, tmp_path / "run")
    net = train_localizer(dataset, config, StageDir(tmp_path / "run", "f"), RunContext())
    kept = load_file(tmp_path / "run/training/round_1/last.safetensors")
    assert np.array_equal(net.head.weight.detach().numpy(), kept["head.weight"])


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        ("round_1/mined/scores/*.npz", 3),
        ("round_1/mined/regions/b.png", 1),
        ("round_1/round.json", 1),
        ("round_2/checkpoint.safetensors", 1),
        ("round_2/mined/stage.json", 2),
    ],
)
def test_stopped_between_rounds_it_ends_in_the_same_maps(
    pattern, number, runs, dataset, tmp_path, monkeypatch
):
    config = runs.small("ae_psl", rounds=2, fusion="union", **FREE)
    whole = runs.run_stage(dataset, config, tmp_path / "whole")
    with runs.stopped_at(pattern, number, monkeypatch):
        runs.run_stage(dataset, config, tmp_path / "cut")
    assert runs.same(runs.run_stage(dataset, config, tmp_path / "cut"), whole)


def test_predicted_classes_are_those_of_the_first_round(runs, dataset, tmp_path):
    inference = {"scales": [1.0], "flip": False, "tags": "predicted", "min_tag_probability": 0.0}
    config = runs.small("ae_psl", rounds=2, inference=inference, **FREE)
    runs.run_stage(dataset, config, tmp_path / "run")
    for number in (1, 2):
        path = tmp_path / f"run/training/round_{number}/mined/scores/b.npz"
        assert load_scores(path).present == (1, 2)


def test_the_defaults_are_those_of_the_paper() -> None:
    config = AePsl()
    assert (config.rounds, config.erase_threshold) == (3, 0.2)
    assert list(ae_psl.numbers(config)) == [1, 2, 3]
