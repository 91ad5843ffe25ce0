from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsseg.errors import RecipeError
from wsseg.localize.inference import class_maps
from wsseg.localize.regularise import seam_losses as losses
from wsseg.localize.regularise.seam import Seam
from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet

Array = np.ndarray


# The reference: the sheet's steps in NumPy and float64, row 0 being the background throughout.


def corners_resize(maps: Array, size: tuple[int, int]) -> Array:
    """Bilinear with corners on corners, (N, K, h, w) to (N, K, *size)."""

    def matrix(old: int, new: int) -> Array:
        weights = np.zeros((new, old))
        for place in range(new):
            x = place * (old - 1) / max(1, new - 1) if new > 1 else 0.0
            low = min(int(np.floor(x)), old - 1)
            high = min(low + 1, old - 1)
            weights[place, low] += 1 - (x - low)
            weights[place, high] += x - low
        return weights

    rows, columns = matrix(maps.shape[2], size[0]), matrix(maps.shape[3], size[1])
    return np.einsum("ah,nkhw,bw->nkab", rows, maps, columns)


def max_norm(maps: Array, e: float = 1e-5) -> Array:
    p = np.maximum(maps, 0)
    low, high = p.min(axis=(2, 3), keepdims=True), p.max(axis=(2, 3), keepdims=True)
    return np.maximum(p - low - e, 0) / (high - low + e)


def max_onehot(maps: Array) -> Array:
    kept = maps.copy()
    highest = kept[:, 1:].max(axis=1)
    for row in range(1, maps.shape[1]):
        kept[:, row][kept[:, row] != highest] = 0
    return kept


def reference_terms(cams: list[Array], refined: list[Array], tags: Array) -> dict[str, float]:
    """Terms from raw maps (with an unused row 0) and refined maps at the sizes of the views."""
    y = np.concatenate([np.ones((len(tags), 1)), tags], axis=1)[:, :, None, None]
    size = cams[1].shape[2:]
    rvmin = 0.0
    for one in refined:
        strongest = (one * y)[:, 1:].max(axis=1).reshape(len(tags), -1)
        count = strongest.shape[1] // 4
        lowest = np.sort(strongest, axis=1)[:, :count]
        rvmin += np.maximum(lowest, 0).sum() / (count * len(tags)) / 2
    c1 = corners_resize(max_norm(cams[0]), size) * y
    r1 = corners_resize(max_norm(refined[0]), size) * y
    c2, r2 = max_norm(cams[1]) * y, max_norm(refined[1]) * y
    er = np.abs(c1[:, 1:] - c2[:, 1:]).mean()
    c1[:, 0], c2[:, 0] = 1 - c1[:, 1:].max(axis=1), 1 - c2[:, 1:].max(axis=1)
    ecr = 0.0
    for teacher, pupil in ((c2, r1), (c1, r2)):
        errors = np.abs(max_onehot(teacher) - pupil).reshape(len(tags), -1)
        count = int(errors.shape[1] * 0.2)
        ecr += np.sort(errors, axis=1)[:, ::-1][:, :count].mean()
    return {"seam_er": er, "seam_ecr": ecr, "seam_rvmin": rvmin}


def with_unused_row(maps: torch.Tensor) -> Array:
    array = maps.detach().double().numpy()
    return np.concatenate([np.full_like(array[:, :1], 3.0), array], axis=1)


def test_the_terms_are_those_of_the_sheet_in_float64(make_net, batch):
    net = make_net("seam")
    step = net.step(batch)
    found = net.regularisers[0].terms(net, step)
    large, small = step.views
    cams = [with_unused_row(view.maps) for view in step.views]
    refined = [
        corners_resize(view.refined.detach().double().numpy(), tuple(view.maps.shape[2:]))
        for view in step.views
    ]
    expected = reference_terms(cams, refined, batch["tags"].numpy())
    assert large.maps.shape[2:] == (64, 64)
    assert small.maps.shape[2:] == (19, 19)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


def test_the_second_view_is_the_image_made_smaller(make_net, batch):
    net = make_net("seam", num_classes=2).eval()
    tags = batch["tags"][:, :2]
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    step = net.step({**batch, "tags": tags})
    smaller = corners_resize(batch["image"].double().numpy(), (19, 19))
    alone = net.raw_maps(torch.from_numpy(smaller).float())
    torch.testing.assert_close(step.views[1].cells, alone, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(step.maps, step.views[0].cells)


def test_both_views_classify_on_maps_enlarged_to_the_image(make_net, batch):
    net = make_net("seam")
    batch = {name: value for name, value in batch.items() if name != "valid"}
    step = net.step(batch)
    tags = batch["tags"].double()
    expected = 0.0
    for view in step.views:
        size = tuple(view.maps.shape[2:])
        maps = corners_resize(view.cells.detach().double().numpy(), size)
        logits = torch.from_numpy(maps.mean(axis=(2, 3)))
        expected += F.multilabel_soft_margin_loss(logits, tags).item() / 2
    assert step.logits.shape == (8, 3)
    assert net.classification(step).item() == pytest.approx(expected, rel=1e-5)


def test_padding_does_not_count_in_the_logits(make_net, batch):
    net = make_net("seam")
    step = net.step(batch)
    maps = step.views[0].maps
    torch.testing.assert_close(step.logits[1], maps[1, :, :, :40].mean(dim=(1, 2)))
    small = step.views[1].maps
    shown = F.interpolate(batch["valid"], size=(19, 19), mode="nearest-exact")[1, 0, 0] > 0
    assert 0 < int(shown.sum()) < 19
    torch.testing.assert_close(step.logits[5], small[1][:, :, shown].mean(dim=(1, 2)))


def test_evidence_is_normalised_by_its_maximum_and_one_class_per_cell() -> None:
    maps = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    found = losses.evidence(maps.requires_grad_(True))
    assert not found.requires_grad
    a = np.maximum(maps.detach().double().numpy(), 0)
    a = np.maximum(a - 1e-5, 0) / (a.max(axis=(2, 3), keepdims=True) + 1e-5)
    full = np.concatenate([1 - a.max(axis=1, keepdims=True), a], axis=1)
    np.testing.assert_allclose(found.numpy(), max_onehot(full), rtol=0, atol=1e-6)


def test_stretched_maps_by_hand() -> None:
    maps = torch.tensor([[[[2.0, 4.0, 3.0]], [[-5.0, -1.0, 2.0]], [[7.0, 7.0, 7.0]]]])
    rows = losses.stretched(maps)[0, :, 0].tolist()
    assert rows[0] == pytest.approx([0, 1, 0.5], abs=2e-5)
    # Rectified before the minimum is taken, so that the lowest is 0.
    assert rows[1] == pytest.approx([0, 0, 1], abs=2e-5)
    assert rows[2] == [0, 0, 0]


def test_cross_regularisation_by_hand() -> None:
    raw = torch.tensor([[[[0.9, 0.2]], [[0.4, 0.3]]]])
    # Background 0.1 and 0.7; best foreground 0.9 of class 1, and 0.3 of class 2.
    refined = torch.tensor([[[[0.0, 0.5]], [[0.5, 0.0]], [[0.0, 0.9]]]])
    errors = [0.1, 0.2, 0.4, 0.0, 0.0, 0.6]
    assert losses.cross_regularisation(raw, refined, 1.0).item() == pytest.approx(sum(errors) / 6)
    assert losses.cross_regularisation(raw, refined, 0.34).item() == pytest.approx(0.5)
    assert losses.cross_regularisation(raw, refined, 0.01).item() == pytest.approx(0.6)


def test_the_lowest_quarter_by_hand() -> None:
    refined = torch.tensor([[[[0.1, -0.2, 0.3, 0.9]], [[0.6, 0.6, 0.6, 0.6]]]])
    assert losses.lowest_quarter(refined, torch.tensor([[1.0, 0.0]])).item() == 0
    assert losses.lowest_quarter(refined, torch.ones(1, 2)).item() == pytest.approx(0.6)


def gradients_of(net: ClassMapNet, term: torch.Tensor) -> dict[str, bool]:
    net.zero_grad(set_to_none=True)
    term.backward(retain_graph=True)
    parts = {"head": net.head, "backbone": net.backbone, "correlation": net.extras["seam"]}
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in parts.items()
    }


def test_gradients_stop_where_the_method_stops_them(make_net, batch):
    net = make_net("seam")
    terms = net.regularisers[0].terms(net, net.step(batch))
    raw_only = {"head": True, "backbone": True, "correlation": False}
    refined_only = {"head": False, "backbone": False, "correlation": True}
    assert gradients_of(net, terms["seam_er"]) == raw_only
    assert gradients_of(net, terms["seam_ecr"]) == refined_only
    assert gradients_of(net, terms["seam_rvmin"]) == refined_only


def test_teaching_does_not_change_the_teacher() -> None:
    """The released code writes into the maps that it teaches with; here they stay."""
    raw = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    kept = raw.detach().clone()
    refined = torch.rand(2, 4, 4, 4, requires_grad=True)
    losses.cross_regularisation(raw, refined, 0.2).backward()
    assert torch.equal(raw.detach(), kept)
    assert raw.grad is None


def test_weights_scale_terms_and_zero_leaves_them_out(make_net, batch):
    net = make_net({"name": "seam", "er_weight": 2, "ecr_weight": 3, "rvmin_weight": 4})
    plain = make_net("seam")
    found, expected = (one.regularisers[0].terms(one, one.step(batch)) for one in (net, plain))
    for name, factor in (("seam_er", 2), ("seam_ecr", 3), ("seam_rvmin", 4)):
        torch.testing.assert_close(found[name], factor * expected[name])
    none = make_net({"name": "seam", "er_weight": 0, "ecr_weight": 0, "rvmin_weight": 0})
    assert none.regularisers[0].terms(none, none.step(batch)) == {}


def test_a_trained_network_gives_refined_maps_and_raw_logits(make_net, batch):
    net = make_net("seam").eval()
    images = batch["image"]
    maps, logits = net.maps_and_logits(images)
    step = net.step({"image": images})
    assert len(step.views) == 1
    evidence = losses.evidence(net.head(net.features(images)))
    expected = net.extras["seam"](evidence, images, _laterals(net, images))[:, 1:]
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(net.maps(images), expected)
    enlarged = F.interpolate(
        net.raw_maps(images), size=(64, 64), mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(logits, enlarged.mean(dim=(2, 3)))
    torch.testing.assert_close(net.logits(images), logits)
    assert bool((maps >= 0).all())
    assert bool((maps <= 1).all())


def _laterals(net: ClassMapNet, images: torch.Tensor) -> list[torch.Tensor]:
    from wsseg.nets.pixel_correlation import lateral_modules, run_with_laterals

    return run_with_laterals(net.backbone, images, lateral_modules(net.backbone))[1]


def test_scores_of_an_image_come_from_the_refined_maps(make_net, config):
    net = make_net("seam").eval()
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    scores, probabilities = class_maps(net, image, [1, 3], config("seam").inference)
    assert scores.class_ids.tolist() == [0, 1, 3]
    assert scores.values[1:].min() == 0
    assert scores.values[1:].max() == pytest.approx(1, abs=1e-2)
    plain = ClassMapNet(net.backbone, 3, dropout=0.0).eval()
    plain.head = net.head
    raw, expected = class_maps(plain, image, [1, 3], config().inference)
    assert not np.allclose(raw.values, scores.values, atol=0.05)
    np.testing.assert_allclose(probabilities, expected, atol=0.02)


def test_soft_tags_count_as_present(make_net, batch):
    net = make_net("seam")
    step = net.step(batch)
    soft = {**batch, "tags": batch["tags"] * 0.3}
    from dataclasses import replace

    found = net.regularisers[0].terms(net, replace(step, batch=soft))
    expected = net.regularisers[0].terms(net, step)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_localizer_of_another_kind_is_refused(config):
    from wsseg.localize.regularise.attach import attach

    class Other(ClassMapNet):
        pass

    with pytest.raises(RecipeError, match="runs the network in its own way"):
        attach(Other(build_backbone("test_resnet"), 2), config("seam"))


@pytest.mark.parametrize(
    "inference",
    [{"extractor": {"name": "grad_cam"}}, {"normalise": "absolute"}],
)
def test_extractors_that_would_not_see_the_refined_maps_are_refused(inference, make_net):
    with pytest.raises(RecipeError, match="needs extractor cam"):
        make_net("seam", inference=inference)


def test_a_pass_of_another_object_is_a_bug(make_net, batch):
    net, plain = make_net("seam"), make_net()
    step = plain.step(batch)
    with pytest.raises(TypeError, match="Expected a SeamStep"):
        net.regularisers[0].terms(net, step)
    with pytest.raises(TypeError, match="Expected a SeamStep"):
        net.regularisers[0].refined(net, step)


def test_the_defaults_are_those_of_the_released_code() -> None:
    config = Seam()
    assert config.scale == 0.3
    assert config.hard_fraction == 0.2
    assert (config.er_weight, config.ecr_weight, config.rvmin_weight) == (1, 1, 1)


def test_half_precision_stays_close(make_net, batch):
    net = make_net("seam").eval().requires_grad_(False)
    exact = net.maps(batch["image"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net.maps(batch["image"])
    assert rough.dtype == torch.float32
    assert float((rough - exact).abs().mean()) < 0.05
    assert bool(torch.isfinite(net.bfloat16().maps(batch["image"].bfloat16())).all())
