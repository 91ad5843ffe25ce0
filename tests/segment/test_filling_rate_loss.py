"""Tests of wsseg.segment.losses.filling_rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.errors import DataError, RecipeError
from wsseg.segment.loss_config import FillingRateLoss
from wsseg.segment.losses.cross_entropy import cross_entropy
from wsseg.segment.losses.filling_rate import filling_targets, measure_rates, pixels
from wsseg.segment.task import SegmenterTask


def _batch(boxes: list[list[float]], size: tuple[int, int] = (4, 6), known: bool = True):
    return {
        "mask": torch.full((1, *size), 1, dtype=torch.uint8),
        "boxes": torch.tensor([boxes], dtype=torch.float32),
        "has_boxes": torch.tensor([known]),
    }


def _logits(size: tuple[int, int] = (4, 6), seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(1, 3, *size)).astype(np.float32))


RATES = torch.tensor([1.0, 0.5, 0.25])


def test_the_surest_part_of_a_box_is_its_class_and_the_rest_is_ignored():
    logits = _logits()
    target = filling_targets(logits, _batch([[1, 1, 5, 4, 1], [0] * 5]), RATES)[0].numpy()
    chance = logits.softmax(1)[0, 1].numpy()
    expected = np.zeros((4, 6), int)
    expected[1:4, 1:5] = 255
    inside = [(chance[y, x], y, x) for y in range(1, 4) for x in range(1, 5)]
    for _, y, x in sorted(inside, reverse=True)[:6]:  # half of twelve
        expected[y, x] = 1
    np.testing.assert_array_equal(target, expected)


def test_where_selections_meet_the_smaller_box_wins():
    logits = torch.zeros(1, 3, 4, 6)
    logits[0, 1, 0, :4] = 5
    logits[0, 2, 0, 0] = 4.9
    rates = torch.tensor([1.0, 4 / 24, 0.5])
    boxes = [[0, 0, 1, 2, 2], [0, 0, 6, 4, 1]]
    target = filling_targets(logits, _batch(boxes), rates)[0]
    assert target[0].tolist() == [2, 1, 1, 1, 255, 255]
    assert (target[1:] == 255).all()


def test_a_box_always_has_an_object_and_an_image_without_boxes_is_background():
    target = filling_targets(_logits(), _batch([[2, 2, 3, 3, 2]]), torch.full((3,), 0.01))[0]
    assert (target == 2).sum() == 1
    assert (target == 0).sum() == 23
    assert filling_targets(_logits(), _batch([[0] * 5]), RATES).sum() == 0


def test_images_whose_boxes_are_not_known_keep_their_masks():
    batch = _batch([[0] * 5], known=False)
    assert (filling_targets(_logits(), batch, RATES) == 1).all()


def test_what_people_said_of_pixels_stays():
    said = torch.full((1, 4, 6), -1, dtype=torch.int16)
    said[0, 0, 0], said[0, 2, 2], said[0, 3, 3] = 2, 0, 255
    batch = _batch([[1, 1, 5, 4, 1]])
    plain = filling_targets(_logits(), batch, RATES)[0]
    target = filling_targets(_logits(), batch | {"said": said}, RATES)[0]
    assert (target[0, 0], target[2, 2], target[3, 3]) == (2, 0, 255)
    assert torch.equal(target[said[0] < 0], plain[said[0] < 0])


def test_padding_is_ignored():
    batch = _batch([[1, 1, 5, 4, 1]]) | {"valid": torch.ones(1, 4, 6, dtype=torch.bool)}
    batch["valid"][:, :, 5] = False
    target = filling_targets(_logits(), batch, RATES)[0]
    assert (target[:, 5] == 255).all()
    assert (target[0, :5] == 0).all()


def test_ranking_gives_targets_and_no_gradient():
    logits = _logits().requires_grad_()
    target = filling_targets(logits, _batch([[1, 1, 5, 4, 1]]), RATES)
    assert not target.requires_grad
    cross_entropy(logits, target).backward()
    counted = target[0] != 255
    p = logits.detach().softmax(1)[0]
    hot = torch.nn.functional.one_hot(target[0].clamp(max=2), 3).movedim(-1, 0)
    expected = torch.where(counted, p - hot, 0.0) / counted.sum()
    torch.testing.assert_close(logits.grad[0], expected)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 6, 4], (slice(0, 4), slice(0, 6))),
        ([-3, -3, 2.4, 1.6], (slice(0, 2), slice(0, 2))),
        ([5, 3, 99, 99], (slice(3, 4), slice(5, 6))),
        ([9, 9, 12, 12], (slice(4, 4), slice(6, 6))),
        ([1.1, 1.1, 1.4, 1.4], (slice(1, 1), slice(1, 1))),
    ],
)
def test_pixels_of_a_box_are_cut_at_the_view(box, expected):
    assert pixels(box, (4, 6)) == expected


def test_rates_are_the_mean_share_of_each_class_in_its_boxes():
    mask = np.zeros((6, 8), np.uint8)
    mask[0:2, 0:2], mask[3, 4:8] = 1, 2
    mask[5, 4:8] = 255
    images = [
        (mask, np.array([[0, 0, 4, 2], [4, 3, 8, 6]], np.float32), np.array([1, 2])),
        (mask, np.array([[0, 0, 2, 2]], np.float32), np.array([1])),
    ]
    rates = measure_rates(images, 3)
    # 4 of 8 and 4 of 4; 4 of 8 known; class 3 has no box.
    np.testing.assert_allclose(rates, [1, 0.75, 0.5, (0.5 + 1 + 0.5) / 3])


def test_masks_that_fill_no_box_cannot_give_rates():
    empty = (np.zeros((4, 4), np.uint8), np.array([[0, 0, 2, 2]], np.float32), np.array([1]))
    with pytest.raises(DataError, match=r"segment\.loss\.rates"):
        measure_rates([empty], 1)
    with pytest.raises(DataError, match="cannot be measured"):
        measure_rates([], 1)


def test_the_task_takes_given_rates_or_asks_for_measured_ones():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 1)
    given = SegmenterTask(net, FillingRateLoss(rates=0.5), 2)
    assert not given.needs_filling_rates
    assert given.filling_rates.tolist() == [1, 0.5, 0.5]
    measured = SegmenterTask(net, FillingRateLoss(), 2)
    assert measured.needs_filling_rates
    measured.set_filling_rates(given.filling_rates)
    batch = _batch([[1, 1, 5, 4, 1]]) | {"image": torch.randn(1, 3, 4, 6)}
    batch["valid"] = torch.ones(1, 4, 6, dtype=torch.bool)
    logits = net(batch["image"])
    expected = cross_entropy(logits, filling_targets(logits, batch, given.filling_rates))
    for task in (given, measured):
        torch.testing.assert_close(task.loss(batch)["loss"], expected)
    with pytest.raises(RecipeError, match="3 numbers, but there are 2 classes"):
        SegmenterTask(net, FillingRateLoss(rates=(0.1, 0.2, 0.3)), 2)
