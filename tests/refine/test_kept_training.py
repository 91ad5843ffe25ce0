"""A trained refiner keeps what it has learned when only settings of the walk change."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsseg import registry
from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.data.scores import Scores, load_scores, save_scores
from wsseg.localize.tags.cam import Cam, cam
from wsseg.plan import plan
from wsseg.recipe import load_recipe
from wsseg.refine import irn_displacement
from wsseg.refine.affinity_net import AffinityNet, affinity_net
from wsseg.refine.irn import Irn, irn
from wsseg.refine.stage import refine_step
from wsseg.rundir import MANIFEST_FILE, RunDir, StageDir, fingerprint

TRAINING = {"epochs": 1, "batch_size": 2, "num_workers": 0, "precision": "float32"}
VIEW = {"scale": None, "crop_px": 64}
SETTINGS: dict[str, dict[str, Any]] = {
    "affinity_net": {"stride_px": 4, "links": "all", "augment": VIEW, "training": TRAINING},
    "irn": {"pair_radius": 5, "augment": VIEW, "training": TRAINING},
}
WALK = [
    ("affinity_net", {"beta": 1.0}),
    ("affinity_net", {"alpha_walk": 2.0}),
    ("irn", {"beta": 1.0}),
    ("irn", {"walk_radius": 3}),
    ("irn", {"background": 0.6}),
]


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square and the map of most of it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(30, 60, (64, 64, 3)).astype(np.uint8)
    image[16:52, 12:48] += 120
    values = np.zeros((2, 16, 16), np.float32)
    values[1, 5:12, 4:11] = rng.uniform(0.7, 1.0, (7, 7))
    return image, values


@dataclass
class World:
    """Maps on disk, and the refine stage on them."""

    dataset: Any
    root: Path
    name: str
    localizer: Any
    trained: list[str] = field(default_factory=list)

    def write_scores(self) -> None:
        before = self.before("maps")
        for seed, sample in enumerate(self.dataset.samples):
            scores = Scores(scene(seed)[1], np.array([0, 1], np.uint8), (64, 64))
            save_scores(before.file("scores", sample.id, ".npz"), scores)
            append_jsonl(before.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})

    def before(self, mark: str) -> StageDir:
        return StageDir(self.root / "localize", mark)

    def refine(self, changes: dict[str, Any] | None = None, maps: str = "maps") -> StageDir:
        settings = {"name": self.name, **SETTINGS[self.name], **(changes or {})}
        config = registry.config_class("refiners", self.name)(**settings)
        mark = fingerprint(config.model_dump(mode="json"), maps)
        stage = StageDir(self.root / "refine" / f"1_{self.name}", mark)
        refine_step(
            self.dataset, config, self.before(maps), stage, RunContext(), lambda: self.localizer
        )
        assert stage.is_done
        return stage

    def maps(self, stage: StageDir) -> np.ndarray:
        paths = [stage.file("scores", sample.id, ".npz") for sample in self.dataset.samples]
        return np.stack([load_scores(path).values for path in paths])


@pytest.fixture
def world(request, make_dataset, tmp_path):
    torch.manual_seed(0)
    localizer = cam(config=Cam(backbone="test_resnet", output_stride=8), num_classes=2).eval()
    items = {str(seed): {"image": scene(seed)[0], "tags": {1}} for seed in range(3)}
    world = World(make_dataset(items), tmp_path, request.param, localizer)
    world.write_scores()
    return world


def written(stage: StageDir, folder: str) -> dict[str, int]:
    """When each file of a folder was written."""
    files = sorted((stage.path / folder).rglob("*.*"))
    return {path.name: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize(("world", "changes"), WALK, indirect=["world"])
def test_a_setting_of_the_walk_keeps_the_network_and_gives_new_maps(world, changes):
    stage = world.refine()
    network, areas, maps = (
        written(stage, "training"),
        written(stage, "confident"),
        world.maps(stage),
    )
    changed = world.refine(changes)
    assert written(changed, "training") == network
    assert written(changed, "confident") == areas
    assert not np.array_equal(world.maps(changed), maps)
    # The way back gives what was there.
    assert np.array_equal(world.maps(world.refine()), maps)


@pytest.mark.parametrize("world", SETTINGS, indirect=True)
def test_a_setting_of_the_training_trains_again_but_keeps_the_confident_areas(world):
    stage = world.refine()
    network, areas = written(stage, "training"), written(stage, "confident")
    changed = world.refine({"training": {**TRAINING, "lr": 0.003}})
    assert written(changed, "training") != network
    assert written(changed, "confident") == areas


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        ("affinity_net", {"alpha_low": 5.0}),
        ("affinity_net", {"crf": {"iterations": 3}}),
        ("irn", {"min_foreground": 0.35}),
        ("irn", {"gt_prob": 0.8}),
    ],
    indirect=["world"],
)
def test_a_setting_of_the_confident_areas_makes_everything_anew(world, changes):
    stage = world.refine()
    network, areas = written(stage, "training"), written(stage, "confident")
    changed = world.refine(changes)
    assert not set(written(changed, "training").values()) & set(network.values())
    assert written(changed, "confident")["manifest.jsonl"] != areas["manifest.jsonl"]


@pytest.mark.parametrize("world", SETTINGS, indirect=True)
def test_other_maps_and_force_make_everything_anew(world):
    stage = world.refine()
    (stage.path / "training" / "mine.txt").write_text("x")
    world.refine(maps="other maps")
    assert not (stage.path / "training" / "mine.txt").exists()
    (stage.path / "confident" / "mine.txt").write_text("x")
    world.refine(maps="other maps")
    assert (stage.path / "confident" / "mine.txt").exists()
    stage.invalidate()
    world.refine(maps="other maps")
    assert not (stage.path / "confident" / "mine.txt").exists()


@pytest.mark.parametrize("world", ["irn"], indirect=True)
def test_the_mean_displacement_is_measured_once_per_network(world, monkeypatch):
    means = json.loads((world.refine().path / "state.json").read_text())["displacement_mean"]
    measured = []
    measure = irn_displacement.mean_displacement

    def counted(*arguments):
        measured.append(measure(*arguments))
        return measured[-1]

    monkeypatch.setattr(irn_displacement, "mean_displacement", counted)
    stage = world.refine({"beta": 1.0})
    assert not measured
    assert json.loads((stage.path / "state.json").read_text())["displacement_mean"] == means
    world.refine({"training": {**TRAINING, "lr": 0.003}})
    assert len(measured) == 1
    assert list(measured[0]) != means
    (stage.path / "training" / irn_displacement.MEAN_FILE).write_text("{")
    world.refine({"training": {**TRAINING, "lr": 0.003}, "beta": 1.0})
    assert measured[1] == measured[0]


@pytest.mark.parametrize("world", SETTINGS, indirect=True)
def test_killed_while_the_stage_is_emptied_the_training_is_still_kept(world, monkeypatch):
    stage = world.refine()
    network = written(stage, "training")
    with monkeypatch.context() as patch:

        def killed(*_args, **_more):
            raise KeyboardInterrupt

        patch.setattr("wsseg.rundir.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            world.refine({"beta": 1.0})
    assert not stage.is_done
    assert written(world.refine({"beta": 1.0}), "training") == network


@pytest.mark.parametrize(
    ("config", "refiner", "neutral"),
    [
        (AffinityNet(), affinity_net, {"num_workers": 3}),
        (Irn(), irn, {"checkpoint_every_s": 9}),
    ],
)
def test_what_changes_only_the_speed_of_a_training_is_no_setting_of_it(config, refiner, neutral):
    faster = config.model_copy(update={"training": config.training.model_copy(update=neutral)})
    assert faster != config
    assert refiner.training_settings(faster) == refiner.training_settings(config)


def test_every_setting_of_a_trained_refiner_counts_for_the_stage(make_dataset, tmp_path):
    # The stage itself is done again for any change: only what was learned is kept.
    dataset = make_dataset({"a": {"tags": {1}}})
    marks = set()
    for beta in (8, 9):
        recipe = load_recipe("psa", [f"refine.steps.affinity_net.beta={beta}"])
        marks.add(plan(RunDir(tmp_path / "run"), dataset, recipe, False).refine[0].fingerprint)
    assert len(marks) == 2
