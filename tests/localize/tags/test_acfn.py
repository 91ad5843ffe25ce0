from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsseg.errors import RecipeError
from wsseg.localize.tags.acfn import Acfn
from wsseg.nets.acfn_head import AttentivePyramid
from wsseg.nets.build import build_backbone
from wsseg.nets.cascade import set_cascade, stage_convolutions


def reference_branch(x: np.ndarray, branch: nn.Sequential, dilation: int) -> np.ndarray:
    conv, norm, _ = branch
    weight = conv.weight.detach().double().numpy()
    found = np.zeros((weight.shape[0], *x.shape[1:]))
    padded = np.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation)))
    height, width = x.shape[1:]
    for i in range(3):
        for j in range(3):
            part = padded[:, i * dilation :, j * dilation :][:, :height, :width]
            found += np.einsum("kd,dhw->khw", weight[:, :, i, j], part)
    mean, variance, gain, shift = (
        t.detach().double().numpy()[:, None, None]
        for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return np.maximum((found - mean) / np.sqrt(variance + norm.eps) * gain + shift, 0)


@pytest.mark.parametrize("attention", ["cell", "image"])
def test_fusion_agrees_with_its_formula_in_float64(attention):
    torch.manual_seed(0)
    pyramid = AttentivePyramid(4, 3, (1, 2, 5), attention).eval()
    for branch in pyramid.branches:
        nn.init.uniform_(branch[1].running_mean)
        nn.init.uniform_(branch[1].running_var, 0.5, 2)
        nn.init.normal_(branch[1].bias)
    nn.init.normal_(pyramid.attend.weight)
    nn.init.normal_(pyramid.attend.bias)
    features = torch.randn(1, 4, 6, 7)
    joined, branches = pyramid(features)
    x = features[0].double().numpy()
    found = [reference_branch(x, b, d) for b, d in zip(pyramid.branches, (1, 2, 5), strict=True)]
    together = np.concatenate(found)
    if attention == "image":
        together = np.broadcast_to(together.mean(axis=(1, 2), keepdims=True), together.shape)
    matrix = pyramid.attend.weight.detach().double().numpy()[:, :, 0, 0]
    scores = np.einsum("mk,khw->mhw", matrix, together)
    scores = np.exp(scores + pyramid.attend.bias.detach().double().numpy()[:, None, None])
    shares = scores / scores.sum(axis=0)
    expected = sum(share * one for share, one in zip(shares, found, strict=True))
    np.testing.assert_allclose(joined[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    for one, reference in zip(branches, found, strict=True):
        np.testing.assert_allclose(one[0].detach().numpy(), reference, rtol=1e-4, atol=1e-5)


def test_all_branches_count_alike_at_first():
    pyramid = AttentivePyramid(4, 3, (1, 2, 5), "cell")
    joined, branches = pyramid(torch.randn(2, 4, 5, 5))
    torch.testing.assert_close(joined, torch.stack(branches).mean(dim=0))


def test_the_loss_of_the_branches_is_their_mean_classification_loss(make, batch):
    net = make("acfn", head_width=6, branch_weight=0.5).eval()
    step = net.step(batch)
    y, counted = batch["tags"].double(), [8, 5, 8, 8]
    losses = []
    for head, branch in zip(net.branch_heads, step.branches, strict=True):
        maps = head(branch).double()
        x = torch.stack([m[..., :w].mean(dim=(1, 2)) for m, w in zip(maps, counted, strict=True)])
        losses.append(torch.nn.functional.softplus(x) - y * x)
    terms = net.terms(step)
    expected = 0.5 * torch.stack(losses).mean()
    torch.testing.assert_close(terms["acfn_branches"].double(), expected, rtol=1e-5, atol=1e-6)
    assert net.terms(step).keys() == {"classification", "acfn_branches"}
    plain = make("acfn", head_width=6)
    assert plain.loss(batch).keys() == {"loss"}
    assert len(plain.branch_heads) == 0


def test_the_cascade_follows_the_order_of_the_convolutions():
    backbone = build_backbone("resnet18", output_stride=8)
    size = backbone(torch.zeros(1, 3, 64, 64)).shape
    before = [conv.dilation for conv in stage_convolutions(backbone, 2)]
    set_cascade(backbone, (1, 2, 3), stages_from_end=1)
    set_cascade(backbone, (2, 4), stages_from_end=0)
    layer3 = [backbone.trunk.layer3[i] for i in (0, 1)]
    found = [conv.dilation[0] for block in layer3 for conv in (block.conv1, block.conv2)]
    assert found == [1, 2, 3, 1]
    layer4 = [backbone.trunk.layer4[i] for i in (0, 1)]
    found = [conv.dilation[0] for block in layer4 for conv in (block.conv1, block.conv2)]
    assert found == [2, 4, 2, 4]
    assert [conv.dilation for conv in stage_convolutions(backbone, 2)] == before
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == size


def test_a_kept_stride_is_left_alone():
    backbone = build_backbone("test_resnet", output_stride=32)
    set_cascade(backbone, (3,), stages_from_end=0)
    dilations = {m.stride: m.dilation for m in backbone.trunk.layer4.modules() if is_wide(m)}
    assert dilations.get((2, 2), (1, 1)) == (1, 1)
    assert backbone(torch.zeros(1, 3, 64, 64)).shape[2:] == (2, 2)


def is_wide(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


def test_a_transformer_has_no_cascade_and_says_so(make):
    with pytest.raises(RecipeError, match=r"no 3x3 convolution without stride in its stage before"):
        make("acfn", backbone="test_vit", output_stride=16)
    net = make(
        "acfn",
        backbone="test_vit",
        output_stride=16,
        middle_dilations=[],
        last_dilations=[],
        head_width=4,
    )
    assert net.maps(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 4, 4)


def test_settings_reach_the_network(make):
    net = make("acfn", dilations=[2, 4], head_width=7, attention="image", head_bias=True)
    assert [branch[0].dilation for branch in net.pyramid.branches] == [(2, 2), (4, 4)]
    assert net.pyramid.attention == "image"
    assert net.head.in_channels == 7
    assert net.head.bias is not None
    assert Acfn().branch_weight == 0
