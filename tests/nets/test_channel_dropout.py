from __future__ import annotations

import pytest
import torch

from wsseg.nets.channel_dropout import ChannelDropout


@pytest.mark.parametrize(("shape", "axis"), [((50, 40, 3, 4), 1), ((50, 3, 4, 40), -1),
                                             ((50, 12, 40), -1)])  # fmt: skip
def test_whole_channels_are_dropped_and_the_others_scaled(shape, axis):
    torch.manual_seed(0)
    features = torch.rand(shape) + 0.5
    ratio = (ChannelDropout(0.3, axis).train()(features) / features).movedim(axis, 1).flatten(2)
    assert torch.allclose(ratio, ratio[:, :, :1].expand_as(ratio))
    factors = ratio[:, :, 0]
    assert bool(((factors == 0) | torch.isclose(factors, torch.tensor(1 / 0.7))).all())
    assert float((factors == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    # Each image drops channels of its own.
    assert not torch.equal(factors[0], factors[1])


def test_it_is_the_dropout_of_torch_on_maps() -> None:
    features = torch.rand(3, 200, 4, 4)
    ours, theirs = ChannelDropout(0.4).train(), torch.nn.Dropout2d(0.4).train()
    torch.manual_seed(0)
    first = ours(features)
    torch.manual_seed(0)
    second = theirs(features)
    torch.testing.assert_close(first, second)


def test_nothing_happens_in_evaluation_mode() -> None:
    features = torch.rand(2, 3, 4, 4)
    assert ChannelDropout(0.5).eval()(features) is features


def test_a_hook_changes_the_first_of_several_outputs() -> None:
    module = ChannelDropout(0.5).eval()
    pair = (torch.rand(1, 2, 2, 2), torch.rand(1))
    changed = module.hook(torch.nn.Identity(), (), pair)
    assert changed[0] is pair[0]
    assert changed[1] is pair[1]
