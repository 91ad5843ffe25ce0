"""Background-aware pooling: formulas written out, maps of boxes, and a small training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from wsseg.context import RunContext
from wsseg.data.labels import Boxes, WeakLabels
from wsseg.data.scores import load_scores
from wsseg.errors import DataError, MissingWeightsError, RecipeError
from wsseg.localize.boxes.bap import Bap, BoxMaps, bap, box_scores, make_net
from wsseg.localize.boxes.windows import BoxWindow
from wsseg.localize.direct import LearnInputs, LocalizeContext
from wsseg.localize.mixed import Mixed
from wsseg.localize.stage import localize
from wsseg.nets.bap import attention_to, background_queries, pool_batch, pooled_box, shares
from wsseg.pipeline import run
from wsseg.recipe import load_recipe
from wsseg.rundir import StageDir

SIZE = (64, 64)
SETTINGS = {
    "backbone": "test_resnet",
    "scales": [1.0],
    "flip": False,
    "training": {
        "epochs": 1,
        "batch_size": 4,
        "optimiser": "adamw",
        "lr": 3e-3,
        "num_workers": 0,
        "precision": "float32",
    },
    "augment": {"scale": None, "crop_px": 64, "brightness": 0, "contrast": 0, "saturation": 0},
}


def config(epochs: int = 1, **more) -> Bap:
    training = SETTINGS["training"] | {"epochs": epochs}
    return Bap.model_validate(SETTINGS | {"training": training} | more)


def hard(scores) -> np.ndarray:
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


def queries_by_hand(features, outside, grid):
    """Means over parts, cell by cell in float64."""
    depth, height, width = features.shape
    found = []
    for i in range(grid):
        for j in range(grid):
            rows = range(i * height // grid, (i + 1) * height // grid)
            columns = range(j * width // grid, (j + 1) * width // grid)
            mass = sum(outside[y, x] for y in rows for x in columns)
            if mass >= 0.5:
                total = sum(outside[y, x] * features[:, y, x] for y in rows for x in columns)
                found.append(total / mass)
    return np.array(found).reshape(-1, depth)


def attention_by_hand(features, queries):
    _, height, width = features.shape
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            f = features[:, y, x]
            for q in queries:
                cosine = f @ q / (np.linalg.norm(f) * np.linalg.norm(q))
                found[y, x] = max(found[y, x], cosine)
    return found


def test_queries_attention_and_pooled_features_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    features, outside, share = rng.normal(size=(5, 8, 12)), rng.random((8, 12)), rng.random((8, 12))
    outside[:4, :6] = 0
    given = [torch.from_numpy(one.astype(np.float32)) for one in (features, outside, share)]
    expected = queries_by_hand(features, outside, 2)
    queries = background_queries(given[0], given[1], 2)
    assert len(queries) == 3
    np.testing.assert_allclose(queries.numpy(), expected, atol=1e-5)
    attention = attention_by_hand(features, expected)
    np.testing.assert_allclose(attention_to(given[0], queries).numpy(), attention, atol=1e-5)
    weight = (1 - attention) * share
    mean = (features * weight).sum(axis=(1, 2)) / weight.sum()
    pooled = pooled_box(given[0], torch.from_numpy(attention.astype(np.float32)), given[2])
    np.testing.assert_allclose(pooled.numpy(), mean, atol=1e-5)


def test_without_an_outside_a_box_is_a_plain_mean_and_looks_like_nothing():
    features = torch.rand(3, 4, 4)
    none = background_queries(features, torch.zeros(4, 4), 2)
    assert none.shape == (0, 3)
    attention = attention_to(features, none)
    assert not attention.any()
    torch.testing.assert_close(
        pooled_box(features, attention, torch.ones(4, 4)), features.mean(dim=(1, 2))
    )
    alike = torch.ones(4, 4)
    torch.testing.assert_close(pooled_box(features, alike, alike), features.mean(dim=(1, 2)))


def test_a_batch_gives_every_box_and_leaves_padding_and_unknown_ground_out():
    features = torch.rand(2, 3, 4, 4)
    boxes = torch.zeros(2, 1, 16, 16, dtype=torch.int32)
    boxes[0, 0, 4:12, 4:8], boxes[0, 0, :4, 12:] = 256 + 2, 512 + 1
    boxes[1] = 255
    boxes[1, 0, 8:, 8:] = 256 + 1
    valid = torch.ones(2, 1, 16, 16)
    valid[0, 0, 12:] = 0
    pooled = pool_batch(features, boxes, valid, grid=1)
    assert pooled.classes.tolist() == [2, 1, 1]
    # The second image has nothing that is known to be background.
    assert pooled.queries.shape == (1, 3)
    outside = shares((boxes[0, 0] == 0) & (valid[0, 0] > 0), (4, 4))
    assert outside[3].sum() == 0
    expected = (features[0] * outside).sum(dim=(1, 2)) / outside.sum()
    torch.testing.assert_close(pooled.queries[0], expected)
    torch.testing.assert_close(pooled.boxes[2], features[1, :, 2:, 2:].mean(dim=(1, 2)))
    boxes[0, 0, 12:] = 768 + 2
    of_padding = pool_batch(features, boxes, valid, grid=1)
    torch.testing.assert_close(of_padding.boxes, pooled.boxes)


def test_the_loss_is_the_mean_of_two_cross_entropies():
    torch.manual_seed(0)
    net = make_net(config(), 2).eval()
    boxes = torch.zeros(2, 1, 64, 64, dtype=torch.int32)
    boxes[0, 0, 8:40, 8:40], boxes[1, 0, 16:64, 16:64] = 256 + 2, 256 + 1
    batch = {"image": torch.randn(2, 3, 64, 64), "boxes": boxes, "valid": torch.ones(2, 1, 64, 64)}
    with torch.no_grad():
        found = net.loss(batch)
        pooled = pool_batch(net.features(batch["image"]), boxes, batch["valid"], net.grid)
        logits = (pooled.boxes @ net.classifier.weight.T).double().numpy()
        ground = (pooled.queries @ net.classifier.weight.T).double().numpy()

    def entropy(rows, classes):
        chances = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
        return float(np.mean([-np.log(row[k]) for row, k in zip(chances, classes, strict=True)]))

    parts = entropy(logits, [2, 1]), entropy(ground, [0] * len(ground))
    assert float(found["boxes"]) == pytest.approx(parts[0], abs=1e-5)
    assert float(found["background"]) == pytest.approx(parts[1], abs=1e-5)
    assert float(found["loss"]) == pytest.approx(sum(parts) / 2, abs=1e-5)
    nothing = batch | {"boxes": torch.full_like(boxes, 255)}
    assert float(net.loss(nothing)["loss"].detach()) == 0


def test_of_overlapping_boxes_the_class_with_the_larger_map_has_the_pixel():
    attention = np.array([[0.9, 0.5, 0.1, 0.5, 0.9, 0.9]], np.float32)
    windows = [BoxWindow(7, 0, 1, 0, 4), BoxWindow(3, 0, 1, 2, 5)]
    maps = [np.array([[0.1, 1, 0.2, 1]], np.float32), np.array([[1, 0.1, 0]], np.float32)]
    ids = np.array([0, 3, 7], np.uint8)
    values, empty = box_scores(attention, maps, windows, ids, 0.25)
    unlike = np.array([0.1, 0.5, 0.9, 0.5, 0.1]) / 0.9
    np.testing.assert_allclose(values[1, 0], [0, 0, unlike[2], 0, unlike[4], 0], atol=1e-6)
    np.testing.assert_allclose(values[2, 0], [unlike[0], unlike[1], 0, unlike[3], 0, 0], atol=1e-6)
    np.testing.assert_allclose(values[0, 0, :5], (1 - unlike) / 3, atol=1e-6)
    assert values[0, 0, 5] == 1
    assert empty == 0


def test_the_background_is_weighed_against_the_class_that_has_the_pixel():
    """Not against a class that lost it: e = 1/8 is below t, so the pixel is background."""
    attention = np.array([[0.9, 0.2]], np.float32)
    windows = [BoxWindow(7, 0, 1, 0, 2), BoxWindow(3, 0, 1, 0, 1)]
    maps = [np.array([[1, 1]], np.float32), np.array([[0.5]], np.float32)]
    ids = np.array([0, 3, 7], np.uint8)
    values, _ = box_scores(attention, maps, windows, ids, 0.5)
    np.testing.assert_allclose(values[:, 0], [[0.875, 0], [0, 0], [0.125, 1]], atol=1e-6)


def test_a_box_that_looks_like_its_outside_keeps_its_middle():
    values, empty = box_scores(
        np.ones((10, 10), np.float32),
        [np.zeros((10, 10), np.float32)],
        [BoxWindow(2, 0, 10, 0, 10)],
        np.array([0, 2], np.uint8),
        0.4,
    )
    assert empty == 1
    assert (values[1] == 1).sum() == 16
    assert (values[1, 3:7, 3:7] == 1).all()


def test_maps_of_boxes_number_them_with_the_smaller_in_front(make_dataset):
    [sample] = make_dataset({"a": {"size": (8, 16)}})
    boxes = Boxes([[4, 2, 8, 4], [0, 0, 12, 8]], [1, 2])
    labelled = dataclasses.replace(sample, labels=WeakLabels(boxes=boxes))
    found = BoxMaps().map(labelled, np.zeros((8, 16, 3), np.uint8))
    assert found[0, 0] % 256 == 2
    assert found[2, 4] % 256 == 1
    assert found[0, 0] // 256 != found[2, 4] // 256
    assert (found[:, 12:] == 0).all()
    half = BoxMaps(max_side_px=8).map(labelled, np.zeros((4, 8, 3), np.uint8))
    assert (half[:, 6:] == 0).all()
    assert half[1, 2] % 256 == 1
    missing = dataclasses.replace(sample, labels=WeakLabels(tags={1, 2, 3}, boxes=boxes))
    assert (BoxMaps().map(missing, np.zeros((8, 16, 3), np.uint8))[:, 12:] == 255).all()


def scene(number: int) -> tuple[np.ndarray, np.ndarray, Boxes]:
    """A red or a green disc on grey noise, what is where, and a box with room around it."""
    rng = np.random.default_rng(number)
    class_id = 1 + number % 2
    x, y = rng.integers(24, 40, 2)
    rows, columns = np.mgrid[:64, :64]
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= 11**2
    image = rng.integers(80, 120, (64, 64, 3)).astype(np.uint8)
    image[inside] = np.array([[200, 30, 30], [30, 200, 30]], np.uint8)[class_id - 1]
    image[inside] += rng.integers(0, 30, (int(inside.sum()), 3)).astype(np.uint8)
    truth = np.where(inside, class_id, 0).astype(np.uint8)
    return image, truth, Boxes([[x - 16, y - 16, x + 17, y + 17]], [class_id])


@pytest.fixture
def dataset(make_dataset):
    """Ten images with a box each, one that shows nothing, one whose box lies off it."""
    made = make_dataset(
        {str(k): {"image": scene(k)[0], "mask": scene(k)[1]} for k in range(10)}
        | {"ok": {"tags": set(), "size": SIZE}, "off": {"tags": None, "size": SIZE}}
    )
    drawn = {str(k): WeakLabels(boxes=scene(k)[2]) for k in range(10)}
    drawn["off"] = WeakLabels(boxes=Boxes([[90, 2, 99, 9]], [1]))
    samples = [dataclasses.replace(s, labels=drawn.get(s.id, s.labels)) for s in made]
    return dataclasses.replace(made, samples=tuple(samples))


def inputs(dataset, folder, **more) -> LearnInputs:
    return LearnInputs(dataset, dataset.samples, folder, fingerprint="f", **more)


def weights(folder, state) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / state["weights"])


@pytest.mark.slow
def test_a_run_cuts_the_objects_out_of_their_boxes(dataset, tmp_path):
    settings = config(epochs=25).model_dump(mode="json")
    recipe = load_recipe("boxes", ["segment=null"])
    recipe = recipe.model_copy(update={"localize": Bap.model_validate(settings)})
    finished = run(dataset, recipe=recipe, out=tmp_path / "run")
    ious, filled = [], []
    for k in range(10):
        scores = load_scores(tmp_path / "run" / "localize" / "scores" / f"{k}.npz")
        truth = scene(k)[1]
        found, true = hard(scores) > 0, truth > 0
        ious.append((found & true).sum() / (found | true).sum())
        filled.append(true.sum() / 33**2)
        assert scores.class_ids.tolist() == [0, truth.max()]
    assert np.mean(ious) > np.mean(filled) + 0.15
    off = load_scores(tmp_path / "run" / "localize" / "scores" / "off.npz")
    assert off.unknown.all()
    ok = load_scores(tmp_path / "run" / "localize" / "scores" / "ok.npz")
    assert (ok.values == 1).all()
    assert any(entry["stage"] == "pseudo" for entry in finished.metrics["stages"])


def test_the_stage_trains_once_and_goes_on_where_it_was_killed(dataset, tmp_path, monkeypatch):
    settings = config()
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, settings, stage, RunContext())
    assert stage.is_done
    assert len(stage.usable(dataset.samples)) == 12
    first = (tmp_path / "localize" / "scores" / "0.npz").read_bytes()

    other = StageDir(tmp_path / "other", "f")

    def killed(*_args, **_settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("wsseg.localize.boxes.bap.box_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            localize(dataset, settings, other, RunContext())
    made = (tmp_path / "other" / "training" / "done.json").stat().st_mtime_ns
    localize(dataset, settings, other, RunContext())
    assert (tmp_path / "other" / "training" / "done.json").stat().st_mtime_ns == made
    assert (tmp_path / "other" / "scores" / "0.npz").read_bytes() == first


def test_the_same_seed_gives_the_same_weights(dataset, tmp_path):
    states = [bap.fit(inputs(dataset, tmp_path / name), config=config()) for name in ("a", "b")]
    one, two = (weights(tmp_path / n, s) for n, s in zip(("a", "b"), states, strict=True))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_unknown_outside_and_boxes_in_grey_networks(dataset, tmp_path):
    settings = config(grey=True, scales=[1.0, 1.5], flip=True)
    state = bap.fit(inputs(dataset, tmp_path), config=settings)
    context = LocalizeContext(sample_id="0", folder=tmp_path, state=state)
    image, _, boxes = scene(0)
    labels = WeakLabels(tags={1, 2}, boxes=boxes)
    found = hard(bap(image, labels, config=settings, context=context))
    assert set(np.unique(found)) <= {1, 255}
    assert (found[0] == 255).all()
    assert (found == 1).any()
    assert "class(es) 2 have no box" in context.facts["notes"][0]


def test_what_cannot_work_is_told_before_anything_is_trained(dataset, make_dataset, tmp_path):
    image, _, boxes = scene(0)
    with pytest.raises(RecipeError, match="bap must learn from the data set first"):
        bap(image, WeakLabels(boxes=boxes), config=config())
    with pytest.raises(DataError, match="works from boxes"):
        config().check(make_dataset({"a": {"tags": {1}}}), allow_masks=False)
    with pytest.raises(MissingWeightsError):
        config(weights=str(tmp_path / "none.pth")).check(dataset, allow_masks=False)
    with pytest.raises(ValueError, match="random layers would stay random"):
        config(freeze_batchnorm=True)
    off = dataclasses.replace(dataset, samples=(dataset.by_id("off"), dataset.by_id("ok")))
    with pytest.raises(DataError, match="all lie off their images"):
        bap.fit(inputs(off, tmp_path), config=config())
    with pytest.raises(RecipeError, match="learns from all images with boxes"):
        Mixed(boxes=config()).check(dataset, allow_masks=False)
