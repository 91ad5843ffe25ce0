from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from wsseg import registry
from wsseg.config import MethodConfig
from wsseg.errors import RecipeError
from wsseg.explain import explain
from wsseg.localize.regularise.attach import attach, make_localizer
from wsseg.localize.regularise.protocol import Regulariser
from wsseg.localize.stage import fingerprint_settings
from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet, Step
from wsseg.recipe import load_recipe, to_yaml, validate
from wsseg.training.config import TrainingConfig
from wsseg.training.loop import fit
from wsseg.training.optim import build_optimizer

NAMES = sorted(registry.TABLES["regularisers"])
TOGETHER = [
    *([name] for name in NAMES),
    ["hide_and_seek", "spatial_dropout"],
    ["cutmix", "mixup_cam", "cutout", "spatial_dropout", "seam"],
    ["cutout", "puzzle_cam", "mixup_cam"],
]


class AddOne(MethodConfig):
    """Settings of a made-up regulariser."""

    name: Literal["add_one"] = Field("add_one", description="Made up.")


class AddOneRegulariser(Regulariser):
    """Adds one to images, a weight and a constant to the loss."""

    config_class = AddOne
    epochs: tuple[int, ...] = ()

    def build(self, net: ClassMapNet) -> nn.Module:
        return nn.Linear(1, 1)

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**batch, "image": batch["image"] + 1}

    def terms(self, net: ClassMapNet, step: Step) -> dict[str, Tensor]:
        return {"add_one_constant": torch.tensor(0.5), "add_one_more": step.maps.sum() * 0 + 0.25}

    def on_epoch_start(self, epoch: int) -> None:
        self.epochs = (*self.epochs, epoch)


class Doubling(AddOneRegulariser):
    """Doubles images after them."""

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**batch, "image": batch["image"] * 2}


class Running(Regulariser):
    """Runs the forward pass itself."""

    runs_forward = True


class Walking(Running):
    """So does this."""


def named(cls: type[Regulariser], called: str) -> type[Regulariser]:
    class Named(AddOne):
        name: Any = called

    cls.config_class = Named
    return cls


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {
        "add_one": AddOneRegulariser,
        "doubling": named(Doubling, "doubling"),
        "running": named(Running, "running"),
        "walking": named(Walking, "walking"),
    }
    real = registry.load
    monkeypatch.setattr(
        registry,
        "load",
        lambda group, name: classes.get(name) if group == "regularisers" else real(group, name),
    )


def test_without_regularisers_nothing_is_attached_and_nothing_drawn(make_net, batch):
    net, plain = make_net(), ClassMapNet(build_backbone("test_resnet"), 3, dropout=0.0)
    plain.load_state_dict(net.state_dict())
    torch.manual_seed(3)
    loss = net.loss(batch)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    assert loss.keys() == {"loss"}
    assert not hasattr(net, "on_epoch_start")
    assert torch.equal(loss["loss"], plain.loss(batch)["loss"])


def test_transforms_act_in_order_and_terms_add_up(made_up, make_net, batch):
    net = make_net("add_one", "doubling")
    images = (batch["image"] + 1) * 2
    plain = make_net()
    plain.load_state_dict(net.state_dict(), strict=False)
    expected = plain.loss({**batch, "image": images})["loss"]
    found = net.loss(batch)
    torch.testing.assert_close(found["classification"], expected)
    torch.testing.assert_close(found["loss"], expected + 0.75)
    assert set(found) == {"loss", "classification", "add_one_constant", "add_one_more"}


def test_a_loss_in_evaluation_mode_is_the_plain_one(made_up, make_net, batch):
    net, plain = make_net("add_one").eval(), make_net().eval()
    plain.load_state_dict(net.state_dict(), strict=False)
    assert torch.equal(net.loss(batch)["loss"], plain.loss(batch)["loss"])


def test_modules_are_stored_and_learn_like_the_head(made_up, make_net):
    net = make_net("add_one")
    assert "extras.add_one.weight" in net.state_dict()
    optimizer = build_optimizer(net, TrainingConfig(optimiser="sgd", lr=0.01, head_lr_factor=10))
    fast = {id(p) for g in optimizer.param_groups if g["lr"] > 0.05 for p in g["params"]}
    assert fast == {id(p) for p in (*net.head.parameters(), *net.extras.parameters())}


def test_epochs_are_told_where_somebody_listens(made_up, make_net, tag_items, tmp_path):
    net = make_net("add_one", num_classes=2)
    config = TrainingConfig(epochs=3, batch_size=4, num_workers=0, precision="float32")
    fit(net, tag_items(), config, tmp_path / "run", seed=0, title="t")
    assert net.regularisers[0].epochs == (0, 1, 2)


def test_a_network_keeps_its_own_epoch_hook(made_up, config):
    class Listening(ClassMapNet):
        heard = ()

        def on_epoch_start(self, epoch: int) -> None:
            self.heard = (*self.heard, epoch)

    net = Listening(build_backbone("test_resnet"), 2)
    attach(net, config("add_one"))
    net.on_epoch_start(4)
    assert net.heard == net.regularisers[0].epochs == (4,)


def test_two_that_run_the_network_contradict_each_other(made_up, make_net):
    with pytest.raises(RecipeError, match="running and walking, of which each runs"):
        make_net("running", "add_one", "walking")


def test_naming_one_twice_is_refused(make_net):
    with pytest.raises(RecipeError, match="names cutout more than once"):
        make_net("cutout", "hide_and_seek", {"name": "cutout", "side_frac": 0.1})


def test_a_localizer_with_a_loss_of_its_own_is_refused_unless_it_says_it_takes_part(config):
    class Deaf(ClassMapNet):
        def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": self.logits(batch["image"]).mean()}

    class Hearing(ClassMapNet):
        runs_regularisers = True

        def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return super().loss(batch)

    with pytest.raises(RecipeError, match=r"takes no regularisers, but .* is cutout"):
        attach(Deaf(build_backbone("test_resnet"), 2), config("cutout"))
    attach(Deaf(build_backbone("test_resnet"), 2), config())
    net = Hearing(build_backbone("test_resnet"), 2)
    attach(net, config("cutout"))
    assert [one.name for one in net.regularisers] == ["cutout"]


def test_a_localizer_that_forgets_the_modules_is_a_bug(made_up, config):
    class Forgetful(ClassMapNet):
        def head_parameters(self) -> list[nn.Parameter]:
            return list(self.head.parameters())

    with pytest.raises(ValueError, match="head_parameters"):
        attach(Forgetful(build_backbone("test_resnet"), 2), config("add_one"))


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_every_method_trains_alone_and_with_others(names, make_net, batch):
    net = make_net(*names)
    torch.manual_seed(1)
    terms = net.loss(batch)
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    parts = [term for name, term in terms.items() if name != "loss"]
    if parts:
        torch.testing.assert_close(terms["loss"], sum(parts))
    terms["loss"].backward()
    trained = [p for p in net.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in trained)


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_an_interrupted_training_ends_in_the_same_weights(names, make_net, tag_items, tmp_path):
    config = TrainingConfig(
        epochs=2, batch_size=4, num_workers=0, precision="float32", checkpoint_every_s=0
    )

    def train(folder: str, stop_at: int | None = None) -> dict[str, Tensor]:
        net = make_net(*names, num_classes=2)
        items = tag_items(stop_at=stop_at)
        result = fit(net, items, config, tmp_path / folder, seed=5, title="t")
        return result.module.state_dict()

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", stop_at=20)  # in the second update of the second epoch
    again = train("cut")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_the_seed_decides_what_is_drawn(names, make_net, batch):
    net = make_net(*names)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        # Batch statistics move the running ones, not the loss.
        losses.append(net.loss(batch)["loss"].item())
    assert losses[0] == losses[1]
    if names not in (["seam"], ["puzzle_cam"], ["oc_cse"], ["s2c"]):
        assert losses[0] != losses[2]


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_a_transform_leaves_the_given_batch_alone(names, make_net, batch):
    kept = {name: value.clone() for name, value in batch.items()}
    make_net(*names).loss(batch)
    assert batch.keys() == kept.keys()
    assert all(torch.equal(batch[name], kept[name]) for name in kept)


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_maps_are_the_same_without_regularisers_unless_they_refine_them(names, make_net, batch):
    from wsseg.localize.config import InferenceConfig
    from wsseg.localize.inference import prepare

    net, plain = make_net(*names).eval(), make_net().eval()
    plain.load_state_dict(net.state_dict(), strict=False)
    images = batch["image"]
    torch.testing.assert_close(net.raw_maps(images), plain.maps(images))
    if "seam" not in names:
        torch.testing.assert_close(net.maps(images), plain.maps(images))
        torch.testing.assert_close(net.logits(images), plain.logits(images))
    fast = prepare(net, InferenceConfig())
    with torch.no_grad():
        torch.testing.assert_close(fast.maps(images), net.maps(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_a_copy_of_the_network_is_independent(names, make_net, batch):
    net = make_net(*names)
    twin = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.zero_()
    net.train()
    assert not twin.training
    first = twin.maps(batch["image"])
    assert torch.equal(first, twin.maps(batch["image"]))
    assert bool(first.any())


def test_every_method_is_described_with_its_settings() -> None:
    for name in NAMES:
        cls = registry.config_class("regularisers", name)
        assert cls.model_fields["name"].default == name
        assert registry.load("regularisers", name).config_class is cls
        assert explain(f"localize.regularisers.{name}")
    (info,) = explain("localize.regularisers.seam.hard_fraction")
    assert info.type == "number (> 0, <= 1)"
    assert info.only_with == "a localizer that trains a network"
    assert explain("localize.regularisers")[0].type.startswith("list of settings by name: ")
    assert explain("localize.regularisers")[0].default == "[]"


def test_a_recipe_names_them_with_or_without_settings() -> None:
    changes = ["localize.regularisers=[cutout, {name: hide_and_seek, hide: 0.3}]"]
    recipe = load_recipe("cam", [*changes, "localize.regularisers.cutout.side_frac=0.25"])
    assert recipe.localize.regularisers[0].side_frac == 0.25
    assert recipe.localize.regularisers[1].hide == 0.3
    import yaml

    assert validate(yaml.safe_load(to_yaml(recipe))) == recipe


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("[hide_and_seak]", ['Unknown regulariser "hide_and_seak"', '"hide_and_seek"']),
        ("[{name: cutout, side: 3}]", ["localize.regularisers.cutout.side: unknown key"]),
        ("[{name: cutout, side_frac: 3}]", ["localize.regularisers.cutout.side_frac", "(got 3)"]),
        ("[3]", ["a mapping with a `name`, got 3"]),
    ],
)
def test_a_wrong_regulariser_is_named(value: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("cam", [f"localize.regularisers={value}"])
    assert [part for part in parts if part not in str(caught.value)] == []


def test_runs_from_before_there_were_regularisers_are_still_recognised(config) -> None:
    settings = fingerprint_settings(config())
    assert "regularisers" not in settings
    assert fingerprint_settings(config("cutout"))["regularisers"][0]["name"] == "cutout"
    before = {k: v for k, v in config().model_dump(mode="json").items() if k != "regularisers"}
    assert list(settings.items()) == list(before.items())


def test_reading_the_settings_loads_no_torch() -> None:
    imports = "; ".join(f"import wsseg.localize.regularise.{name}" for name in NAMES)
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_preflight_finds_contradictions(config) -> None:
    with pytest.raises(RecipeError, match=r"localize\.dropout"):
        make_localizer(
            config({"name": "spatial_dropout", "position": "feature"}, dropout=0.5), num_classes=2
        )


def test_the_base_changes_nothing_and_runs_nothing(make_net, batch):
    base = Regulariser(AddOne())
    net = make_net()
    assert base.name == "add_one"
    assert base.build(net) is None
    assert base.transform(batch) is batch
    assert base.terms(net, net.step(batch)) == {}
    base.on_epoch_start(0)
    with pytest.raises(NotImplementedError, match="does not run the forward pass"):
        base.step(net, batch)
    with pytest.raises(NotImplementedError, match="does not refine maps"):
        base.refined(net, net.step(batch))


def test_tag_weights_count_in_the_loss(make_net, batch):
    net = make_net().eval()
    weights = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))
    x, y = net.logits(batch["image"], batch["valid"]).double(), batch["tags"].double()
    per_item = -(y * torch.log(torch.sigmoid(x)) + (1 - y) * torch.log(torch.sigmoid(-x)))
    found = net.loss({**batch, "tag_weights": weights})["loss"]
    torch.testing.assert_close(found.double(), (per_item * weights).mean(), rtol=1e-5, atol=1e-6)
