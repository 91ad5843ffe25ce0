from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wsseg.context import RunContext
from wsseg.cues.peaks import map_peaks
from wsseg.cues.protocol import CueInputs
from wsseg.cues.segments import Segments, open_segments
from wsseg.cues.segments_folder import LabelMapSegments
from wsseg.data.colour import normalise
from wsseg.data.scores import load_scores
from wsseg.errors import RecipeError
from wsseg.localize.regularise.s2c_losses import contrast_loss, prompted_loss, summed_maps
from wsseg.localize.regularise.s2c_targets import PeakRule, crop_pixels, prompted_classes
from wsseg.localize.stage import localize
from wsseg.rundir import StageDir


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate (..., h, w) with cell centres in the middle, in float64."""
    for axis, side in ((-2, size[0]), (-1, size[1])):
        length = maps.shape[axis]
        at = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, length - 1)
        shape = [1] * maps.ndim
        shape[axis] = side
        share = (at - low).reshape(shape)
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


def reference_contrast(features, ids, temperature, stride, means=None):
    """The contrast of segments, pixel by pixel in float64; `means` fixes the prototypes."""
    losses, made = [], []
    for one, numbers in zip(features, ids, strict=True):
        large = enlarged(one, numbers.shape)[:, stride // 2 :: stride, stride // 2 :: stride]
        numbers = numbers[stride // 2 :: stride, stride // 2 :: stride]
        unit = large / np.linalg.norm(large, axis=0)
        present = sorted(set(numbers[numbers > 0].tolist()))
        if means is None:
            own = [unit[:, numbers == n].mean(axis=1) for n in present]
            prototypes = np.array([mean / np.linalg.norm(mean) for mean in own])
        else:
            prototypes = means[len(made)]
        made.append(prototypes)
        for y, x in np.argwhere(numbers > 0):
            logits = temperature * prototypes @ unit[:, y, x]
            losses.append(np.log(np.exp(logits).sum()) - logits[present.index(numbers[y, x])])
    return np.mean(losses), made


def contrast_case():
    rng = np.random.default_rng(0)
    ids = np.zeros((2, 8, 12), np.int64)
    ids[0, :5, :7], ids[0, 3:, 5:], ids[1, 2:6, 3:9], ids[1, :2] = 300, 7, 2, 90_000
    return rng.normal(size=(2, 5, 2, 3)), ids


@pytest.mark.parametrize(("temperature", "stride"), [(1.0, 1), (2.5, 1), (1.0, 3)])
def test_the_contrast_of_segments_agrees_with_its_formula_in_float64(temperature, stride):
    features, ids = contrast_case()
    found = contrast_loss(
        torch.from_numpy(features).float(), torch.from_numpy(ids[:, None]), temperature, stride
    )
    expected, _ = reference_contrast(features, ids, temperature, stride)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_no_gradient_goes_through_the_means_of_segments():
    features, ids = contrast_case()
    leaf = torch.from_numpy(features).float().requires_grad_()
    contrast_loss(leaf, torch.from_numpy(ids[:, None])).backward()
    _, means = reference_contrast(features, ids, 1.0, 1)
    moved = []
    for sign in (1, -1):
        changed = features.copy()
        changed[0, 2, 1, 1] += sign * 1e-5
        moved.append(reference_contrast(changed, ids, 1.0, 1, means)[0])
    assert leaf.grad[0, 2, 1, 1].item() == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-3)


def unfolded_contrast(features, ids, temperature, stride):
    """The contrast of segments on features that are enlarged first, the published way."""
    total, count = features.sum() * 0, 0
    for one, numbers in zip(features, ids[:, 0], strict=True):
        large = F.interpolate(one[None], numbers.shape, mode="bilinear", align_corners=False)[0]
        large = large[:, stride // 2 :: stride, stride // 2 :: stride]
        numbers = numbers[stride // 2 :: stride, stride // 2 :: stride]
        unit = F.normalize(large, dim=0)[:, numbers > 0].T
        segments, members = torch.unique(numbers[numbers > 0], return_inverse=True)
        is_member = members == torch.arange(len(segments))[:, None]
        means = F.normalize(is_member.to(unit) @ unit.detach(), dim=1)
        total = total + F.cross_entropy(temperature * unit @ means.T, members, reduction="sum")
        count += len(members)
    return total / count


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize(
    ("grid", "size", "stride"),
    [((6, 5), (48, 43), 1), ((3, 8), (50, 64), 2), ((1, 7), (9, 30), 3), ((12, 9), (8, 9), 1)],
)
def test_loss_and_gradient_are_those_of_enlarged_features(grid, size, stride, rectified):
    maker = torch.Generator().manual_seed(4)
    features = torch.randn(2, 16, *grid, generator=maker, dtype=torch.float64)
    if rectified:
        features = features.relu()
        features[0, :, :, -1] = 0  # cells without any feature, as in padding
    ids = torch.randint(0, 9, (2, 1, *size), generator=maker)
    slow = features.clone().requires_grad_()
    expected = unfolded_contrast(slow, ids, 1.5, stride)
    expected.backward()
    fast = features.float().requires_grad_()
    found = contrast_loss(fast, ids, 1.5, stride)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    # Where there is no feature, the gradient of a length is none, and nothing rectified learns.
    learns = features > 0 if rectified else torch.ones_like(features, dtype=torch.bool)
    scale = slow.grad[learns].abs().max()
    assert (fast.grad - slow.grad)[learns].abs().max() < 1e-4 * scale
    assert fast.grad.isfinite().all()


def test_neighbours_of_opposite_features_have_lengths_without_rounding_noise():
    """Between cells of a and -a (1 + 1e-3) features nearly vanish; their direction counts."""
    features = torch.randn(1, 8, 1, 2, generator=torch.Generator().manual_seed(5))
    features[..., 1] = -features[..., 0] * (1 + 1e-3)
    ids = torch.tensor([1, 1, 2, 2, 2, 3, 3, 3])[None, None, None]
    found = contrast_loss(features, ids)
    expected = unfolded_contrast(features.double(), ids, 1.0, 1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


def test_pixels_in_no_segment_and_images_of_one_segment_teach_nothing():
    features = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    none = contrast_loss(features, torch.zeros(2, 1, 9, 9, dtype=torch.int32))
    none.backward()
    assert none.item() == 0
    assert not features.grad.any()
    one = contrast_loss(features, torch.ones(2, 1, 9, 9, dtype=torch.int32))
    assert one.item() == pytest.approx(0, abs=1e-6)


def reference_prompted(maps, tags, targets):
    losses = []
    for one, present, wanted in zip(maps, tags, targets, strict=True):
        rectified = np.maximum(one, 0)
        rectified = rectified / (rectified.max(axis=(1, 2), keepdims=True) + 1e-5)
        large = enlarged(rectified, wanted.shape) * present[:, None, None]
        logits = np.concatenate([large, 1 - large.max(axis=0, keepdims=True)])
        for y, x in np.argwhere(wanted >= 0):
            column = logits[:, y, x]
            losses.append(np.log(np.exp(column).sum()) - column[wanted[y, x]])
    return np.mean(losses)


def test_the_loss_on_prompted_classes_agrees_with_its_formula_in_float64():
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, 3, 4, 5))
    tags = np.array([[1, 0, 1], [0, 1, 0]])
    targets = rng.integers(-1, 4, (2, 8, 10))
    leaf = torch.from_numpy(maps).float().requires_grad_()
    found = prompted_loss(leaf, torch.from_numpy(tags), torch.from_numpy(targets))
    assert found.item() == pytest.approx(reference_prompted(maps, tags, targets), rel=1e-5)
    found.backward()
    # Absent classes, and what is negative, learn nothing.
    assert not leaf.grad[0, 1].any()
    assert not leaf.grad[leaf < 0].any()
    assert leaf.grad[0, 0].any()
    ignored = torch.full((2, 8, 10), -1)
    assert prompted_loss(leaf, torch.from_numpy(tags), ignored).item() == 0


def test_padding_neither_scales_the_maps_nor_gets_a_gradient():
    """A high map value on padding changes nothing: against the same maps without it."""
    maps = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 1, 8, 8)
    valid[..., 4:] = 0
    targets = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(1))
    tags = torch.ones(1, 2)
    wild, zero = maps.clone(), maps.clone()
    wild[..., 2:], zero[..., 2:] = 50.0, 0.0
    leaf = wild.requires_grad_()
    loss = prompted_loss(leaf, tags, targets, valid)
    loss.backward()
    assert loss.item() == pytest.approx(prompted_loss(zero, tags, targets).item())
    assert not leaf.grad[..., 2:].any()
    assert leaf.grad[..., :2].any()


class Prepared:
    """Answers that were prepared, in the order of the prompts; keeps these."""

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def at(self, prompts):
        self.asked = prompts
        return list(self.answers)


def test_every_pixel_gets_the_class_of_the_largest_logit_times_mean_map():
    rng = np.random.default_rng(2)
    maps = rng.random((3, 30, 40)).astype(np.float32)
    masks = np.zeros((2, 30, 40), bool)
    masks[0, :20, :25] = masks[1, 10:28, 12:36] = True
    logits = np.where(masks, rng.uniform(0.1, 5, masks.shape), -1).astype(np.float32)
    small = np.zeros((1, 30, 40), bool)
    small[0, 0, 0] = True
    # The last of several answers counts.
    first = Segments.of_masks(
        np.concatenate([small, masks[:1]]), np.array([0.9, 0.2]),
        np.concatenate([np.ones((1, 30, 40), np.float32), logits[:1]]),
    )  # fmt: skip
    second = Segments.of_masks(masks[1:], np.ones(1), logits[1:])
    opened = Prepared(first, second)
    found = prompted_classes(maps, np.array([True, False, True]), opened, PeakRule(20, 0.5))
    confidence = np.full((3, 30, 40), -1e5)
    for row, mask, logit in zip((0, 2), masks, logits, strict=True):
        confidence[row][mask] = logit[mask] * maps[row].astype(np.float64)[mask].mean()
    expected = np.where(confidence.max(axis=0) < 0, 3, confidence.argmax(axis=0))
    np.testing.assert_array_equal(found, expected)
    tops = [np.unravel_index(maps[row].argmax(), (30, 40)) for row in (0, 2)]
    assert [tuple(p.points[0]) for p in opened.asked] == [(x + 0.5, y + 0.5) for y, x in tops]


def test_padding_and_images_with_a_class_without_segment_or_peak_are_left_out():
    maps = np.zeros((2, 10, 12), np.float32)
    maps[0, 2:5, 2:5] = 0.5
    labels = np.zeros((10, 12), np.int32)
    labels[1:6, 1:7] = 4
    both, first = np.array([True, True]), np.array([True, False])
    valid = np.ones((10, 12), bool)
    valid[:, 9:] = False
    found = prompted_classes(maps, first, LabelMapSegments(labels), PeakRule(), valid)
    expected = np.where(labels == 4, 0, 2)
    expected[:, 9:] = -1
    np.testing.assert_array_equal(found, expected)
    # The second class has no peak; then a peak where no segment is.
    assert (prompted_classes(maps, both, LabelMapSegments(labels), PeakRule()) == -1).all()
    maps[1, 8, 8] = 1
    assert (prompted_classes(maps, both, LabelMapSegments(labels), PeakRule()) == -1).all()
    # An image without any class is background.
    none = prompted_classes(maps, np.array([False, False]), LabelMapSegments(labels), PeakRule())
    assert (none == 2).all()


def two_peaks():
    """An animal with the highest peak, ground with a stray one, and another part of the animal."""
    labels = np.zeros((40, 60), np.int32)
    labels[20:], labels[4:12, 4:14], labels[4:12, 40:50] = 1, 2, 3
    maps = np.zeros((1, 40, 60), np.float32)
    maps[0, 20:] = 0.1
    maps[0, 30, 30] = 0.9
    maps[0, 4:12, 4:14], maps[0, 6, 8] = 0.6, 1.0
    maps[0, 4:12, 40:50], maps[0, 6, 44] = 0.4, 0.7
    return maps, labels


def test_a_stray_peak_does_not_take_its_whole_segment_where_there_are_no_logits():
    maps, labels = two_peaks()
    tags = np.array([True])
    found = prompted_classes(maps, tags, LabelMapSegments(labels), PeakRule())
    np.testing.assert_array_equal(found, np.where(labels >= 2, 0, 1))
    # Means: 0.605 on the animal, 0.40375 on its other part, 0.10 on the ground.
    strict = prompted_classes(maps, tags, LabelMapSegments(labels), PeakRule(min_support=0.7))
    np.testing.assert_array_equal(strict, np.where(labels == 2, 0, 1))
    loose = prompted_classes(maps, tags, LabelMapSegments(labels), PeakRule(min_support=0))
    np.testing.assert_array_equal(loose, np.where(labels > 0, 0, 1))


def test_every_segment_of_a_class_competes_with_its_own_mean():
    """Joined, the first class would win the shared part by the mean of its strong segment."""
    maps, labels = two_peaks()
    maps = np.stack([maps[0], np.where(labels == 3, 0.5, 0).astype(np.float32)])
    opened = LabelMapSegments(labels)
    found = prompted_classes(maps, np.array([True, True]), opened, PeakRule())
    expected = np.select([labels == 2, labels == 3], [0, 1], 2)
    np.testing.assert_array_equal(found, expected)


def test_where_the_highest_peak_lies_in_no_segment_the_next_one_leads():
    maps, labels = two_peaks()
    labels[labels == 2] = 0
    maps[0, 6, 44] = 0.95
    found = prompted_classes(maps, np.array([True]), LabelMapSegments(labels), PeakRule())
    np.testing.assert_array_equal(found, np.where(labels == 3, 0, 1))


def test_a_stray_peak_does_not_take_its_whole_segment_of_the_superpixel_tree():
    maps, labels = two_peaks()
    scale = 4
    maps, labels = (np.kron(a, np.ones((scale, scale), a.dtype)) for a in (maps[0], labels))
    colours = np.array([[60, 60, 60], [90, 140, 60], [220, 80, 60], [220, 80, 60]], np.uint8)
    opened = open_segments(colours[labels], "superpixels")
    peaks = map_peaks(maps, 20, 0.5)
    assert {int(labels[int(y), int(x)]) for x, y in peaks} == {1, 2, 3}
    found = prompted_classes(maps[None], np.array([True]), opened, PeakRule(20, 0.5))
    assert (found[labels == 2] == 0).mean() > 0.9
    assert (found[labels == 3] == 0).mean() > 0.9
    assert (found[labels <= 1] == 0).mean() < 0.02


def test_with_logits_all_peaks_of_a_class_stay_one_prompt():
    maps, labels = two_peaks()
    mask = labels[None] > 0
    opened = Prepared(Segments.of_masks(mask, np.ones(1), mask.astype(np.float32)))
    found = prompted_classes(maps, np.array([True]), opened, PeakRule())
    assert [len(prompt.points) for prompt in opened.asked] == [3]
    np.testing.assert_array_equal(found, np.where(labels > 0, 0, 1))


def test_crops_come_back_from_their_normalised_form():
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop_pixels(normalise(image)[None])[0], image)
    grey = np.repeat(image[..., :1], 3, axis=2)
    found = crop_pixels(normalise(grey, 1)[None])[0]
    assert np.abs(found.astype(int) - grey).max() <= 1


FOLDER = {"name": "folder", "path": "unused"}


def with_segments(batch):
    ids = torch.zeros(4, 1, 64, 64, dtype=torch.int32)
    ids[:, :, :40, :40], ids[:, :, 40:, 10:] = 1000, 5
    return batch | {"segments": ids}


def test_prompts_are_summed_over_scales_without_gradient_and_leave_the_mode(make_net, batch):
    net = make_net(dropout=0.5).train()
    net.backbone.eval()
    before = [module.training for module in net.modules()]
    state = copy.deepcopy(net.state_dict())
    found = summed_maps(net, batch, (0.5, 1.0))
    assert [module.training for module in net.modules()] == before
    assert all(torch.equal(values, state[name]) for name, values in net.state_dict().items())
    assert not found.requires_grad
    net.eval()
    expected = np.zeros((4, 3, 64, 64))
    with torch.no_grad():
        for scale in (0.5, 1.0):
            images = batch["image"].double().numpy()
            if scale < 1:
                images = enlarged(images, (32, 32))
            maps = net.maps(torch.from_numpy(images).float()).double().numpy()
            expected += np.maximum(enlarged(maps, (64, 64)), 0)
    expected *= batch["tags"].numpy()[:, :, None, None] * batch["valid"].numpy()
    expected /= expected.max(axis=(2, 3), keepdims=True) + 1e-5
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_maps_are_prompts_from_the_third_epoch_on(make_net, batch):
    settings = {"name": "s2c", "dim": 8, "segments": FOLDER, "scales": [1.0]}
    net = make_net(settings).train()
    batch = with_segments(batch)
    terms = []
    for epoch in range(3):
        net.on_epoch_start(epoch)
        losses = net.loss(batch)
        terms.append(set(losses) - {"loss"})
        total = sum(value for name, value in losses.items() if name != "loss")
        assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    assert terms[:2] == [{"classification", "s2c_ssc"}] * 2
    assert terms[2] == {"classification", "s2c_ssc", "s2c_cpm"}
    losses["loss"].backward()
    # The compared layer stands before the class maps, and all of it learns.
    assert net.head[0].weight.shape[0] == 8
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.head.parameters())


def test_with_a_known_layer_before_the_maps_both_are_what_its_weights_say(make_net, batch):
    """Against the layer written out in float64: ReLU(W f) is compared, V of it are the maps."""
    settings = {"name": "s2c", "dim": 4, "segments": FOLDER, "cpm_weight": 0, "temperature": 2.0}
    net = make_net(settings).train()
    rng = np.random.default_rng(3)
    embed = rng.normal(size=(4, net.head[0].in_channels))
    embed[0] = np.abs(embed[0])  # no cell without any feature, whose direction is not defined
    classify = np.array([[1.0, 0, 0, 0], [0, -2.0, 0.5, 0], [0, 0, 0, 3.0]])
    with torch.no_grad():
        net.head[0].weight.copy_(torch.from_numpy(embed)[..., None, None])
        net.head[2].weight.copy_(torch.from_numpy(classify)[..., None, None])
        features = net.features(batch["image"]).double().numpy()
        maps = net.maps(batch["image"]).double().numpy()
    hidden = np.maximum(np.einsum("dc,nchw->ndhw", embed, features), 0)
    expected = np.einsum("kd,ndhw->nkhw", classify, hidden)
    np.testing.assert_allclose(maps, expected, atol=1e-3 * np.abs(expected).max())
    batch = with_segments(batch) | {"valid": torch.ones(4, 1, 64, 64)}
    found = net.loss(batch)["s2c_ssc"].item()
    contrast, _ = reference_contrast(hidden, batch["segments"][:, 0].numpy(), 2.0, 1)
    assert found == pytest.approx(contrast, rel=1e-3)


def test_prompts_that_would_never_begin_are_told(make_net, make_dataset, caplog, tmp_path):
    inputs = CueInputs(make_dataset({"a": {"tags": {1}}}), tmp_path)
    for start, is_told in ((1, False), (2, True)):
        net = make_net({"name": "s2c", "segments": FOLDER, "start_epoch": start})
        net.regularisers[0].aligned_maps(inputs)
        assert ("there are 2 epochs: maps will never ask" in caplog.text) is is_told


@pytest.mark.parametrize(
    ("weights", "backend", "is_asked"),
    [
        ((0, 0), FOLDER, False),
        ((1, 0), {"name": "superpixels"}, True),
        ((0, 1), {"name": "superpixels"}, False),
        ((0, 1), FOLDER, True),
    ],
)
def test_segments_of_whole_images_are_made_only_for_a_loss_that_looks_at_them(
    make_net, make_dataset, batch, tmp_path, weights, backend, is_asked
):
    settings = {"name": "s2c", "dim": 8, "segments": backend, "scales": [1.0], "start_epoch": 0}
    net = make_net(settings | {"ssc_weight": weights[0], "cpm_weight": weights[1]}).train()
    inputs = CueInputs(make_dataset({"a": {"tags": {1}}}), tmp_path)
    assert bool(net.regularisers[0].aligned_maps(inputs)) is is_asked
    net.on_epoch_start(0)
    if is_asked:
        batch = with_segments(batch)
    else:
        del batch["segments"]
    terms = {name for name in net.loss(batch) if name.startswith("s2c")}
    assert terms == {f"s2c_{n}" for n, w in zip(("ssc", "cpm"), weights, strict=True) if w}


def test_the_layer_is_left_out_where_the_features_themselves_are_compared(make_net, batch):
    net = make_net({"name": "s2c", "dim": None, "segments": FOLDER, "cpm_weight": 0}).train()
    assert isinstance(net.head, torch.nn.Conv2d)
    net.on_epoch_start(5)
    batch = with_segments(batch)
    found = net.loss(batch)["s2c_ssc"].item()
    with torch.no_grad():
        features = net.features(batch["image"])
    expected = contrast_loss(features, batch["segments"]).item()
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("backend", ["superpixels", "sam"])
def test_both_backends_answer_on_the_training_crop(make_net, batch, backend, tmp_path):
    settings = {"name": "superpixels"}
    if backend == "sam":
        pytest.importorskip("transformers", reason="transformers is not installed")
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).parents[2] / "cues"))
        from tiny_sam import save_tiny_sam

        save_tiny_sam(tmp_path / "net")
        settings = {"name": "sam", "model": str(tmp_path / "net")}
    net = make_net({"name": "s2c", "dim": 8, "segments": settings, "scales": [1.0]}).train()
    net.on_epoch_start(2)
    image = np.full((64, 64, 3), 60, np.uint8)
    image[10:40, 8:36] = (220, 80, 60)
    pixels = torch.from_numpy(normalise(image))[None].repeat(4, 1, 1, 1) * batch["valid"]
    loss = net.loss(with_segments(batch) | {"image": pixels})
    assert torch.isfinite(loss["s2c_cpm"])
    assert loss["s2c_cpm"].item() > 0
    # A network that answers prompts is no part of the localizer.
    assert copy.deepcopy(net).regularisers[0].shared is net.regularisers[0].shared
    assert not any("vision_encoder" in name for name in net.state_dict())


def test_what_contradicts_is_refused(make_net, config):
    with pytest.raises(RecipeError, match="segments of each image, which cutmix blends"):
        make_net({"name": "s2c"}, {"name": "cutmix"})
    from wsseg.localize.regularise.attach import attach
    from wsseg.nets.cam_head import ClassMapNet

    class Other(ClassMapNet):
        pass

    plain = make_net()
    plain.__class__ = Other
    with pytest.raises(RecipeError, match="Set dim to null"):
        attach(plain, config({"name": "s2c"}))
    net = make_net({"name": "s2c"}).train()
    with pytest.raises(ValueError, match='Expected "segments"'):
        net.loss({"image": torch.zeros(1, 3, 64, 64), "tags": torch.ones(1, 3)})


def test_it_trains_through_the_stage_on_images_smaller_than_the_crop(
    make_dataset, config, tmp_path
):
    sizes = {"a": (40, 56), "b": (24, 80), "ok": (32, 32), "val": (40, 40)}
    dataset = make_dataset(
        {
            "a": {"tags": {1}, "size": sizes["a"]},
            "b": {"tags": {2}, "size": sizes["b"]},
            "ok": {"tags": set(), "size": sizes["ok"]},
            "val": {"tags": {1}, "size": sizes["val"], "split": "val"},
        }
    )
    for sample in dataset.samples:
        image = np.full((*sizes[sample.id], 3), 60, np.uint8)
        if sample.labels.tags:
            image[6:20, 5:24] = (220, 80, 60)
        Image.fromarray(image).save(sample.image_path)
    settings = {"name": "s2c", "dim": 8, "scales": [1.0], "start_epoch": 1, "stride_px": 4}
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, config(settings), stage, RunContext(cues_dir=tmp_path / "cues"))
    assert load_scores(stage.file("scores", "a", ".npz")).class_ids.tolist() == [0, 1]
    lines = (stage.path / "training" / "metrics.jsonl").read_text().splitlines()
    assert "s2c_ssc" in lines[0]
    assert "s2c_cpm" not in lines[0]
    assert "s2c_cpm" in lines[1]
    # Segments of the training images alone, once as segments and once as a map.
    assert len(list((tmp_path / "cues" / "segments").rglob("*.npz"))) == 6
