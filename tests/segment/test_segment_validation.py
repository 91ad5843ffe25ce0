"""Tests of wsseg.segment.validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from wsseg.data.image_io import write_mask
from wsseg.errors import DataError
from wsseg.segment.config import Smp
from wsseg.segment.validation import MaskValidation, hold_out


class RedIsOne(nn.Module):
    """Class 1 where the red value is above the ImageNet mean, else background."""

    def forward(self, images: Tensor) -> Tensor:
        red = images[:, :1] * 100
        return torch.cat([-red, red, torch.full_like(red, -1e4)], dim=1)


def test_miou_is_that_of_the_confusion_over_all_images(tmp_path: Path):
    pairs = []
    for name, truth in (("a", [[1, 1, 0, 0]]), ("b", [[1, 0, 0, 255]])):
        image = np.zeros((1, 4, 3), np.uint8)
        image[0, :2, 0] = 255  # predicted: 1 1 0 0
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        write_mask(tmp_path / f"{name}_mask.png", np.array(truth, np.uint8))
        pairs.append((tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png"))
    metrics = MaskValidation(pairs, Smp(), num_classes=2)(RedIsOne())
    # Class 1: 3 right, 1 false; background: 3 right, 1 missed. Class 2 never occurs.
    assert metrics["miou"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert metrics["miou_foreground"] == pytest.approx(3 / 4)


def test_no_images_are_refused():
    with pytest.raises(DataError, match=r"segment\.validate_on=none"):
        MaskValidation([], Smp(), num_classes=1)


@pytest.mark.parametrize(("count", "frac", "expected"), [(100, 0.1, 10), (3, 0.1, 1), (2, 0.9, 1)])
def test_hold_out_takes_the_part_but_one_at_least_and_half_at_most(
    count: int, frac: float, expected: int
):
    train, held_out = hold_out(range(count), frac, seed=0)
    assert len(held_out) == expected
    assert sorted([*train, *held_out]) == list(range(count))
    assert train == sorted(train)


def test_hold_out_depends_on_the_seed_only():
    assert hold_out(range(50), 0.2, 1) == hold_out(range(50), 0.2, 1)
    assert hold_out(range(50), 0.2, 1) != hold_out(range(50), 0.2, 2)


def test_single_item_is_trained_on():
    assert hold_out(["a"], 0.5, 0) == (["a"], [])
