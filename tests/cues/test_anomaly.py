from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsseg.cues.anomaly import Anomaly, anomaly, normal_samples
from wsseg.cues.anomaly_features import load_features
from wsseg.cues.anomaly_models import (
    Gaussians,
    calibrated,
    coreset,
    gaussian_distances,
    nearest_distances,
)
from wsseg.cues.protocol import CueContext, CueInputs
from wsseg.cues.source import open_cue
from wsseg.errors import DataError, RecipeError

SMALL = {"init": "none", "backbone": "test_resnet", "side_px": 64, "sigma_px": 2}


def part(seed, with_scratch=False):
    """A plate with stripes and a little noise; the scratch is a bright diagonal."""
    rng = np.random.default_rng(seed)
    image = rng.normal(90, 6, (64, 64, 3))
    image[:, ::8] += 40
    if with_scratch:
        steps = np.arange(10)
        for thick in range(4):
            image[30 + steps, 40 + steps + thick] = (250, 240, 60)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def dataset(make_dataset):
    items = {f"ok/{i}": {"image": part(i), "tags": set()} for i in range(8)}
    items["bad"] = {"image": part(99, with_scratch=True), "tags": {1}}
    items["untagged"] = {"image": part(50), "tags": None}
    items["val-ok"] = {"image": part(60), "tags": set(), "split": "val"}
    return make_dataset(items)


def sample_of(dataset, name):
    return next(sample for sample in dataset.samples if sample.id == name)


@pytest.mark.parametrize("method", ["padim", "patchcore"])
def test_what_no_ok_image_has_stands_out_even_with_random_weights(dataset, tmp_path, method):
    config = Anomaly(method=method, **SMALL | {"output_stride": 4})
    source = open_cue(config, CueInputs(dataset, tmp_path))
    found = source.map(sample_of(dataset, "bad"))
    assert found.shape == (64, 64)
    scratch = found[31:39, 43:50]
    elsewhere = found[44:, :20]
    assert scratch.mean() > 0.8
    assert elsewhere.mean() < 0.3
    normal = source.map(sample_of(dataset, "val-ok"))
    assert (normal > 0.5).mean() < 0.1


def test_only_train_images_tagged_ok_say_what_is_normal(dataset):
    assert [s.id for s in normal_samples(dataset)] == [f"ok/{i}" for i in range(8)]


def test_without_ok_images_the_message_says_what_to_add(make_dataset):
    dataset = make_dataset(
        {"a": {"tags": {1}}, "b": {"tags": None}, "c": {"tags": set(), "split": "val"}}
    )
    for call in (
        lambda: anomaly.check(dataset, config=Anomaly()),
        lambda: anomaly.fit(CueInputs(dataset, dataset.root), dataset.root, config=Anomaly()),
    ):
        with pytest.raises(DataError, match=r"there are 0\. 1 more lie in other splits.*ok/"):
            call()
    one = make_dataset({"a": {"tags": set()}})
    with pytest.raises(DataError, match="at least two train images tagged ok, and there are 1"):
        anomaly.check(one, config=Anomaly())


def test_two_ok_images_are_enough(make_dataset, tmp_path):
    dataset = make_dataset({f"ok{i}": {"image": part(i), "tags": set()} for i in range(2)})
    state = anomaly.fit(CueInputs(dataset, tmp_path), tmp_path, config=Anomaly(**SMALL))
    assert state["notes"] == ["patchcore learned from 1 images tagged ok, calibrated on 1 others"]
    assert json.loads(json.dumps(state, allow_nan=False)) == state


@pytest.mark.parametrize("method", ["padim", "patchcore"])
def test_the_same_seed_learns_the_same_and_a_continued_run_learns_nothing_anew(
    dataset, tmp_path, method, monkeypatch
):
    config = Anomaly(method=method, **SMALL)
    bad = sample_of(dataset, "bad")
    first = open_cue(config, CueInputs(dataset, tmp_path / "a", seed=3)).map(bad)
    again = open_cue(config, CueInputs(dataset, tmp_path / "b", seed=3)).map(bad)
    np.testing.assert_array_equal(first, again)
    other = open_cue(config, CueInputs(dataset, tmp_path / "c", seed=4)).map(bad)
    assert (other != first).any()

    def learn_again(*_args, **_settings):
        raise AssertionError("learned again")

    monkeypatch.setattr(type(anomaly), "fit", learn_again)
    [map_file] = (tmp_path / "a").rglob("bad.png")
    map_file.unlink()
    continued = open_cue(config, CueInputs(dataset, tmp_path / "a", seed=3)).map(bad)
    np.testing.assert_array_equal(first, continued)


def test_the_features_of_the_runs_localizer_are_taken(dataset, tmp_path):
    from wsseg.nets.build import build_backbone
    from wsseg.nets.cam_head import ClassMapNet

    def localizer():
        torch.manual_seed(0)
        return ClassMapNet(build_backbone("test_resnet", output_stride=8), 2).eval()

    config = Anomaly(side_px=64)
    inputs = CueInputs(
        dataset, tmp_path, localizer=localizer, localizer_fingerprint="first training"
    )
    found = open_cue(config, inputs).map(sample_of(dataset, "bad"))
    assert found[31:39, 43:50].mean() > found[:20].mean() + 0.3
    other = CueInputs(dataset, tmp_path, localizer=localizer, localizer_fingerprint="second")
    open_cue(config, other)
    assert len(list(tmp_path.glob("anomaly-*"))) == 2
    with pytest.raises(RecipeError, match="features of the run's localizer, and there is none"):
        open_cue(config, CueInputs(dataset, tmp_path / "none"))


def test_grey_networks_and_images_of_any_shape_are_compared(make_dataset, tmp_path):
    rng = np.random.default_rng(0)
    items = {
        f"ok{i}": {"image": rng.integers(0, 99, (20 + i, 50, 3)).astype(np.uint8), "tags": set()}
        for i in range(3)
    }
    items["tiny"] = {"image": np.full((1, 1, 3), 255, np.uint8), "tags": {1}}
    dataset = make_dataset(items)
    for method in ("padim", "patchcore"):
        source = open_cue(Anomaly(method=method, **SMALL), CueInputs(dataset, tmp_path))
        for sample in dataset.samples:
            assert source.map(sample).max() <= 1
        assert source.map(sample_of(dataset, "tiny")).shape == (1, 1)


def test_a_stage_that_the_network_lacks_is_named():
    config = Anomaly(**SMALL, stages=(9,))
    with pytest.raises(RecipeError, match=r'"test_resnet" has no stage 9; it has \['):
        load_features(config, None)


def test_a_map_without_learning_is_refused():
    with pytest.raises(RecipeError, match="must learn from ok images first"):
        anomaly(part(0), config=Anomaly(**SMALL), context=CueContext())


@pytest.mark.parametrize(
    "settings",
    [{"backbone": "resnet18"}, {"init": "none"}, {"held_out_frac": 1}, {"normal_quantile": 1}],
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValidationError):
        Anomaly(**settings)


def test_gaussians_are_those_of_numpy():
    rng = np.random.default_rng(0)
    images = rng.normal(1000, 2, (7, 3, 4, 5)).astype(np.float32)
    model = Gaussians()
    for image in images:
        model.add(torch.from_numpy(image))
    mean, factor = model.finished()
    query = rng.normal(1000, 4, (3, 4, 5)).astype(np.float32)
    found = gaussian_distances(torch.from_numpy(query), mean, factor).numpy()
    for row in range(3):
        for column in range(4):
            values = images[:, row, column].astype(np.float64)
            covariance = np.cov(values, rowvar=False) + 0.01 * np.eye(5)
            offset = query[row, column] - values.mean(axis=0)
            expected = np.sqrt(offset @ np.linalg.inv(covariance) @ offset)
            assert found[row, column] == pytest.approx(expected, rel=1e-3)


def test_covariances_that_do_not_fit_are_refused_before_they_are_made():
    with pytest.raises(RecipeError, match=r"200 x 200 covariances of 100 features, 3\.0 GiB"):
        Gaussians().add(torch.zeros(1, 1, 1).expand(200, 200, 100))


def test_a_coreset_leaves_no_patch_far_from_it():
    patches = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    picked = coreset(patches, 30).tolist()
    chosen = [picked[0]]
    for index in picked[1:]:
        distance = torch.cdist(patches.double(), patches[chosen].double()).amin(dim=1)
        assert distance[index] == pytest.approx(float(distance.max()), rel=1e-5)
        chosen.append(index)
    assert len(set(picked)) == 30
    assert sorted(coreset(patches[:4], 4).tolist()) == [0, 1, 2, 3]


def test_nearest_distances_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    cells, bank = rng.normal(size=(4, 5, 3)), rng.normal(size=(11, 3))
    found = nearest_distances(torch.from_numpy(cells), torch.from_numpy(bank)).numpy()
    expected = np.linalg.norm(cells[:, :, None] - bank, axis=3).min(axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_quantile_of_normal_distances_becomes_one_half():
    rng = np.random.default_rng(0)
    distances = rng.gamma(2, 3, 100_000)
    median, quantile = np.median(distances), np.quantile(distances, 0.995)
    values = calibrated(distances, median, quantile)
    assert (values > 0.5).mean() == pytest.approx(0.005, abs=1e-4)
    assert (values == 0).mean() == pytest.approx(0.5, abs=1e-3)
    assert values.max() < 1
    assert (np.diff(calibrated(np.sort(distances), median, quantile)) >= 0).all()
    assert calibrated(np.array([2.0, 2.1]), 2.0, 2.0).tolist() == [0.0, 1.0]
