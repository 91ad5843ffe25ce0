from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsseg.localize.tags.acol import Acol
from wsseg.nets.acol_head import erased_cells


def reference_erased(maps: np.ndarray, present: np.ndarray, width: int) -> np.ndarray:
    erased = np.zeros(maps.shape[1:], bool)
    for one, is_present in zip(maps.astype(np.float64), present, strict=True):
        inside = one[:, :width]
        low, high = inside.min(), inside.max()
        for row in range(one.shape[0]):
            for column in range(width):
                if is_present and (one[row, column] - low) / (high - low + 1e-5) >= 0.6:
                    erased[row, column] = True
    return erased


@pytest.fixture
def net(make):
    return make("acol", head_width=6).eval()


def test_what_is_erased_agrees_with_its_formula_in_float64():
    maps = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(3))
    present = torch.tensor([[True, False, True], [False, False, False]])
    valid = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    valid[0, :, :, 4:] = False
    maps[0, :, :, 4:] = 100  # padding, which must not count
    found = erased_cells(maps, present, 0.6, valid)[:, 0].numpy()
    for index, width in enumerate((4, 6)):
        expected = reference_erased(maps[index].numpy(), present[index].numpy(), width)
        np.testing.assert_array_equal(found[index], expected)
    assert found[0].any()
    assert not found[1].any()


def test_a_flat_map_erases_nothing():
    flat = torch.full((1, 1, 3, 3), 2.0)
    assert not erased_cells(flat, torch.tensor([[True]]), 0.6).any()


def test_the_second_branch_sees_zeros_where_the_first_found_something(net, batch):
    seen = []
    net.heads[1].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    features = net.features(batch["image"])
    first, _ = net.head_maps(batch, features)
    widths = [8, 5, 8, 8]  # columns of cells that are no padding
    for index, width in enumerate(widths):
        maps, tags = first[index].detach().numpy(), batch["tags"][index].numpy() > 0
        erased = reference_erased(maps, tags, width)
        expected = features[index].detach().numpy() * ~erased
        np.testing.assert_array_equal(seen[0][index].detach().numpy(), expected)
    assert torch.equal(seen[0][3], features[3])  # no tags: nothing is erased


def test_no_gradient_goes_through_what_is_erased(net, batch):
    features = net.features(batch["image"]).detach()
    _, second = net.head_maps(batch, features)
    loss = second.square().sum()
    first_weights = list(net.heads[0].parameters())
    gradients = torch.autograd.grad(loss, first_weights, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in gradients)
    second_weights = list(net.heads[1].parameters())
    assert all(bool(g.any()) for g in torch.autograd.grad(loss, second_weights[:1]))


def test_losses_of_both_branches_add_up(net, batch):
    features = net.features(batch["image"])
    y, counted = batch["tags"].double(), [8, 5, 8, 8]
    total = 0.0
    for maps in net.head_maps(batch, features):
        rows = [m[..., :w].mean(dim=(1, 2)) for m, w in zip(maps.double(), counted, strict=True)]
        x = torch.stack(rows)
        total += (torch.nn.functional.softplus(x) - y * x).mean().item()
    assert net.loss(batch)["loss"].item() == pytest.approx(total, rel=1e-5)


def test_maps_are_the_larger_of_both_stretched_ones(net):
    first = torch.tensor([[[[2.0, 6.0, 4.0]]]])
    second = torch.tensor([[[[-1.0, 0.0, 10.0]]]])
    # Stretched: 0, 1, 0.5 with range 4; and 0, 0, 1 with range 10; their mean range is 7.
    found = net.joined([first, second]).flatten()
    torch.testing.assert_close(found, 7 * torch.tensor([0.0, 1.0, 1.0]), rtol=1e-4, atol=0)


def test_without_tags_the_first_branch_says_what_is_erased(net, batch):
    images = batch["image"]
    maps, logits = net.maps_and_logits(images)
    first = net.heads[0](net.features(images))
    torch.testing.assert_close(logits, first.mean(dim=(2, 3)))
    found = (logits.sigmoid() >= 0.5).float()
    found[torch.arange(4), logits.argmax(dim=1)] = 1
    tagged = net.head_maps({"image": images, "tags": found}, net.features(images))
    torch.testing.assert_close(maps, net.joined(tagged))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inference": {"normalise": "absolute"}}, "maps that are no logits"),
        ({"inference": {"extractor": {"name": "layer_cam"}}}, "would not show"),
        ({"erase_threshold": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_the_method_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Acol.model_validate(changes)


def test_settings_reach_the_network(make):
    net = make("acol", erase_threshold=0.8, head_width=7, dropout=0.25, head_bias=True)
    assert net.threshold == 0.8
    assert [head[0].out_channels for head in net.heads] == [7, 7]
    assert net.heads[1][4].p == 0.25
    assert net.heads[1][5].bias is not None
    assert Acol().erase_threshold == 0.6
