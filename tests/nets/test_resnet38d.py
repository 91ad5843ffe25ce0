from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsseg.nets.resnet38d import BottleneckBlock, ResBlock, ResNet38d
from wsseg.nets.vgg16_largefov import Vgg16LargeFov
from wsseg.nets.weights import load_backbone_state


@pytest.fixture(scope="module")
def meta_net() -> ResNet38d:
    with torch.device("meta"):
        return ResNet38d().eval()


def test_outputs_have_the_published_sizes(meta_net: ResNet38d) -> None:
    outputs = meta_net(torch.zeros(1, 3, 448, 448, device="meta"))
    shapes = {name: tuple(value.shape[1:]) for name, value in outputs.items()}
    assert shapes == {
        "conv3": (256, 112, 112),
        "conv4": (512, 56, 56),
        "conv5": (1024, 56, 56),
        "conv6": (4096, 56, 56),
    }


def test_parameters_have_the_published_names(meta_net: ResNet38d) -> None:
    names = set(meta_net.state_dict())
    assert {
        "conv1a.weight",
        "b2.conv_branch1.weight",
        "b2.bn_branch2a.running_var",
        "b4_5.conv_branch2b1.weight",
        "b5_2.bn_branch2b1.bias",
        "b6.conv_branch2b2.weight",
        "b7.bn_branch2b2.weight",
        "bn7.weight",
    } <= names
    assert "b2_1.conv_branch1.weight" not in names
    assert not any("bias" in name and "conv" in name for name in names)


def test_dilations_and_dropout_are_the_published_ones(meta_net: ResNet38d) -> None:
    assert meta_net.b5.conv_branch2a.dilation == (1, 1)
    assert meta_net.b5.conv_branch2b1.dilation == (2, 2)
    assert meta_net.b5_1.conv_branch2a.dilation == (2, 2)
    assert meta_net.b6.conv_branch2b1.dilation == (4, 4)
    assert meta_net.b7.conv_branch2b1.dilation == (4, 4)
    assert [meta_net.b6.dropout_2b1.p, meta_net.b7.dropout_2b2.p] == [0.3, 0.5]


def test_a_block_agrees_with_its_description() -> None:
    torch.manual_seed(0)
    block = ResBlock(4, 6, 8, stride=2).eval()
    block.bn_branch2a.running_mean.fill_(0.3)
    x = torch.randn(1, 4, 10, 10)
    output, before = block(x)
    expected = ((x - 0.3) / (1 + 1e-5) ** 0.5).relu()
    torch.testing.assert_close(before, expected)
    branch = F.conv2d(expected, block.conv_branch2a.weight, stride=2, padding=1)
    branch = (branch / (1 + 1e-5) ** 0.5).relu()
    branch = F.conv2d(branch, block.conv_branch2b1.weight, padding=1)
    shortcut = F.conv2d(expected, block.conv_branch1.weight, stride=2)
    torch.testing.assert_close(output, shortcut + branch)


def test_an_unchanged_shape_keeps_the_raw_input_as_shortcut() -> None:
    block = ResBlock(4, 4, 4).eval()
    torch.nn.init.zeros_(block.conv_branch2b1.weight)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x)[0], x)


def test_a_bottleneck_drops_channels_twice() -> None:
    block = BottleneckBlock(4, 8, dilation=2, dropout=0.5)
    dropouts = [m for m in block.modules() if isinstance(m, torch.nn.Dropout2d)]
    assert len(dropouts) == 2
    assert block.eval()(torch.randn(1, 4, 6, 6))[0].shape == (1, 8, 6, 6)


def mxnet_names(net: ResNet38d) -> dict[str, str]:
    """Name our keys as the MXNet file does, from the published naming."""
    statistics = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_var",
    }
    names = {}
    for key in net.state_dict():
        parts = key.split(".")
        if parts[-1] == "num_batches_tracked":
            continue
        if parts[0] == "conv1a":
            names["conv1a_weight"] = key
        elif parts[0] == "bn7":
            names[f"bn7_{statistics[parts[1]]}"] = key
        else:
            stage, _, index = parts[0][1:].partition("_")
            place = stage + (f"b{index}" if index else "a")
            kind, branch = parts[1].split("_")
            statistic = "weight" if kind == "conv" else statistics[parts[2]]
            names[f"{'res' if kind == 'conv' else 'bn'}{place}_{branch}_{statistic}"] = key
    return names


def test_the_mxnet_keys_are_translated_one_to_one(meta_net: ResNet38d) -> None:
    names = mxnet_names(meta_net)
    stored = {name: np.float32(index) for index, name in enumerate(names)}
    stored["linear1000_weight"] = np.float32(0)
    converted = ResNet38d.convert_state(stored)
    assert converted == {key: stored[name] for name, key in names.items()}


def test_a_torch_file_is_left_as_it_is() -> None:
    state = {"b2.conv_branch1.weight": 1, "fc8.weight": 2}
    assert ResNet38d.convert_state(state) == state


class Small(ResNet38d):
    """The keys of the network with a few channels, so that a test can hold it in memory."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.conv1a = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.b2 = ResBlock(4, 8, 8, stride=2)
        self.bn7 = torch.nn.BatchNorm2d(8)


def test_the_mxnet_file_fills_every_weight() -> None:
    small = Small()
    state = {
        name: torch.rand_like(small.state_dict()[key]) for name, key in mxnet_names(small).items()
    }
    load_backbone_state(
        small, state, source="x.params", name="resnet38d", convert=ResNet38d.convert_state
    )
    for name, key in mxnet_names(small).items():
        assert torch.equal(small.state_dict()[key], state[name])


def test_vgg_outputs_have_the_published_sizes_and_names() -> None:
    with torch.device("meta"):
        net = Vgg16LargeFov().eval()
    outputs = net(torch.zeros(1, 3, 64, 96, device="meta"))
    shapes = {name: tuple(value.shape[1:]) for name, value in outputs.items()}
    assert shapes == {
        "conv3": (256, 16, 24),
        "conv4": (512, 8, 12),
        "conv5": (512, 8, 12),
        "conv6": (1024, 8, 12),
    }
    assert {"conv1_1.weight", "conv5_3.bias", "fc6.weight", "fc7.bias"} <= set(net.state_dict())
    assert net.conv5_1.dilation == (2, 2)
    assert (net.pool3.stride, net.pool4.stride) == (2, 1)
    assert net.map_exponent == 0.5
