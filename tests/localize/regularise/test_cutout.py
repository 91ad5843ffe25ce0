from __future__ import annotations

import pytest
import torch

from wsseg.localize.regularise.cutout import boxes_around_random_centres


def test_one_square_per_image_is_hidden(make_net, batch):
    net = make_net({"name": "cutout", "side_frac": 0.25})
    torch.manual_seed(0)
    ones = {**batch, "image": torch.ones(4, 3, 64, 48)}
    image = net.regularisers[0].transform(ones)["image"]
    assert bool(((image == 0) | (image == 1)).all())
    for one in image:
        rows, columns = torch.nonzero(one[0] == 0, as_tuple=True)
        height = int(rows.max() - rows.min()) + 1
        width = int(columns.max() - columns.min()) + 1
        # A quarter of the shorter side, less where the border cuts it.
        assert 6 <= height <= 12
        assert 6 <= width <= 12
        assert len(rows) == height * width
        assert torch.equal(one[0], one[1])


def test_the_centre_is_any_pixel_and_the_border_cuts() -> None:
    torch.manual_seed(1)
    boxes = boxes_around_random_centres(torch.zeros(4000, 1, 8, 6), 5, 3)[:, 0]
    # By hand: 5 rows around each of 8 centres, cut: 3, 4, 5, 5, 5, 5, 4, 3; 3 columns: 2, 3, .., 2.
    assert float(boxes.any(2).sum(1).float().mean()) == pytest.approx(34 / 8, abs=0.05)
    assert float(boxes.any(1).sum(1).float().mean()) == pytest.approx(16 / 6, abs=0.05)
    assert sorted(set(boxes.any(2).sum(1).tolist())) == [3, 4, 5]


def test_each_image_has_its_own_size() -> None:
    torch.manual_seed(2)
    heights, widths = torch.tensor([0, 1, 40]), torch.tensor([3, 1, 40])
    boxes = boxes_around_random_centres(torch.zeros(3, 1, 9, 9), heights, widths)[:, 0]
    assert not boxes[0].any()
    assert int(boxes[1].sum()) == 1
    assert boxes[2].all()


def test_tags_and_valid_pixels_stay(make_net, batch):
    changed = make_net("cutout").regularisers[0].transform(batch)
    assert changed["tags"] is batch["tags"]
    assert changed["valid"] is batch["valid"]
