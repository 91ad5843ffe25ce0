from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet
from wsseg.nets.fuse import fused
from wsseg.nets.resnet38d import ResBlock


def randomise(net: nn.Module) -> nn.Module:
    """Give normalisation statistics as after a training, so that folding is not trivial."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(shape, generator=generator) * 0.2)
    return net


def num_norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_byobnet", "test_convnext", "resnet18"]
)
def test_the_copy_computes_the_same_without_any_normalisation_left(name: str) -> None:
    torch.manual_seed(0)
    net = randomise(ClassMapNet(build_backbone(name, output_stride=8), 3)).eval()
    copy = fused(net, torch.zeros(1, 3, 32, 32))
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(copy(images), net(images), rtol=1e-4, atol=1e-4)
    assert num_norms(copy) == 0
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_the_original_is_left_as_it_was() -> None:
    net = randomise(ClassMapNet(build_backbone("test_resnet"), 3)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fused(net, torch.zeros(1, 3, 32, 32))
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


class Blocks(nn.Module):
    """A convolution whose output goes both into a normalisation and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = ResBlock(4, 6, 4)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.block(self.stem(images))[0]
        return output


def test_a_convolution_that_others_read_too_is_not_folded() -> None:
    net = randomise(Blocks()).eval()
    copy = fused(net, torch.zeros(1, 3, 8, 8))
    images = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(copy(images), net(images), rtol=1e-4, atol=1e-4)
    assert (num_norms(net), num_norms(copy)) == (2, 1)


def test_a_shared_normalisation_is_not_folded() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            output: Tensor = self.norm(self.second(self.norm(self.first(images))))
            return output

    copy = fused(randomise(Shared()), torch.zeros(1, 3, 8, 8))
    assert num_norms(copy) == 1


def test_a_bfloat16_copy_is_close() -> None:
    torch.manual_seed(0)
    net = randomise(ClassMapNet(build_backbone("test_resnet"), 3)).eval()
    copy = fused(net, torch.zeros(1, 3, 32, 32), dtype=torch.bfloat16)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found, expected = copy.maps(images.bfloat16()).float(), net.maps(images)
    assert next(copy.parameters()).dtype == torch.bfloat16
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
