"""Tests of wsseg.segment.losses.dsrg against flood fill and formulas written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wsseg.segment.loss_config import ConstrainConfig, DsrgLoss
from wsseg.segment.losses.constrain import crf_marginals, divergence
from wsseg.segment.losses.dsrg import balanced_seed_loss, dsrg, grow_seeds
from wsseg.segment.losses.grid import probabilities, to_grid
from wsseg.segment.task import SegmenterTask

LIMITS = {"min_foreground": 0.85, "min_background": 0.99}


def _flood(
    values: np.ndarray,
    seeds: np.ndarray,
    allowed: np.ndarray,
    min_foreground: float,
    min_background: float,
) -> np.ndarray:
    """Grow from each seed, cell by cell over its eight neighbours."""
    height, width = seeds.shape
    labels = seeds.copy()
    for y, x in np.ndindex(height, width):
        best = max(np.flatnonzero(allowed), key=lambda c: values[c, y, x])
        if values[best, y, x] > (min_background if best == 0 else min_foreground):
            labels[y, x] = best
    grown = seeds.copy()
    for class_id in np.flatnonzero(allowed):
        starts = np.argwhere((seeds == class_id) & (labels == class_id))
        todo, seen = [tuple(start) for start in starts], set()
        while todo:
            y, x = todo.pop()
            if (y, x) in seen or not (0 <= y < height and 0 <= x < width):
                continue
            if labels[y, x] != class_id:
                continue
            seen.add((y, x))
            todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        for y, x in seen:
            if seeds[y, x] == 255:
                grown[y, x] = class_id
    return grown


@pytest.mark.parametrize("seed", range(20))
def test_seeds_grow_as_a_flood_does(seed: int):
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.full(4, 0.08), (12, 14)).transpose(2, 0, 1).astype(np.float32)
    seeds = np.full((12, 14), 255, np.uint8)
    chosen = rng.random(seeds.shape) < 0.08
    seeds[chosen] = rng.integers(0, 4, chosen.sum())
    allowed = np.array([True, True, rng.random() < 0.5, True])
    found = grow_seeds(values, seeds, allowed, **LIMITS)
    np.testing.assert_array_equal(found, _flood(values, seeds, allowed, **LIMITS))
    np.testing.assert_array_equal(found[chosen], seeds[chosen])
    assert seed != 0 or (found != seeds).any()


def _sure(labels: list[str], classes: int = 3, sure: float = 0.95) -> np.ndarray:
    values = np.full((classes, len(labels), len(labels[0])), (1 - sure) / (classes - 1))
    for y, x in np.ndindex(values.shape[1:]):
        values[int(labels[y][x]), y, x] = sure
    return values.astype(np.float32)


def test_regions_grow_over_corners_but_only_from_a_seed():
    values = _sure(["1000", "0100", "0001"])
    seeds = np.full((3, 4), 255, np.uint8)
    seeds[0, 0] = 1
    found = grow_seeds(values, seeds, np.ones(3, bool), **LIMITS)
    assert np.argwhere(found == 1).tolist() == [[0, 0], [1, 1]]
    assert (found != 0).all()  # 0.95 is not sure enough for background


def test_background_needs_more_certainty_than_objects():
    seeds = np.array([[0, 255, 255]], np.uint8)
    allowed = np.ones(3, bool)
    for sure, expected in ((0.98, [[0, 255, 255]]), (0.995, [[0, 0, 0]])):
        found = grow_seeds(_sure(["000"], sure=sure), seeds, allowed, **LIMITS)
        assert found.tolist() == expected


def test_a_seed_of_another_class_stays_but_lets_the_region_pass():
    values = _sure(["11111"])
    seeds = np.array([[1, 255, 2, 255, 255]], np.uint8)
    found = grow_seeds(values, seeds, np.ones(3, bool), **LIMITS)
    assert found.tolist() == [[1, 1, 2, 1, 1]]


def test_the_best_of_the_allowed_classes_counts():
    values = np.array([0.02, 0.9, 0.08], np.float32).reshape(3, 1, 1).repeat(2, axis=2)
    seeds = np.array([[1, 255]], np.uint8)
    allowed = np.array([True, False, True])
    assert grow_seeds(values, seeds, allowed, **LIMITS).tolist() == [[1, 255]]


def test_seed_loss_weighs_background_and_foreground_of_an_image_alike():
    rng = np.random.default_rng(1)
    predicted = rng.dirichlet(np.ones(4), (3, 4, 5)).transpose(0, 3, 1, 2)
    seeds = rng.integers(0, 4, (3, 4, 5)).astype(np.uint8)
    seeds[rng.random(seeds.shape) < 0.3] = 255
    seeds[1][seeds[1] == 0] = 255
    seeds[2] = 255
    expected = 0.0
    for n in range(3):
        for is_background in (True, False):
            losses = [
                -math.log(predicted[n, seeds[n, y, x], y, x])
                for y, x in np.ndindex(4, 5)
                if seeds[n, y, x] != 255 and (seeds[n, y, x] == 0) == is_background
            ]
            expected += sum(losses) / max(len(losses), 1e-4) / 3
    found = balanced_seed_loss(torch.from_numpy(predicted.copy()), torch.from_numpy(seeds))
    assert found.item() == pytest.approx(expected)


def _batch() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 3, 8, 8, generator=rng)).requires_grad_()
    mask = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    mask[:, 0, :], mask[0, 4, 4], mask[1, 5, 2] = 0, 1, 2
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[1, :, 6:] = False
    mask[~valid] = 255
    batch = {
        "image": torch.randn(2, 3, 8, 8, generator=rng),
        "mask": mask,
        "tags": torch.tensor([[1, 0], [0, 1]], dtype=torch.int8),
        "valid": valid,
    }
    return logits, batch


def test_dsrg_is_seed_loss_on_grown_seeds_and_the_clipped_constrain_term():
    logits, batch = _batch()
    term = ConstrainConfig(weight=0.5, bilateral_sxy_cells=2.0)
    config = DsrgLoss(seed_weight=2.0, min_foreground=0.6, min_background=0.7, constrain=term)
    found = dsrg(logits, batch, config)
    grid = to_grid(logits, batch, 41)
    marginals, p = crf_marginals(grid, term), probabilities(grid.logits)
    seeds = np.stack(
        [
            _flood(marginals[n].numpy(), batch["mask"][n].numpy(), np.array(allowed), 0.6, 0.7)
            for n, allowed in enumerate([[True, True, False], [True, False, True]])
        ]
    )
    seeds[~batch["valid"].numpy()] = 255
    assert (seeds != 255).sum() > (batch["mask"] != 255).sum()
    seed = balanced_seed_loss(p, torch.from_numpy(seeds))
    edges = divergence(p, marginals, batch["valid"], max_ratio=20)
    torch.testing.assert_close(found["loss"], 2 * seed + 0.5 * edges)
    torch.testing.assert_close(found["constrain"], edges.detach())
    assert found["grown"].item() == pytest.approx((seeds != 255).sum() / (64 + 48))
    off = config.model_copy(update={"constrain": ConstrainConfig(weight=0)})
    assert set(dsrg(logits, batch, off)) == {"loss", "seed", "grown"}


def test_growing_gives_targets_and_no_gradient():
    """The gradient is that of cross-entropy on the grown seeds, taken as given labels."""
    logits, batch = _batch()
    config = DsrgLoss(
        min_foreground=0.5, min_background=0.5, constrain=ConstrainConfig(weight=0, iterations=0)
    )
    dsrg(logits, batch, config)["loss"].backward()
    soft = logits.detach().double().softmax(1).numpy()
    expected = np.zeros_like(soft)
    for n, allowed in enumerate([[True, True, False], [True, False, True]]):
        seeds = _flood(
            soft[n].astype(np.float32), batch["mask"][n].numpy(), np.array(allowed), 0.5, 0.5
        )
        seeds[~batch["valid"][n].numpy()] = 255
        for kind in (seeds == 0, (seeds != 0) & (seeds != 255)):
            for y, x in np.argwhere(kind):
                column, label = soft[n, :, y, x], seeds[y, x]
                # The floor of 1e-4 takes gradient from cells that are very wrong.
                share = column[label] / (column[label] + 1e-4)
                expected[n, :, y, x] += share * (column - np.eye(3)[label]) / kind.sum() / 2
    np.testing.assert_allclose(logits.grad, expected, atol=1e-6)


def test_with_thresholds_of_one_seeds_do_not_grow():
    logits, batch = _batch()
    config = DsrgLoss(min_foreground=1, min_background=1)
    found = dsrg(logits, batch, config)
    assert found["grown"].item() == pytest.approx((batch["mask"] != 255).sum() / (64 + 48))


def test_training_grows_a_seed_over_its_object():
    """A bright square with one seed, on dark ground with one seed."""
    image = torch.full((1, 3, 24, 24), -2.0)
    image[..., 6:18, 6:18] = 2.0
    mask = torch.full((1, 24, 24), 255, dtype=torch.uint8)
    mask[0, 11:13, 11:13], mask[0, :2] = 1, 0
    batch = {"image": image, "mask": mask, "tags": torch.tensor([[1]])}
    torch.manual_seed(0)
    task = SegmenterTask(torch.nn.Conv2d(3, 2, 1), DsrgLoss(), 1)
    optimiser = torch.optim.SGD(task.parameters(), lr=0.3)
    grown = []
    for _ in range(40):
        optimiser.zero_grad()
        losses = task.loss(batch)
        losses["loss"].backward()
        optimiser.step()
        grown.append(losses["grown"].item())
    assert grown[-1] > 0.98 > 0.5 > (mask != 255).float().mean()
    expected = (image[0, 0] > 0).long()
    assert (task(image).argmax(1)[0] == expected).float().mean() > 0.98
