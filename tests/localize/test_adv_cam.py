from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from wsseg.context import RunContext
from wsseg.data.dataset import Sample
from wsseg.localize.adv_cam import adv_cam, announce, climb, climbed, grown, scores_of, steps_at
from wsseg.localize.config import AdvCamExtractor, InferenceConfig
from wsseg.localize.extract import TimmClassifier, extract
from wsseg.localize.inference import class_maps, prepare
from wsseg.localize.stage import localize
from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet
from wsseg.rundir import StageDir

# Two classes on three features; some of the maps are negative somewhere.
WEIGHTS = torch.tensor([[1.0, -0.5, 0.2], [-0.3, 0.8, -1.0]], dtype=torch.float64)


class Analytic:
    """Features are the image, maps are linear in it, scores their rectified mean."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(images.detach().clone())
        features = images * 1.0
        maps = torch.einsum("cd,vdhw->vchw", WEIGHTS, features)
        return features, maps.relu().mean(dim=(2, 3))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gain(x: np.ndarray, first: np.ndarray | None, index: int, config: AdvCamExtractor) -> Any:
    """Compute L and the regions of two views in float64, from the formulas."""
    w = WEIGHTS.numpy()
    cells = x.shape[2] * x.shape[3]
    scores, regions = [], []
    for view in x:
        maps = np.einsum("cd,dhw->chw", w, view)
        scores.append(np.maximum(maps, 0).mean(axis=(1, 2)))
        # The gradient of the mean of ReLU(M_c) for feature k is W_ck / n where M_c > 0.
        weights = w[index] * (maps[index] > 0).mean() / cells
        regions.append(np.maximum(np.einsum("d,dhw->hw", weights, view), 0))
    region = regions[0] + regions[1][:, ::-1]
    held = 0.0
    if first is not None:
        held = (np.abs(region - first) * (region > config.mask_threshold * region.max())).sum()
    y = np.sum(scores, axis=0)
    return 2 * y[index] - y.sum() - config.mask_weight * held, region


def test_the_first_step_is_the_analytic_gradient_divided_by_its_largest_value():
    config, run = AdvCamExtractor(step_size=0.08), Analytic()
    x = noise(2, 3, 4, 5)
    climb(run, x, 0, config, steps=2)
    w, maps = WEIGHTS.numpy(), np.einsum("cd,vdhw->vchw", WEIGHTS.numpy(), x.numpy())
    # At the first step A = A_0, so that only (2 y_c - sum_k y_k) = y_0 - y_1 counts.
    gradient = (
        np.einsum("d,vhw->vdhw", w[0], maps[:, 0] > 0)
        - np.einsum("d,vhw->vdhw", w[1], maps[:, 1] > 0)
    ) / 20
    expected = x.numpy() + 0.08 * gradient / np.abs(gradient).max()
    expected = np.clip(expected, x.numpy().min(), x.numpy().max())
    np.testing.assert_allclose(run.seen[1].numpy(), expected, rtol=1e-12, atol=1e-12)
    assert (run.seen[1] - x).abs().max().item() == pytest.approx(0.08)


def test_the_sign_is_that_of_more_of_the_class_and_less_of_the_others():
    run = Analytic()
    x = noise(1, 3, 6, 6, seed=3)
    climb(run, x, 1, AdvCamExtractor(mask_weight=0.0), steps=12)
    scores = [run(one)[1][0] for one in list(run.seen)]
    assert scores[-1][1] > scores[0][1] + 0.1
    assert scores[-1][0] < scores[0][0]


@pytest.mark.parametrize("mask_weight", [0.0, 7.0, 300.0])
def test_later_steps_follow_the_numerical_gradient_of_the_formula(mask_weight):
    config = AdvCamExtractor(step_size=0.08, mask_weight=mask_weight)
    run, x0 = Analytic(), noise(2, 3, 3, 4, seed=5)
    climb(run, x0, 0, config, steps=4)
    first = gain(x0.numpy(), None, 0, config)[1]
    x = run.seen[2].numpy()  # two steps were made
    numerical = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        up, down = (gain(x + sign * step, first, 0, config)[0] for sign in (1, -1))
        numerical[place] = (up - down) / 2e-6
    expected = np.clip(x + 0.08 * numerical / np.abs(numerical).max(), x.min(), x.max())
    np.testing.assert_allclose(run.seen[3].numpy(), expected, atol=1e-6)


def test_the_map_is_the_sum_of_the_grad_cams_of_all_steps():
    config, run = AdvCamExtractor(), Analytic()
    found = climb(run, noise(2, 3, 4, 5), 1, config, steps=5)
    assert len(run.seen) == 5
    expected = sum(gain(x.numpy(), None, 1, config)[1] for x in run.seen)
    np.testing.assert_allclose(found.sum(dim=0).numpy(), expected, rtol=1e-5)


def test_the_mask_keeps_salient_places_from_growing():
    x = noise(1, 3, 6, 6, seed=7)

    def growth(mask_weight: float) -> float:
        run = Analytic()
        climb(run, x, 0, AdvCamExtractor(mask_weight=mask_weight), steps=15)
        maps = [torch.einsum("d,dhw->hw", WEIGHTS[0], one[0]).relu() for one in run.seen]
        salient = maps[0] > 0.5 * maps[0].max()
        return float((maps[-1] - maps[0])[salient].mean())

    assert growth(300.0) < 0.5 * growth(0.0)


def test_places_that_are_not_salient_may_change_freely():
    regions, first = torch.tensor([[4.0, 1.0, 2.5]]), torch.tensor([[3.0, 9.0, 3.0]])
    assert grown(regions, first, 0.5).item() == pytest.approx(1.0 + 0.5)
    assert grown(torch.zeros(1, 2), torch.ones(1, 2), 0.5).item() == 0


def test_images_stay_within_their_range():
    images = torch.tensor([-1.0, 0.0, 2.0])
    found = climbed(images, torch.tensor([-3.0, 1.5, 3.0]), 0.1)
    assert found.tolist() == pytest.approx([-1.0, 0.05, 2.0])
    assert climbed(images, torch.zeros(3), 0.1) is images


def test_small_scales_make_half_of_the_steps_and_count_twice():
    config = AdvCamExtractor()
    assert [steps_at(config, scale) for scale in (0.25, 0.5, 0.6, 1.0, 2.0)] == [
        (13, 2),
        (13, 2),
        (27, 1),
        (27, 1),
        (27, 1),
    ]
    assert steps_at(AdvCamExtractor(iterations=1), 0.5) == (1, 2)


@pytest.fixture
def net() -> ClassMapNet:
    torch.manual_seed(0)
    return ClassMapNet(build_backbone("test_resnet", output_stride=8), 3).eval()


def small(**changes: Any) -> InferenceConfig:
    extractor = {"name": "adv_cam", "iterations": 3}
    settings = {"extractor": extractor, "scales": [0.5, 1.0], **changes}
    return InferenceConfig.model_validate(settings)


def test_one_iteration_is_the_class_map_up_to_a_factor(net):
    images = torch.randn(1, 3, 64, 48)
    found = adv_cam(net, images, [2], AdvCamExtractor(iterations=1)).maps[0, 0]
    raw = net.maps(images)[0, 1].detach()
    share = (raw > 0).double().mean().item()
    torch.testing.assert_close(found, raw.relu() * share, rtol=1e-4, atol=1e-5)


def test_scores_come_from_the_pooled_rectified_maps(net):
    images = torch.randn(2, 3, 64, 48)
    features, scores = scores_of(net, AdvCamExtractor())[0](images)
    torch.testing.assert_close(features, net.features(images))
    torch.testing.assert_close(scores, net.maps(images).relu().mean(dim=(2, 3)))


def test_maps_of_the_tagged_classes_come_out_and_the_network_stays_as_it_is(net):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    scores, probabilities = class_maps(net, image, {1, 3}, small())
    again, _ = class_maps(net, image, {1, 3}, small())
    assert scores.class_ids.tolist() == [0, 1, 3]
    assert scores.values[1:].max(axis=(1, 2)).tolist() == pytest.approx([1, 1], abs=5e-3)
    assert np.array_equal(scores.values, again.values)
    assert probabilities.shape == (3,)
    plain = class_maps(net, image, {1, 3}, InferenceConfig(scales=(0.5, 1.0)))
    np.testing.assert_allclose(probabilities, plain[1], atol=1e-5)
    assert not np.allclose(scores.values, plain[0].values, atol=0.02)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_mirrored_image_gives_mirrored_maps(net):
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    config = small(scales=[1.0])
    found, _ = class_maps(net, image, {2}, config)
    mirrored, _ = class_maps(net, np.ascontiguousarray(image[:, ::-1]), {2}, config)
    np.testing.assert_allclose(mirrored.values[..., ::-1], found.values, atol=2e-3)


def test_the_fast_copy_shows_the_same_maps(net):
    image = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    config = small(flip=False)
    found, _ = class_maps(prepare(net, config), image, {1}, config)
    expected, _ = class_maps(net, image, {1}, config)
    np.testing.assert_allclose(found.values, expected.values, atol=5e-3)


def test_an_image_without_classes_is_background(net):
    image = np.zeros((40, 40, 3), np.uint8)
    scores, probabilities = class_maps(net, image, set(), small())
    assert scores.class_ids.tolist() == [0]
    assert (scores.values == 1).all()
    assert probabilities.shape == (3,)


def test_only_found_classes_are_mapped_where_tags_are_predicted(net, monkeypatch):
    image = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    _, probabilities = class_maps(net, image, set(), small())
    least = float(np.sort(probabilities)[1] + 1e-6)
    asked = []
    monkeypatch.setattr(
        "wsseg.localize.adv_cam.climb",
        lambda _run, images, index, _config, *, steps, to_grid: (
            asked.append((index, steps)) or torch.ones(len(images), 4, 4)
        ),
    )
    config = small(tags="predicted", min_tag_probability=least)
    scores, _ = class_maps(net, image, None, config)
    best = int(np.argmax(probabilities))
    assert scores.present == (best + 1,)
    assert asked == [(best, 1), (best, 3)]


def test_large_images_are_cut_into_tiles(net):
    image = np.random.default_rng(4).integers(0, 256, (64, 150, 3), dtype=np.uint8)
    config = small(scales=[1.0], flip=False, tile_px=64, tile_overlap_px=16)
    scores, _ = class_maps(net, image, {1}, config)
    assert scores.values.shape == (2, 16, 38)


def test_any_timm_classifier_can_be_climbed():
    import timm

    torch.manual_seed(0)
    classifier = TimmClassifier(timm.create_model("test_resnet", num_classes=3)).eval()
    images = torch.randn(2, 3, 64, 64)
    found = adv_cam(classifier, images, [1, 2], AdvCamExtractor(iterations=2))
    assert found.maps.shape == (2, 2, 2, 2)
    assert bool((found.maps >= 0).all())


def test_a_batch_is_refused_by_the_general_function(net):
    with pytest.raises(ValueError, match="one image at a time"):
        extract(net, torch.randn(1, 3, 64, 64), [1], AdvCamExtractor())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "bfloat16"}, "precision=float32"),
        ({"normalise": "absolute"}, "needs extractor cam"),
    ],
)
def test_settings_that_contradict_the_extractor_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        small(**changes)


def test_the_work_is_announced_before_the_first_image(make_dataset, caplog):
    samples: tuple[Sample, ...] = make_dataset(
        {"a": {"tags": {1, 2}}, "b": {"tags": {1}}, "ok": {"tags": set()}}
    ).samples
    config = InferenceConfig(extractor=AdvCamExtractor(), scales=(0.5, 1.0, 1.5, 2.0))
    with caplog.at_level(logging.INFO, logger="wsseg"):
        announce(InferenceConfig(), samples)
        assert not caplog.records
        announce(config, samples)
    assert "188 passes" in caplog.text  # 2 * (13 + 3 * 27)
    assert "3 class maps of 3 images" in caplog.text


def test_the_stage_extracts_with_it(runs, make_dataset, tmp_path, caplog):
    dataset = make_dataset({"a": {"tags": {1}, "size": (32, 32)}, "b": {"tags": {2}}})
    inference = {"scales": [1.0], "extractor": {"name": "adv_cam", "iterations": 2}}
    config = runs.small("cam", inference=inference)
    with caplog.at_level(logging.INFO, logger="wsseg"):
        localize(dataset, config, StageDir(tmp_path / "run", "f"), RunContext())
    assert "adv_cam: 4 passes" in caplog.text
    assert StageDir(tmp_path / "run", "f").is_done


def test_the_defaults_are_those_of_the_paper() -> None:
    config = AdvCamExtractor()
    assert (config.iterations, config.step_size) == (27, 0.08)
    assert (config.mask_weight, config.mask_threshold) == (7.0, 0.5)
