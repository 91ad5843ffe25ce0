"""Tests of wsseg.nets.segmentation and encoder_weights."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from wsseg.errors import MissingWeightsError, RecipeError
from wsseg.nets.architectures import Architecture
from wsseg.nets.encoder_weights import match_names
from wsseg.nets.segmentation import SegmentationNet

ENCODER = "tu-test_resnet"


def _net(architecture: str = "unet", **options) -> SegmentationNet:
    torch.manual_seed(0)
    return SegmentationNet(architecture, ENCODER, 3, **{"weights": "none", **options})


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_architecture_takes_odd_sizes_and_trains_on_a_batch_of_one(architecture: str):
    net = _net(architecture)
    net(torch.randn(1, 3, 64, 64)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    net.eval()
    with torch.no_grad():
        for size in ((1, 1), (35, 66)):
            logits = net(torch.randn(2, 3, *size))
            assert logits.shape == (2, 3, *size)
            assert torch.isfinite(logits).all()


def test_sizes_that_fit_are_not_padded_and_others_are_padded_with_zeros():
    net = _net().eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.net(images))
        cut = images[..., :50, :70].clone()
        padded = torch.zeros_like(images)
        padded[..., :50, :70] = cut
        torch.testing.assert_close(net(cut), net.net(padded)[..., :50, :70])


def test_batch_norm_is_the_usual_one_for_more_than_one_value():
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    plain = smp.DeepLabV3Plus(ENCODER, encoder_weights=None, classes=3).train()
    net = _net("deeplabv3plus").train()
    net.net.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(1)  # dropout
    expected = plain(images)
    torch.manual_seed(1)
    torch.testing.assert_close(net(images), expected)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(net.net.state_dict()[name], value)


def test_grey_networks_take_one_channel():
    assert _net(in_channels=1).eval()(torch.randn(1, 1, 32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("encoder", ["tu-test_convnext", "tu-test_efficientnet"])
def test_file_of_the_whole_timm_network_fills_the_encoder(
    tmp_path: Path, encoder: str, in_channels: int
):
    import timm

    torch.manual_seed(3)
    whole = timm.create_model(encoder.removeprefix("tu-")).state_dict()
    save_file({k: v.contiguous() for k, v in whole.items()}, tmp_path / "w.safetensors")
    net = SegmentationNet(
        "unet", encoder, 2, weights=str(tmp_path / "w.safetensors"), in_channels=in_channels
    )
    stored = match_names(whole, net.net.encoder.model.state_dict())
    for name, value in net.net.encoder.model.state_dict().items():
        if value.ndim == 4 and value.shape[1] == 1 and stored[name].shape[1] == 3:
            torch.testing.assert_close(value, stored[name].sum(dim=1, keepdim=True))
        else:
            torch.testing.assert_close(value, stored[name])


def test_file_of_a_trained_segmenter_fills_the_encoder_of_another(tmp_path: Path):
    trained = _net("unet")
    save_file(
        {f"net.{k}": v.contiguous() for k, v in trained.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    torch.manual_seed(9)
    other = SegmentationNet("fpn", ENCODER, 5, weights=str(tmp_path / "w.safetensors"))
    for name, value in trained.net.encoder.state_dict().items():
        torch.testing.assert_close(other.net.encoder.state_dict()[name], value)


def test_file_of_another_network_is_refused(tmp_path: Path):
    save_file({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(MissingWeightsError, match=r"segment\.encoder"):
        _net(weights=str(tmp_path / "w.safetensors"))


def test_missing_file_names_the_path_and_the_way_out(tmp_path: Path):
    with pytest.raises(MissingWeightsError, match=r"nothing\.pth.*segment\.weights=none"):
        _net(weights=str(tmp_path / "nothing.pth"))


@pytest.mark.parametrize("encoder", [ENCODER, "resnet18"])
def test_unreachable_imagenet_weights_name_file_and_remedy(
    encoder: str, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub
    import timm

    def refuse(*args, **kwargs):
        raise OSError("no network")

    real = timm.create_model
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: refuse() if k.get("pretrained") else real(*a, **k)
    )
    with pytest.raises(MissingWeightsError, match=r"no network.*segment\.weights=none") as caught:
        SegmentationNet("unet", encoder, 2, weights="imagenet")
    assert "model.safetensors" in str(caught.value)
    assert caught.value.exit_code == 4


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(RecipeError, match='Did you mean "segformer"'):
        _net("segforme")
    with pytest.raises(RecipeError, match='Did you mean "resnet50"'):
        SegmentationNet("unet", "resnet5", 2, weights="none")
    with pytest.raises(RecipeError, match="in_channels is 2"):
        _net(in_channels=2)


def test_encoder_that_does_not_fit_names_both():
    with pytest.raises(RecipeError, match="linknet cannot be built on the encoder mit_b0"):
        SegmentationNet("linknet", "mit_b0", 2, weights="none")
