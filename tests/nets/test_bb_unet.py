"""Tests of wsseg.nets.bb_unet and wsseg.segment.bb_unet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsseg.nets.bb_unet import BbUNet, BoxGate, draw_boxes
from wsseg.segment.bb_unet import BbUnet, bb_unet


def _net(**options) -> BbUNet:
    torch.manual_seed(0)
    return BbUNet(3, channels=(4, 6, 8), bottom_channels=8, **options).eval()


def test_widths_and_gates_are_those_of_the_paper():
    net = BbUNet(3, box_maps=2)
    widths = [
        [m.out_channels for m in b.modules() if isinstance(m, torch.nn.Conv2d)] for b in net.down
    ]
    assert widths == [[64, 64], [128, 128], [256, 256]]
    assert [m.out_channels for m in net.bottom if isinstance(m, torch.nn.Conv2d)] == [256, 256]
    assert [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout2d)] == [0.6] * 14
    assert [(g.factor, g.conv.out_channels) for g in net.gates] == [(1, 64), (2, 128), (4, 256)]
    assert [g.conv.in_channels for g in net.gates] == [2, 2, 2]
    # Level by level, finest first: what comes from below and what skips it.
    assert [b[0].in_channels for b in net.up] == [256 + 256, 256 + 128, 128 + 64]


def test_a_gate_is_the_sigmoid_of_a_convolution_of_the_pooled_boxes():
    torch.manual_seed(1)
    gate, boxes = BoxGate(1, 2, 2), torch.zeros(1, 1, 6, 4)
    boxes[0, 0, 1, 3] = 1
    values = torch.randn(1, 2, 3, 2)
    pooled = np.zeros((5, 4))
    pooled[1, 2] = 1  # cell (0, 1), with a border of zeros
    weight = gate.conv.weight.detach().numpy().astype(np.float64)
    expected = np.zeros((2, 3, 2))
    for channel, row, column in np.ndindex(2, 3, 2):
        window = pooled[row : row + 3, column : column + 3]
        raw = (window * weight[channel, 0]).sum() + gate.conv.bias[channel].item()
        expected[channel, row, column] = 1 / (1 + np.exp(-raw)) * values[0, channel, row, column]
    np.testing.assert_allclose(gate(values, boxes)[0].detach(), expected, atol=1e-6)


def test_boxes_gate_each_skip_and_no_boxes_bypass_them():
    net, images = _net(), torch.randn(2, 3, 16, 24)
    boxes = torch.zeros(2, 1, 16, 24)
    boxes[:, :, 3:9, 5:20] = 1
    # Gates that are wide open everywhere change nothing.
    for gate in net.gates:
        torch.nn.init.zeros_(gate.conv.weight)
        torch.nn.init.constant_(gate.conv.bias, 100)
    torch.testing.assert_close(net(images, boxes), net(images))
    for gate in net.gates:
        before = gate.conv.bias.detach().clone()
        torch.nn.init.constant_(gate.conv.bias, -100)
        assert not torch.allclose(net(images, boxes), net(images))
        gate.conv.bias.data.copy_(before)


def test_the_switch_and_the_flag_of_an_image_bypass_the_gates():
    net, images = _net(), torch.randn(2, 3, 16, 16)
    boxes = torch.ones(2, 1, 16, 16)
    with_gates, without = net(images, boxes), net(images)
    mixed = net(images, boxes, torch.tensor([True, False]))
    torch.testing.assert_close(mixed[0], with_gates[0])
    torch.testing.assert_close(mixed[1], without[1])
    assert not torch.allclose(with_gates[1], without[1])
    net.use_gates = False
    torch.testing.assert_close(net(images, boxes), without)


@pytest.mark.parametrize("size", [(8, 8), (13, 21), (1, 1), (7, 40)])
def test_sizes_that_eight_does_not_divide_work_as_if_padded(size: tuple[int, int]):
    net, images = _net(), torch.randn(1, 3, *size)
    boxes = torch.ones(1, 1, *size)
    logits = net(images, boxes)
    assert logits.shape == (1, 3, *size)
    missing = [-length % 8 for length in size]
    around = (0, missing[1], 0, missing[0])
    padded = net(F.pad(images, around), F.pad(boxes, around))
    torch.testing.assert_close(logits, padded[..., : size[0], : size[1]])


def test_freezing_the_gates_freezes_their_parameters():
    net = _net().train()
    net.freeze_gates()
    before = [p.detach().clone() for p in net.gates.parameters()]
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0, weight_decay=0.1)
    net(torch.randn(2, 3, 16, 16), torch.ones(2, 1, 16, 16)).square().mean().backward()
    optimizer.step()
    assert all(p.grad is None for p in net.gates.parameters())
    for old, new in zip(before, net.gates.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)


def test_boxes_are_drawn_where_the_centres_of_pixels_are_inside():
    boxes = torch.tensor([[[0.6, 0.0, 2.5, 2.0, 1.0], [2.0, 1.0, 4.0, 3.0, 2.0], [0] * 5]])
    per_class = draw_boxes(boxes, (3, 4), 3, per_class=True)[0]
    assert per_class[0].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert per_class[1].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert per_class[2].sum() == 0
    together = draw_boxes(boxes, (3, 4), 3, per_class=False)
    torch.testing.assert_close(together[0, 0], per_class.amax(0))
    assert draw_boxes(torch.cat([boxes, boxes], 1), (3, 4), 3, per_class=True).max() == 1


def _batch() -> dict[str, torch.Tensor]:
    boxes = torch.zeros(2, 1, 5)
    boxes[0, 0] = torch.tensor([2.0, 2.0, 9.0, 9.0, 1.0])
    return {
        "image": torch.randn(2, 3, 16, 16),
        "mask": torch.randint(0, 3, (2, 16, 16)),
        "boxes": boxes,
        "has_boxes": torch.tensor([True, False]),
    }


def test_training_shows_boxes_and_goes_by_them_where_there_are_none():
    batch = _batch()
    task = bb_unet(config=BbUnet(bypass=0.0), num_classes=2).eval()
    logits, _ = task.outputs(batch)
    maps = draw_boxes(batch["boxes"], (16, 16), 2, per_class=True)
    torch.testing.assert_close(logits[0], task.net(batch["image"], maps)[0])
    torch.testing.assert_close(logits[1], task(batch["image"])[1])
    torch.testing.assert_close(task.with_boxes(batch["image"], batch["boxes"])[0], logits[0])
    task.train().loss(batch)["loss"].backward()
    assert all(gate.conv.weight.grad.abs().sum() > 0 for gate in task.net.gates)


@pytest.mark.parametrize(("kind", "num_classes"), [("class", 1), ("class", 3), ("one", 3)])
def test_boxes_are_drawn_on_the_maps_that_the_network_was_built_for(kind, num_classes):
    net = bb_unet(config=BbUnet(box_maps=kind), num_classes=num_classes).net
    boxes = torch.tensor([[[2.0, 2.0, 9.0, 9.0, 1.0], [0.0] * 5]])
    expected = draw_boxes(boxes, (12, 16), num_classes, per_class=kind == "class")
    torch.testing.assert_close(net.drawn(boxes, (12, 16)), expected)


def test_training_bypasses_the_gates_of_some_images():
    task = bb_unet(config=BbUnet(bypass=1.0, dropout=0.0, box_maps="one"), num_classes=2)
    task.train()
    for block in task.modules():
        if isinstance(block, torch.nn.BatchNorm2d):
            block.momentum = 0.0
    batch = _batch()
    logits, _ = task.outputs(batch)
    torch.testing.assert_close(logits, task(batch["image"]))
    # Several processes must agree on what has gradients.
    task.loss(batch)["loss"].backward()
    assert all(p.grad is not None for p in task.parameters())
