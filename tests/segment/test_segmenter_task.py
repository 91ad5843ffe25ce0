"""Tests of wsseg.segment.task and wsseg.segment.config."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsseg.errors import DataError
from wsseg.segment.config import LossConfig, PredictConfig, Smp
from wsseg.segment.losses.cross_entropy import balanced_cross_entropy, cross_entropy
from wsseg.segment.losses.dice import dice
from wsseg.segment.task import SegmenterTask, smp


class Pointwise(nn.Module):
    def __init__(self, num_outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, num_outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 4, (2, 8, 8), generator=generator).to(torch.uint8)
    mask[mask == 3] = 255
    return {"image": torch.randn(2, 3, 8, 8, generator=generator), "mask": mask}


def test_default_loss_is_plain_cross_entropy():
    task, batch = SegmenterTask(Pointwise(), LossConfig(), 2), _batch()
    losses = task.loss(batch)
    assert set(losses) == {"loss"}
    torch.testing.assert_close(losses["loss"], cross_entropy(task(batch["image"]), batch["mask"]))


def test_dsrg_balance_is_used_where_asked_for():
    task, batch = SegmenterTask(Pointwise(), LossConfig(class_balance="dsrg"), 2), _batch()
    expected = balanced_cross_entropy(task(batch["image"]), batch["mask"])
    torch.testing.assert_close(task.loss(batch)["loss"], expected)


def test_dice_is_added_with_its_weight_and_logged():
    task, batch = SegmenterTask(Pointwise(), LossConfig(dice=0.5), 2), _batch()
    losses = task.loss(batch)
    logits = task(batch["image"])
    expected = cross_entropy(logits, batch["mask"]) + 0.5 * dice(logits, batch["mask"])
    torch.testing.assert_close(losses["loss"], expected)
    assert set(losses) == {"loss", "cross_entropy", "dice"}
    assert not losses["dice"].requires_grad


def test_inverse_sqrt_weights_come_from_the_pixel_counts_and_not_the_checkpoint():
    task = SegmenterTask(Pointwise(), LossConfig(class_balance="inverse_sqrt"), 2)
    assert task.needs_pixel_counts
    task.set_pixel_counts(torch.tensor([900, 100, 0]))
    torch.testing.assert_close(task.class_weights, torch.tensor([5 / 6, 2.5, 0.0]))
    assert "class_weights" not in task.state_dict()
    batch = _batch()
    expected = cross_entropy(task(batch["image"]), batch["mask"], class_weights=task.class_weights)
    torch.testing.assert_close(task.loss(batch)["loss"], expected)


def test_masks_without_any_labelled_pixel_are_refused():
    task = SegmenterTask(Pointwise(), LossConfig(class_balance="inverse_sqrt"), 2)
    with pytest.raises(DataError, match="all are 255"):
        task.set_pixel_counts(torch.zeros(3, dtype=torch.int64))


def test_smp_builds_a_trainable_segmenter_whose_head_is_named():
    config = Smp(architecture="fpn", encoder="tu-test_resnet", weights="none")
    task = smp(config=config, num_classes=2)
    batch = {
        "image": torch.randn(1, 3, 40, 50),
        "mask": torch.ones(1, 40, 50, dtype=torch.uint8),
    }
    task.loss(batch)["loss"].backward()
    head = {id(parameter) for parameter in task.head_parameters()}
    encoder = {id(parameter) for parameter in task.net.net.encoder.parameters()}
    assert head
    assert not head & encoder
    assert len(head) + len(encoder) == len(list(task.parameters()))
    assert all(parameter.grad is not None for parameter in task.head_parameters())


def test_network_without_named_head_has_none():
    assert SegmenterTask(Pointwise(), LossConfig(), 2).head_parameters() == []


def test_settings_survive_the_way_through_json():
    config = Smp(encoder="tu-test_resnet", inference=PredictConfig(scales=(0.5, 1.0), tile_px=None))
    assert Smp.model_validate_json(config.model_dump_json()) == config


def test_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="overlap_px is 64; it must be smaller than tile_px 64"):
        PredictConfig(tile_px=64, overlap_px=64)


def test_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"scales\.1\s+Input should be greater than 0"):
        PredictConfig(scales=(1.0, 0.0))
