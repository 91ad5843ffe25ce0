from __future__ import annotations

import pytest
import torch
from torch import nn

from wsseg.errors import RecipeError
from wsseg.nets.backbones import Backbone
from wsseg.nets.build import build_backbone


def batchnorms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("stride", [32, 16, 8, 4])
@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_efficientnet", "test_mambaout"]
)
def test_every_output_stride_of_convolutional_networks(name: str, stride: int) -> None:
    backbone = build_backbone(name, output_stride=stride)
    features = backbone(torch.zeros(2, 3, 64, 96))
    assert backbone.stride == stride
    assert features.shape == (2, backbone.num_features, 64 // stride, 96 // stride)


@pytest.mark.parametrize("stride", [16, 8, 4])
def test_transformers_give_a_grid_at_finer_strides_by_overlapping_patches(stride: int) -> None:
    backbone = build_backbone("test_vit", output_stride=stride).eval()
    features = backbone(torch.randn(2, 3, 64, 96))
    assert features.shape == (2, backbone.num_features, 64 // stride, 96 // stride)


def test_tokens_are_laid_out_row_by_row() -> None:
    backbone = build_backbone("test_vit", output_stride=16).eval()
    images = torch.zeros(1, 3, 64, 96)
    marked = images.clone()
    marked[..., 16:32, 64:80] = 5.0
    with torch.no_grad():
        change = (backbone(marked) - backbone(images)).norm(dim=1)[0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert (row, column) == (1, 4)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_sides_need_not_be_multiples_of_anything(name: str) -> None:
    backbone = build_backbone(name, output_stride=8)
    assert backbone(torch.zeros(1, 3, 41, 67)).shape[2:] == (6, 9)


def test_an_impossible_stride_lists_those_that_are_possible() -> None:
    with pytest.raises(RecipeError, match=r"stride 32 .*It offers 16, 8, 4 .*output_stride=16"):
        build_backbone("test_vit", output_stride=32)


def test_a_network_that_takes_one_size_only_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be used for class maps"):
        build_backbone("test_maxvit", output_stride=32)


def test_a_stride_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(RecipeError, match="stride 5 is not offered"):
        build_backbone("test_resnet", output_stride=5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_grey_images_have_one_channel(name: str) -> None:
    backbone = build_backbone(name, output_stride=16, in_channels=1)
    assert backbone(torch.zeros(1, 1, 32, 32)).shape[2:] == (2, 2)


def test_undilated_layers_see_a_smaller_surrounding() -> None:
    """IRN's ResNet-50 has strides (2, 2, 2, 1) and no dilation."""
    dilated = build_backbone("test_resnet", output_stride=16)
    plain = build_backbone("test_resnet", output_stride=16, dilate=False)
    assert plain.stride == 16
    last = [module for module in plain.trunk.layer4.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.dilation == (1, 1) for module in last)
    assert any(
        m.dilation == (2, 2) for m in dilated.trunk.layer4.modules() if hasattr(m, "dilation")
    )


@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout", "test_vit"])
def test_the_last_stage_is_as_large_as_the_features(name: str) -> None:
    backbone = build_backbone(name, output_stride=8)
    images = torch.zeros(1, 3, 64, 48)
    stages = backbone.stages(images)
    assert stages[-1].shape[2:] == backbone(images).shape[2:]
    assert [stage.ndim for stage in stages] == [4] * len(stages)
    assert not any(module._forward_hooks for module in backbone.modules())


def test_the_last_stage_of_a_resnet_is_its_features() -> None:
    backbone = build_backbone("test_resnet", output_stride=8).eval()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(backbone.stages(images)[-1], backbone(images))
    assert list(backbone.stage_modules()) == [0, 1, 2, 3, 4]


def test_frozen_batchnorm_stays_in_evaluation_mode_and_is_not_trained() -> None:
    backbone = build_backbone("test_resnet", freeze_batchnorm=True)
    holder = nn.Sequential(backbone)
    holder.train()
    assert backbone.training
    assert not any(norm.training for norm in batchnorms(backbone))
    before = [norm.running_mean.clone() for norm in batchnorms(backbone)]
    holder(torch.randn(2, 3, 32, 32)).sum().backward()
    after = [norm.running_mean for norm in batchnorms(backbone)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(norm.weight.grad is None for norm in batchnorms(backbone))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_nothing_up_to_the_stage_is_trained_and_everything_behind_it_is(name: str) -> None:
    backbone = build_backbone(name, output_stride=16, stop_gradient_after_stage=2)
    images = torch.randn(2, 3, 32, 32)
    stage = backbone.stage_modules()[2]
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    (backbone(images) ** 2).sum().backward()
    assert all(p.grad is None for p in stage.parameters())
    optimizer.step()
    changed = {
        key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])
    }
    own = {f"trunk.{key}" for key, module in backbone.trunk.named_modules() if module is stage}
    assert changed
    assert not any(key.startswith(tuple(f"{prefix}." for prefix in own)) for key in changed)


def test_a_resnet_stopped_after_stage_two_trains_the_last_two_layers_only() -> None:
    backbone = build_backbone("test_resnet", stop_gradient_after_stage=2)
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4"}


def test_a_missing_stage_lists_the_existing_ones() -> None:
    with pytest.raises(RecipeError, match=r"no stage 7; it has \[0, 1, 2, 3, 4\]"):
        build_backbone("test_resnet", stop_gradient_after_stage=7)


def test_parameters_that_do_not_reach_the_features_are_not_trained() -> None:
    backbone = build_backbone("test_convnext")
    backbone(torch.randn(1, 3, 32, 32)).sum().backward()
    missing = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.parametrize("in_channels", [3, 1])
def test_images_are_converted_to_the_statistics_of_the_weights(in_channels: int) -> None:
    backbone = build_backbone("test_resnet", in_channels=in_channels)
    raw = torch.rand(1, in_channels, 4, 4)
    ours = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in ours[in_channels])
    backbone.normalise_like((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    torch.testing.assert_close(backbone.prepared((raw - mean) / std), (raw - 0.5) / 0.25)


def test_conversion_is_part_of_the_checkpoint() -> None:
    one, other = build_backbone("test_resnet"), build_backbone("test_resnet")
    one.normalise_like((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.input_shift, one.input_shift)


def test_vgg_gets_blue_green_red_bytes_minus_the_mean() -> None:
    class Vgg(nn.Module):
        is_bgr = True
        feature_info = ()

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images

    backbone = Backbone(Vgg(), "vgg")
    caffe = (122.675, 116.669, 104.008)
    backbone.normalise_like(tuple(v / 255 for v in caffe), (1 / 255,) * 3)
    colour = torch.tensor([200.0, 100.0, 50.0])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixel = ((colour / 255 - mean) / std).view(1, 3, 1, 1)
    expected = torch.tensor([50 - 104.008, 100 - 116.669, 200 - 122.675])
    torch.testing.assert_close(backbone(pixel).flatten(), expected, atol=1e-3, rtol=0)


def test_networks_that_merge_branches_are_padded() -> None:
    backbone = build_backbone("hrnet_w18_small", output_stride=32)
    assert backbone.size_multiple == 32
    assert backbone(torch.zeros(1, 3, 40, 70)).shape[2:] == (2, 3)
