from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsseg.errors import RecipeError
from wsseg.localize.regularise.hide_and_seek import HideAndSeek, visible_cells


def hidden_by(make_net, batch: dict[str, Tensor], seed: int = 0, **settings) -> Tensor:
    """Tell which pixels of images of ones a regulariser sets to zero, (N, H, W)."""
    net = make_net({"name": "hide_and_seek", **settings})
    torch.manual_seed(seed)
    ones = {**batch, "image": torch.ones_like(batch["image"])}
    image = net.regularisers[0].transform(ones)["image"]
    assert bool(((image == 0) | (image == 1)).all())
    assert torch.equal(image[:, 0], image[:, 2])
    return image[:, 0] == 0


def test_whole_cells_of_a_grid_are_hidden(make_net, batch):
    hidden = hidden_by(make_net, batch, sizes_px=[16])
    cells = hidden.unfold(1, 16, 16).unfold(2, 16, 16).flatten(3)
    assert bool((cells.all(3) == cells.any(3)).all())
    assert 0 < int(cells.any(3).sum()) < cells[..., 0].numel()
    # Every image hides cells of its own.
    assert not torch.equal(hidden[0], hidden[1])


def test_cells_at_the_border_are_cut() -> None:
    torch.manual_seed(0)
    shown = visible_cells(torch.zeros(200, 3, 10, 7), (4,), 0.5)
    assert shown.shape == (200, 1, 10, 7)
    blocks = [(rows, columns) for rows in ((0, 4), (4, 8), (8, 10)) for columns in ((0, 4), (4, 7))]
    for (top, bottom), (left, right) in blocks:
        block = shown[:, 0, top:bottom, left:right].flatten(1)
        assert torch.equal(block.all(1), block.any(1))
        assert 0.35 < float(block.float().mean()) < 0.65


@pytest.mark.parametrize("hide", [0.2, 0.5, 0.8])
def test_a_cell_is_hidden_with_the_given_probability(hide: float) -> None:
    torch.manual_seed(1)
    shown = visible_cells(torch.zeros(100, 3, 64, 64), (8,), hide)[:, :, ::8, ::8].float()
    assert float(shown.mean()) == pytest.approx(1 - hide, abs=0.02)
    # Neighbouring cells are independent.
    both = (shown[..., :-1] * shown[..., 1:]).mean()
    assert float(both) == pytest.approx((1 - hide) ** 2, abs=0.03)


def test_each_image_draws_its_size_and_zero_hides_nothing() -> None:
    torch.manual_seed(2)
    shown = visible_cells(torch.zeros(400, 1, 32, 32), (0, 4, 16), 0.5)[:, 0]
    whole = shown.flatten(1).all(1)
    coarse = shown.unfold(1, 16, 16).unfold(2, 16, 16).flatten(3)
    is_coarse = (coarse.all(3) == coarse.any(3)).flatten(1).all(1) & ~whole
    share = [float(kind.float().mean()) for kind in (whole, is_coarse)]
    # A grid of 2 x 2 cells is all visible in one case of 16.
    assert share[0] == pytest.approx(1 / 3 + 1 / 48, abs=0.06)
    assert share[1] == pytest.approx(15 / 48, abs=0.06)


def test_hiding_nothing_is_possible(make_net, batch):
    assert not hidden_by(make_net, batch, hide=0.0).any()
    assert not hidden_by(make_net, batch, sizes_px=[0]).any()


def test_tags_and_valid_pixels_stay(make_net, batch):
    regulariser = make_net("hide_and_seek").regularisers[0]
    changed = regulariser.transform(batch)
    assert changed.keys() == batch.keys()
    assert changed["tags"] is batch["tags"]
    assert changed["valid"] is batch["valid"]


def test_the_defaults_are_the_published_ones() -> None:
    assert HideAndSeek().sizes_px == (0, 16, 32, 44, 56)
    assert HideAndSeek().hide == 0.5


def test_a_cell_as_large_as_the_crop_is_refused(make_net):
    with pytest.raises(RecipeError, match="cells of 64 pixels, but the crop has 64"):
        make_net({"name": "hide_and_seek", "sizes_px": [16, 64]})
    make_net({"name": "hide_and_seek", "sizes_px": [600]}, augment={"crop_px": None})


def test_it_combines_with_spatial_dropout(make_net, batch):
    """Both draw from one stream, and each does what it does alone."""
    net = make_net({"name": "hide_and_seek", "hide": 0.0}, "spatial_dropout")
    alone = make_net("spatial_dropout")
    alone.load_state_dict(net.state_dict())
    torch.manual_seed(4)
    hidden = net.regularisers[0].transform(batch)["image"]
    assert torch.equal(hidden, batch["image"])
    expected = alone.step(batch).maps
    torch.manual_seed(4)
    net.regularisers[0].transform(batch)
    assert torch.equal(net.step(batch).maps, expected)
