"""Encoders that start from what a localizer learned."""

from __future__ import annotations

import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.nets.build import build_backbone
from wsseg.nets.segmentation import SegmentationNet


def unet(encoder: str = "resnet18", in_channels: int = 3) -> SegmentationNet:
    torch.manual_seed(1)
    return SegmentationNet("unet", encoder, 2, weights="localizer", in_channels=in_channels)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_the_encoder_gets_every_tensor_of_the_same_network(encoder: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=16)
    net = unet(encoder)
    net.start_from(backbone)
    trunk = net.net.encoder.model if encoder.startswith("tu-") else net.net.encoder
    learned = backbone.trunk.state_dict()
    kept = {k: v for k, v in trunk.state_dict().items() if k in learned}
    assert len(kept) > 100
    for key, value in kept.items():
        torch.testing.assert_close(value, learned[key], atol=0, rtol=0)


def test_a_network_that_was_cut_starts_the_stages_it_has() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8, last_stage=2)
    net = unet()
    before = net.net.encoder.layer4[0].conv1.weight.clone()
    net.start_from(backbone)
    learned = backbone.trunk.state_dict()["layer2.0.conv1.weight"]
    torch.testing.assert_close(net.net.encoder.layer2[0].conv1.weight, learned, atol=0, rtol=0)
    torch.testing.assert_close(net.net.encoder.layer4[0].conv1.weight, before, atol=0, rtol=0)


def test_a_colour_network_starts_a_grey_one() -> None:
    backbone = build_backbone("resnet18", output_stride=16)
    net = unet(in_channels=1)
    net.start_from(backbone)
    summed = backbone.trunk.state_dict()["conv1.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(net.net.encoder.conv1.weight, summed)


def test_another_network_is_refused_with_what_to_set() -> None:
    backbone = build_backbone("test_resnet", output_stride=8)
    with pytest.raises(RecipeError, match=r"segment\.encoder to test_resnet or tu-test_resnet"):
        unet().start_from(backbone)


def test_a_grey_network_cannot_start_a_colour_one() -> None:
    backbone = build_backbone("resnet18", output_stride=16, in_channels=1)
    with pytest.raises(RecipeError, match=r"segment\.in_channels to 1"):
        unet().start_from(backbone)
