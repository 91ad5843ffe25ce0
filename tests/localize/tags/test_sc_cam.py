from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsseg.atomic import read_jsonl
from wsseg.context import RunContext
from wsseg.errors import DataError
from wsseg.localize.stage import train_localizer
from wsseg.localize.tags.sc_cam import ScCam, plain, sc_cam, sub_categories, sub_tags
from wsseg.nets.sc_cam_head import ScCamNet, sub_category_loss
from wsseg.rundir import StageDir


@pytest.fixture
def dataset(make_dataset):
    """Two classes of dark and bright images, an image of both, one of none, and a held-out one."""

    def picture(level: int) -> np.ndarray:
        noise = np.random.default_rng(level).integers(0, 20, (32, 32, 3), dtype=np.uint8)
        return (noise + level).astype(np.uint8)

    items = {}
    for number, (level, tag) in enumerate(
        [(0, 1), (5, 1), (200, 1), (210, 1), (3, 2), (220, 2), (4, 2)]
    ):
        items[f"{number}"] = {"tags": {tag}, "image": picture(level), "size": (32, 32)}
    items["both"] = {"tags": {1, 2}, "image": picture(215), "size": (32, 32)}
    items["ok"] = {"tags": set(), "image": picture(100), "size": (32, 32)}
    items["val"] = {"tags": {1}, "image": picture(90), "size": (32, 32), "split": "val"}
    return make_dataset(items)


def clusters_of(folder, number):
    return json.loads((folder / f"training/round_{number}/clusters.json").read_text())["clusters"]


def test_the_sub_category_loss_agrees_with_its_formula_in_float64():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    tags = torch.tensor([[1.0, 0, 0, -1, 0, 1], [0, 1, 0, -1, -1, 0], [-1, -1, -1, -1, -1, -1]])
    x, s = logits.double().numpy(), tags.numpy()
    losses = [
        -np.log(1 / (1 + np.exp(-x[i, j] if s[i, j] == 1 else x[i, j])))
        for i in range(3)
        for j in range(6)
        if s[i, j] >= 0
    ]
    assert sub_category_loss(logits, tags).item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_without_anything_known_the_loss_and_its_gradient_are_zero():
    logits = torch.randn(2, 4, requires_grad=True)
    loss = sub_category_loss(logits, torch.full((2, 4), -1.0))
    loss.backward()
    assert loss.item() == 0
    assert not bool(logits.grad.any())


def test_the_loss_is_that_of_parents_plus_lambda_times_that_of_sub_categories(make, batch):
    net = make("sc_cam", num_subclasses=4, sub_weight=5.0)
    sub = torch.zeros(4, 12)
    sub[0, 1] = sub[1, 4] = sub[1, 11] = sub[2, 0] = sub[2, 9] = 1
    parts = net.loss({**batch, "sub_tags": sub})
    step = net.step(batch)
    maps = torch.einsum("sd,ndhw->nshw", net.sub_head.weight[:, :, 0, 0], step.features)
    shown = batch["valid"][:, :, ::8, ::8]
    logits = (maps * shown).sum(dim=(2, 3)) / shown.sum(dim=(2, 3))
    expected = torch.nn.functional.multilabel_soft_margin_loss(logits.double(), sub.double())
    assert parts["sub_category"].item() == pytest.approx(5 * expected.item(), rel=1e-4)
    parents = torch.nn.functional.multilabel_soft_margin_loss(
        step.logits.double(), batch["tags"].double()
    )
    assert parts["classification"].item() == pytest.approx(parents.item(), rel=1e-4)
    assert parts["loss"].item() == pytest.approx(5 * expected.item() + parents.item(), rel=1e-4)


def test_every_parameter_learns(make, batch):
    net = make("sc_cam", num_subclasses=2)
    net.loss({**batch, "sub_tags": torch.zeros(4, 6)})["loss"].backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
    backbone = {id(p) for p in net.backbone.parameters()}
    assert {id(p) for p in net.head_parameters()} == {id(p) for p in net.parameters()} - backbone


def test_the_maps_are_those_of_the_parent_head(make):
    net = make("sc_cam").eval()
    images = torch.randn(1, 3, 64, 48)
    expected = net.head(net.features(images))
    torch.testing.assert_close(net.maps(images), expected)
    with torch.no_grad():
        net.sub_head.weight.fill_(9)
    torch.testing.assert_close(net.maps(images), expected)


def test_a_batch_without_sub_tags_is_refused(make, batch):
    with pytest.raises(ValueError, match="sub_tags"):
        make("sc_cam").loss(batch)


def test_sub_tags_have_one_place_per_class_and_cluster():
    clusters = {"a": {"1": 0, "3": 1}, "b": {"3": 0}, "c": {"1": 2}}
    found = sub_tags(["c", "a", "b", "ok"], clusters, num_classes=3, num_subclasses=3)
    # Class 1 has clusters 0 and 2, class 2 none, class 3 has 0 and 1.
    assert found.astype(int).tolist() == [
        [0, -1, 1, -1, -1, -1, 0, 0, -1],
        [1, -1, 0, -1, -1, -1, 0, 1, -1],
        [0, -1, 0, -1, -1, -1, 1, 0, -1],
        [0, -1, 0, -1, -1, -1, 0, 0, -1],
    ]


def test_images_of_a_class_are_clustered_among_themselves(dataset):
    samples = [sample for sample in dataset.split("train") if sample.labels.tags]
    level = {"0": 0, "1": 5, "2": 200, "3": 210, "4": 3, "5": 220, "6": 4, "both": 215}
    features = {key: np.array([value, 1], np.float32) for key, value in level.items()}
    found = sub_categories(features, samples, 2, seed=0)
    assert found == {
        "0": {"1": 0},
        "1": {"1": 0},
        "2": {"1": 1},
        "3": {"1": 1},
        "4": {"2": 0},
        "5": {"2": 1},
        "6": {"2": 0},
        "both": {"1": 1, "2": 1},
    }


def test_a_class_with_fewer_images_than_clusters_gets_one_per_image(dataset):
    samples = [sample for sample in dataset.split("train") if sample.id in ("0", "2", "4")]
    features = {sample.id: np.array([float(sample.id)], np.float32) for sample in samples}
    found = sub_categories(features, samples, 10, seed=0)
    assert found == {"0": {"1": 0}, "2": {"1": 1}, "4": {"2": 0}}


def test_all_rounds_run_and_the_last_network_makes_the_maps(runs, dataset, tmp_path):
    config = runs.small("sc_cam", rounds=2, num_subclasses=2)
    scores = runs.run_stage(dataset, config, tmp_path / "run")
    assert set(scores) == {sample.id for sample in dataset.samples}
    for number in (0, 1):
        clusters = clusters_of(tmp_path / "run", number)
        assert clusters["both"].keys() == {"1", "2"}
        assert clusters.keys() == set("0123456") | {"both"}
    assert not (tmp_path / "run/training/round_2/clusters.json").exists()
    assert not [*(tmp_path / "run").rglob("features")]
    net = train_localizer(dataset, config, StageDir(tmp_path / "run", "f"), RunContext())
    assert isinstance(net, ScCamNet)
    logged = [
        read_jsonl(tmp_path / f"run/training/round_{number}/metrics.jsonl")[-1]
        for number in (0, 1, 2)
    ]
    assert ["sub_category" in record for record in logged] == [False, True, True]


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        ("round_0/features/vectors/*.npz", 4),
        ("round_0/clusters.json", 1),
        ("round_0/round.json", 1),
        ("round_0/features/stage.json", 3),
        ("round_1/checkpoint.safetensors", 1),
    ],
)
def test_stopped_between_rounds_it_ends_in_the_same_maps(
    pattern, number, runs, dataset, tmp_path, monkeypatch
):
    config = runs.small("sc_cam", rounds=1, num_subclasses=2)
    whole = runs.run_stage(dataset, config, tmp_path / "whole")
    with runs.stopped_at(pattern, number, monkeypatch):
        runs.run_stage(dataset, config, tmp_path / "cut")
    assert runs.same(runs.run_stage(dataset, config, tmp_path / "cut"), whole)
    assert clusters_of(tmp_path / "cut", 0) == clusters_of(tmp_path / "whole", 0)
    assert not [*(tmp_path / "cut").rglob("features")]


def test_features_are_means_over_the_cells_of_the_image_as_it_is(make, dataset):
    from wsseg.data.colour import normalise
    from wsseg.data.image_io import read_image
    from wsseg.localize.inference import mean_features

    net = make("sc_cam").eval()
    image = read_image(dataset.samples[0].image_path)
    images = torch.from_numpy(normalise(image))[None]
    expected = net.backbone(images).double().mean(dim=(2, 3))[0].detach().numpy()
    np.testing.assert_allclose(mean_features(net, image), expected, rtol=1e-4, atol=1e-6)


def test_few_images_are_named_before_training(make_dataset, caplog):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {1}}, "c": {"tags": {2}}})
    with caplog.at_level(logging.WARNING, logger="wsseg"):
        sc_cam.check(dataset, config=ScCam())
    assert "dent (2), stain (1)" in caplog.text
    assert "num_subclasses" in caplog.text


def test_nothing_to_cluster_is_refused_before_training(make_dataset):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}}, "ok": {"tags": set()}})
    with pytest.raises(DataError, match="no class has more than one"):
        sc_cam.check(dataset, config=ScCam())


@pytest.mark.parametrize("name", ["cutmix", "mixup_cam"])
def test_regularisers_that_blend_images_are_refused(name):
    with pytest.raises(ValidationError, match="blends images"):
        ScCam.model_validate({"regularisers": [name]})


def test_the_ordinary_classifier_has_the_same_settings() -> None:
    config = ScCam.model_validate({"backbone": "test_resnet", "regularisers": ["hide_and_seek"]})
    found = plain(config).model_dump()
    expected = config.model_dump(exclude={"rounds", "num_subclasses", "sub_weight"})
    assert found == {**expected, "name": "cam"}


def test_the_defaults_are_those_of_the_paper() -> None:
    config = ScCam()
    assert (config.rounds, config.num_subclasses, config.sub_weight) == (3, 10, 5.0)
    assert list(sc_cam.numbers(config)) == [0, 1, 2, 3]
