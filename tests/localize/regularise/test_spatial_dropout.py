from __future__ import annotations

import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.nets.channel_dropout import ChannelDropout


def outputs_of(net, images: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return net.backbone.stages(images)


def test_mid_drops_channels_behind_the_last_but_one_stage(make_net, batch):
    net, plain = make_net("spatial_dropout"), make_net()
    found, expected = (outputs_of(one, batch["image"]) for one in (net, plain))
    for before, after in zip(expected[:-2], found[:-2], strict=True):
        assert torch.equal(before, after)
    factors = (found[-2] / expected[-2].clamp(min=1e-9)).flatten(2).amax(2)
    seen = expected[-2].flatten(2).amax(2) > 0
    assert bool(((factors == 0) | torch.isclose(factors, torch.tensor(1 / 0.7)))[seen].all())
    assert 0.1 < float((factors == 0)[seen].float().mean()) < 0.5
    assert net.extras["spatial_dropout"].p == 0.3
    assert net.dropout.p == 0


def test_another_stage_and_probability_can_be_named(make_net, batch):
    net = make_net({"name": "spatial_dropout", "stage": 1, "p": 0.9})
    found, plain = outputs_of(net, batch["image"]), outputs_of(make_net(), batch["image"])
    stages = sorted(net.backbone.stage_modules())
    changed = [
        number
        for number, one, other in zip(stages, found, plain, strict=True)
        if not torch.equal(one, other)
    ]
    assert changed[0] == 1
    assert net.extras["spatial_dropout"].p == 0.9


def test_feature_stands_before_the_head(make_net, batch):
    net = make_net({"name": "spatial_dropout", "position": "feature"})
    assert net.dropout.p == 0.5
    assert len(net.extras) == 0
    features = net.features(batch["image"])
    torch.manual_seed(5)
    maps = net.head(net.dropout(features))
    torch.manual_seed(5)
    # On averaged features the same mask gives the same logits: it trains the classifier only.
    pooled = net.dropout(features.mean(dim=(2, 3))[:, :, None, None])[:, :, 0, 0]
    logits = pooled @ net.head.weight[:, :, 0, 0].T
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits)


def test_feature_and_the_dropout_of_the_localizer_contradict_each_other(make_net):
    with pytest.raises(RecipeError, match=r"localize\.dropout \(0\.5\) drops channels already"):
        make_net({"name": "spatial_dropout", "position": "feature"}, dropout=0.5)
    make_net({"name": "spatial_dropout", "position": "mid"}, dropout=0.5)


def test_a_stage_that_does_not_exist_is_named(make_net):
    with pytest.raises(RecipeError, match=r"has the stages .* cannot stand behind stage 7"):
        make_net({"name": "spatial_dropout", "stage": 7})


def test_a_backbone_of_one_stage_has_no_last_but_one(make_net, monkeypatch):
    from wsseg.nets.backbones import Backbone

    real = Backbone.stage_modules
    monkeypatch.setattr(Backbone, "stage_modules", lambda self: dict(list(real(self).items())[:1]))
    with pytest.raises(RecipeError, match="cannot stand behind the last but one"):
        make_net("spatial_dropout")


def test_a_transformer_drops_features_of_its_tokens(make_net):
    net = make_net("spatial_dropout", backbone="test_vit", output_stride=16)
    assert net.extras["spatial_dropout"].axis == -1
    torch.manual_seed(0)
    net.loss({"image": torch.rand(2, 3, 64, 64), "tags": torch.ones(2, 3)})["loss"].backward()


def test_a_copied_backbone_of_a_trained_network_drops_nothing(make_net, batch):
    """Refiners start from a copy of it, which knows nothing of the regulariser."""
    from copy import deepcopy

    net = make_net("spatial_dropout").eval()
    backbone = deepcopy(net.backbone).train()
    backbone.freeze_batchnorm()
    first, second = (backbone(batch["image"]) for _ in range(2))
    assert torch.equal(first, second)


def test_the_module_follows_the_mode_of_the_network(make_net):
    net = make_net("spatial_dropout")
    module = net.extras["spatial_dropout"]
    assert isinstance(module, ChannelDropout)
    assert module.training
    assert not net.eval().extras["spatial_dropout"].training
