from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.localize.regularise.oc_cse import OcCse, erasing_loss, erasing_mask, erasing_weight
from wsseg.nets.cam_head import Step


def reference_mask(maps: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge by whole factors with cell centres in the middle, in float64."""
    num, height, width = maps.shape
    found = np.zeros((num, height * factor, width * factor))
    for y in range(height * factor):
        for x in range(width * factor):
            row = min(max((y + 0.5) / factor - 0.5, 0), height - 1)
            column = min(max((x + 0.5) / factor - 0.5, 0), width - 1)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, over = row - top, column - left
            upper = maps[:, top, left] * (1 - over) + maps[:, top, right] * over
            lower = maps[:, bottom, left] * (1 - over) + maps[:, bottom, right] * over
            found[:, y, x] = upper * (1 - down) + lower * down
    found = np.maximum(found, 0)
    return found / (found.max() + 1e-5)


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_the_mask_agrees_with_its_formula_in_float64(maps):
    found = erasing_mask(maps[:, 0], (16, 20))[:, 0].numpy()
    expected = reference_mask(maps[:, 0].double().numpy(), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # One maximum for the whole batch: the fainter map erases less.
    assert sorted(found.max(axis=(1, 2)) > 0.999) == [False, True]


def test_the_classifier_judges_the_erased_image_without_the_drawn_class(maps):
    tags = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
    images = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(1))
    step = Step({"image": images, "tags": tags}, maps, maps, maps.mean(dim=(2, 3)))
    seen = []

    def classifier(shown: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        assert valid is None
        seen.append(shown)
        return shown.mean(dim=(2, 3)) * 5

    drawn_second = set()
    for seed in range(12):
        torch.manual_seed(seed)
        loss = erasing_loss(classifier, step).item()
        fitting = []
        for second in (0, 2):
            mask = reference_mask(maps[[0, 1], [1, second]].double().numpy(), 4)
            erased = images.double().numpy() * (1 - mask[:, None])
            x = erased.mean(axis=(2, 3)) * 5
            y = tags.double().numpy().copy()
            y[0, 1] = y[1, second] = 0
            fitting.append((np.log1p(np.exp(x)) - y * x).mean())
        matches = [i for i, value in enumerate(fitting) if loss == pytest.approx(value, rel=1e-4)]
        assert matches
        drawn_second |= set(matches)
    assert drawn_second == {0, 1}


def test_images_without_tags_are_left_out(maps):
    images = torch.randn(2, 3, 16, 20)

    def classifier(shown: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        assert valid is not None
        assert len(shown) == len(valid) == 1
        return shown.mean(dim=(2, 3))

    batch = {
        "image": images,
        "tags": torch.tensor([[0.0, 0, 0], [1, 0, 0]]),
        "valid": torch.ones(2, 1, 16, 20),
    }
    assert erasing_loss(classifier, Step(batch, maps, maps, maps[..., 0, 0])).item() > 0
    nothing = {**batch, "tags": torch.zeros(2, 3)}
    assert erasing_loss(classifier, Step(nothing, maps, maps, maps[..., 0, 0])).item() == 0


def test_gradients_reach_the_map_but_not_the_classifier(make_net, batch):
    net = make_net({"name": "oc_cse", "warmup": 0})
    step = net.step(batch)
    torch.manual_seed(0)
    net.regularisers[0].terms(net, step)["oc_cse"].backward()
    assert bool(net.head.weight.grad.any())
    frozen = net.extras["oc_cse"]
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())


def test_the_classifier_is_what_the_network_was_after_the_warmup(make_net, batch):
    net = make_net({"name": "oc_cse", "warmup": 0.5})  # of two epochs
    frozen = net.extras["oc_cse"]
    regulariser = net.regularisers[0]
    net.on_epoch_start(0)
    assert net.loss(batch).keys() == {"loss"}
    assert not frozen.is_copied
    for parameter in net.head.parameters():
        parameter.data.add_(1)
    net.on_epoch_start(1)
    assert regulariser.terms(net, net.step(batch)).keys() == {"oc_cse"}
    plain = make_net().eval()
    plain.load_state_dict(net.state_dict(), strict=False)
    images, valid = batch["image"], batch["valid"]
    torch.testing.assert_close(frozen(images, valid), plain.logits(images, valid))
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    assert bool(before["is_copied"])
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data.mul_(0.5)
    net.train()
    net.loss(batch)
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())
    assert not frozen.net.training


def test_the_weight_grows_as_in_the_paper() -> None:
    found = [erasing_weight(epoch, 15, OcCse()) for epoch in range(15)]
    np.testing.assert_allclose(found, [0.3 + 0.05 * epoch for epoch in range(15)])
    assert erasing_weight(0, 1, OcCse()) == 1


def test_the_weight_counts(make_net, batch):
    losses = []
    for weight in (1.0, 2.5):
        settings = {"name": "oc_cse", "warmup": 0, "first_weight": weight, "last_weight": weight}
        net = make_net(settings)
        step = net.step(batch)
        torch.manual_seed(3)
        losses.append(net.regularisers[0].terms(net, step)["oc_cse"].item())
    assert losses[1] == pytest.approx(2.5 * losses[0], rel=1e-5)
