from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.kernels.path_affinity import torch_feature_affinity
from wsseg.nets.affinity_net import AffinityNet, affinity_loss, on_grid, pair_kinds
from wsseg.nets.backbones import Backbone
from wsseg.nets.build import build_backbone
from wsseg.nets.resnet38d import ResNet38d
from wsseg.nets.vgg16_largefov import Vgg16LargeFov


def pairs(labels: np.ndarray, radius: int):
    """All pairs in the order of the paper: (offset, source y, source x, label, target label)."""
    height, width = labels.shape
    offsets = [(0, dx) for dx in range(1, radius)]
    for dy in range(1, radius):
        reach = range(-radius + 1, radius)
        offsets += [(dy, dx) for dx in reach if dy * dy + dx * dx < radius * radius]
    for number, (dy, dx) in enumerate(offsets):
        for y in range(height - radius + 1):
            for x in range(radius - 1, width - radius + 1):
                place = (number, y, x - radius + 1)
                yield place, (y, x), (y + dy, x + dx), labels[y, x], labels[y + dy, x + dx]


def reference_loss(features: np.ndarray, labels: np.ndarray, radius: int) -> dict[str, float]:
    """The balanced loss of a batch, pair by pair, in float64."""
    sums = {"loss_background": 0.0, "loss_foreground": 0.0, "loss_negative": 0.0}
    counts = dict.fromkeys(sums, 0)
    for maps, plane in zip(features.astype(np.float64), labels, strict=True):
        for _, source, target, one, other in pairs(plane, radius):
            if 255 in (one, other):
                continue
            affinity = math.exp(-np.abs(maps[:, *source] - maps[:, *target]).mean())
            if one != other:
                name, term = "loss_negative", -math.log(1 + 1e-5 - affinity)
            else:
                name = "loss_background" if one == 0 else "loss_foreground"
                term = -math.log(affinity + 1e-5)
            sums[name] += term
            counts[name] += 1
    parts = {name: total / (counts[name] + 1e-5) for name, total in sums.items()}
    weights = {"loss_background": 0.25, "loss_foreground": 0.25, "loss_negative": 0.5}
    return {"loss": sum(weights[name] * parts[name] for name in parts), **parts}


def make_labels(seed: int, shape=(2, 9, 14)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 3, 7, 255], np.uint8), shape)
    labels[:, :4] = 0
    return labels


@pytest.mark.parametrize("radius", [2, 3, 5])
def test_pairs_are_sorted_as_one_by_one(radius):
    labels = make_labels(1)
    shape = (2, 9 - radius + 1, 14 - 2 * radius + 2)
    kinds = [kind.numpy() for kind in pair_kinds(torch.from_numpy(labels), radius)]
    assert {kind.shape[:1] + kind.shape[2:] for kind in kinds} == {shape}
    for number, plane in enumerate(labels):
        for place, _, _, one, other in pairs(plane, radius):
            known = 255 not in (one, other)
            expected = [
                known and one == other == 0,
                known and one == other != 0,
                known and one != other,
            ]
            assert [bool(kind[number][place]) for kind in kinds] == expected


def test_radius_five_has_the_published_number_of_pairs():
    kinds = pair_kinds(torch.zeros(1, 56, 56, dtype=torch.uint8), 5)
    assert kinds[0].shape == (1, 34, 52, 48)
    assert kinds[0].all()
    assert not kinds[1].any()
    assert not kinds[2].any()


@pytest.mark.parametrize("radius", [2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_agrees_with_a_sum_pair_by_pair(radius, seed):
    labels = make_labels(seed)
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, 6, 9, 14)).astype(np.float32)
    expected = reference_loss(features, labels, radius)
    affinity = torch_feature_affinity(torch.from_numpy(features), radius)
    found = affinity_loss(affinity, torch.from_numpy(labels), radius)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        expected, rel=1e-5
    )


def test_equal_features_cost_nothing_but_at_borders():
    features = torch.ones(1, 4, 9, 14, requires_grad=True)
    labels = torch.zeros(1, 9, 14, dtype=torch.uint8)
    parts = affinity_loss(torch_feature_affinity(features, 5), labels, 5)
    assert parts["loss"].item() == pytest.approx(0, abs=2e-5)
    labels[:, :, 7:] = 2
    parts = affinity_loss(torch_feature_affinity(features, 5), labels, 5)
    assert parts["loss_negative"].item() == pytest.approx(-math.log(1e-5), rel=1e-3)


@pytest.mark.parametrize("label", [0, 4, 255])
def test_without_pairs_of_a_kind_its_part_is_zero_and_gradients_are_numbers(label):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 9, 14, generator=generator).requires_grad_()
    labels = torch.full((2, 9, 14), label, dtype=torch.uint8)
    parts = affinity_loss(torch_feature_affinity(features, 5), labels, 5)
    parts["loss"].backward()
    assert torch.isfinite(features.grad).all()
    assert bool((features.grad != 0).any()) == (label != 255)
    assert parts["loss_negative"].item() == 0
    assert (parts["loss_background"].item() > 0) == (label == 0)
    assert (parts["loss_foreground"].item() > 0) == (label == 4)


def on_meta(trunk_class: type[nn.Module], name: str) -> AffinityNet:
    with torch.device("meta"):
        return AffinityNet(Backbone(trunk_class(), name))


def test_resnet38d_has_the_published_heads():
    net = on_meta(ResNet38d, "resnet38d")
    shapes = [tuple(reduction.weight.shape) for reduction in net.reductions]
    assert shapes == [(64, 512, 1, 1), (128, 1024, 1, 1), (256, 4096, 1, 1)]
    assert tuple(net.mix.weight.shape) == (448, 448, 1, 1)
    assert all(isinstance(norm, nn.Identity) for norm in net.norms)
    assert len(net.head_parameters()) == 4
    assert net.size_multiple == 8
    assert net(torch.zeros(1, 3, 64, 80, device="meta")).shape == (1, 448, 8, 10)


def test_vgg16_has_the_published_heads():
    net = on_meta(Vgg16LargeFov, "vgg16_largefov")
    shapes = [tuple(reduction.weight.shape) for reduction in net.reductions]
    assert shapes == [(64, 512, 1, 1), (128, 512, 1, 1), (256, 1024, 1, 1)]
    assert [norm.num_groups for norm in net.norms] == [8, 16, 32]
    assert [reduction.bias for reduction in net.reductions] == [None] * 3
    assert net.mix.bias is None


class SmallResNet38d(ResNet38d):
    """The taps of ResNet-38 with few channels."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(nn.Conv2d(3, n, 8, 8, bias=False) for n in (6, 10, 12))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = [F.relu(layer(images)) for layer in self.layers]
        return {"conv3": images, **dict(zip(("conv4", "conv5", "conv6"), outputs, strict=True))}


def test_published_form_computes_the_formula():
    torch.manual_seed(0)
    net = AffinityNet(Backbone(SmallResNet38d(), "resnet38d")).double().eval()
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    taps = net.backbone.trunk(images)
    reduced = []
    for name, reduction in zip(("conv4", "conv5", "conv6"), net.reductions, strict=True):
        value = np.einsum(
            "nchw,oc->nohw", taps[name].detach(), reduction.weight[..., 0, 0].detach()
        )
        reduced.append(np.where(value > 0, value, np.expm1(np.minimum(value, 0))))
    joined = np.concatenate(reduced, axis=1)
    mixed = np.einsum("nchw,oc->nohw", joined, net.mix.weight[..., 0, 0].detach())
    expected = np.where(mixed > 0, mixed, np.expm1(np.minimum(mixed, 0)))
    np.testing.assert_allclose(net(images).detach(), expected, rtol=1e-9, atol=1e-12)


def test_heads_start_as_published():
    torch.manual_seed(0)
    net = AffinityNet(build_backbone("test_resnet", output_stride=8))
    for reduction in net.reductions:
        fan_in = reduction.weight.shape[1]
        assert reduction.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.1)
    bound = 4 * math.sqrt(6 / (448 + 448))
    assert net.mix.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert net.mix.weight.abs().max().item() <= bound


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_any_network_gives_the_grid_that_is_wanted(output_stride, stride):
    backbone = build_backbone("test_resnet", output_stride=output_stride)
    net = AffinityNet(backbone, stride=stride).eval()
    assert net.size_multiple == max(stride, output_stride)
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 96, 64)).shape == (2, 448, 96 // stride, 64 // stride)
        assert net(torch.zeros(1, 3, 50, 33)).shape[2:] == (-(-50 // stride), -(-33 // stride))


def test_general_form_takes_the_last_three_stages():
    backbone = build_backbone("test_resnet", output_stride=32).eval()
    net = AffinityNet(backbone, stride=8).eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stages = backbone.stages(images)[-3:]
        assert [stage.shape[2] for stage in stages] == [8, 4, 2]
        reduced = []
        for stage, reduction, norm in zip(stages, net.reductions, net.norms, strict=True):
            grid = F.interpolate(stage, size=(8, 12), mode="bilinear", align_corners=False)
            reduced.append(F.elu(norm(reduction(grid))))
        expected = F.elu(net.mix(torch.cat(reduced, dim=1)))
        torch.testing.assert_close(net(images), expected)


def test_a_transformer_works_and_what_it_does_not_use_is_not_trained():
    torch.manual_seed(0)
    net = AffinityNet(build_backbone("test_vit", output_stride=16), stride=16, radius=2)
    net.freeze_unused()
    assert net.training
    batch = {"image": torch.randn(2, 3, 64, 64), "labels": torch.zeros(2, 4, 4, dtype=torch.uint8)}
    batch["labels"][:, :, 2:] = 1
    net.loss(batch)["loss"].backward()
    without = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert "backbone.trunk.norm.weight" in frozen


def test_a_cut_network_uses_the_stages_that_are_left():
    backbone = build_backbone("test_resnet", output_stride=8, last_stage=2)
    net = AffinityNet(backbone)
    count = min(3, len(backbone.stage_modules()))
    assert len(net.reductions) == count
    assert net.eval()(torch.zeros(1, 3, 64, 64)).shape[2:] == (8, 8)


def test_grey_networks_work():
    net = AffinityNet(build_backbone("test_resnet", output_stride=8, in_channels=1)).eval()
    assert net(torch.zeros(1, 1, 64, 64)).shape == (1, 448, 8, 8)


def test_labels_of_another_grid_are_refused():
    net = AffinityNet(build_backbone("test_resnet", output_stride=8))
    batch = {"image": torch.zeros(2, 3, 64, 64), "labels": torch.zeros(2, 9, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"grid \(9, 8\), features \(8, 8\)"):
        net.loss(batch)


def test_a_coarser_grid_takes_means_and_a_finer_one_interpolates():
    features = torch.arange(8.0).reshape(1, 1, 2, 4)
    assert on_grid(features, (2, 4)) is features
    assert on_grid(features, (1, 2)).flatten().tolist() == [2.5, 4.5]
    finer = on_grid(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    assert finer.flatten().tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize(("align_cells", "shift_px"), [(True, 0.0), (False, 7.5)])
def test_coarse_stages_are_drawn_where_their_cells_look_only_where_asked(align_cells, shift_px):
    """A stage of stride 16 that holds the pixel its cell looks at, drawn on cells of 4 pixels."""
    net = AffinityNet(
        build_backbone("resnet10t", output_stride=16), stride=4, align_cells=align_cells
    )
    looked_at = 16.0 * torch.arange(8)  # a padded convolution's cell k looks at pixel 16 k
    stage = looked_at[:, None].expand(1, 2, 8, 8)
    drawn = net._on_grid(stage, (32, 32), 128)[0, 0, :, 16]
    middles = 4 * torch.arange(32) + 1.5
    torch.testing.assert_close(drawn[4:24], middles[4:24] - shift_px)
