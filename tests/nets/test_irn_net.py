"""Tests of wsseg.nets.irn_net and irn_losses against references in float64 that loop over pairs."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.kernels.stencil import half_plane_offsets
from wsseg.nets.alignment import Cells
from wsseg.nets.backbones import Backbone
from wsseg.nets.build import build_backbone
from wsseg.nets.irn_losses import affinity_loss, displacement_loss, label_pairs, smallest_grid
from wsseg.nets.irn_net import IrnNet, groups_for

RADIUS = 3


def tiny_net(radius: int = RADIUS, **settings) -> IrnNet:
    torch.manual_seed(0)
    return IrnNet(build_backbone("test_resnet", output_stride=8, **settings), radius=radius)


def pairs_of(height: int, width: int, radius: int):
    """List source and target (row, column) of all training pairs, as the sheet defines them."""
    reach = radius - 1
    for y in range(height - reach):
        for x in range(reach, width - reach):
            for dy in range(radius):
                for dx in range(-reach, reach + 1):
                    if (dy > 0 or dx > 0) and dx * dx + dy * dy < radius * radius:
                        yield (y, x), (y + dy, x + dx)


def path_max(edge: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> float:
    """Take the largest edge on the cells of the rectangle closer than 1 to the segment."""
    (y0, x0), (y1, x1) = start, end
    length = math.hypot(y1 - y0, x1 - x0)
    values = []
    for y in range(min(y0, y1), max(y0, y1) + 1):
        for x in range(min(x0, x1), max(x0, x1) + 1):
            distance = abs((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length
            if distance < 1 - 1e-12:
                values.append(edge[y, x])
    return max(values)


def reference_losses(edge, displacement, labels, radius) -> tuple[float, float, float]:
    """Compute L_pos, L_neg and L_dp of a batch in float64, pair by pair."""
    eps = 1e-5
    together = {"background": [], "foreground": []}
    moved = {"background": [], "foreground": []}
    apart = []
    for e, d, lab in zip(edge, displacement, labels, strict=True):
        for a, b in pairs_of(*lab.shape, radius):
            if 255 in (lab[a], lab[b]):
                continue
            affinity = 1 - path_max(e, a, b)
            if lab[a] != lab[b]:
                apart.append(-math.log(1 + eps - affinity))
                continue
            kind = "background" if lab[a] == 0 else "foreground"
            together[kind].append(-math.log(affinity + eps))
            wanted = np.subtract(b, a) if kind == "foreground" else np.zeros(2)
            difference = d[:, a[0], a[1]] - d[:, b[0], b[1]]
            moved[kind].append(np.abs(difference - wanted).mean())

    def mean(values) -> float:
        return float(np.mean(values)) if len(values) else 0.0

    positive = (mean(together["background"]) + mean(together["foreground"])) / 2
    displaced = (mean(moved["background"]) + mean(moved["foreground"])) / 2
    return positive, mean(apart), displaced


def random_case(seed: int, size=(6, 9), num_images: int = 2):
    rng = np.random.default_rng(seed)
    edge = rng.random((num_images, *size))
    displacement = rng.normal(0, 2, (num_images, 2, *size))
    labels = rng.choice([0, 0, 3, 3, 7, 255], (num_images, *size)).astype(np.uint8)
    return edge, displacement, labels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("radius", [2, 3, 4])
def test_losses_are_those_of_a_loop_over_pairs(seed, radius):
    edge, displacement, labels = random_case(seed)
    expected = reference_losses(edge, displacement, labels, radius)
    pairs = label_pairs(torch.from_numpy(labels), radius)
    positive, negative = affinity_loss(torch.from_numpy(edge)[:, None], pairs, radius)
    displaced = displacement_loss(torch.from_numpy(displacement), pairs, radius)
    found = [float(value) for value in (positive, negative, displaced)]
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_pairs_are_compared_as_a_loop_does():
    labels = random_case(3, num_images=1)[2]
    pairs = label_pairs(torch.from_numpy(labels), RADIUS)
    counts = {"background": 0, "foreground": 0, "different": 0}
    for a, b in pairs_of(6, 9, RADIUS):
        first, second = labels[0][a], labels[0][b]
        if 255 in (first, second):
            continue
        same = "background" if first == 0 else "foreground"
        counts[same if first == second else "different"] += 1
    assert {key: int(getattr(pairs, key).sum()) for key in counts} == counts
    offsets = len(half_plane_offsets(RADIUS))
    assert pairs.different.shape == (1, offsets, 6 - RADIUS + 1, 9 - 2 * RADIUS + 2)


def test_a_perfect_field_and_perfect_boundaries_cost_nothing():
    labels = torch.zeros(1, 8, 12, dtype=torch.uint8)
    labels[:, 1:6, 2:9] = 4
    edge = torch.zeros(1, 1, 8, 12)
    displacement = torch.zeros(1, 2, 8, 12)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
    inside = labels[0] == 4
    displacement[0, 0][inside] = (3 - rows)[inside]
    displacement[0, 1][inside] = (5 - columns)[inside]
    pairs = label_pairs(labels, RADIUS)
    positive, negative = affinity_loss(edge, pairs, RADIUS)
    assert float(positive) == pytest.approx(0, abs=2e-5)
    # Without any boundary, every pair of different labels costs -log(1e-5).
    assert float(negative) == pytest.approx(-math.log(1e-5), rel=1e-3)
    assert float(displacement_loss(displacement, pairs, RADIUS)) == pytest.approx(0, abs=1e-6)
    # All displacements may be off by one vector: the loss knows differences only.
    assert float(displacement_loss(displacement + 5, pairs, RADIUS)) == pytest.approx(0, abs=1e-6)


def test_without_pairs_the_losses_are_zero_and_finite():
    pairs = label_pairs(torch.full((1, 4, 7), 255, dtype=torch.uint8), RADIUS)
    edge = torch.full((1, 1, 4, 7), 0.5, requires_grad=True)
    losses = (*affinity_loss(edge, pairs, RADIUS), displacement_loss(
        torch.ones(1, 2, 4, 7), pairs, RADIUS))  # fmt: skip
    assert [loss.item() for loss in losses] == [0, 0, 0]
    sum(losses).backward()
    assert torch.isfinite(edge.grad).all()


def test_the_smallest_grid_has_one_source():
    height, width = smallest_grid(RADIUS)
    pairs = label_pairs(torch.zeros(1, height, width, dtype=torch.uint8), RADIUS)
    assert pairs.background.shape[2:] == (1, 1)


def make_batch(size=(64, 64)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (2, size[0] // 4, size[1] // 4), generator=generator)
    return {
        "image": torch.rand(2, 3, *size, generator=generator),
        "labels": labels.to(torch.uint8),
    }


def test_the_total_is_put_together_as_in_the_paper():
    net = tiny_net().train()
    with torch.no_grad():
        terms = net.loss(make_batch())
    wanted = (terms["positive"] + terms["negative"]) / 2 + terms["displacement"]
    assert float(terms["loss"]) == pytest.approx(float(wanted))


def test_no_gradient_reaches_the_backbone_and_every_head_gets_one():
    net = tiny_net().train()
    # Were the features not cut off, these would get a gradient.
    net.backbone.requires_grad_(True)
    net.loss(make_batch())["loss"].backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    heads = [*net.edge_head.named_parameters(), *net.displacement_head.named_parameters()]
    assert len(heads) > 20
    for name, parameter in heads:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_backbone_is_frozen_and_stays_in_evaluation_mode():
    net = tiny_net()
    before = {key: value.clone() for key, value in net.backbone.state_dict().items()}
    net.train()
    assert not any(module.training for module in net.backbone.modules())
    assert net.edge_head.training
    assert net.displacement_head.training
    assert not any(p.requires_grad for p in net.backbone.parameters())
    net.loss(make_batch())
    after = net.backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_displacement_head_learns_faster():
    net = tiny_net()
    fast = {id(parameter) for parameter in net.head_parameters()}
    assert fast == {id(parameter) for parameter in net.displacement_head.parameters()}


def test_the_mean_is_subtracted_in_evaluation_only():
    net = tiny_net().eval()
    images = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = net(images)[1]
        net.set_displacement_mean((1.5, -2.0))
        shifted = net(images)[1]
        learned = net.train()(images)[1]
    torch.testing.assert_close(plain - shifted, torch.tensor([1.5, -2.0])[None, :, None, None]
                               .expand_as(plain))  # fmt: skip
    torch.testing.assert_close(learned, plain)


def test_the_mean_is_part_of_the_saved_weights():
    net = tiny_net()
    net.set_displacement_mean((1.5, -2.0))
    assert net.state_dict()["displacement_head.mean_shift.running_mean"].tolist() == [1.5, -2.0]


@cache
def resnet50() -> IrnNet:
    return IrnNet(build_backbone("resnet50", output_stride=16, dilate=False))


def test_a_resnet50_gets_the_published_layers():
    net = resnet50()
    edge = [b.conv for b in net.edge_head.branches]
    assert [c.in_channels for c in edge] == [64, 256, 512, 1024, 2048]
    assert {c.out_channels for c in edge} == {32}
    assert {b.norm.num_groups for b in net.edge_head.branches} == {4}
    assert (net.edge_head.last.in_channels, net.edge_head.last.bias is not None) == (160, True)
    head = net.displacement_head
    assert [b.conv.out_channels for b in head.branches] == [64, 128, 256, 256, 256]
    assert [b.norm.num_groups for b in head.branches] == [8, 16, 16, 16, 16]
    assert head.is_coarse == [False, False, True, True, True]
    assert head.coarse is not None
    assert (head.coarse.conv.in_channels, head.coarse.norm.num_groups) == (768, 16)
    assert (head.joined.conv.in_channels, head.joined.norm.num_groups) == (448, 16)
    assert (head.last.in_channels, head.last.out_channels) == (256, 2)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert all(c.bias is None for c in convolutions if c is not net.edge_head.last)


def test_the_stem_of_a_resnet_is_pooled_as_the_network_itself_does():
    net = resnet50()
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    trunk = net.backbone.trunk
    with torch.no_grad():
        prepared = net.backbone.prepared(images)
        expected = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(prepared))))
        found = net._features(images)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "settings", "num_stages"),
    [
        ("resnet18", {"output_stride": 8, "last_stage": 2}, 3),
        ("resnet18", {"output_stride": 4, "last_stage": 3}, 4),
        ("resnet18", {"output_stride": 8, "last_stage": 3}, 4),
        ("test_convnext", {"output_stride": 8}, 4),
        ("test_efficientnet", {"output_stride": 16}, 5),
        ("test_vit", {"output_stride": 16}, 4),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (64, 32)])
def test_any_backbone_gives_a_quarter_of_the_image(name, settings, num_stages, size):
    net = IrnNet(build_backbone(name, **settings)).eval()
    assert len(net.edge_head.branches) == num_stages
    with torch.no_grad():
        edge, displacement = net(torch.rand(2, 3, *size))
    cells = tuple(-(-side // 4) for side in size)
    assert edge.shape == (2, 1, *cells)
    assert displacement.shape == (2, 2, *cells)
    assert torch.isfinite(edge).all()
    assert torch.isfinite(displacement).all()


def test_grey_images_are_read_by_grey_backbones():
    net = tiny_net(in_channels=1).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 1, 32, 32))[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(("channels", "wanted"), [(32, 4), (96, 16), (84, 16), (7, 4), (1, 8)])
def test_groups_divide_the_channels(channels, wanted):
    groups = groups_for(channels, wanted)
    assert channels % groups == 0
    assert groups <= wanted
    assert all(channels % more for more in range(groups + 1, wanted + 1))


class Stageless(nn.Module):
    """A network that does not tell its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=8)

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.conv(images)
        return features


def test_a_network_without_stages_is_refused():
    with pytest.raises(RecipeError, match='"plain" does not tell its stages'):
        IrnNet(Backbone(Stageless(), "plain"))


def test_the_backbone_is_trained_only_where_asked():
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for wanted in (False, True):
        net = IrnNet(build_backbone("test_resnet", output_stride=8), train_backbone=wanted).train()
        edge, displacement = net(image)
        (edge.sum() + displacement.sum()).backward()
        weights = [p for p in net.backbone.parameters() if p.grad is not None and p.grad.any()]
        assert bool(weights) == wanted
        norms = [m for m in net.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(norm.training for norm in norms)


def test_the_normalisation_is_trained_only_with_a_trained_backbone_and_where_asked():
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for backbone, norms in ((False, True), (True, False), (True, True)):
        torch.manual_seed(0)
        net = IrnNet(
            build_backbone("resnet10t", output_stride=8),
            train_backbone=backbone,
            train_norms=norms,
        ).train()
        layers = [m for m in net.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        before = [layer.running_mean.clone() for layer in layers]
        edge, displacement = net(images)
        (edge.square().sum() + displacement.square().sum()).backward()
        is_trained = backbone and norms
        assert all(layer.training == is_trained for layer in layers)
        moved = [
            not torch.equal(layer.running_mean, was)
            for layer, was in zip(layers, before, strict=True)
        ]
        assert all(moved) if is_trained else not any(moved)
        assert any(layer.weight.grad is not None for layer in layers) == is_trained
        net.eval()
        assert not any(layer.training for layer in layers)


@pytest.mark.parametrize(("align_cells", "shift_px"), [(True, 0.0), (False, 7.5)])
def test_stages_are_drawn_where_their_cells_look_only_where_asked(align_cells, shift_px):
    """A stage of stride 16 that holds the pixel its cell looks at, drawn on cells of 4 pixels."""
    net = IrnNet(build_backbone("resnet10t", output_stride=16), align_cells=align_cells)
    branch, cells = net.edge_head.branches[-1], net.edge_head.cells[-1]
    channels = branch.conv.in_channels
    branch.norm = nn.Identity()
    nn.init.constant_(branch.conv.weight, 1 / channels)
    looked_at = 16.0 * torch.arange(8)  # a padded convolution's cell k looks at pixel 16 k
    stage = looked_at[:, None].expand(1, channels, 8, 8)
    drawn = branch(stage, (32, 32), cells, Cells.covering(4))[0, 0, :, 16]
    middles = 4 * torch.arange(32) + 1.5
    torch.testing.assert_close(drawn[4:24], middles[4:24] - shift_px)
