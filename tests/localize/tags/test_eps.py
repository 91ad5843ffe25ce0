from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.localize.cue_maps import SAYS_NOTHING
from wsseg.localize.inference import class_maps, prepare
from wsseg.localize.tags.eps import Eps
from wsseg.nets.eps_head import coverage, estimated_saliency, saliency_loss
from wsseg.recipe import load_recipe

TAU, MIX = 0.4, 0.7


def softmax(cells: np.ndarray) -> np.ndarray:
    odds = np.exp(cells - cells.max(axis=0))
    return odds / odds.sum(axis=0)


def reference_estimate(p: np.ndarray, s: np.ndarray, tags: set[int]) -> tuple[np.ndarray, set]:
    """Follow the published steps in float64 with plain loops; classes from 0, background last."""
    num_classes = len(p) - 1
    foreground = set()
    for c in sorted(tags):
        both = claimed = 0.0
        for u in np.ndindex(s.shape):
            claimed += float(np.rint(p[c][u]))
            both += float(np.rint(p[c][u]) * np.rint(s[u]))
        if both / (claimed + 1e-4) > TAU:
            foreground.add(c)
    estimate = np.zeros_like(s)
    for u in np.ndindex(s.shape):
        m_fg = sum(p[c][u] for c in foreground)
        m_bg = sum(p[c][u] for c in tags - foreground) + p[num_classes][u]
        estimate[u] = MIX * m_fg + (1 - MIX) * (1 - m_bg)
    return estimate, foreground


def random_case(seed: int, sharpness: float = 4.0):
    rng = np.random.default_rng(seed)
    cells = rng.normal(scale=sharpness, size=(5, 6, 7))
    saliency = np.clip(rng.normal(0.5, 0.5, (6, 7)), 0, 1)
    tags = {c for c in range(4) if rng.random() < 0.6} or {1}
    return cells, saliency, tags


def tensors(cells, saliency, tags):
    present = torch.tensor([[c in tags for c in range(len(cells) - 1)]])
    return torch.tensor(cells)[None], torch.tensor(saliency)[None, None], present


@pytest.mark.parametrize("seed", range(12))
def test_the_estimated_saliency_is_that_of_the_published_steps(seed):
    cells, saliency, tags = random_case(seed)
    p = softmax(cells)
    expected, _ = reference_estimate(p, saliency, tags)
    _, s, present = tensors(cells, saliency, tags)
    found = estimated_saliency(torch.tensor(p)[None], s, present, tau=TAU, mix=MIX)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-12)


def test_the_cases_above_have_classes_of_both_kinds():
    kinds = []
    for seed in range(12):
        cells, saliency, tags = random_case(seed)
        _, foreground = reference_estimate(softmax(cells), saliency, tags)
        kinds += [c in foreground for c in tags]
    assert {True, False} == set(kinds)


@pytest.mark.parametrize("seed", range(6))
def test_the_loss_is_the_mean_squared_error_on_the_grid(seed):
    cells, saliency, tags = random_case(seed)
    raw, _, present = tensors(cells, saliency, tags)
    # Each cell covers 4 x 3 pixels, of which the first one counts (the nearest neighbour).
    fine = np.repeat(np.repeat(saliency, 4, axis=0), 3, axis=1)
    fine[1::4] = 0.123
    fine[:, 2::3] = 0.9
    batch = {"saliency": torch.tensor(fine)[None, None].float(), "tags": present.float()}
    estimate, _ = reference_estimate(softmax(cells), saliency, tags)
    found = saliency_loss(raw.float(), batch, tau=TAU, mix=MIX)
    assert found.item() == pytest.approx(((estimate - saliency) ** 2).mean(), abs=1e-6)


def test_coverage_is_a_share_of_the_map_and_not_an_overlap_of_both():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, :1, :2] = 0.9  # all of it inside of a larger salient area
    maps[0, 1] = 0.51  # larger than the salient area
    saliency = torch.zeros(1, 1, 4, 4)
    saliency[0, 0, :2] = 0.8
    found = coverage(maps, saliency)
    torch.testing.assert_close(found, torch.tensor([[2 / 2.0001, 8 / 16.0001]]))


def test_the_maps_learn_but_their_assignment_does_not():
    """The gradient is that of the formula with the assignment written down as a constant."""
    cells, saliency, tags = random_case(3)
    _, foreground = reference_estimate(softmax(cells), saliency, tags)
    raw, s, present = tensors(cells, saliency, tags)
    raw.requires_grad_()
    batch = {"saliency": s.float(), "tags": present.float()}
    saliency_loss(raw, batch, tau=TAU, mix=MIX).backward()
    fixed = torch.tensor(cells)[None].requires_grad_()
    p = fixed.softmax(dim=1)[0]
    m_fg = sum((p[c] for c in foreground), torch.zeros(6, 7))
    m_bg = sum((p[c] for c in tags - foreground), torch.zeros(6, 7)) + p[4]
    estimate = MIX * m_fg + (1 - MIX) * (1 - m_bg)
    (estimate - torch.tensor(saliency)).square().mean().backward()
    torch.testing.assert_close(raw.grad, fixed.grad, rtol=1e-4, atol=1e-7)
    p = fixed.softmax(dim=1).detach().requires_grad_()
    assert not coverage(p, s).requires_grad


def test_absent_classes_are_in_neither_set():
    p = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1)
    one = torch.ones(1, 1, 1, 1)
    present = torch.tensor([[True, False]])
    # The first class reaches a half nowhere, so it is background; the second counts nowhere.
    found = estimated_saliency(p, one, present, tau=TAU, mix=MIX)
    assert found.item() == pytest.approx((1 - MIX) * (1 - 0.2 - 0.3))


def case_batch():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(3, 4, 8, 8, generator=generator) * 3
    saliency = torch.rand(3, 1, 64, 64, generator=generator)
    tags = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0]])
    return cells, {"saliency": saliency, "tags": tags}


def test_images_of_which_the_cue_says_nothing_leave_no_gradient():
    cells, batch = case_batch()
    batch["saliency"][1] = SAYS_NOTHING
    batch["saliency"][1, :, :, 40:] = 0  # padding
    cells.requires_grad_()
    loss = saliency_loss(cells, batch, tau=TAU, mix=MIX)
    loss.backward()
    assert not cells.grad[1].any()
    assert cells.grad[0].any()
    kept = {key: value[[0, 2]] for key, value in batch.items()}
    expected = saliency_loss(cells[[0, 2]], kept, tau=TAU, mix=MIX)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_that_teaches_nothing_costs_nothing():
    cells, batch = case_batch()
    cells.requires_grad_()
    batch["saliency"][:] = SAYS_NOTHING
    loss = saliency_loss(cells, batch, tau=TAU, mix=MIX)
    loss.backward()
    assert loss.item() == 0
    assert not cells.grad.any()


def test_a_crop_without_anything_salient_still_teaches_background():
    """The map of the image says something; that this crop shows none of it is knowledge, too."""
    cells, batch = case_batch()
    batch["saliency"][:] = 0
    cells.requires_grad_()
    saliency_loss(cells, batch, tau=TAU, mix=0.5).backward()
    assert (cells.grad[:, 3].mean(dim=(1, 2)) < 0).all()


def test_images_without_a_class_do_not_learn_what_stands_out_in_them():
    cells, batch = case_batch()
    batch["tags"][2] = 0
    cells.requires_grad_()
    saliency_loss(cells, batch, tau=TAU, mix=MIX).backward()
    assert not cells.grad[2].any()


def test_padding_does_not_count():
    cells, batch = case_batch()
    valid = torch.ones(3, 1, 64, 64)
    valid[:, :, :, 32:] = 0
    batch["saliency"] = batch["saliency"] * valid
    found = saliency_loss(cells, {**batch, "valid": valid}, tau=TAU, mix=MIX)
    cropped = {**batch, "saliency": batch["saliency"][..., :32]}
    expected = saliency_loss(cells[..., :4], cropped, tau=TAU, mix=MIX)
    torch.testing.assert_close(found, expected)


def test_the_head_has_a_background_map_that_tags_do_not_train(make):
    net = make("eps", head_bias=True)
    assert net.head.out_channels == 4
    images = torch.randn(2, 3, 64, 64)
    batch = {"image": images, "tags": torch.ones(2, 3), "saliency": torch.rand(2, 1, 64, 64)}
    terms = net.terms(net.step(batch))
    terms["classification"].backward(retain_graph=True)
    assert not net.head.weight.grad[3].any()
    terms["saliency"].backward()
    assert net.head.weight.grad[3].any()
    with pytest.raises(ValueError, match="`saliency`"):
        net.loss({"image": images, "tags": torch.ones(2, 3)})


def test_extracted_maps_are_the_softmax_over_classes_and_background(make):
    net = make("eps").eval()
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        cells = net.head(net.features(images))
        torch.testing.assert_close(net.maps(images), cells.softmax(dim=1)[:, :3])
        torch.testing.assert_close(net.logits(images), cells[:, :3].mean(dim=(2, 3)))


def test_maps_are_softmaxed_at_every_scale_by_itself(make):
    """Sum over scales of the softmax, divided by the maximum of each class."""
    config = Eps.model_validate(
        {"inference": {"scales": [0.5, 1.0], "flip": False, "map_stride_px": 8}}
    ).inference
    net = make("eps").eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    scores, _ = class_maps(prepare(net, config), image, {1, 3}, config)
    total = torch.zeros(2, 8, 8)
    import cv2

    from wsseg.data.colour import normalise

    for side in (32, 64):
        small = image if side == 64 else cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
        with torch.no_grad():
            maps = net.maps(torch.from_numpy(normalise(small, 3))[None])[:, [0, 2]]
        total += torch.nn.functional.interpolate(maps, size=(8, 8), mode="bilinear")[0]
    expected = total / 2
    expected = expected / (expected.amax(dim=(1, 2), keepdim=True) + 1e-5)
    np.testing.assert_allclose(scores.values[1:], expected.numpy(), atol=2e-3)


# --- settings ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cue": None}, "cue is null"),
        ({"cue": "rdb"}, 'Did you mean "rbd"'),
        ({"regularisers": ["cutmix"]}, "cutmix, which mixes images"),
        ({"inference": {"extractor": {"name": "grad_cam"}}}, "makes maps of its own"),
        ({"inference": {"normalise": "absolute"}}, "maps that are no logits"),
    ],
)
def test_contradicting_settings_are_refused(changes, message, settings):
    with pytest.raises(ValueError, match=message):
        settings("eps", **changes)


def test_the_shipped_recipe_names_its_extra_supervision():
    recipe = load_recipe("eps", ["localize.cue={name: folder, path: maps}"])
    assert recipe.supervision == "I+S"
    assert recipe.localize.cue.path == "maps"
    assert (recipe.localize.tau, recipe.localize.mix) == (0.4, 0.5)


def test_every_trainable_parameter_learns_with_regularisers_beside(make):
    names = ["hide_and_seek", "spatial_dropout", "puzzle_cam", "oc_cse"]
    net = make("eps", regularisers=names)
    if hasattr(net, "on_epoch_start"):
        net.on_epoch_start(1)
    torch.manual_seed(0)
    tags = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    batch = {"image": torch.randn(2, 3, 64, 64), "tags": tags}
    terms = net.loss(batch | {"saliency": torch.rand(2, 1, 64, 64)})
    torch.testing.assert_close(terms.pop("loss"), sum(terms.values()))
    assert {"classification", "saliency", "puzzle_cam_match"} <= set(terms)
    sum(terms.values()).backward()
    for key, parameter in net.named_parameters():
        frozen = "oc_cse" in key
        assert frozen or parameter.grad is not None, key


def test_seam_cannot_be_added(make):
    from wsseg.errors import RecipeError

    with pytest.raises(RecipeError, match="does not allow"):
        make("eps", regularisers=["seam"])
