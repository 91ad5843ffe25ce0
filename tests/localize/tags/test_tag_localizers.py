"""What holds for every localizer from tags, whatever its heads look like."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wsseg.localize.config import InferenceConfig
from wsseg.localize.inference import class_maps, prepare
from wsseg.nets.cam_head import ClassMapNet
from wsseg.training.config import TrainingConfig
from wsseg.training.loop import fit

NAMES: dict[str, dict[str, Any]] = {
    "acfn": {"head_width": 8, "branch_weight": 0.5},
    "acol": {"head_width": 8},
    "mdc": {"head_width": 8},
    "recam": {"warmup": 0.5},
    "toco": {
        "backbone": "test_vit",
        "decoder_width": 8,
        "projector_width": 8,
        "local_crop_px": 32,
        "local_crops": 2,
        "segment_after": 0.5,
    },
}
all_of_them = pytest.mark.parametrize("name", NAMES)


def loss_of(net: ClassMapNet, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    if hasattr(net, "on_epoch_start"):
        net.on_epoch_start(1)
    return net.loss(batch)


@all_of_them
@pytest.mark.parametrize("regularisers", [[], ["hide_and_seek", "spatial_dropout", "cutmix"]])
def test_every_trainable_parameter_learns(name, regularisers, make, batch):
    net = make(name, **NAMES[name], regularisers=regularisers)
    terms = loss_of(net, batch)
    parts = [term for key, term in terms.items() if key != "loss"]
    if parts:
        torch.testing.assert_close(terms["loss"], sum(parts))
    terms["loss"].backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert bool(torch.isfinite(parameter.grad).all()), key


@all_of_them
def test_shapes_are_those_of_a_class_map_net(name, make):
    net = make(name, **NAMES[name]).eval()
    images = torch.randn(2, 3, 64, 48)
    maps, logits = net.maps_and_logits(images)
    assert maps.shape == net.raw_maps(images).shape == (2, 3, 8, 6)
    assert logits.shape == (2, 3)
    torch.testing.assert_close(net.maps(images), maps)
    torch.testing.assert_close(net.logits(images), logits)
    torch.testing.assert_close(net(images), logits)


@all_of_them
def test_each_image_is_mapped_on_its_own(name, make):
    net = make(name, **NAMES[name]).eval()
    images = torch.randn(3, 3, 64, 64)
    together = net.maps(images)
    alone = torch.cat([net.maps(one[None]) for one in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@all_of_them
def test_the_fast_copy_shows_the_same_maps(name, make):
    net = make(name, **NAMES[name])
    images = torch.randn(2, 3, 64, 64)
    net.train()
    with torch.no_grad():
        net.loss({"image": images, "tags": torch.ones(2, 3)})  # moves the running statistics
    net.eval()
    fast = prepare(net, InferenceConfig())
    with torch.no_grad():
        torch.testing.assert_close(fast.maps(images), net.maps(images), rtol=1e-3, atol=1e-4)


@all_of_them
def test_scores_come_out_for_the_tagged_classes_only(name, make):
    net = make(name, **NAMES[name])
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    config = InferenceConfig(scales=(0.5, 1.0))
    scores, probabilities = class_maps(prepare(net, config), image, {1, 3}, config)
    assert scores.class_ids.tolist() == [0, 1, 3]
    assert scores.size == (50, 70)
    assert scores.values.min() >= 0
    assert scores.values.max() <= 1
    assert probabilities.shape == (3,)


@all_of_them
def test_head_parameters_are_all_that_the_backbone_has_not(name, make):
    net = make(name, **NAMES[name])
    backbone = {id(p) for p in net.backbone.parameters()}
    others = {id(p) for p in net.parameters()} - backbone
    assert {id(p) for p in net.head_parameters()} == others


@all_of_them
def test_a_copy_of_the_network_is_independent(name, make):
    net = make(name, **NAMES[name]).eval()
    images = torch.randn(2, 3, 64, 64)
    before = net.maps(images)
    twin = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.zero_()
    assert torch.equal(twin.maps(images), before)


class Items:
    """Items of noise that a tiny localizer can train on; reading may be interrupted once."""

    def __init__(self, stop_at: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.normal(size=(12, 3, 64, 64)).astype(np.float32)
        self.tags = (rng.random((12, 3)) < 0.5).astype(np.float32)
        self.stop_at, self.served = stop_at, 0

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        self.served += 1
        if self.served == self.stop_at:
            raise KeyboardInterrupt
        noise = rng.normal(scale=0.1, size=(3, 64, 64)).astype(np.float32)
        valid = np.ones((1, 64, 64), np.float32)
        return {"image": self.images[index] + noise, "tags": self.tags[index], "valid": valid}


@all_of_them
def test_an_interrupted_training_ends_in_the_same_weights(name, make, tmp_path):
    config = TrainingConfig(
        epochs=2, batch_size=4, num_workers=0, precision="float32", checkpoint_every_s=0
    )

    def train(folder: str, stop_at: int | None = None) -> dict[str, torch.Tensor]:
        net = make(name, **NAMES[name])
        result = fit(net, Items(stop_at), config, tmp_path / folder, seed=5, title="t")
        return result.module.state_dict()

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", stop_at=20)  # in the second update of the second epoch
    again = train("cut")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@all_of_them
def test_every_setting_is_described(name, settings):
    fields = type(settings(name, **NAMES[name])).model_fields
    assert all(field.description for field in fields.values())


def test_reading_the_settings_loads_no_torch() -> None:
    imports = "; ".join(f"import wsseg.localize.tags.{name}" for name in NAMES)
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
