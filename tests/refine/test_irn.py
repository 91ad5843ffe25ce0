"""Tests of wsseg.refine.irn: what it learns on small scenes; the walk against a dense matrix."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pydantic import ValidationError

from wsseg.data.scores import Scores
from wsseg.errors import DataError, MissingWeightsError, RecipeError
from wsseg.refine.irn import Irn, irn
from wsseg.refine.protocol import RefineContext

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.fixture(scope="module")
def learned(scenes, tmp_path_factory):
    """Irn trained on nine single discs and three pairs that touch, and what it made of them."""
    localizer = scenes.tiny_localizer()
    world = scenes.World(tmp_path_factory.mktemp("irn"), localizer=lambda: localizer)
    names = [world.add_disc(number) for number in range(12)]
    config = scenes.short(
        epochs=30,
        lr=0.2,
        instances=True,
        instance={"max_displacement_cells": 1.2, "cut": "after_walk"},
    )
    state = irn.fit(world.inputs(), config=config)
    shared: dict = {}
    refined = {name: world.refine(name, config, state, shared) for name in names}
    return SimpleNamespace(world=world, config=config, state=state, shared=shared, refined=refined)


def test_maps_grow_to_whole_objects(learned):
    before, after = [], []
    for name, refined in learned.refined.items():
        truth = learned.world.objects[name] > 0
        raw = learned.world.scores[name].resized()[1] > learned.config.background
        before.append(iou(raw, truth))
        after.append(iou(refined.resized().argmax(axis=0) == 1, truth))
    assert np.mean(before) < 0.72
    assert np.mean(after) > np.mean(before) + 0.05


def test_objects_of_one_class_that_touch_are_told_apart(learned):
    for number in (0, 4, 8):
        name = f"discs/{number}"
        found = [e for e in learned.world.instances(name)["instances"] if e["score"] > 0]
        masks = [coco_mask.decode(entry["segmentation"]).astype(bool) for entry in found]
        assert not np.any(sum(mask.astype(int) for mask in masks) > 1)
        for one in (1, 2):
            truth = learned.world.objects[name] == one
            assert max(iou(mask, truth) for mask in masks) > 0.6, name


def test_an_object_alone_is_one_instance(learned):
    for number in (1, 2, 3):
        name = f"discs/{number}"
        found = learned.world.instances(name)["instances"]
        scores = [entry["score"] for entry in found]
        assert scores == sorted(scores, reverse=True)
        assert found[0]["class_id"] == 1
        truth = learned.world.objects[name] > 0
        assert iou(coco_mask.decode(found[0]["segmentation"]).astype(bool), truth) > 0.6
        assert sum(score > 0 for score in scores) == 1


def test_the_strongest_class_is_one_and_the_background_is_the_constant(learned):
    for name, refined in learned.refined.items():
        assert refined.values.shape == learned.world.scores[name].values.shape
        assert (refined.values[0] == np.float32(learned.config.background)).all()
        assert refined.values[1].max() == 1


def test_scores_do_not_depend_on_whether_instances_are_wanted(learned):
    plain = learned.config.model_copy(update={"instances": False})
    refined = learned.world.refine("discs/0", plain, learned.state, learned.shared)
    np.testing.assert_array_equal(refined.values, learned.refined["discs/0"].values)


def network(learned):
    (net,) = learned.shared.values()
    return net


def test_the_mean_displacement_of_the_train_images_is_subtracted(learned):
    from wsseg.data.colour import normalise

    means = []
    for image in learned.world.images.values():
        with torch.no_grad():
            displacement = network(learned)(torch.from_numpy(normalise(image))[None])[1]
        means.append(displacement[0].double().mean(dim=(1, 2)).numpy())
    np.testing.assert_allclose(np.mean(means, axis=0), 0, atol=1e-5)
    assert max(abs(value) for value in learned.state["displacement_mean"]) > 0.01


def dense_walk(maps, edge, *, radius: int, beta: float, steps: int) -> np.ndarray:
    """Walk with the full matrix in float64, paths found cell by cell."""
    height, width = edge.shape
    cells = list(itertools.product(range(height), range(width)))
    affinity = np.eye(len(cells))
    for (i, (y0, x0)), (j, (y1, x1)) in itertools.combinations(enumerate(cells), 2):
        length = math.hypot(y1 - y0, x1 - x0)
        if length >= radius:
            continue
        path = [
            edge[y, x]
            for y in range(min(y0, y1), max(y0, y1) + 1)
            for x in range(min(x0, x1), max(x0, x1) + 1)
            if abs((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) < length * (1 - 1e-12)
        ]
        affinity[i, j] = affinity[j, i] = 1 - max(path)
    transition = affinity**beta
    transition /= transition.sum(axis=0)
    walked = (maps * (1 - edge)).reshape(len(maps), -1) @ np.linalg.matrix_power(transition, steps)
    return walked.reshape(maps.shape)


@pytest.mark.parametrize("method", ["chebyshev", "exact"])
def test_the_result_is_that_of_the_dense_matrix(learned, method):
    from wsseg.data.colour import normalise

    image = learned.world.images["discs/1"][20:76, 24:67]
    rng = np.random.default_rng(0)
    values = rng.random((3, 14, 11)).astype(np.float32) ** 4
    scores = Scores(values, np.array([0, 2, 1], np.uint8), image.shape[:2])
    config = learned.config.model_copy(update={"method": method, "instances": False})
    context = learned.world.context("x", learned.state, learned.shared)
    refined = irn(image, scores, config=config, context=context)
    # Padded to whole cells of 4 pixels before it is mirrored.
    planes = np.pad(normalise(np.ascontiguousarray(image)), ((0, 0), (0, 0), (0, 1)))
    with torch.no_grad():
        straight = network(learned)(torch.from_numpy(planes)[None])[0][0, 0].double()
        mirrored = network(learned)(torch.from_numpy(planes[..., ::-1].copy())[None])[0][0, 0]
    logits = (straight + mirrored.flip(-1).double()) / 2
    edge = 1 / (1 + np.exp(-logits.numpy()))
    walked = dense_walk(values[1:].astype(np.float64), edge, radius=5, beta=10, steps=256)
    np.testing.assert_allclose(refined.values[1:], walked / walked.max(), atol=5e-4)
    np.testing.assert_array_equal(
        refined.values.argmax(axis=0),
        np.concatenate([np.full((1, 14, 11), 0.25), walked / walked.max()]).argmax(axis=0),
    )


def test_maps_at_another_stride_come_back_at_full_size(learned, scenes):
    name = "discs/2"
    objects = learned.world.objects[name]
    for stride in (2, 8):
        coarse = scenes.blurred_map(objects, stride)
        scores = Scores(coarse, np.array([0, 1], np.uint8), objects.shape)
        context = learned.world.context(name, learned.state, learned.shared)
        config = learned.config.model_copy(update={"instances": False})
        refined = irn(learned.world.images[name], scores, config=config, context=context)
        assert refined.values.shape == (2, *objects.shape)
        expected = learned.refined[name].resized()[1] > 0.25
        assert iou(refined.values[1] > 0.25, expected) > 0.85


def test_an_image_without_classes_has_no_instances(learned):
    scores = Scores(np.zeros((1, 24, 24), np.float32), np.zeros(1, np.uint8), (96, 96))
    context = learned.world.context("ok/1", learned.state, learned.shared)
    refined = irn(learned.world.images["discs/1"], scores, config=learned.config, context=context)
    assert (refined.values == 1).all()
    assert learned.world.instances("ok/1") == {"size": [96, 96], "instances": []}


def test_maps_without_evidence_stay_empty(learned):
    scores = Scores(np.zeros((2, 24, 24), np.float32), np.array([0, 1], np.uint8), (96, 96))
    context = learned.world.context("empty", learned.state, learned.shared)
    refined = irn(learned.world.images["discs/1"], scores, config=learned.config, context=context)
    assert (refined.values[1] == 0).all()
    assert learned.world.instances("empty")["instances"] == []


def test_what_was_learned_is_found_again(learned):
    folder = learned.world.folder / "stage"
    kept = [folder / "training" / "metrics.jsonl", folder / "confident" / "labels" / "discs/1.png"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert irn.fit(learned.world.inputs(), config=learned.config) == learned.state
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_killed_training_comes_to_the_same_weights(scenes, tmp_path, monkeypatch):
    from wsseg.training.folder import TrainingFolder

    localizer = scenes.tiny_localizer()
    states, weights = [], []
    for kind in ("whole", "killed"):
        world = scenes.World(tmp_path / kind, localizer=lambda: localizer)
        for number in range(4):
            world.add_disc(number)
        config = scenes.short(epochs=3)
        if kind == "killed":
            log = TrainingFolder.log

            def stop(self, record, log=log):
                log(self, record)
                if record["epoch"] == 2:
                    raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(TrainingFolder, "log", stop)
                with pytest.raises(KeyboardInterrupt):
                    irn.fit(world.inputs(), config=config)
        states.append(irn.fit(world.inputs(), config=config))
        weights.append((tmp_path / kind / "stage" / states[-1]["weights"]).read_bytes())
    assert states[0] == states[1]
    assert weights[0] == weights[1]


def test_only_the_train_split_is_learned_from(scenes, tmp_path):
    localizer = scenes.tiny_localizer()
    world = scenes.World(tmp_path, localizer=lambda: localizer)
    world.add_disc(0)
    world.add_disc(1, split="val")
    state = irn.fit(world.inputs(), config=scenes.short())
    labels = tmp_path / "stage" / "confident" / "labels"
    assert [path.name for path in labels.rglob("*.png")] == ["0.png"]
    assert state["notes"][0].startswith("learned from 1 images")
    assert state["tuned_on_masks"] is False


def test_grey_localizers_give_grey_networks(scenes, tmp_path):
    localizer = scenes.tiny_localizer(grey=True)
    world = scenes.World(tmp_path, localizer=lambda: localizer)
    name = world.add_disc(1)
    config = scenes.short()
    state = irn.fit(world.inputs(), config=config)
    assert world.refine(name, config, state).values.shape == (2, 24, 24)


def test_features_can_come_from_a_weight_file(scenes, tmp_path):
    from safetensors.torch import save_file

    trunk = scenes.tiny_localizer().backbone.trunk
    save_file(trunk.state_dict(), tmp_path / "features.safetensors")
    world = scenes.World(tmp_path)
    name = world.add_disc(1)
    config = scenes.short(
        init=str(tmp_path / "features.safetensors"), backbone="test_resnet", output_stride=8
    )
    irn.check(world.inputs().dataset, config=config, allow_masks=False)
    state = irn.fit(world.inputs(), config=config)
    shared: dict = {}
    world.refine(name, config, state, shared)
    (net,) = shared.values()
    torch.testing.assert_close(net.backbone.trunk.state_dict(), trunk.state_dict())


def test_random_features_are_trained_with_their_normalisation_and_come_back_the_same(
    scenes, tmp_path
):
    config = scenes.short(init="none", train_backbone=True, backbone="resnet10t", output_stride=8)
    found = []
    for run, drawn in (("a", 1), ("b", 2)):
        world = scenes.World(tmp_path / run)
        for number in range(4):
            name = world.add_disc(number)
        # What was drawn at random before must not matter.
        torch.manual_seed(drawn)
        irn.check(world.inputs().dataset, config=config, allow_masks=False)
        state = irn.fit(world.inputs(), config=config)
        shared: dict = {}
        refined = world.refine(name, config, state, shared)
        (net,) = shared.values()
        found.append((refined.values, net.backbone.state_dict()))
    (first, weights), (second, again) = found
    np.testing.assert_array_equal(first, second)
    torch.testing.assert_close(weights, again, rtol=0, atol=0)
    from wsseg.refine.irn_training import new_net

    fresh = new_net(config, None).backbone.state_dict()
    changed = {key for key in fresh if not torch.equal(fresh[key], weights[key])}
    assert any(key.endswith("running_mean") for key in changed)
    assert any("bn" in key and key.endswith(".weight") for key in changed)
    assert any("conv" in key for key in changed)


def test_weights_of_another_architecture_are_refused_before_the_run(scenes, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file(scenes.tiny_localizer().backbone.trunk.state_dict(), path)
    config = scenes.short(init=str(path), backbone="resnet18", output_stride=8)
    with pytest.raises(MissingWeightsError, match=r"other\.safetensors"):
        irn.check(scenes.World(tmp_path).inputs().dataset, config=config, allow_masks=False)


def test_without_a_localizer_the_message_says_what_else_there_is(scenes, tmp_path):
    world = scenes.World(tmp_path)
    world.add_disc(0)
    with pytest.raises(RecipeError, match="set init to imagenet or the path"):
        irn.fit(world.inputs(), config=scenes.short())


def test_without_fit_nothing_is_refined(scenes, tmp_path):
    image, objects = scenes.disc_scene(1)
    scores = Scores(scenes.blurred_map(objects), np.array([0, 1], np.uint8), objects.shape)
    for context in (None, RefineContext(folder=tmp_path)):
        with pytest.raises(RecipeError, match=r"call irn\.fit"):
            irn(image, scores, context=context)


def test_where_nothing_is_confident_the_error_says_the_shares(scenes, tmp_path):
    localizer = scenes.tiny_localizer()
    world = scenes.World(tmp_path, localizer=lambda: localizer)
    image, _ = scenes.disc_scene(1)
    flat = np.zeros((2, 24, 24), np.float32)
    flat[1] = 0.15
    world.add("flat", image, Scores(flat, np.array([0, 1], np.uint8), (96, 96)))
    with pytest.raises(DataError, match=r"0\.0% of the pixels are confident foreground") as caught:
        irn.fit(world.inputs(), config=scenes.short())
    assert "Lower min_foreground or raise max_background" in str(caught.value)


def test_a_class_that_fills_its_image_does_not_stop_the_others(scenes, tmp_path):
    localizer = scenes.tiny_localizer()
    world = scenes.World(tmp_path, localizer=lambda: localizer)
    name = world.add_disc(1)
    image, _ = scenes.disc_scene(2)
    full = np.ones((2, 24, 24), np.float32)
    world.add("full", image, Scores(full, np.array([0, 2], np.uint8), (96, 96)))
    config = scenes.short()
    with pytest.raises(DataError, match="no two of different labels"):
        irn.fit(world.inputs().of(tuple(world.samples[1:])), config=config)
    state = irn.fit(world.inputs(fingerprint="both"), config=config)
    assert world.refine("full", config, state).class_ids.tolist() == [0, 2]
    assert world.refine(name, config, state).class_ids.tolist() == [0, 1]


def test_an_image_that_cannot_be_read_is_left_out(scenes, tmp_path):
    localizer = scenes.tiny_localizer()
    world = scenes.World(tmp_path, localizer=lambda: localizer)
    world.add_disc(0)
    broken = world.add_disc(1)
    (tmp_path / f"{broken}.png").write_bytes(b"no picture")
    state = irn.fit(world.inputs(), config=scenes.short())
    assert state["notes"][0].startswith("learned from 1 images")
    lines = (tmp_path / "stage" / "confident" / "manifest.jsonl").read_text().splitlines()
    assert {line["id"]: line["status"] for line in map(json.loads, lines)} == {
        "discs/0": "ok",
        broken: "failed",
    }


def test_a_train_split_without_maps_is_refused(scenes, tmp_path):
    world = scenes.World(tmp_path)
    world.add_disc(0, split="val")
    with pytest.raises(DataError, match="nothing to learn from"):
        irn.fit(world.inputs(), config=scenes.short())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "none"}, "train_backbone is false: random features would stay random"),
        ({"min_foreground": 0.1, "max_background": 0.2}, "must not be above min_foreground"),
        ({"augment": {"crop_px": 64}}, "needs crops of at least 76 pixels"),
        ({"augment": {"crop_px": None}}, "needs crops of at least 76 pixels"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Irn(**settings)


def test_it_says_that_it_writes_the_background():
    assert Irn.writes_background
