from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsseg.errors import RecipeError
from wsseg.localize.tags.recam import Recam
from wsseg.nets.recam_head import class_features, softmax_loss


def reference_loss(
    maps: np.ndarray, features: np.ndarray, weight: np.ndarray, tags: np.ndarray
) -> float:
    """Compute the second loss of one image in float64, class by class."""
    losses = []
    num_cells = maps.shape[1] * maps.shape[2]
    for index in np.flatnonzero(tags):
        positive = np.maximum(maps[index], 0)
        scores = positive / (positive.max() + 1e-5)
        vector = sum(
            scores[row, column] * features[:, row, column]
            for row in range(maps.shape[1])
            for column in range(maps.shape[2])
        )
        answers = np.exp(weight @ vector / num_cells)
        losses.append(-np.log(answers[index] / answers.sum()))
    return float(np.mean(losses)) if losses else 0.0


def test_the_softmax_loss_agrees_with_its_formula_in_float64():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 4, 5, 6, generator=generator)
    features = torch.randn(3, 7, 5, 6, generator=generator)
    weight = torch.randn(4, 7, generator=generator)
    tags = torch.tensor([[1.0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    valid = torch.ones(3, 1, 40, 48)
    valid[0, :, :, 32:] = 0
    found = softmax_loss(class_features(maps, features, valid), weight, tags > 0)
    m, f, w = (t.double().numpy() for t in (maps, features, weight))
    expected = [
        reference_loss(m[0, ..., :4], f[0, ..., :4], w, tags[0].numpy()),
        reference_loss(m[1], f[1], w, tags[1].numpy()),
        0.0,
    ]
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_gradients_go_through_the_maps_to_the_first_classifier(make, batch):
    net = make("recam", warmup=0)
    step = net.step(batch)
    net.terms(step)["recam"].backward()
    assert bool(net.head.weight.grad.any())
    assert bool(net.second.weight.grad.any())


def test_maps_without_evidence_give_finite_gradients():
    maps = torch.full((1, 2, 3, 3), -1.0, requires_grad=True)
    features = torch.ones(1, 4, 3, 3)
    loss = softmax_loss(class_features(maps, features), torch.ones(2, 4), torch.ones(1, 2) > 0)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert bool(torch.isfinite(maps.grad).all())


def test_extracted_maps_have_the_product_of_both_weights(make):
    net = make("recam").eval()
    images = torch.randn(2, 3, 64, 64)
    features = net.features(images).detach().double().numpy()
    weights = net.head.weight.detach().double() * net.second.weight.detach().double()
    expected = np.einsum("cd,ndhw->nchw", weights.numpy()[:, :, 0, 0], features)
    found = net.maps(images).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    first = net.head.weight.detach().double().numpy()[:, :, 0, 0]
    raw = np.einsum("cd,ndhw->nchw", first, features)
    np.testing.assert_allclose(net.raw_maps(images).detach().numpy(), raw, rtol=1e-4, atol=1e-4)
    logits = net.logits(images).detach().numpy()
    np.testing.assert_allclose(logits, raw.mean(axis=(2, 3)), rtol=1e-4, atol=1e-4)


def test_the_second_loss_counts_from_its_epoch_on(make, batch):
    net = make("recam", softmax_weight=2.0, warmup=0.5, training={"epochs": 4, "batch_size": 4})
    seen = []
    for epoch in range(4):
        net.on_epoch_start(epoch)
        seen.append(net.loss(batch)["recam"].item())
    assert seen[0] == seen[1] == 0
    assert seen[2] > 0
    net.weight = 1.0
    assert seen[2] == pytest.approx(2 * net.loss(batch)["recam"].item(), rel=1e-4)


def test_one_class_is_refused_before_training(make):
    with pytest.raises(RecipeError, match="learns nothing from one class"):
        make("recam", num_classes=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inference": {"normalise": "absolute"}}, "maps that are no logits"),
        ({"inference": {"extractor": {"name": "grad_cam_pp"}}}, "would not show"),
        ({"warmup": 1}, "less than 1"),
    ],
)
def test_settings_that_contradict_the_method_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Recam.model_validate(changes)


def test_the_defaults_are_those_of_the_paper() -> None:
    config = Recam()
    assert config.softmax_weight == 1.0
    assert int(config.warmup * 9) == 5  # of 5 + 4 epochs
