from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.localize.config import (
    CamExtractor,
    Extractor,
    GradCamExtractor,
    GradCamPpExtractor,
    LayerCamExtractor,
)
from wsseg.localize.extract import TimmClassifier, extract, target_layers
from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet
from wsseg.nets.pooling import LogSumExp

EXTRACTORS: list[Extractor] = [
    CamExtractor(),
    GradCamExtractor(),
    GradCamPpExtractor(),
    LayerCamExtractor(),
    LayerCamExtractor(stages=(2, 3, 4)),
]


@pytest.fixture(scope="module")
def net() -> ClassMapNet:
    torch.manual_seed(0)
    return ClassMapNet(build_backbone("test_resnet"), 3).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_cam_is_the_rectified_class_map(net: ClassMapNet, images: Tensor) -> None:
    found = extract(net, images, [3, 1])
    torch.testing.assert_close(found.maps, net.maps(images).relu()[:, [2, 0]].detach())
    torch.testing.assert_close(found.logits, net(images).detach())


def test_cam_keeps_evidence_against_a_class_where_asked_to(
    net: ClassMapNet, images: Tensor
) -> None:
    raw = extract(net, images, config=CamExtractor(rectify=False)).maps
    assert raw.min() < 0
    torch.testing.assert_close(raw.relu(), extract(net, images).maps)


def test_grad_cam_of_a_linear_head_on_mean_features_is_cam(
    net: ClassMapNet, images: Tensor
) -> None:
    cam = extract(net, images).maps
    grad_cam = extract(net, images, config=GradCamExtractor()).maps
    torch.testing.assert_close(grad_cam, cam, rtol=1e-4, atol=1e-5)
    assert cam.max() > 0


def test_layer_cam_of_the_last_layer_keeps_only_positive_weights(
    net: ClassMapNet, images: Tensor
) -> None:
    weight = net.head.weight.relu()
    expected = nn.functional.conv2d(net.features(images), weight).relu()
    found = extract(net, images, config=LayerCamExtractor()).maps
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", EXTRACTORS, ids=lambda c: f"{c.name}-{getattr(c, 'stages', '')}")
def test_every_extractor_gives_one_map_per_class_and_image(
    net: ClassMapNet, images: Tensor, config: Extractor
) -> None:
    found = extract(net, images, [2, 3], config)
    assert found.maps.shape[:2] == (2, 2)
    assert found.maps.dtype == torch.float32
    assert not found.maps.requires_grad
    assert not found.logits.requires_grad
    assert (found.maps >= 0).all()
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("config", EXTRACTORS, ids=lambda c: f"{c.name}-{getattr(c, 'stages', '')}")
def test_a_batch_gives_what_its_images_give_alone(
    net: ClassMapNet, images: Tensor, config: Extractor
) -> None:
    together = extract(net, images, [1], config).maps
    alone = torch.cat([extract(net, image[None], [1], config).maps for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("config", EXTRACTORS, ids=lambda c: f"{c.name}-{getattr(c, 'stages', '')}")
def test_all_classes_cost_one_forward_pass(
    net: ClassMapNet, images: Tensor, config: Extractor
) -> None:
    calls = []
    handle = net.backbone.trunk.conv1.register_forward_hook(lambda *_: calls.append(1))
    extract(net, images, None, config)
    handle.remove()
    assert len(calls) == 1


def test_no_classes_give_no_maps_but_logits(net: ClassMapNet, images: Tensor) -> None:
    for config in EXTRACTORS:
        found = extract(net, images, [], config)
        assert found.maps.shape[:2] == (2, 0)
        assert found.logits.shape == (2, 3)


def test_fused_stages_have_the_finest_resolution(net: ClassMapNet, images: Tensor) -> None:
    found = extract(net, images, [1], LayerCamExtractor(stages=(1, 4)))
    assert found.maps.shape[2:] == (8, 12)
    assert found.maps.max() <= 1


def test_gradients_find_what_a_nonlinear_pooling_looks_at(images: Tensor) -> None:
    """Under log-sum-exp pooling the gradient is the softmax of the map times the weights."""
    torch.manual_seed(0)
    net = ClassMapNet(build_backbone("test_resnet"), 1, LogSumExp(sharpness=3.0)).eval()
    features, maps = net.features(images), net.maps(images)
    share = (3.0 * maps.flatten(2)).softmax(dim=2).reshape(maps.shape)
    gradient = share * net.head.weight[0][None]
    cells = maps.shape[2] * maps.shape[3]
    expected = cells * (gradient.relu() * features).sum(dim=1).relu()
    found = extract(net, images, [1], LayerCamExtractor()).maps[:, 0]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-5)


def test_a_class_out_of_range_is_refused(net: ClassMapNet, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"from 1 to 3, but got \[4\]"):
        extract(net, images, [4])


def test_a_missing_stage_is_named(net: ClassMapNet, images: Tensor) -> None:
    with pytest.raises(RecipeError, match=r"no stage \[9\]; it has \[0, 1, 2, 3, 4\]"):
        extract(net, images, [1], LayerCamExtractor(stages=(4, 9)))


def test_stages_are_named_as_timm_names_them(net: ClassMapNet) -> None:
    targets = target_layers(net, LayerCamExtractor(stages=(4, 2)))
    assert [target.label for target in targets] == ["layer2", "layer4"]
    assert [target.is_shallow for target in targets] == [True, False]


def classifier(name: str, **options: object) -> TimmClassifier:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options)
    nn.init.normal_(model.get_classifier().weight)
    return TimmClassifier(model).eval()


def test_a_timm_classifier_gives_the_same_cam_by_weights_and_by_gradients(
    images: Tensor,
) -> None:
    network = classifier("test_resnet")
    cam = extract(network, images)
    grad_cam = extract(network, images, config=GradCamExtractor())
    torch.testing.assert_close(cam.maps, grad_cam.maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cam.logits, network(images).detach())


def test_a_classifier_with_a_norm_before_its_head_has_gradient_maps(images: Tensor) -> None:
    found = extract(classifier("test_convnext"), images, [1], GradCamExtractor())
    assert found.maps.shape == (2, 1, 1, 1)


def test_patch_tokens_of_a_class_token_transformer_have_gradients() -> None:
    network = classifier("test_vit", dynamic_img_size=True, global_pool="token")
    images = torch.randn(1, 3, 64, 96)
    found = extract(network, images, [1, 2], LayerCamExtractor())
    assert found.maps.shape == (1, 2, 4, 6)
    assert found.maps.max() > 0
    assert target_layers(network, GradCamExtractor())[0].label == "blocks.5.norm1"


def test_a_classifier_for_one_size_only_is_refused() -> None:
    import timm

    with pytest.raises(RecipeError, match="dynamic_img_size=True"):
        TimmClassifier(timm.create_model("test_vit_relpos", num_classes=2))
