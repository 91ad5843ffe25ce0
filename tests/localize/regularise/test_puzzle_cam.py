from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.localize.regularise.puzzle_cam import (
    PuzzleCam,
    cut,
    difference,
    grown_share,
    laid_out,
    tile_side,
    tiled_maps,
)
from wsseg.nets.cam_head import ClassMapNet


def test_tiles_of_an_image_stand_row_by_row() -> None:
    image = torch.arange(2 * 4 * 6).reshape(2, 1, 4, 6).float()
    tiles = cut(image, [2, 3], 2)
    assert tiles.shape == (8, 1, 2, 3)
    for n in range(2):
        assert torch.equal(tiles[4 * n], image[n, :, :2, :3])
        assert torch.equal(tiles[4 * n + 1], image[n, :, :2, 3:])
        assert torch.equal(tiles[4 * n + 2], image[n, :, 2:, :3])
        assert torch.equal(tiles[4 * n + 3], image[n, :, 2:, 3:])
    assert torch.equal(laid_out(tiles, 2), image)


@pytest.mark.parametrize("tiles", [2, 3])
def test_odd_images_are_padded_below_and_to_the_right(tiles):
    image = torch.rand(2, 3, 41, 37)
    size = [tile_side(41, tiles, 8), tile_side(37, tiles, 8)]
    again = laid_out(cut(image, size, tiles), tiles)
    assert torch.equal(again[..., :41, :37], image)
    assert not again[..., 41:, :].any()
    assert not again[..., 37:].any()


def test_maps_of_tiles_are_those_of_the_tiles_alone(make_net, batch):
    net = make_net("puzzle_cam").eval()
    step = net.step(batch)
    found = tiled_maps(net, step, 2)
    images = batch["image"]
    rows = [
        torch.cat([net.maps(images[..., y : y + 32, x : x + 32]) for x in (0, 32)], dim=3)
        for y in (0, 32)
    ]
    torch.testing.assert_close(found, torch.cat(rows, dim=2))


def test_a_network_that_looks_at_one_pixel_per_cell_has_no_difference(make_net):
    """Cells of the whole and of the tiles line up, for any size of the image."""

    class Sampling(torch.nn.Module):
        stride, size_multiple = 8, 1

        def forward(self, images):
            return images[..., ::8, ::8]

    net = make_net()
    net.backbone, net.head = Sampling(), torch.nn.Identity()
    for size in ((64, 64), (61, 44), (40, 72)):
        step = net.step({"image": torch.randn(2, 3, *size), "tags": torch.ones(2, 3)})
        torch.testing.assert_close(tiled_maps(net, step, 2), step.maps)


def test_the_difference_agrees_with_its_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 3, 4, 5, generator=generator)
    tags = torch.tensor([[1.0, 0, 0.3], [0, 1, 0]])
    a, b = first.double().numpy(), second.double().numpy()
    present = tags.numpy() > 0
    total, inside = 0.0, 0.0
    for n, c, y, x in np.ndindex(a.shape):
        gap = abs(a[n, c, y, x] - b[n, c, y, x]) * present[n, c]
        total += gap
        inside += gap * (x < 3)
    assert difference(first, second, tags).item() == pytest.approx(total / a.size, rel=1e-5)
    valid = torch.zeros(2, 1, 32, 40)
    valid[..., :24] = 1
    expected = inside / (2 * 3 * 4 * 3)
    assert difference(first, second, tags, valid).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_both_maps() -> None:
    first = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    second = torch.tensor([[[[0.0, 5.0]]]], requires_grad=True)
    difference(first, second, torch.ones(1, 1)).backward()
    assert first.grad.flatten().tolist() == [0.5, -0.5]
    assert second.grad.flatten().tolist() == [-0.5, 0.5]


def test_terms_are_the_tiles_classification_and_the_weighted_difference(make_net, batch):
    net = make_net({"name": "puzzle_cam", "alpha": 3, "schedule": 0.5}).eval()
    regulariser = net.regularisers[0]
    regulariser.on_epoch_start(0)  # of two, so that alpha is at its half
    step = net.step(batch)
    terms = regulariser.terms(net, step)
    maps = tiled_maps(net, step, 2)
    counted = [8, 5, 8, 8]  # columns of cells that are no padding
    rows = [m[..., :w].mean(dim=(1, 2)) for m, w in zip(maps.double(), counted, strict=True)]
    x, y = torch.stack(rows), batch["tags"].double()
    tiles = (torch.nn.functional.softplus(x) - y * x).mean().item()
    assert terms["puzzle_cam_tiles"].item() == pytest.approx(tiles, rel=1e-5)
    unlike = difference(step.maps, maps, batch["tags"], batch["valid"]).item()
    assert unlike > 0
    assert terms["puzzle_cam_match"].item() == pytest.approx(3 * 0.5 * unlike, rel=1e-5)


def test_terms_can_be_left_out(make_net, batch):
    net = make_net({"name": "puzzle_cam", "alpha": 0, "tile_loss": False})
    assert net.regularisers[0].terms(net, net.step(batch)) == {}


def test_alpha_grows_as_the_rule_does_on_average() -> None:
    shares = [grown_share(epoch, 6, 0.5) for epoch in range(6)]
    rule = [min(1.0, t / (0.5 * 600)) for t in range(600)]
    means = [np.mean(rule[100 * epoch : 100 * (epoch + 1)]) for epoch in range(6)]
    np.testing.assert_allclose(shares, means, atol=2e-3)
    assert grown_share(0, 6, 0) == 1


def test_it_works_with_a_localizer_that_looks_at_tags(batch):
    from wsseg.localize.regularise.attach import make_localizer
    from wsseg.localize.tags.acol import Acol

    config = Acol(
        backbone="test_resnet",
        head_width=4,
        dropout=0,
        augment={"scale": None, "crop_px": 64},
        regularisers=["puzzle_cam"],
    )
    net: ClassMapNet = make_localizer(config, 3)
    terms = net.loss(batch)
    assert terms.keys() == {"loss", "classification", "puzzle_cam_tiles", "puzzle_cam_match"}
    assert bool(torch.isfinite(terms["loss"]))


def test_crops_without_a_cell_per_tile_are_refused_before_training(make_net):
    with pytest.raises(RecipeError, match="crop_px is 32, too small for 8 x 8 tiles"):
        make_net({"name": "puzzle_cam", "tiles": 8}, augment={"crop_px": 32})


def test_images_that_leave_a_tile_empty_are_refused() -> None:
    with pytest.raises(RecipeError, match="side of 70 pixels cannot be cut into 6 tiles"):
        tile_side(70, 6, 16)


def test_regularisers_that_run_the_network_are_refused(make_net):
    with pytest.raises(RecipeError, match="seam runs the network in its own way"):
        make_net("puzzle_cam", "seam")


def test_the_defaults_are_those_of_the_sheet() -> None:
    config = PuzzleCam()
    assert (config.alpha, config.schedule, config.tiles) == (4, 0.5, 2)
