from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet, positive_weights, valid_cells
from wsseg.nets.pooling import GlobalMax
from wsseg.training.config import TrainingConfig
from wsseg.training.optim import build_optimizer


@pytest.fixture
def net() -> ClassMapNet:
    torch.manual_seed(0)
    return ClassMapNet(build_backbone("test_resnet"), 3, dropout=0.0).eval()


def test_logits_are_the_mean_of_the_maps_and_a_linear_layer_on_mean_features(
    net: ClassMapNet,
) -> None:
    images = torch.randn(2, 3, 32, 48)
    logits = net.logits(images)
    torch.testing.assert_close(logits, net.maps(images).mean(dim=(2, 3)))
    weight = net.head.weight[:, :, 0, 0]
    torch.testing.assert_close(logits, net.features(images).mean(dim=(2, 3)) @ weight.T)


def test_the_head_has_no_bias_unless_asked_for(net: ClassMapNet) -> None:
    assert net.head.bias is None
    assert ClassMapNet(net.backbone, 2, bias=True).head.bias is not None


def test_the_loss_is_the_multi_label_soft_margin_loss(net: ClassMapNet) -> None:
    batch = {"image": torch.randn(2, 3, 32, 32), "tags": torch.tensor([[1.0, 0, 1], [0, 0, 0]])}
    expected = F.multilabel_soft_margin_loss(net(batch["image"]), batch["tags"])
    torch.testing.assert_close(net.loss(batch)["loss"], expected)


def test_the_focal_loss_agrees_with_its_formula_in_float64(net: ClassMapNet) -> None:
    net.focal_gamma = 2.0
    batch = {"image": torch.randn(2, 3, 32, 32), "tags": torch.tensor([[1.0, 0, 1], [0, 0, 0]])}
    x, y = net(batch["image"]).double().detach().numpy(), batch["tags"].numpy()
    p = 1 / (1 + np.exp(-x))
    p_true = np.where(y == 1, p, 1 - p)
    expected = np.mean(-((1 - p_true) ** 2) * np.log(p_true))
    assert net.loss(batch)["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_class_weights_make_rare_positives_count_as_much_as_their_negatives() -> None:
    tags = np.zeros((100, 3), np.float32)
    tags[:25, 0] = 1
    tags[0, 1] = 1
    assert positive_weights(tags).tolist() == [3.0, 20.0, 1.0]


def test_set_weights_are_used_and_saved(net: ClassMapNet) -> None:
    batch = {"image": torch.randn(2, 3, 32, 32), "tags": torch.ones(2, 3)}
    before = net.loss(batch)["loss"]
    net.set_class_weights(np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32))
    torch.testing.assert_close(net.loss(batch)["loss"], 3 * before)
    assert net.state_dict()["positive_weights"].tolist() == [3.0, 3.0, 3.0]


def test_padding_does_not_count(net: ClassMapNet) -> None:
    net.pooling = GlobalMax()
    images = torch.randn(1, 3, 32, 64)
    valid = torch.zeros(1, 1, 32, 64)
    valid[..., :32] = 1
    expected = net.maps(images)[..., :4].amax(dim=(2, 3))
    torch.testing.assert_close(net.logits(images, valid), expected)
    batch = {"image": images, "tags": torch.ones(1, 3)}
    masked = net.loss({**batch, "valid": valid})["loss"]
    assert masked > net.loss(batch)["loss"]


def test_a_cell_counts_when_half_of_it_is_valid_and_one_always_does() -> None:
    valid = torch.zeros(2, 1, 8, 16)
    valid[0, :, :, :4] = 1
    valid[1, :, 0, 9] = 1
    cells = valid_cells(valid, torch.zeros(2, 5, 1, 2))
    assert cells.flatten(1).tolist() == [[True, False], [False, True]]
    assert valid_cells(torch.zeros(1, 8, 16), torch.zeros(1, 5, 1, 2)).all()


def test_the_psa_optimiser_has_the_four_groups_of_the_literature() -> None:
    net = ClassMapNet(build_backbone("test_resnet"), 3, bias=True)
    config = TrainingConfig(optimiser="psa_poly", lr=0.01, head_lr_factor=10, weight_decay=5e-4)
    groups = build_optimizer(net, config).param_groups
    assert [(round(g["lr"], 6), g["weight_decay"]) for g in groups] == [
        (0.01, 5e-4),
        (0.02, 0.0),
        (0.1, 5e-4),
        (0.2, 0.0),
    ]
    assert [id(p) for g in groups[2:] for p in g["params"]] == [
        id(p) for p in net.head_parameters()
    ]


def test_a_few_steps_learn_a_simple_task() -> None:
    torch.manual_seed(0)
    net = ClassMapNet(build_backbone("test_resnet"), 2, dropout=0.0).train()
    images = torch.randn(8, 3, 32, 32)
    tags = torch.zeros(8, 2)
    tags[::2, 0], tags[1::2, 1] = 1, 1
    images[::2, 0] += 3
    images[1::2, 2] += 3
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = net.loss({"image": images, "tags": tags})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
