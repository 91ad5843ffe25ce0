from __future__ import annotations

import pytest
import torch
from torch import nn

from wsseg.nets.output_stride import set_output_stride


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("test_resnet", 16),
        ("test_resnet", 8),
        ("test_convnext", 16),
        ("test_convnext", 8),
        ("test_efficientnet", 8),
        ("test_efficientnet", 4),
        ("test_nfnet", 8),
        ("resnet18d", 8),
        ("regnetx_002", 8),
    ],
)
def test_the_result_is_that_of_timm_where_timm_has_the_option(name: str, stride: int) -> None:
    import timm

    torch.manual_seed(0)
    reference = timm.create_model(name, num_classes=0, output_stride=stride).eval()
    ours = timm.create_model(name, num_classes=0).eval()
    ours.load_state_dict(reference.state_dict())
    set_output_stride(ours, stride, run=ours.forward_features)
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected, found = reference.forward_features(images), ours.forward_features(images)
    assert found.shape[2:] == (96 // stride, 64 // stride)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_dilated_network_computes_the_same_values_in_between() -> None:
    """A strided network is the dilated one, read at every second place."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)]
    coarse, fine = nn.Sequential(*layers), nn.Sequential(*layers)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = coarse(images)
        set_output_stride(fine, 2, run=fine)
        torch.testing.assert_close(fine(images)[..., ::2, ::2], expected)


def test_without_dilation_kernels_keep_their_size() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 1, 1))
    set_output_stride(net, 2, run=net, dilate=False)
    assert net[2].dilation == (1, 1)
    assert net(torch.zeros(1, 3, 32, 32)).shape[2:] == (16, 16)


def test_weights_are_left_as_they_are_and_no_hook_stays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    set_output_stride(net, 2, run=net)
    assert net.training
    assert set(before) == set(net.state_dict())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
