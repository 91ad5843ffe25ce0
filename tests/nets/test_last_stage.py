from __future__ import annotations

import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.nets.build import build_backbone


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "regnetx_002"])
def test_a_cut_network_gives_the_features_of_its_last_stage(name: str) -> None:
    torch.manual_seed(0)
    whole = build_backbone(name, output_stride=32).eval()
    torch.manual_seed(0)
    cut = build_backbone(name, output_stride=8, last_stage=2).eval()
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        stages = dict(zip(whole.stage_modules(), whole.stages(images), strict=True))
        features = cut(images)
    torch.testing.assert_close(features, stages[2])
    assert cut.num_features == stages[2].shape[1]
    trained = sum(weight.numel() for weight in cut.parameters() if weight.requires_grad)
    assert trained < sum(weight.numel() for weight in whole.parameters()) / 2


def test_a_cut_network_has_no_stages_behind_the_cut() -> None:
    backbone = build_backbone("test_resnet", output_stride=8, last_stage=2)
    assert list(backbone.stage_modules()) == [0, 1, 2]
    with pytest.raises(RecipeError, match=r"has no stage 3; it has \[0, 1, 2\]"):
        build_backbone("test_resnet", output_stride=8, last_stage=2, stop_gradient_after_stage=3)


def test_the_last_of_all_stages_leaves_the_network_whole() -> None:
    for name in ("test_resnet", "test_efficientnet"):
        backbone = build_backbone(name, output_stride=8, last_stage=4)
        whole = build_backbone(name, output_stride=8)
        assert backbone.trunk.state_dict().keys() == whole.trunk.state_dict().keys()


def test_a_cut_network_offers_the_strides_that_it_has() -> None:
    with pytest.raises(RecipeError, match=r"It offers 8, 4 \(--set localize.output_stride=8\)"):
        build_backbone("test_resnet", output_stride=16, last_stage=2)


@pytest.mark.parametrize(
    ("name", "last_stage"),
    [
        ("test_efficientnet", 2),  # a convolution behind the blocks belongs to no stage
        ("mobilenetv3_small_050", 2),
        ("vgg16_largefov", 2),
        ("vgg16_largefov", 3),
    ],
)
def test_networks_with_layers_outside_of_stages_cannot_be_cut(name: str, last_stage: int) -> None:
    with pytest.raises(RecipeError, match="layers behind it that cannot be left out"):
        build_backbone(name, last_stage=last_stage)


@pytest.mark.parametrize("last_stage", [1, 2, 3])
def test_resnet38d_cannot_be_cut(last_stage: int) -> None:
    from wsseg.nets.build import _cut_after
    from wsseg.nets.trunks import OWN

    with torch.device("meta"):
        trunk = OWN["resnet38d"](3)
    with pytest.raises(RecipeError, match='"resnet38d" cannot end after stage'):
        _cut_after(trunk, "resnet38d", last_stage, 3)


@pytest.mark.parametrize(
    ("name", "known"), [("test_vit", "none"), ("test_resnet", "0, 1, 2, 3, 4")]
)
def test_a_stage_that_is_not_there_is_an_error(name: str, known: str) -> None:
    with pytest.raises(RecipeError, match=f"can end after: {known}. Leave last_stage out"):
        build_backbone(name, last_stage=7)
