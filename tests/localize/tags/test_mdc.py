from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from wsseg.localize.tags.mdc import Mdc


def reference_map(features: np.ndarray, head: nn.Sequential, dilation: int) -> np.ndarray:
    """Compute one head's map in float64, tap by tap."""
    spread, _, _, classify = head
    weight = spread.weight.detach().double().numpy()
    hidden = np.zeros((weight.shape[0], *features.shape[1:]))
    height, width = features.shape[1:]
    for row in range(height):
        for column in range(width):
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    y, x = row + i * dilation, column + j * dilation
                    if 0 <= y < height and 0 <= x < width:
                        hidden[:, row, column] += weight[:, :, i + 1, j + 1] @ features[:, y, x]
    hidden += spread.bias.detach().double().numpy()[:, None, None]
    matrix = classify.weight.detach().double().numpy()[:, :, 0, 0]
    return np.einsum("ck,khw->chw", matrix, np.maximum(hidden, 0))


@pytest.fixture
def net(make):
    net = make("mdc", head_width=5).eval()
    for head in net.heads:
        nn.init.normal_(head[0].bias, generator=torch.Generator().manual_seed(2))
    return net


def test_maps_agree_with_the_fusion_rule_in_float64(net):
    images = torch.randn(1, 3, 56, 72, generator=torch.Generator().manual_seed(4))
    features = net.features(images)[0].detach().double().numpy()
    found = net.maps(images)[0].detach().double().numpy()
    positive = [
        np.maximum(reference_map(features, head, d), 0)
        for head, d in zip(net.heads, (1, 3, 6, 9), strict=True)
    ]
    assert any(one.any() for one in positive)
    for index in range(3):
        highest = [one[index].max() for one in positive]
        parts = [one[index] / (top + 1e-5) for one, top in zip(positive, highest, strict=True)]
        fused = parts[0] + (parts[1] + parts[2] + parts[3]) / 3
        np.testing.assert_allclose(found[index], fused * np.mean(highest), rtol=1e-4, atol=1e-5)


def test_losses_of_all_heads_add_up(net, batch):
    features = net.features(batch["image"]).detach().double().numpy()
    y = batch["tags"].double().numpy()
    width = np.array([8, 5, 8, 8])  # columns of cells that are no padding
    total = 0.0
    for head, dilation in zip(net.heads, (1, 3, 6, 9), strict=True):
        maps = [reference_map(one, head, dilation) for one in features]
        x = np.stack([m[..., :w].mean(axis=(1, 2)) for m, w in zip(maps, width, strict=True)])
        total += (np.log1p(np.exp(-x)) * y + np.log1p(np.exp(x)) * (1 - y)).mean()
    terms = net.loss(batch)
    assert terms["loss"].item() == pytest.approx(total, rel=1e-5)


def test_a_place_that_one_dilated_head_finds_alone_counts_a_third(net):
    maps = [torch.zeros(1, 1, 1, 3) for _ in range(4)]
    maps[0][..., 0] = 2.0
    maps[1][..., 1] = 2.0
    for one in maps[1:]:
        one[..., 2] = 2.0
    torch.testing.assert_close(
        net.joined(maps).flatten(), 2 * torch.tensor([1.0, 1 / 3, 1.0]), rtol=1e-4, atol=0
    )


def test_the_strength_of_evidence_is_kept_so_that_tiles_can_be_compared(net):
    maps = [torch.rand(1, 3, 4, 4) for _ in range(4)]
    weak = net.joined([one / 10 for one in maps])
    torch.testing.assert_close(weak, net.joined(maps) / 10, rtol=1e-3, atol=1e-5)
    nothing = [-one for one in maps]
    assert not net.joined(nothing).any()


def test_no_head_sees_further_than_its_dilation(net):
    for head, dilation in zip(net.heads, (1, 3, 6, 9), strict=True):
        features = torch.zeros(1, net.backbone.num_features, 21, 21, requires_grad=True)
        head(features)[0, :, 10, 10].sum().backward()
        rows = torch.nonzero(features.grad.abs().sum(dim=(0, 1, 3))).flatten().tolist()
        assert set(rows) <= {10 - dilation, 10, 10 + dilation}
        assert 10 in rows


def test_settings_reach_the_network(make):
    net = make("mdc", dilations=[2, 4], head_width=7, dropout=0.25, head_bias=True, focal_gamma=1.0)
    assert [head[0].dilation for head in net.heads] == [(2, 2), (4, 4)]
    assert [head[0].out_channels for head in net.heads] == [7, 7]
    assert net.heads[0][2].p == 0.25
    assert net.heads[0][3].bias is not None
    assert net.focal_gamma == 1.0


def test_a_checkpoint_restores_the_network_without_its_first_weights() -> None:
    from wsseg.localize.tags.mdc import mdc

    config = Mdc(backbone="test_resnet", weights="imagenet", head_width=4)
    net = mdc(config=config, num_classes=2, load_weights=False)
    other = mdc(config=config, num_classes=2, load_weights=False)
    other.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(net.eval()(images), other.eval()(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dilations": [1]}, "at least 2"),
        ({"dilations": [1, 3, 3]}, "two heads with one dilation see the same"),
        ({"inference": {"normalise": "absolute"}}, "maps that are no logits"),
        ({"inference": {"extractor": {"name": "grad_cam"}}}, "would not show"),
        (
            {"inference": {"extractor": {"name": "cam", "rectify": False}, "normalise": "minmax"}},
            "joins rectified maps",
        ),
    ],
)
def test_settings_that_contradict_the_method_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Mdc.model_validate(changes)


def test_seam_is_refused(make):
    from wsseg.errors import RecipeError

    with pytest.raises(RecipeError, match='localizer "mdc" does not allow'):
        make("mdc", regularisers=["seam"], inference={"normalise": "minmax"})
