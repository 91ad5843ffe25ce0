from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from wsseg.errors import RecipeError
from wsseg.kernels.pamr_config import PamrConfig
from wsseg.kernels.pamr_torch import pamr
from wsseg.localize.inference import class_maps, prepare
from wsseg.localize.tags.toco import Toco
from wsseg.nets.cam_head import Step
from wsseg.nets.toco_losses import (
    class_contrast,
    confidence_labels,
    dense_energy,
    draw_crops,
    patch_contrast,
    refined_labels,
    region_codes,
    stretched_maps,
)
from wsseg.nets.toco_net import _pairs
from wsseg.nets.toco_parts import Projector

VIT = {
    "backbone": "test_vit",
    "output_stride": 16,
    "decoder_width": 8,
    "projector_width": 8,
    "local_crop_px": 32,
    "local_crops": 3,
    "segment_after": 0.5,
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_patch_contrast_agrees_with_its_formula_in_float64():
    features = noise(2, 5, 3, 4)
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(0, 4, (2, 3, 4))]
    f, y = features.double().numpy().reshape(2, 5, -1), labels.numpy().reshape(2, -1)
    same, other = [], []
    for image, i, j in product(range(2), range(12), range(12)):
        if i == j or 255 in (y[image, i], y[image, j]):
            continue
        a, b = f[image, :, i], f[image, :, j]
        cosine = abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
        (same if y[image, i] == y[image, j] else other).append(cosine)
    expected = 0.5 * (1 - sum(same) / (len(same) + 1)) + 0.5 * sum(other) / (len(other) + 1)
    assert patch_contrast(features, labels).item() == pytest.approx(expected, rel=1e-5)


def test_patch_contrast_without_known_pairs_is_a_constant():
    features = noise(1, 4, 2, 2).requires_grad_()
    loss = patch_contrast(features, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0.5
    assert not features.grad.any()


def test_class_contrast_agrees_with_its_formula_in_float64():
    teacher, student = (F.normalize(noise(3, n, 6, seed=n), dim=-1) for n in (2, 5))
    pairs = torch.tensor([[[-1, 1, 1, 0, 0], [1, -1, 0, 0, 1]]] * 3)
    pairs[1] = -1  # an image that does not count
    pairs[2, :, 3:] = 1
    p, q = teacher.double().numpy(), student.double().numpy()
    per_image = []
    for image in (0, 2):
        losses = []
        for view, index in product(range(2), range(5)):
            if pairs[image, view, index] != 1:
                continue
            negatives = [s for s in range(5) if pairs[image, view, s] == 0]
            top = np.exp(p[image, view] @ q[image, index] / 0.5)
            rest = sum(np.exp(p[image, view] @ q[image, s] / 0.5) for s in negatives)
            losses.append(-np.log(top / (top + rest)))
        per_image.append(np.mean(losses))
    found = class_contrast(teacher, student, pairs, temperature=0.5)
    assert found.item() == pytest.approx(np.mean(per_image), rel=1e-5)


def test_class_contrast_without_negatives_or_positives_is_zero_with_finite_gradients():
    student = F.normalize(noise(2, 3, 4), dim=-1).requires_grad_()
    teacher = F.normalize(noise(2, 1, 4, seed=1), dim=-1)
    for value in (1, 0, -1):
        pairs = torch.full((2, 1, 3), value)
        loss = class_contrast(teacher, student, pairs, temperature=0.5)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert bool(torch.isfinite(gradient).all())


def test_views_are_positives_but_not_of_themselves_and_untagged_images_do_not_count():
    found = _pairs(torch.tensor([[True, False], [True, True]]), 2, torch.tensor([True, False]))
    assert found[0].tolist() == [[-1, 1, 1, 0], [1, -1, 1, 0]]
    assert bool((found[1] == -1).all())
    assert _pairs(torch.tensor([[True, False]]), 1, torch.tensor([True])).tolist() == [[[1, 0]]]


def test_the_energy_agrees_with_all_pairs_in_float64():
    logits, images = noise(2, 3, 3, 2), 0.3 * noise(2, 3, 24, 16, seed=1)
    valid = torch.ones(2, 1, 24, 16)
    valid[0, :, 8:] = 0  # the last two rows of cells
    s = logits.double().softmax(1).numpy().reshape(2, 3, 6)
    std = np.array([0.229, 0.224, 0.225])[:, None, None] * 255
    total, weights = 0.0, 0.0
    for image in range(2):
        colours = images[image].double().numpy() * std
        means = colours.reshape(3, 3, 8, 2, 8).mean((2, 4)).reshape(3, 6)
        for i, j in product(range(6), range(6)):
            if i == j or (image == 0 and max(i, j) >= 2):
                continue
            near = (8 * (i // 2 - j // 2)) ** 2 + (8 * (i % 2 - j % 2)) ** 2
            alike = ((means[:, i] - means[:, j]) ** 2).sum() / 15**2
            weight = np.exp(-0.5 * (near / 100**2 + alike))
            weights += weight
            total += weight * (1 - s[image, :, i] @ s[image, :, j])
    found = dense_energy(logits, images, valid)
    assert found.item() == pytest.approx(total / weights, rel=1e-4)


def test_refined_labels_are_those_of_two_refinements_with_a_constant_background():
    images, valid = noise(2, 3, 40, 32), torch.ones(2, 1, 40, 32)
    scores = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(3))
    present = torch.tensor([[True, False, True], [False, False, False]])
    valid[1, :, :, 16:] = 0
    config = PamrConfig(method="par", iterations=3)
    found = refined_labels(
        images, scores, present, valid, limits=(0.55, 0.45), config=config
    ).numpy()
    small = F.avg_pool2d(images, 2)[:1]
    enlarged = F.interpolate(scores[:1, [0, 2]], (20, 16), mode="bilinear")
    answers = []
    for background in (0.55, 0.45):
        every = torch.cat([torch.full((1, 1, 20, 16), background), enlarged], dim=1)
        index = pamr(small, every, config).argmax(1)[0]
        answers.append(np.array([0, 1, 3])[index.numpy()])
    high, low = answers
    expected = np.where(high > 0, high, np.where(low == 0, 0, 255))
    assert set(np.unique(expected)) == {0, 1, 3, 255}
    assert (found[0] == expected).mean() > 0.99  # ties are rounded in another order
    assert (found[1, :, :8] == 0).all()
    assert (found[1, :, 8:] == 255).all()


def test_maps_are_stretched_inside_the_image_only():
    maps = torch.tensor([[[[3.0, 1.0, 9.0], [2.0, -4.0, 9.0]]]])
    valid = torch.ones(1, 1, 2, 3)
    valid[..., 2] = 0
    found = stretched_maps(maps, torch.tensor([[True]]), valid)
    expected = torch.tensor([[[[1.0, 1 / 3, 0.0], [2 / 3, 0.0, 0.0]]]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert stretched_maps(torch.zeros(1, 1, 2, 2), torch.tensor([[True]])).abs().max() == 0


def test_limits_belong_to_the_lower_side():
    scores = torch.tensor([[[[0.25, 0.26, 0.7, 0.71]]]])
    assert confidence_labels(scores, high=0.7, low=0.25).tolist() == [[[0, 255, 255, 1]]]
    assert region_codes(scores, high=0.7, low=0.25).tolist() == [[[0, 1, 1, 2]]]


def test_crops_are_cut_where_the_codes_say_and_their_labels_are_the_mean_codes():
    rows = torch.arange(32.0)[:, None].expand(32, 48)
    columns = torch.arange(48.0)[None].expand(32, 48)
    images = torch.stack([rows, columns])[None].repeat(2, 1, 1, 1)
    codes = torch.zeros(2, 4, 6)
    codes[0, :, 3:] = 2
    codes[1] = 2  # no centre is anything but sure
    torch.manual_seed(0)
    crops, shows = draw_crops(images, codes, None, num_crops=20, side_px=9, max_negative_code=0.2)
    assert crops.shape == (2, 20, 2, 9, 9)
    for image, index in product(range(2), range(20)):
        top, left = crops[image, index, :, 0, 0].long().tolist()
        assert torch.equal(crops[image, index], images[image, :, top : top + 9, left : left + 9])
        mean = F.interpolate(codes[:, None], (32, 48))[image, 0, top : top + 9, left : left + 9]
        assert shows[image, index].item() == (mean.mean().item() > 0.2)
    assert bool((crops[0, :, 1, 4, 4] < 24).all())  # the centres
    assert bool(shows[1].all())


def test_crops_avoid_padding_and_repeat_where_there_are_too_few_places():
    images, valid = noise(1, 1, 20, 40), torch.zeros(1, 1, 20, 40)
    valid[..., :12] = 1
    images[..., 12:] = 100
    settings = {"side_px": 8, "max_negative_code": 0.2}
    torch.manual_seed(0)
    crops, _ = draw_crops(images, torch.zeros(1, 2, 4), valid, num_crops=30, **settings)
    assert bool((crops[:, :, 0, 4, 4] < 50).all())
    few, _ = draw_crops(images[..., :9, :8], torch.zeros(1, 2, 4), None, num_crops=5, **settings)
    assert few.shape == (1, 5, 1, 8, 8)
    with pytest.raises(ValueError, match="no crops of 8"):
        draw_crops(images[..., :7, :], torch.zeros(1, 2, 4), None, num_crops=5, **settings)


def test_the_teacher_follows_slowly_and_has_no_gradient():
    projector = Projector(4, 6, 3, ema=0.9)
    tokens = noise(2, 4).requires_grad_()
    before = projector.get_buffer("teacher_0_weight").clone()
    with torch.no_grad():
        projector.layers[0].weight += 1
    projector.follow()
    after = projector.get_buffer("teacher_0_weight")
    torch.testing.assert_close(after, before + 0.1)
    assert not projector.teacher(tokens).requires_grad
    assert projector(tokens).requires_grad
    torch.testing.assert_close(projector(tokens).norm(dim=-1), torch.ones(2))
    assert {name for name, _ in projector.named_parameters()} == {
        f"layers.{index}.{kind}" for index in (0, 2, 4) for kind in ("weight", "bias")
    }


def test_labels_stop_gradients_to_the_auxiliary_classifier(make, batch):
    net = make("toco", **VIT, max_negative_code=1.0)
    net.on_epoch_start(1)
    terms = net.terms(net.step(batch))
    for name in ("ptc", "ctc", "segmentation", "energy"):
        net.zero_grad()
        terms[name].backward(retain_graph=True)
        assert net.aux_head.weight.grad is None, name
        assert net.head.weight.grad is None, name
        assert net.backbone.trunk.blocks[0].mlp.fc1.weight.grad.any(), name
    net.zero_grad()
    terms["aux"].backward()
    assert net.aux_head.weight.grad.any()
    assert net.backbone.trunk.blocks[5].mlp.fc1.weight.grad is None  # behind the inner block


def test_logits_come_from_pooled_features_and_maps_from_the_same_weights(make):
    net = make("toco", **VIT, maps="cam").eval()
    images = noise(2, 3, 64, 48)
    features = net.features(images).detach().double().numpy()
    weight = net.head.weight.detach().double().numpy()[:, :, 0, 0]
    expected = np.einsum("cd,ndhw->nchw", weight, features)
    np.testing.assert_allclose(net.maps(images).detach(), expected, rtol=1e-4, atol=1e-4)
    logits = np.einsum("cd,nd->nc", weight, features.max((2, 3)))
    np.testing.assert_allclose(net.logits(images).detach(), logits, rtol=1e-4, atol=1e-4)


def test_the_inner_block_is_counted_from_the_last(make):
    net = make("toco", **VIT, maps="aux", aux_layer=-3).eval()
    images = noise(1, 3, 64, 48)
    trunk = net.backbone.trunk
    kept = []
    handle = trunk.blocks[3].register_forward_hook(lambda *given: kept.append(given[2]))
    trunk.forward_features(images)
    handle.remove()
    grid = kept[0][:, 1:].transpose(1, 2).reshape(1, 64, 4, 3)
    torch.testing.assert_close(net.maps(images), net.aux_head(grid))


def test_extracted_maps_are_the_decoders_probabilities_of_classes(make):
    net = make("toco", **VIT).eval()
    images = noise(1, 3, 64, 64)
    maps = net.maps(images)
    probabilities = net.decoder(net.features(images)).softmax(1)
    torch.testing.assert_close(maps, probabilities[:, 1:])
    assert bool((maps.sum(1) < 1).all())


def test_the_decoder_starts_after_the_warm_up_and_changes_its_maps(make, batch):
    training = {"epochs": 10, "batch_size": 4}
    net = make("toco", **VIT | {"segment_after": 0.1}, training=training)
    assert "segmentation" not in net.loss(batch)
    seen = []
    for epoch in range(10):
        net.on_epoch_start(epoch)
        seen.append((net.segments, net.labels_by_final))
    assert seen == [(epoch >= 1, epoch >= 6) for epoch in range(10)]
    assert net.loss(batch).keys() == {
        "loss", "classification", "aux", "ptc", "ctc", "segmentation", "energy",
    }  # fmt: skip


def test_weights_scale_terms_and_zero_leaves_them_out(make, batch):
    def terms(**changes):
        net = make("toco", **VIT | changes)
        net.on_epoch_start(1)
        torch.manual_seed(2)
        return net.loss(batch)

    usual = terms()
    double = terms(ptc_weight=0.4, ctc_weight=1.0, segment_weight=0.2, energy_weight=0.1)
    for name in ("ptc", "ctc", "segmentation", "energy"):
        assert double[name].item() == pytest.approx(2 * usual[name].item(), rel=1e-4), name
    bare = terms(ptc_weight=0, ctc_weight=0, energy_weight=0)
    assert bare.keys() == {"loss", "classification", "aux", "segmentation"}


def test_images_without_any_class_give_finite_losses(make, batch):
    net = make("toco", **VIT)
    net.on_epoch_start(1)
    terms = net.loss(batch | {"tags": torch.zeros(4, 3)})
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert terms["ctc"].item() == 0


def test_images_of_other_sizes_than_the_transformers_are_mapped(make):
    net = make("toco", **VIT | {"output_stride": 8})
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    config = Toco(**VIT).inference.model_copy(update={"scales": (0.5, 1.0, 2.5)})
    scores, probabilities = class_maps(prepare(net, config), image, {2}, config)
    assert scores.class_ids.tolist() == [0, 2]
    assert scores.values[1].max() == pytest.approx(1, abs=1e-3)
    assert probabilities.shape == (3,)


def test_the_attention_of_the_trained_network_can_be_read(make):
    from wsseg.nets.attention import attention_maps

    net = make("toco", **VIT).eval()
    assert attention_maps(net.backbone, noise(1, 3, 64, 48), layers=[-1]).shape == (1, 1, 12, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "test_resnet"}, "tokens of a vision transformer"),
        ({"aux_layer": -1}, "choose 0 to 4, or -6 to -2"),
        ({"aux_layer": 5}, "must come before the last"),
        ({"backbone": "test_vit3"}, "has no class token"),
        ({"regularisers": ["seam"]}, "runs the network in its own way"),
    ],
)
def test_what_cannot_work_is_refused_before_training(changes, message, make):
    with pytest.raises(RecipeError, match=message):
        make("toco", **VIT | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 0.8}, "must be smaller than high"),
        ({"local_crop_px": 512}, "more than augment.crop_px"),
        ({"segment_weight": 0}, "leaves the decoder untrained"),
        ({"inference": {"normalise": "absolute"}}, "maps that are no logits"),
        ({"inference": {"extractor": {"name": "layer_cam"}}}, "would not show"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Toco.model_validate(changes)


def test_passes_of_other_networks_are_no_input(make, batch):
    net = make("toco", **VIT)
    with pytest.raises(TypeError, match="TocoStep"):
        net.terms(Step(batch, *[torch.zeros(1)] * 3))


def test_the_defaults_are_those_of_the_paper():
    config = Toco()
    assert (config.high, config.low, config.aux_layer) == (0.7, 0.25, -3)
    assert (config.ptc_weight, config.ctc_weight) == (0.2, 0.5)
    assert (config.temperature, config.teacher_ema) == (0.5, 0.9)
    assert (config.global_crops, config.local_crops, config.local_crop_px) == (2, 8, 96)
    assert (config.segment_weight, config.energy_weight, config.segment_after) == (0.1, 0.05, 0.1)
    assert (config.pooling.name, config.par.method, config.par.iterations) == ("max", "par", 10)
