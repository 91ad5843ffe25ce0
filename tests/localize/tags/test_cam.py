from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from wsseg import registry
from wsseg.localize.config import InferenceConfig, LayerCamExtractor
from wsseg.localize.tags.cam import Cam, cam
from wsseg.nets.pooling import Gwrp


def test_the_registry_finds_the_localizer_and_its_settings() -> None:
    assert registry.config_class("localizers", "cam") is Cam
    assert registry.load("localizers", "cam") is cam


def test_settings_reach_the_network() -> None:
    config = Cam(
        backbone="test_resnet",
        output_stride=4,
        grey=True,
        pooling=Gwrp(decay=0.9),
        head_bias=True,
        dropout=0.25,
        focal_gamma=1.0,
    )
    net = cam(config=config, num_classes=4)
    assert net.maps(torch.zeros(1, 1, 32, 32)).shape == (1, 4, 8, 8)
    assert net.pooling == Gwrp(decay=0.9)
    assert net.dropout.p == 0.25
    assert net.head.bias is not None
    assert net.focal_gamma == 1.0


def test_a_checkpoint_restores_the_network_without_its_first_weights() -> None:
    config = Cam(backbone="test_resnet", weights="imagenet")
    net = cam(config=config, num_classes=2, load_weights=False)
    other = cam(config=config, num_classes=2, load_weights=False)
    other.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(net.eval()(images), other.eval()(images))


def test_frozen_parts_need_weights() -> None:
    with pytest.raises(ValidationError, match="random layers would stay random"):
        Cam(freeze_batchnorm=True)
    with pytest.raises(ValidationError, match="random layers would stay random"):
        Cam(stop_gradient_after_stage=2)
    assert Cam(weights="imagenet", freeze_batchnorm=True).freeze_batchnorm


def test_absolute_normalisation_needs_maps_that_are_logits() -> None:
    with pytest.raises(ValidationError, match="needs extractor cam"):
        InferenceConfig(normalise="absolute", extractor=LayerCamExtractor())


def test_the_overlap_must_be_smaller_than_the_tile() -> None:
    with pytest.raises(ValidationError, match=r"tile_overlap_px is 128; .*\(128\)"):
        InferenceConfig(tile_px=128, tile_overlap_px=128)


def test_settings_survive_the_way_through_yaml() -> None:
    import yaml

    config = Cam(pooling=Gwrp(decay=0.5), inference=InferenceConfig(scales=(1.0,)))
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert Cam.model_validate(yaml.safe_load(text)) == config


def test_every_setting_is_described() -> None:
    for model in (Cam, InferenceConfig):
        assert all(field.description for field in model.model_fields.values())


def test_reading_the_settings_loads_no_torch() -> None:
    code = "import sys, wsseg.localize.tags.cam; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
