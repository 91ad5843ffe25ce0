from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wsseg.context import RunContext
from wsseg.data.image_io import read_image
from wsseg.data.scores import Scores, save_scores
from wsseg.data.transforms import AugmentConfig
from wsseg.errors import DataError, MissingWeightsError, RecipeError
from wsseg.localize.tags.cam import Cam, cam
from wsseg.recipe import load_recipe
from wsseg.refine import affinity_data
from wsseg.refine.affinity_data import AffinityData
from wsseg.refine.affinity_net import AffinityNet, affinity_net, make_backbone, with_heads
from wsseg.refine.confident import with_power_background
from wsseg.refine.protocol import FitInputs, FittedRefiner, RefineContext
from wsseg.training.config import TrainingConfig

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0}


def make_config(*, epochs: int = 2, **changes) -> AffinityNet:
    settings = {
        "stride_px": 4,
        "freeze_batchnorm": False,
        "augment": AugmentConfig(scale=None, crop_px=64, **PLAIN),
        "training": TrainingConfig(
            epochs=epochs,
            batch_size=3,
            optimiser="adamw",
            lr=2e-3,
            num_workers=0,
            precision="float32",
        ),
    }
    return AffinityNet(**{**settings, **changes})


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rectangle of another colour, its mask, and a map of a part of it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(40, 80, (80, 88, 3)).astype(np.uint8)
    y, x = rng.integers(8, 30, 2)
    mask = np.zeros((80, 88), bool)
    mask[y : y + 44, x : x + 40] = True
    image[mask, 0] += 120
    image[mask, 1] += 50
    rows, columns = np.mgrid[:20, :22]
    distance = (rows - (y + 16) / 4) ** 2 + (columns - (x + 14) / 4) ** 2
    return image, mask, np.exp(-distance / (2 * 2.6**2)).astype(np.float32)


@pytest.fixture(scope="module")
def localizer_net():
    torch.manual_seed(0)
    return cam(config=Cam(backbone="test_resnet"), num_classes=2).eval()


@pytest.fixture
def make_inputs(make_dataset, localizer_net, tmp_path):
    items = {str(number): {"image": scene(number)[0], "tags": {1}} for number in range(6)}
    items["new"] = {"image": scene(9)[0], "tags": {1}, "split": "val"}
    dataset = make_dataset(items)
    loaded = []

    def load(sample):
        loaded.append(sample.id)
        part = scene(9 if sample.id == "new" else int(sample.id))[2]
        values = np.stack([np.zeros_like(part), part])
        return Scores(values, np.array([0, 1], np.uint8), (80, 88))

    def make(folder: str = "step", **changes) -> FitInputs:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        given = {"seed": 3, "fingerprint": "f", "localizer": lambda: localizer_net, **changes}
        return FitInputs(dataset, dataset.samples, load, path, **given)

    make.loaded = loaded
    return make


def make_network(config, localizer):
    return with_heads(make_backbone(config, localizer), config)


def refine(inputs: FitInputs, config, state, sample_id: str = "new", **context) -> Scores:
    sample = next(s for s in inputs.dataset.samples if s.id == sample_id)
    given = RefineContext(state=state, folder=inputs.folder, localizer=inputs.localizer, **context)
    image = read_image(sample.image_path)
    return affinity_net(image, inputs.load(sample), config=config, context=given)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def weights_of(inputs: FitInputs, state) -> dict[str, torch.Tensor]:
    return load_file(inputs.folder / state["weights"])


def test_training_lets_a_part_grow_to_the_whole_object(make_inputs):
    inputs, config = make_inputs(), make_config(epochs=15)
    state = affinity_net.fit(inputs, config=config)
    # The validation image was not trained on.
    assert "new" not in make_inputs.loaded
    before, after = [], []
    for sample in inputs.samples:
        _, truth, _ = scene(9 if sample.id == "new" else int(sample.id))
        scores = inputs.load(sample)
        full = Scores(scores.resized(), scores.class_ids, scores.size)
        before.append(iou(with_power_background(full, 16).values.argmax(axis=0) == 1, truth))
        after.append(
            iou(refine(inputs, config, state, sample.id).values.argmax(axis=0) == 1, truth)
        )
    assert max(before) < 0.7
    assert min(after) > 0.7
    assert np.mean(after) > 0.8


def test_state_is_json_and_tells_how_much_is_confident(make_inputs):
    inputs = make_inputs()
    state = affinity_net.fit(inputs, config=make_config())
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert state["tuned_on_masks"] is False
    assert state["weights"] == "training/last.safetensors"
    assert state["confident"]["num_images"] == state["confident"]["num_mixed"] == 6
    assert 0.05 < state["confident"]["foreground"] < 0.4
    assert "confident foreground" in state["notes"][0]
    lines = (inputs.folder / "training" / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    parts = [record[f"loss_{part}"] for part in ("background", "foreground", "negative")]
    assert record["loss"] == pytest.approx(np.dot(parts, [0.25, 0.25, 0.5]), rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_maps(make_inputs):
    config = make_config()
    one, other = make_inputs("one"), make_inputs("other")
    states = [affinity_net.fit(inputs, config=config) for inputs in (one, other)]
    first, second = weights_of(one, states[0]), weights_of(other, states[1])
    assert all(torch.equal(first[name], second[name]) for name in first)
    maps = [refine(i, config, s).values for i, s in zip((one, other), states, strict=True)]
    np.testing.assert_array_equal(*maps)


def test_a_localizer_that_draws_random_numbers_changes_nothing(make_inputs, localizer_net):
    def drawing():
        torch.rand(7)
        return localizer_net

    config = make_config(epochs=1)
    one, other = make_inputs("one"), make_inputs("other", localizer=drawing)
    first, second = (weights_of(i, affinity_net.fit(i, config=config)) for i in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_training_goes_on_to_the_same_weights(make_inputs, monkeypatch):
    config = make_config(epochs=3)
    whole, broken = make_inputs("whole"), make_inputs("broken")
    expected = weights_of(whole, affinity_net.fit(whole, config=config))
    make_item, made = AffinityData.item, []

    def interrupted(self, index, rng):
        made.append(index)
        if len(made) == 10:
            raise KeyboardInterrupt
        return make_item(self, index, rng)

    with monkeypatch.context() as patch:
        patch.setattr(AffinityData, "item", interrupted)
        with pytest.raises(KeyboardInterrupt):
            affinity_net.fit(broken, config=config)
    assert (broken.folder / "training" / "checkpoint.safetensors").is_file()

    def refuse(*_args, **_options):
        raise AssertionError("confident areas were made again")

    monkeypatch.setattr(affinity_data, "two_alpha_marginals", refuse)
    found = weights_of(broken, affinity_net.fit(broken, config=config))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_settings_of_the_walk_do_not_train_again(make_inputs):
    inputs = make_inputs()
    state = affinity_net.fit(inputs, config=make_config())
    changed = make_config(beta=4, alpha_walk=8, log2_steps=6, links="all", walk="exact")
    path = inputs.folder / state["weights"]
    before = path.stat().st_mtime_ns
    assert affinity_net.fit(inputs, config=changed) == state
    assert path.stat().st_mtime_ns == before
    affinity_net.fit(inputs, config=make_config(radius=3))
    assert path.stat().st_mtime_ns != before


def test_training_starts_from_the_localizer_and_leaves_it_alone(make_inputs, localizer_net):
    before = copy.deepcopy(localizer_net.state_dict())
    network = make_network(make_config(), lambda: localizer_net)
    for name, weight in network.backbone.state_dict().items():
        assert torch.equal(weight, before[f"backbone.{name}"])
    affinity_net.fit(make_inputs(), config=make_config())
    assert all(torch.equal(localizer_net.state_dict()[name], before[name]) for name in before)


def test_batch_norm_is_frozen_where_there_are_weights(localizer_net, tmp_path):
    def is_frozen(network) -> bool:
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        return not any(norm.training or norm.weight.requires_grad for norm in norms)

    assert is_frozen(make_network(AffinityNet(), lambda: localizer_net))
    assert not is_frozen(make_network(AffinityNet(freeze_batchnorm=False), lambda: localizer_net))
    scratch = AffinityNet(init="none", backbone="test_resnet")
    assert not is_frozen(make_network(scratch, None))
    path = tmp_path / "weights.safetensors"
    save_file(localizer_net.backbone.trunk.state_dict(), path)
    loaded = make_network(AffinityNet(init=str(path), backbone="test_resnet"), None)
    assert is_frozen(loaded)
    expected = localizer_net.backbone.trunk.state_dict()
    found = loaded.backbone.trunk.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_first_stages_can_be_kept_as_they_are(localizer_net):
    config = AffinityNet(stop_gradient_after_stage=2)
    network = make_network(config, lambda: localizer_net)
    frozen = {n for n, p in network.backbone.trunk.named_parameters() if not p.requires_grad}
    assert any(name.startswith("layer2") for name in frozen)
    assert any(
        name.startswith("layer3") and name not in frozen
        for name, _ in network.backbone.trunk.named_parameters()
    )


def test_from_scratch_no_localizer_is_needed(make_inputs):
    inputs = make_inputs(localizer=None)
    config = make_config(init="none", backbone="test_resnet", freeze_batchnorm=None)
    state = affinity_net.fit(inputs, config=config)
    refined = refine(inputs, config, state)
    assert refined.values.shape == (2, 80, 88)


def test_result_obeys_the_rules_of_refiners(make_inputs):
    inputs, config = make_inputs(), make_config()
    state = affinity_net.fit(inputs, config=config)
    assert isinstance(affinity_net, FittedRefiner)
    rng = np.random.default_rng(0)
    values = rng.random((4, 3, 5)).astype(np.float32)
    scores = Scores(values.copy(), np.array([0, 70, 2, 9], np.uint8), (21, 37))
    image = rng.integers(0, 256, (21, 37, 3), dtype=np.uint8)
    shared: dict = {}
    context = RefineContext(
        state=state, folder=inputs.folder, localizer=inputs.localizer, shared=shared
    )
    refined = affinity_net(image, scores, config=config, context=context)
    assert refined.values.shape == (4, 21, 37)
    assert refined.class_ids.tolist() == [0, 70, 2, 9]
    assert (scores.values == values).all()
    assert len(shared) == 1
    again = affinity_net(image, scores, config=config, context=context)
    np.testing.assert_array_equal(refined.values, again.values)
    # Row 0 of the input is not looked at.
    other = affinity_net(
        image, scores.with_background(1 - values[0]), config=config, context=context
    )
    np.testing.assert_array_equal(refined.values, other.values)


def test_an_image_without_classes_needs_no_network(make_inputs):
    scores = Scores(np.ones((1, 3, 5), np.float32), np.array([0], np.uint8), (21, 37))
    refined = affinity_net(np.zeros((21, 37, 3), np.uint8), scores)
    assert refined.class_ids.tolist() == [0]
    assert (refined.values == 1).all()


def test_images_without_any_pair_train_without_nan(make_inputs, monkeypatch):
    inputs = make_inputs()
    # A batch of padding and doubt only: every label is unknown.
    monkeypatch.setattr(
        affinity_data,
        "labels_from_marginals",
        lambda low, _high, _ids: np.full(low.shape[1:], 255, np.uint8),
    )
    monkeypatch.setattr(
        "wsseg.refine.affinity_net.confident_shares",
        lambda _samples, _stage: affinity_data.Shares(6, 0, 0.0, 0.0),
    )
    state = affinity_net.fit(inputs, config=make_config())
    record = json.loads((inputs.folder / "training" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["loss"] == 0
    assert all(torch.isfinite(weight).all() for weight in weights_of(inputs, state).values())


def test_maps_without_anything_confident_are_an_error_before_training(make_inputs):
    inputs = make_inputs()
    weak = Scores(np.full((2, 20, 22), 0.02, np.float32), np.array([0, 1], np.uint8), (80, 88))
    blank = FitInputs(inputs.dataset, inputs.samples, lambda _: weak, inputs.folder)
    with pytest.raises(DataError, match="no training image with two labels"):
        affinity_net.fit(blank, config=make_config())
    assert not (inputs.folder / "training").exists()


def test_without_a_localizer_it_says_what_to_do(make_inputs):
    inputs = make_inputs(localizer=None)
    with pytest.raises(RecipeError, match="starts from the run's localizer, but there is none"):
        affinity_net.fit(inputs, config=make_config())


def test_refining_before_training_is_an_error():
    scores = Scores(np.ones((2, 3, 5), np.float32), np.array([0, 4], np.uint8), (21, 37))
    with pytest.raises(RecipeError, match=r"affinity_net\.fit"):
        affinity_net(np.zeros((21, 37, 3), np.uint8), scores)


def test_weights_of_another_network_are_refused_before_the_run(make_inputs, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)}, path)
    config = AffinityNet(init=str(path), backbone="test_resnet")
    dataset = make_inputs().dataset
    with pytest.raises(MissingWeightsError, match="do not fit"):
        affinity_net.check(dataset, config=config, allow_masks=False)
    missing = AffinityNet(init=str(tmp_path / "none.pth"), backbone="test_resnet")
    with pytest.raises(MissingWeightsError, match="does not exist"):
        affinity_net.check(dataset, config=missing, allow_masks=False)
    affinity_net.check(dataset, config=AffinityNet(), allow_masks=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "none"}, "backbone must name a network"),
        ({"backbone": "resnet18"}, "Set backbone=null"),
        ({"init": "none", "backbone": "resnet18", "freeze_batchnorm": True}, "random layers"),
        ({"alpha_low": 32.0, "alpha_high": 4.0}, "alpha_low < alpha_high"),
        ({"augment": {"crop_px": 100}}, "multiple of stride_px"),
        ({"augment": {"crop_px": None}}, "multiple of stride_px"),
        ({"augment": {"crop_px": 64}}, "crop_px to 72 or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AffinityNet.model_validate(changes)


def test_defaults_are_the_published_numbers():
    config = AffinityNet()
    assert (config.alpha_low, config.alpha_walk, config.alpha_high) == (4, 16, 32)
    assert (config.radius, config.beta, config.log2_steps, config.stride_px) == (5, 8, 8, 8)
    training = config.training
    assert (training.optimiser, training.batch_size, training.epochs) == ("psa_poly", 8, 8)
    assert (training.lr, training.head_lr_factor, training.weight_decay) == (0.01, 10, 5e-4)
    assert (config.augment.crop_px, config.augment.scale) == (448, None)
    assert AffinityNet.writes_background


def test_parameter_groups_have_the_published_rates(localizer_net):
    from wsseg.training.optim import parameter_groups

    config = AffinityNet(freeze_batchnorm=False)
    network = make_network(config, lambda: localizer_net)
    groups = parameter_groups(network, config.training)
    rates = {group["lr"] / config.training.lr: group["weight_decay"] for group in groups}
    # Weights and biases of the backbone, weights and biases (of GroupNorm) of the heads.
    assert rates == pytest.approx({1: 5e-4, 2: 0, 10: 5e-4, 20: 0})


def test_recipe_psa_names_the_published_chain_and_runs_from_scratch_by_override():
    recipe = load_recipe("psa")
    assert recipe.localize.backbone == "resnet38d"
    assert [step.name for step in recipe.refine.steps] == ["affinity_net", "dense_crf"]
    scratch = [
        "localize.weights=none",
        "localize.freeze_batchnorm=false",
        "localize.stop_gradient_after_stage=null",
        "segment.weights=none",
    ]
    small = [
        "localize.backbone=test_resnet",
        "refine.steps.affinity_net.stride_px=4",
        "refine.steps.affinity_net.alpha_high=24",
    ]
    changed = load_recipe("psa", [*scratch, *small])
    assert changed.localize.weights == "none"
    assert changed.refine.steps[0].alpha_high == 24


def test_the_stage_trains_refines_and_is_scored(make_dataset, make_inputs, tmp_path, localizer_net):
    from wsseg.atomic import append_jsonl
    from wsseg.data.scores import load_scores
    from wsseg.refine.stage import refine_step
    from wsseg.rundir import MANIFEST_FILE, StageDir

    inputs = make_inputs()
    before = StageDir(tmp_path / "localize", "b")
    for sample in inputs.samples:
        save_scores(before.file("scores", sample.id, ".npz"), inputs.load(sample))
        append_jsonl(before.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})
    stage = StageDir(tmp_path / "refine" / "1_affinity_net", "a")
    config = make_config(epochs=1)
    refine_step(
        inputs.dataset, config, before, stage, RunContext(seed=3), localizer=lambda: localizer_net
    )
    assert stage.is_done
    assert len(stage.usable(inputs.samples)) == 7
    refined = load_scores(stage.file("scores", "new", ".npz"))
    assert refined.values.shape == (2, 80, 88)
    assert json.loads((stage.path / "state.json").read_text())["tuned_on_masks"] is False
