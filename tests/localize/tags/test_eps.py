from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from wsseg.cues.protocol import CueInputs
from wsseg.cues.source import check_cue
from wsseg.data.image_io import write_mask
from wsseg.data.transforms import AugmentConfig
from wsseg.errors import DataError, RecipeError
from wsseg.localize.cue_maps import SAYS_NOTHING, check_learned_cue, learned_cue
from wsseg.localize.data import TagData
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


# --- the maps of training images ---


@pytest.fixture
def dataset(make_dataset):
    """Three tagged training images and one that is not tagged; a bright square in each."""
    image = np.full((40, 60, 3), 40, np.uint8)
    image[10:20, 30:50] = 220
    item = {"image": image, "tags": {1}}
    return make_dataset(
        {"a": item, "b": {**item, "tags": {2}}, "ok": {**item, "tags": set()}}
        | {"later": {**item, "tags": {1}, "split": "val"}, "x": {**item, "tags": None}}
    )


@pytest.fixture
def folder(tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()

    def write(**planes):
        for name, plane in planes.items():
            Image.fromarray(np.asarray(plane, np.uint8)).save(maps / f"{name}.png")
        return maps

    return write


def square(size=(40, 60), value=255):
    plane = np.zeros(size, np.uint8)
    plane[10:20, 30:50] = value
    return plane


def settings_with(maps, **more) -> Eps:
    return Eps.model_validate({"cue": {"name": "folder", "path": str(maps)}, **more})


def learners(dataset):
    return [s for s in dataset.split("train") if s.labels.tags is not None]


def test_only_images_that_train_need_a_map(dataset, folder, caplog, tmp_path):
    config = settings_with(folder(a=square(), b=square(), ok=square()))
    check_learned_cue(config, dataset)
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    cue.prepare(learners(dataset))
    assert not caplog.text


def test_missing_maps_stop_the_run_before_it_starts_unless_they_may_miss(
    dataset, folder, caplog, tmp_path
):
    config = settings_with(folder(a=square()))
    with pytest.raises(DataError, match=r"no map for 2 of the 3 images.*skip:\n  - b\n  - ok"):
        check_learned_cue(config, dataset)
    config = settings_with(config.cue.path, missing_maps="skip")
    check_learned_cue(config, dataset)
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    samples = learners(dataset)
    cue.prepare(samples)
    assert "folder has no map for 2 of 3 training images (b, ok)" in caplog.text
    image = np.zeros((40, 60, 3), np.uint8)
    assert (cue.map(samples[1], image) == SAYS_NOTHING).all()
    assert cue.map(samples[0], image).max() == 1


def test_no_map_at_all_is_an_error_in_any_case(dataset, folder):
    for rule in ("error", "skip"):
        with pytest.raises(DataError, match="has no map of any"):
            check_learned_cue(settings_with(folder(), missing_maps=rule), dataset)
    with pytest.raises(DataError, match="nowhere, does not exist"):
        check_learned_cue(settings_with("nowhere"), dataset)


def test_maps_of_another_shape_and_damaged_ones_are_named_together(dataset, folder, tmp_path):
    maps = folder(a=square((60, 40)), b=square(), ok=square())
    (maps / "ok.png").write_bytes(b"torn")
    cue = learned_cue(settings_with(maps), CueInputs(dataset, tmp_path / "cues"))
    with pytest.raises(DataError) as caught:
        cue.prepare(learners(dataset))
    text = str(caught.value)
    assert "a.png: the map is 40 x 60 px, its image 60 x 40 px" in text
    assert "ok.png" in text
    assert "b.png" not in text


def test_maps_that_are_zero_everywhere_are_counted_and_say_nothing(
    dataset, folder, caplog, tmp_path
):
    config = settings_with(folder(a=square(), b=square(value=0), ok=square(value=0)))
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    samples = learners(dataset)
    cue.prepare(samples)
    assert "zero everywhere in 2 of 3 training images (b, ok); they teach their tags" in caplog.text
    data = TagData(samples, 2, AugmentConfig(crop_px=32), aligned={"saliency": cue})
    views = [data.item(i, np.random.default_rng(1))["saliency"] for i in range(3)]
    assert [bool((view < 0).any()) for view in views] == [False, True, True]


def test_weight_free_maps_are_made_once_and_read_by_loading_processes(dataset, tmp_path):
    config = Eps.model_validate({"cue": "ft"})
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    samples = learners(dataset)
    cue.prepare(samples)
    copy = pickle.loads(pickle.dumps(cue))
    assert copy.source is None
    image = np.array(Image.open(samples[0].image_path))
    found = copy.map(samples[0], image)
    np.testing.assert_array_equal(found, cue.map(samples[0], image))
    assert found[15, 40] > 0.9 > 0.3 > found[2, 2]
    assert {path.stem for path in tmp_path.rglob("cues/ft-*/maps/*.png")} == {"a", "b", "ok"}


def test_a_cue_that_needs_the_localizer_is_refused(dataset, tmp_path):
    config = Eps.model_validate({"cue": {"name": "anomaly", "init": "localizer"}})
    with pytest.raises(RecipeError, match="learn from it"):
        check_learned_cue(config, dataset)
    with pytest.raises(RecipeError, match="learn from it"):
        learned_cue(config, CueInputs(dataset, tmp_path))


def test_what_the_cue_itself_lacks_is_known_before(dataset):
    config = Eps.model_validate(
        {"cue": {"name": "anomaly", "init": "none", "backbone": "resnet18"}}
    )
    with pytest.raises(DataError, match="two train images tagged ok"):
        check_learned_cue(config, dataset)
    check_cue(Eps().cue, dataset)


GEOMETRY = {"brightness": 0, "contrast": 0, "saturation": 0, "hflip": 0.5, "vflip": 0.5}


@pytest.mark.parametrize("scale", [(0.5, 0.9), (1.0, 1.0), (1.1, 2.0)])
@pytest.mark.parametrize("crop", [32, 96])
def test_a_marker_lands_on_the_same_cell_in_image_and_saliency(
    scale, crop, dataset, folder, tmp_path
):
    """White square on dark ground in the image; the map has the same square."""
    config = settings_with(folder(a=square(), b=square(), ok=square()))
    cue = learned_cue(config, CueInputs(dataset, tmp_path / "cues"))
    augmentation = AugmentConfig(scale=scale, crop_px=crop, rot90=0.5, **GEOMETRY)
    data = TagData(learners(dataset), 2, augmentation, aligned={"saliency": cue})
    seen = 0
    for seed in range(12):
        item = data.item(0, np.random.default_rng(seed))
        valid = item["valid"][0] > 0
        shown = item["image"][0] * 0.229 * 255 + 0.485 * 255
        marker = (shown - 40) / 180 * valid
        np.testing.assert_allclose(item["saliency"][0], marker, atol=0.51)
        # Beyond one blurred pixel at its edge they are the same.
        assert np.abs(item["saliency"][0] - marker).mean() < 0.02
        rounded = np.abs((item["saliency"][0] > 0.5) ^ (marker > 0.5)).mean()
        assert rounded < 0.02
        seen += bool((marker > 0.5).any())
    assert seen >= 6


def test_masks_of_a_folder_are_no_saliency_by_accident(dataset, tmp_path):
    """Palette pictures with class ids are dark colours; they are read as the grey they show."""
    maps = tmp_path / "maps"
    for name in ("a", "b", "ok"):
        write_mask(maps / f"{name}.png", np.zeros((40, 60), np.uint8))
    cue = learned_cue(settings_with(maps), CueInputs(dataset, tmp_path / "cues"))
    cue.prepare(learners(dataset))
    image = np.zeros((40, 60, 3), np.uint8)
    assert (cue.map(dataset.samples[0], image) == SAYS_NOTHING).all()
