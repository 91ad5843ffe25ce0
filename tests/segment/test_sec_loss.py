"""Tests of wsseg.segment.losses.sec against the formulas written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wsseg.data.transforms import AugmentConfig, augment
from wsseg.errors import DataError
from wsseg.segment.config import Smp
from wsseg.segment.data import ImageTags, SegmentationData, tags_of_view
from wsseg.segment.loss_config import ConstrainConfig, SecLoss
from wsseg.segment.losses.constrain import constrain
from wsseg.segment.losses.grid import probabilities
from wsseg.segment.losses.sec import expand_loss, rank_pooling, sec, seed_loss
from wsseg.segment.task import SegmenterTask

TAGS = torch.tensor([[1, 0, -1], [0, 0, 0], [1, 1, 1]], dtype=torch.int8)


def _predicted(seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.ones(4), (3, 4, 5)).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(values))


def _pooled(values: list[float], decay: float) -> float:
    """Global weighted rank pooling of n cells, the decay adapted from 41 x 41 cells."""
    adapted = decay ** (1681 / len(values))
    weights = [adapted**rank for rank in range(len(values))]
    ordered = sorted(values, reverse=True)
    return sum(w * v for w, v in zip(weights, ordered, strict=True)) / sum(weights)


def test_seed_loss_is_the_mean_over_images_of_their_mean_over_seeds():
    predicted, rng = _predicted(), np.random.default_rng(1)
    seeds = rng.integers(0, 4, (3, 4, 5)).astype(np.uint8)
    seeds[rng.random(seeds.shape) < 0.5] = 255
    seeds[2] = 255
    expected = 0.0
    for n in range(2):
        places = np.argwhere(seeds[n] != 255)
        losses = [-math.log(predicted[n, seeds[n, y, x], y, x]) for y, x in places]
        expected += sum(losses) / len(losses) / 3
    assert seed_loss(predicted, torch.from_numpy(seeds)).item() == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.996, 1.0])
def test_rank_pooling_is_the_weighted_mean_of_the_ordered_cells_that_count(decay: float):
    rng = np.random.default_rng(2)
    values, shown = rng.random((2, 3, 30)), rng.random((2, 30)) < 0.6
    found = rank_pooling(torch.from_numpy(values), torch.from_numpy(shown), decay)
    for n, c in np.ndindex(2, 3):
        expected = _pooled(values[n, c][shown[n]].tolist(), decay)
        assert found[n, c].item() == pytest.approx(expected, rel=1e-5)


def test_on_the_grid_of_the_paper_the_decay_is_that_of_the_paper():
    values = np.random.default_rng(0).random(1681)
    found = rank_pooling(
        torch.from_numpy(values)[None, None], torch.ones(1, 1681, dtype=torch.bool), 0.996
    )
    weights = 0.996 ** np.arange(1681)
    expected = (np.sort(values)[::-1] * weights).sum() / weights.sum()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_expand_loss_wants_tagged_classes_and_background_and_no_others():
    predicted, config = _predicted(), SecLoss(foreground_decay=0.99, background_decay=0.999)
    valid = torch.ones(3, 4, 5, dtype=torch.bool)
    valid[0, :, 3:] = False
    expected = 0.0
    for n in range(3):
        cells = [predicted[n, c][valid[n]].tolist() for c in range(4)]
        present = [c for c in (1, 2, 3) if TAGS[n, c - 1] == 1]
        absent = [c for c in (1, 2, 3) if TAGS[n, c - 1] == 0]
        loss = -math.log(_pooled(cells[0], 0.999))
        if present:
            loss -= sum(math.log(_pooled(cells[c], 0.99)) for c in present) / len(present)
        if absent:
            loss -= sum(math.log(1 - max(cells[c])) for c in absent) / len(absent)
        expected += loss / 3
    assert expand_loss(predicted, TAGS, valid, config).item() == pytest.approx(expected, rel=1e-5)


def test_a_class_nobody_knows_about_gets_no_gradient_from_the_expand_loss():
    predicted = _predicted().requires_grad_()
    valid = torch.ones(3, 4, 5, dtype=torch.bool)
    expand_loss(predicted, TAGS, valid, SecLoss()).backward()
    assert (predicted.grad[0, 3] == 0).all()
    # Tagged: every cell is pulled up. Absent: only the highest is pushed down.
    assert (predicted.grad[0, 1] < 0).all()
    pushed = predicted.grad[0, 2]
    assert (pushed > 0).sum() == 1
    assert pushed.argmax() == predicted[0, 2].argmax()


def test_an_image_of_padding_alone_changes_nothing():
    predicted = _predicted().requires_grad_()
    valid = torch.ones(3, 4, 5, dtype=torch.bool)
    valid[2] = False
    expand_loss(predicted, TAGS, valid, SecLoss()).backward()
    assert (predicted.grad[2] == 0).all()
    assert torch.isfinite(predicted.grad).all()


def test_sec_is_the_weighted_sum_of_its_parts_on_the_grid():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, generator=rng).requires_grad_()
    mask = torch.randint(0, 4, (2, 6, 6), generator=rng)
    mask[:, :3] = 255
    batch = {"image": torch.randn(2, 3, 6, 6, generator=rng), "mask": mask, "tags": TAGS[:2]}
    term = ConstrainConfig(weight=0.5, bilateral_sxy_cells=2.0)
    config = SecLoss(seed_weight=2.0, expand_weight=3.0, constrain=term)
    found = sec(logits, batch, config)
    p, valid = probabilities(logits), torch.ones(2, 6, 6, dtype=torch.bool)
    seed, expand = seed_loss(p, mask), expand_loss(p, TAGS[:2], valid, config)
    edges = constrain(logits, batch, term)
    torch.testing.assert_close(found["loss"], 2 * seed + 3 * expand + 0.5 * edges)
    parts = torch.stack([found[name] for name in ("seed", "expand", "constrain")])
    torch.testing.assert_close(parts, torch.stack([seed, expand, edges]))
    assert not parts.requires_grad
    off = SecLoss(expand_weight=0, constrain=ConstrainConfig(weight=0))
    assert set(sec(logits, batch, off)) == {"loss", "seed"}


def test_training_expands_a_seed_to_the_edges_of_its_object():
    """A bright square with one seed, on dark ground with one seed."""
    image = torch.full((1, 3, 24, 24), -2.0)
    image[..., 6:18, 6:18] = 2.0
    mask = torch.full((1, 24, 24), 255, dtype=torch.uint8)
    mask[0, 11:13, 11:13], mask[0, :2] = 1, 0
    batch = {"image": image, "mask": mask, "tags": torch.tensor([[1]])}
    torch.manual_seed(0)
    task = SegmenterTask(torch.nn.Conv2d(3, 2, 1), SecLoss(), 1)
    optimiser = torch.optim.SGD(task.parameters(), lr=0.1)
    for _ in range(30):
        optimiser.zero_grad()
        task.loss(batch)["loss"].backward()
        optimiser.step()
    expected = (image[0, 0] > 0).long()
    assert (task(image).argmax(1)[0] == expected).float().mean() > 0.98


def _view(config: AugmentConfig, mask: np.ndarray, seed: int = 0):
    image = np.zeros((*mask.shape, 3), np.uint8)
    return augment(image, mask, np.random.default_rng(seed), config)


def test_tags_hold_for_the_whole_image_and_only_seeds_for_a_crop():
    mask = np.full((30, 40), 255, np.uint8)
    mask[3, 3] = 3
    whole = AugmentConfig(scale=(1.3, 1.3), crop_px=64, vflip=0.5, rot90=0.5)
    for seed in range(5):
        tags = tags_of_view(_view(whole, mask, seed), frozenset({1, 3}), 4)
        assert tags.tolist() == [1, 0, 1, 0]
    crop = AugmentConfig(scale=None, crop_px=16, hflip=0)
    left = next(v for v in (_view(crop, mask, s) for s in range(99)) if (v.mask == 3).any())
    assert tags_of_view(left, frozenset({1, 3}), 4).tolist() == [-1, 0, 1, 0]
    right = next(v for v in (_view(crop, mask, s) for s in range(99)) if not (v.mask == 3).any())
    assert tags_of_view(right, frozenset({1, 3}), 4).tolist() == [-1, 0, -1, 0]
    assert tags_of_view(left, None, 4).tolist() == [-1, -1, 1, -1]
    assert tags_of_view(right, frozenset(), 4).tolist() == [0, 0, 0, 0]
    with pytest.raises(DataError, match="class id 3, beyond the class list"):
        tags_of_view(left, frozenset({1}), 2)


def test_items_bring_tags_and_padding_only_where_the_loss_looks_at_them(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.ones((20, 30), np.uint8)).save(tmp_path / "m.png")
    pairs = [(tmp_path / "a.png", tmp_path / "m.png")]
    tags = ImageTags(2, {tmp_path / "a.png": frozenset({2})})
    base = Smp(augment=AugmentConfig(crop_px=32, scale=None))

    def keys(loss: object) -> dict:
        config = base.model_validate(base.model_dump() | {"loss": loss})
        return SegmentationData(pairs, config, tags=tags).item(0, np.random.default_rng(0))

    assert set(keys({})) == {"image", "mask"}
    assert set(keys({"constrain": {}})) == {"image", "mask", "valid"}
    item = keys({"name": "sec"})
    assert item["tags"].tolist() == [1, 1]
    assert item["valid"].sum() == 600
    with pytest.raises(ValueError, match="looks at tags"):
        SegmentationData(pairs, base.model_validate({"loss": {"name": "sec"}}))
