"""Cells are drawn where they look: against linear networks whose centres are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsseg.nets.alignment import Cells, first_centre, place, strided_layers
from wsseg.nets.build import build_backbone


def centre_of(network: nn.Module, side: int, stride: int) -> float:
    """Measure where the middle cell of a network of positive weights looks, less its multiple."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0)
            nn.init.zeros_(module.bias)
    image = torch.rand(1, 1, side, side, dtype=torch.float64) + 1
    image.requires_grad_(True)
    output = network.double()(image)
    cell = output.shape[2] // 2
    output[0, 0, cell, cell].backward()
    weight = image.grad[0, 0].sum(1)
    middle = float((weight * torch.arange(side)).sum() / weight.sum())
    return middle - cell * stride


@pytest.mark.parametrize(
    ("layers", "stride"),
    [
        ([nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 2, 1)], 4),
        ([nn.Conv2d(1, 1, 7, 2, 3), nn.AvgPool2d(3, 2, 1), nn.Conv2d(1, 1, 1, 2)], 8),
        ([nn.Conv2d(1, 1, 4, 4), nn.Conv2d(1, 1, 3, 1, 1), nn.Conv2d(1, 1, 2, 2)], 8),
        ([nn.Conv2d(1, 1, 3, 2, 0), nn.AvgPool2d(2, 2)], 4),
        ([nn.Conv2d(1, 1, 3, 2, 2, dilation=2)], 2),
    ],
)
def test_centre_of_the_first_cell_is_where_the_gradient_says(layers, stride):
    network = nn.Sequential(*layers)
    with torch.no_grad(), strided_layers(network) as found:
        network(torch.zeros(1, 1, 64, 64))
    assert first_centre(found, 64, stride) == pytest.approx(centre_of(network, 64, stride))


def test_steps_that_are_no_known_layers_are_taken_as_centred():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.PixelUnshuffle(2))
    with torch.no_grad(), strided_layers(network) as found:
        network(torch.zeros(1, 1, 64, 64))
    assert first_centre(found, 64, 4) == 1.5


@pytest.mark.parametrize(
    ("name", "stride", "first"),
    [
        ("resnet18", 32, 0.0),
        ("resnet18", 8, 0.0),
        ("convnext_atto", 32, 15.5),
        ("test_vit", 16, 7.5),
    ],
)
def test_backbones_tell_where_their_first_cell_looks(name, stride, first):
    assert build_backbone(name, output_stride=stride).first_centre(stride) == first


def test_centred_cells_are_drawn_as_plain_enlarging_draws_them():
    features = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(features, size=(20, 16), mode="bilinear")
    found = place(features, (20, 16), Cells.covering(8), Cells.covering(2))
    torch.testing.assert_close(found, expected)


def test_a_ramp_comes_back_as_the_ramp_it_was_sampled_from():
    ramp = torch.arange(64, dtype=torch.float64)
    sampled = ramp[::8].expand(1, 1, 8, 8)  # cell k looks at pixel 8 k
    drawn = place(sampled, (64, 64), Cells(0.0, 8), Cells.covering(1))
    torch.testing.assert_close(drawn[0, 0, 3, :57], ramp[:57])
    assert (drawn[0, 0, 3, 57:] == 56).all()  # nothing looks behind the last centre


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_drawn_in_the_right_place(kind):
    """A checkerboard of 200 cells: a coordinate wrong by half a cell would show everywhere."""
    row = torch.arange(200) % 2
    features = (row[None, :] + row[:, None]).remainder(2).to(kind)[None, None]
    source, target = Cells(0.0, 4), Cells.covering(2)
    found = place(features, (400, 400), source, target)
    assert found.dtype == kind
    assert torch.equal(found, place(features.double(), (400, 400), source, target).to(kind))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(place(features, (400, 400), source, target), found)


def test_the_same_grid_gives_the_features_themselves():
    features = torch.randn(1, 2, 3, 3)
    assert place(features, (3, 3), Cells(0.0, 4), Cells(0.0, 4)) is features
