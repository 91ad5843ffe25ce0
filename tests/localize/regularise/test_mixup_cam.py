from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wsseg.localize.regularise.mixup_cam import MixupCam, concentration, entropy


def test_images_tags_and_valid_pixels_are_blended_alike(make_net, batch):
    regulariser = make_net("mixup_cam").regularisers[0]
    numbers = torch.tensor([1.0, 10, 100, 1000])
    image = numbers[:, None, None, None].expand(4, 3, 64, 64)
    for seed in range(5):
        torch.manual_seed(seed)
        mixed = regulariser.transform({**batch, "image": image})
        torch.manual_seed(seed)
        partner = torch.randperm(4)
        for number in range(4):
            other = int(partner[number])
            value = float(mixed["image"][number, 0, 0, 0])
            first, second = float(numbers[number]), float(numbers[other])
            share = 1.0 if other == number else (value - second) / (first - second)
            assert -1e-4 <= share <= 1 + 1e-4
            tags = share * batch["tags"][number] + (1 - share) * batch["tags"][other]
            torch.testing.assert_close(mixed["tags"][number], tags, rtol=0, atol=1e-3)
            valid = torch.maximum(batch["valid"][number], batch["valid"][other])
            assert torch.equal(mixed["valid"][number], valid)


def reference_entropy(maps: np.ndarray) -> float:
    total = []
    for image in maps.astype(np.float64):
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                scores = np.exp(image[:, row, column])
                p = scores / scores.sum()
                total.append(-sum(value * math.log(value) for value in p))
    return sum(total) / len(total)


def reference_concentration(maps: np.ndarray, present: np.ndarray, unit: str) -> float:
    images = []
    height, width = maps.shape[2:]
    step = (1 / (height - 1), 1 / (width - 1)) if unit == "fraction" else (1, 1)
    for image, tags in zip(np.maximum(maps.astype(np.float64), 0), present, strict=True):
        spreads = []
        for one in image[tags]:
            r = one / (one.sum() + 1e-5)
            y, x = np.mgrid[:height, :width].astype(float)
            y, x = y * step[0], x * step[1]
            centre = ((y * r).sum(), (x * r).sum())
            spreads.append((((y - centre[0]) ** 2 + (x - centre[1]) ** 2) * r).sum())
        if spreads:
            images.append(sum(spreads) / len(spreads))
    return sum(images) / len(images) if images else 0.0


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0)) * 3


PRESENT = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()


def test_entropy_agrees_with_its_formula_in_float64(maps):
    assert float(entropy(maps)) == pytest.approx(reference_entropy(maps.numpy()), rel=1e-5)


@pytest.mark.parametrize("unit", ["fraction", "cells"])
def test_concentration_agrees_with_its_formula_in_float64(maps, unit):
    expected = reference_concentration(maps.numpy(), PRESENT.numpy(), unit)
    assert float(concentration(maps, PRESENT, unit=unit)) == pytest.approx(expected, rel=1e-4)


def test_concentration_by_hand() -> None:
    maps = torch.zeros(1, 1, 1, 5)
    maps[..., 0] = maps[..., 4] = 2e4
    present = torch.ones(1, 1).bool()
    # Half of the mass at each end of a row of length one: each half is 1/2 from the centre.
    assert float(concentration(maps, present)) == pytest.approx(0.25, abs=1e-6)
    assert float(concentration(maps, present, unit="cells")) == pytest.approx(4.0, abs=1e-5)
    one = torch.full((1, 1, 3, 3), -1.0)
    one[0, 0, 1, 2] = 1e4
    assert float(concentration(one, present)) == pytest.approx(0, abs=1e-6)


def test_entropy_of_undecided_cells_is_log_c_and_of_decided_ones_nothing() -> None:
    assert float(entropy(torch.zeros(1, 4, 2, 2))) == pytest.approx(math.log(4))
    sure = torch.zeros(1, 4, 2, 2)
    sure[:, 1] = 50
    assert float(entropy(sure)) == pytest.approx(0, abs=1e-6)


def test_padding_does_not_count(maps):
    valid = torch.zeros(3, 1, 40, 56)
    valid[..., :32] = 1
    cut = maps[..., :4]
    assert float(entropy(maps, valid)) == pytest.approx(float(entropy(cut)), rel=1e-5)
    found = concentration(maps, PRESENT, valid, unit="cells")
    assert float(found) == pytest.approx(float(concentration(cut, PRESENT, unit="cells")), rel=1e-5)


def test_maps_without_evidence_or_classes_give_zero_and_finite_gradients() -> None:
    maps = torch.full((2, 2, 3, 3), -1.0, requires_grad=True)
    present = torch.tensor([[True, False], [False, False]])
    for term in (concentration(maps, present), concentration(maps, ~present & False)):
        assert term.item() == 0
        term.backward(retain_graph=True)
    assert bool(torch.isfinite(maps.grad).all())


def test_the_gradient_is_that_of_the_formula(maps):
    small = maps[:2, :2, :3, :3].double().requires_grad_(True)
    present = PRESENT[:2, [0, 1]]

    def term(values: torch.Tensor) -> torch.Tensor:
        return entropy(values) + concentration(values, present)

    # The functions compute in float32; central differences of them are the reference.
    (gradient,) = torch.autograd.grad(term(small), small)
    values = small.detach()
    for index in [(0, 0, 1, 1), (1, 1, 0, 2), (0, 1, 2, 0)]:
        shift = torch.zeros_like(values)
        shift[index] = 1e-2
        difference = (term(values + shift) - term(values - shift)) / 2e-2
        assert float(gradient[index]) == pytest.approx(float(difference), abs=2e-4)


def test_weighted_terms_are_added_and_can_be_left_out(make_net, batch):
    settings = {"name": "mixup_cam", "entropy_weight": 0.5, "concentration_weight": 3}
    net = make_net(settings)
    step = net.step(net.regularisers[0].transform(batch))
    terms = net.regularisers[0].terms(net, step)
    valid, present = step.batch["valid"], step.batch["tags"] > 0
    torch.testing.assert_close(terms["mixup_cam_entropy"], 0.5 * entropy(step.maps, valid))
    torch.testing.assert_close(
        terms["mixup_cam_concentration"], 3 * concentration(step.maps, present, valid)
    )
    plain = make_net({**settings, "entropy_weight": 0, "concentration_weight": 0})
    assert plain.regularisers[0].terms(plain, step) == {}


def test_the_defaults_are_those_of_the_sheet() -> None:
    config = MixupCam()
    assert (config.alpha, config.entropy_weight, config.concentration_weight) == (0.2, 0.02, 2e-4)
