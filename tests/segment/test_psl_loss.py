from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.nets.feature_map import FeatureMap
from wsseg.segment.config import Smp
from wsseg.segment.loss_config import LossConfig, PslLoss
from wsseg.segment.losses.prohibitive import classification, mean_features, online_masks, psl
from wsseg.segment.task import SegmenterTask, smp


def reference_masks(
    logits: np.ndarray, image_logits: np.ndarray, tags: np.ndarray
) -> list[np.ndarray]:
    """Label pixel by pixel in float64, by probabilities and their products."""
    masks = []
    for scores, image, known in zip(logits, image_logits, tags, strict=True):
        v = [1.0]
        for value, tag in zip(image, known, strict=True):
            v.append(0.0 if tag == 0 else 1 / (1 + np.exp(-value)))
        mask = np.zeros(scores.shape[1:], int)
        for place in np.ndindex(*mask.shape):
            pixel = scores[(slice(None), *place)]
            probabilities = np.exp(pixel - pixel.max())
            probabilities /= probabilities.sum()
            mask[place] = int(np.argmax(np.array(v) * probabilities))
        masks.append(mask)
    return masks


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 4, (3, 6, 5), generator=generator)
    mask[0, :3] = 255
    valid = torch.ones(3, 6, 5, dtype=torch.bool)
    valid[1, :, 3:] = False
    mask[1, :, 3:] = 255
    tags = torch.tensor([[1, 0, 1], [-1, 0, 1], [-1, -1, -1]])
    return {"mask": mask, "valid": valid, "tags": tags}


@pytest.fixture
def outputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(3, 4, 6, 5, generator=generator)
    return logits, torch.randn(3, 3, generator=generator)


def test_own_labels_agree_with_their_formula_in_float64(batch, outputs):
    logits, image_logits = outputs
    found = online_masks(logits, image_logits, batch["tags"], batch["valid"])
    expected = reference_masks(
        logits.double().numpy(), image_logits.double().numpy(), batch["tags"].numpy()
    )
    expected[1][:, 3:] = 255
    assert np.array_equal(found.numpy(), np.stack(expected))


def test_a_class_that_is_not_tagged_wins_nowhere():
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 2] = 100
    sure = torch.tensor([[9.0, 9.0]])
    assert not (online_masks(logits, sure, torch.tensor([[1, 0]])) == 2).any()
    assert (online_masks(logits, sure, torch.tensor([[1, -1]])) == 2).all()


def test_a_class_that_the_image_hardly_shows_loses_to_the_background():
    logits = torch.log(torch.tensor([0.3, 0.7]))[None, :, None, None]
    tags = torch.tensor([[1]])
    assert online_masks(logits, torch.tensor([[5.0]]), tags).item() == 1
    assert online_masks(logits, torch.tensor([[-1.0]]), tags).item() == 0  # 0.27 * 0.7 < 0.3


def test_the_loss_is_the_sum_of_its_three_terms(batch, outputs):
    logits, image_logits = outputs
    config = PslLoss(online_weight=0.5, classification_weight=2.0)
    found = psl(logits, image_logits, batch, config, progress=1.0)
    log_p = logits.double().log_softmax(dim=1).numpy()
    own = reference_masks(
        logits.double().numpy(), image_logits.double().numpy(), batch["tags"].numpy()
    )
    own[1][:, 3:] = 255

    def mean(masks: np.ndarray) -> float:
        chosen = [
            -log_p[n, masks[n, i, j], i, j]
            for n, i, j in np.ndindex(*masks.shape)
            if masks[n, i, j] != 255
        ]
        return float(np.mean(chosen))

    x = image_logits.double().numpy()
    known = [(0, 0, 1), (0, 1, 0), (0, 2, 1), (1, 1, 0), (1, 2, 1)]
    image = np.mean([np.log1p(np.exp(-x[n, c] if y else x[n, c])) for n, c, y in known])
    expected = mean(batch["mask"].numpy()) + 0.5 * mean(np.stack(own)) + 2 * image
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert found["classification"].item() == pytest.approx(image, rel=1e-5)


def test_own_labels_count_from_their_start_on(batch, outputs):
    config = PslLoss(start_frac=0.5)
    before, after = (psl(*outputs, batch, config, progress) for progress in (0.49, 0.5))
    assert before["online"].item() == 0
    assert after["online"].item() > 0
    total = before["cross_entropy"] + before["classification"]
    torch.testing.assert_close(before["loss"], total)


def test_no_gradient_goes_through_own_labels_to_the_branch(batch, outputs):
    logits, image_logits = (value.requires_grad_() for value in outputs)
    parts = psl(logits, image_logits, batch, PslLoss(), progress=1.0)
    (gradient,) = torch.autograd.grad(
        parts["online"], image_logits, allow_unused=True, retain_graph=True
    )
    assert gradient is None
    # With fixed labels the gradient of a cross-entropy is (S - onehot) / pixels.
    own = online_masks(logits, image_logits, batch["tags"], batch["valid"])
    (found,) = torch.autograd.grad(parts["online"], logits)
    counted = own != 255
    onehot = torch.nn.functional.one_hot(own.clamp(max=3), 4).movedim(-1, 1)
    expected = (logits.softmax(dim=1) - onehot) * counted[:, None] / counted.sum()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_unknown_tags_teach_the_branch_nothing():
    image_logits = torch.randn(2, 3, requires_grad=True)
    loss = classification(image_logits, torch.full((2, 3), -1))
    loss.backward()
    assert loss.item() == 0
    assert not bool(image_logits.grad.any())


def test_features_are_averaged_over_what_is_shown():
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    view, valid = torch.zeros(1, 2, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool)
    assert mean_features(FeatureMap(values, (16, 16)), view).item() == pytest.approx(7.5)
    valid[:, :, 8:] = False
    shown = mean_features(FeatureMap(values, (16, 16)), view, valid)
    assert shown.item() == pytest.approx(float(values[..., :2].mean()))
    padding = torch.zeros(1, 16, 16, dtype=torch.bool)
    assert mean_features(FeatureMap(values, (16, 16)), view, padding).item() == 0


def small_task(loss: LossConfig | PslLoss) -> SegmenterTask:
    torch.manual_seed(0)
    config = Smp(architecture="unet", encoder="tu-test_resnet", weights="none", loss=loss)
    return smp(config=config, num_classes=3)


def test_every_parameter_of_the_segmenter_learns():
    task = small_task(PslLoss())
    batch = {
        "image": torch.randn(2, 3, 32, 32),
        "mask": torch.randint(0, 4, (2, 32, 32)),
        "tags": torch.tensor([[1, 0, 1], [0, 1, 0]]),
    }
    parts = task.loss(batch)
    assert parts.keys() == {"loss", "cross_entropy", "online", "classification"}
    parts["loss"].backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
    assert task.branch is not None
    assert {id(p) for p in task.branch.parameters()} <= {id(p) for p in task.head_parameters()}


def test_other_losses_have_no_branch():
    names = small_task(LossConfig()).state_dict()
    assert not [name for name in names if name.startswith("branch")]


def test_a_network_without_features_is_refused():
    with pytest.raises(RecipeError, match="does not give its features"):
        SegmenterTask(nn.Conv2d(3, 4, 1), PslLoss(), 3)


def test_the_loss_asks_for_tags_and_padding() -> None:
    config = Smp.model_validate({"loss": {"name": "psl"}}).loss
    assert isinstance(config, PslLoss)
    assert config.needs_tags
    assert config.needs_valid
    assert (config.online_weight, config.start_frac) == (1.0, 0.0)
