"""Tests of wsseg.segment.losses.whats_the_point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsseg.cues.saliency_rbd import Rbd
from wsseg.segment.config import Smp
from wsseg.segment.loss_config import PointLoss
from wsseg.segment.losses.whats_the_point import (
    image_term,
    objectness_term,
    point_term,
    whats_the_point,
)


def _logits(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 4, 3, 5)))


def _softmax(logits: torch.Tensor) -> np.ndarray:
    values = np.exp(logits.detach().numpy().astype(np.float64))
    return values / values.sum(1, keepdims=True)


def test_points_count_alike_within_an_image_and_images_alike():
    labels = np.full((2, 3, 5), 255, np.uint8)
    labels[0, 0, 1], labels[0, 2, 2], labels[1, 1, 4] = 2, 0, 3
    logits, p = _logits(), _softmax(_logits())
    expected = (-(np.log(p[0, 2, 0, 1]) + np.log(p[0, 0, 2, 2])) / 2 - np.log(p[1, 3, 1, 4])) / 2
    assert point_term(logits, torch.from_numpy(labels)).item() == pytest.approx(expected, abs=1e-12)
    labels[1] = 255
    expected = -(np.log(p[0, 2, 0, 1]) + np.log(p[0, 0, 2, 2])) / 2 / 2
    assert point_term(logits, torch.from_numpy(labels)).item() == pytest.approx(expected, abs=1e-12)


def test_image_term_looks_at_the_most_probable_pixel_of_each_class():
    logits, p = _logits(), _softmax(_logits()).reshape(2, 4, 15)
    shown = torch.tensor([[1, 1, 0, -1], [-1, 0, 0, 1]])
    best = p.max(axis=2)
    present = [-(np.log(best[0, 0]) + np.log(best[0, 1])) / 2, -np.log(best[1, 3])]
    absent = [
        -np.log(1 - best[0, 2]),
        -(np.log(1 - best[1, 1]) + np.log(1 - best[1, 2])) / 2,
    ]
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    found = image_term(logits, shown, valid)
    assert found.item() == pytest.approx((sum(present) + sum(absent)) / 2, abs=1e-12)
    assert torch.autograd.gradcheck(
        lambda v: image_term(v, shown, valid), (logits.requires_grad_(),)
    )


def test_image_term_has_its_gradient_at_the_chosen_pixels_alone():
    logits = _logits().requires_grad_()
    shown = torch.tensor([[-1, 1, -1, -1], [-1, -1, 0, -1]])
    image_term(logits, shown, torch.ones(2, 3, 5, dtype=torch.bool)).backward()
    p = _softmax(logits).reshape(2, 4, 15)
    for n, class_id, wanted in ((0, 1, 1), (1, 2, 0)):
        touched = logits.grad[n].abs().sum(0).flatten().nonzero().flatten().tolist()
        pixel = p[n, class_id].argmax()
        assert touched == [pixel]
        # d -log S_c = S_c - 1 at c; d -log(1 - S_c) = S_c at c; halved by the mean over images.
        slope = p[n, class_id, pixel] - wanted
        assert logits.grad[n, class_id].flatten()[pixel].item() == pytest.approx(slope / 2)


def test_a_sure_network_that_is_wrong_has_a_finite_loss_and_gradient():
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1] = 200
    logits.requires_grad_()
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    loss = image_term(logits, torch.tensor([[-1, 0]]), valid)
    assert loss.item() == pytest.approx(200)
    loss.backward()
    assert logits.grad.abs().sum() == pytest.approx(2)


def test_objectness_is_the_cross_entropy_of_object_against_background():
    logits, p = _logits(), _softmax(_logits())
    chances = np.random.default_rng(4).random((2, 3, 5))
    objects = p[:, 1:].sum(1)
    expected = -(chances * np.log(objects) + (1 - chances) * np.log(1 - objects)).mean()
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    found = objectness_term(logits, torch.from_numpy(chances), valid)
    assert found.item() == pytest.approx(expected, abs=1e-12)
    given = logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: objectness_term(v, torch.from_numpy(chances), valid), (given,)
    )


def _batch() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(5)
    labels = np.full((2, 3, 5), 255, np.uint8)
    labels[0, 1, 1] = 1
    return {
        "mask": torch.from_numpy(labels),
        "tags": torch.tensor([[1, 0, 0], [-1, 0, 1]]),
        "cue": torch.from_numpy(rng.random((2, 3, 5)).astype(np.float32)),
        "valid": torch.ones(2, 3, 5, dtype=torch.bool),
    }


def test_the_total_is_the_weighted_sum_of_the_terms():
    batch, logits = _batch(), _logits().float()
    config = PointLoss(point_weight=2, image_weight=0.5, objectness_weight=3, cue=Rbd())
    parts = whats_the_point(logits, batch, config)
    shown = torch.cat([torch.ones(2, 1, dtype=torch.long), batch["tags"]], dim=1)
    torch.testing.assert_close(parts["points"], point_term(logits, batch["mask"]))
    torch.testing.assert_close(parts["image"], image_term(logits, shown, batch["valid"]))
    expected = 2 * parts["points"] + 0.5 * parts["image"] + 3 * parts["objectness"]
    torch.testing.assert_close(parts["loss"], expected)
    off = PointLoss(image_weight=0, objectness_weight=0)
    assert set(whats_the_point(logits, batch, off)) == {"loss", "points"}
    without_cue = {name: value for name, value in batch.items() if name != "cue"}
    assert set(whats_the_point(logits, without_cue, PointLoss())) == {"loss", "points", "image"}
    unknown = PointLoss(background_tag=False)
    shown[:, 0] = -1
    torch.testing.assert_close(
        whats_the_point(logits, batch, unknown)["image"], image_term(logits, shown, batch["valid"])
    )


def test_padding_counts_nowhere():
    batch, logits = _batch(), _logits().float()
    batch["valid"][:, :, 3:] = False
    logits[:, 1, :, 4] = 50  # the most probable pixel of class 1 is padding
    config = PointLoss(cue=Rbd())
    cut = {name: v[..., :3] if v.ndim == 3 else v for name, v in batch.items()}
    found, expected = (
        whats_the_point(values, given, config)
        for values, given in ((logits, batch), (logits[..., :3], cut))
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    batch["valid"][:] = False
    nothing = whats_the_point(logits, batch, config)
    assert nothing["image"] == 0
    assert nothing["objectness"] == 0


def test_settings_survive_being_written_and_name_a_cue():
    config = Smp.model_validate({"loss": {"name": "whats_the_point", "cue": {"name": "rbd"}}})
    assert isinstance(config.loss, PointLoss)
    assert isinstance(config.loss.cue, Rbd)
    assert Smp.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="Unknown cue"):
        Smp.model_validate({"loss": {"name": "whats_the_point", "cue": {"name": "rdb"}}})
