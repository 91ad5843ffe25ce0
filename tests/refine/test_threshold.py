from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import ClassList, WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError, RecipeError
from wsseg.evaluate.sweep import sweep_thresholds
from wsseg.refine.protocol import FitInputs, RefineContext
from wsseg.refine.threshold import Threshold, threshold

CLASSES = ClassList(("dent", "stain"))
SIZE = (64, 64)
FOLDER = Path("/data")


def blob(rng: np.random.Generator, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A round object, and a map of it: blurred, brighter on one side, on a noisy ground."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx = rng.uniform(20, 44, 2)
    distance = np.hypot(y - cy, x - cx)
    mask = distance < radius
    edge = 1 / (1 + np.exp((distance - radius) / 2))
    response = edge * (0.75 + 0.25 * (x < cx)) + 0.08 * rng.random(SIZE)
    return mask, (response / response.max()).astype(np.float32)


def make_data(maps, tags, *, split="train", masks=None, class_ids=(1,)):
    """Samples and their scores; ``maps`` are lists of (H, W) per image."""
    samples, scores = [], {}
    for i, (rows, tagged) in enumerate(zip(maps, tags, strict=True)):
        mask_path = None if masks is None else masks[i]
        samples.append(
            Sample(f"{split}-{i}", FOLDER / f"{i}.png", WeakLabels(tags=tagged), split, mask_path)
        )
        values = np.stack([np.zeros(SIZE, np.float32), *rows])
        ids = np.array([0, *class_ids[: len(rows)]], np.uint8)
        scores[samples[-1].id] = Scores(values, ids, SIZE)
    return samples, scores


def inputs_of(*parts, allow_masks=False) -> FitInputs:
    samples = [sample for part in parts for sample in part[0]]
    scores = {name: value for part in parts for name, value in part[1].items()}
    return FitInputs(
        dataset=Dataset(FOLDER, CLASSES, tuple(samples)),
        samples=tuple(samples),
        load=lambda sample: scores[sample.id],
        folder=FOLDER,
        allow_masks=allow_masks,
    )


def blobs(num_images: int, radius: tuple[float, float], seed: int = 0):
    rng = np.random.default_rng(seed)
    pairs = [blob(rng, rng.uniform(*radius)) for _ in range(num_images)]
    return [mask for mask, _ in pairs], [[response] for _, response in pairs]


def test_fixed_is_the_number_of_the_recipe_and_needs_no_data():
    config = Threshold(method="fixed", value=0.35)
    state = threshold.fit(inputs_of(), config=config)
    assert state == {"threshold": 0.35, "method": "fixed", "tuned_on_masks": False}
    scores = make_data(blobs(1, (9, 10))[1], [frozenset({1})])[1]["train-0"]
    refined = threshold(np.zeros((*SIZE, 3), np.uint8), scores, config=config)
    assert (refined.values[0] == np.float32(0.35)).all()


def test_what_was_chosen_over_the_data_set_is_written_into_every_image():
    scores = make_data(blobs(1, (9, 10))[1], [frozenset({1})])[1]["train-0"]
    context = RefineContext(state={"threshold": 0.25})
    refined = threshold(np.zeros((*SIZE, 3), np.uint8), scores, context=context)
    assert (refined.values[0] == 0.25).all()
    np.testing.assert_array_equal(refined.values[1], scores.values[1])


def test_an_unfitted_threshold_says_what_to_do():
    scores = make_data(blobs(1, (9, 10))[1], [frozenset({1})])[1]["train-0"]
    with pytest.raises(RecipeError, match=r"call threshold\.fit .* or set method=fixed"):
        threshold(np.zeros((*SIZE, 3), np.uint8), scores)


@pytest.mark.parametrize(
    ("radius", "share_of_best"), [((4, 6), 0.8), ((8, 20), 0.97), ((20, 30), 0.97)]
)
def test_label_free_comes_close_to_the_best_threshold_without_seeing_masks(radius, share_of_best):
    masks, maps = blobs(12, radius)
    samples, scores = make_data(maps, [frozenset({1})] * 12)
    state = threshold.fit(inputs_of((samples, scores)), config=Threshold())
    curve = sweep_thresholds(
        [(scores[s.id], m.astype(np.uint8)) for s, m in zip(samples, masks, strict=True)],
        2,
        np.linspace(0, 1, 101).tolist(),
    )
    reached = curve.miou[curve.nearest_index(state["threshold"])]
    assert state["tuned_on_masks"] is False
    assert state["num_images"] == 12
    assert reached > share_of_best * curve.miou.max()


def test_small_objects_on_strong_noise_do_not_make_the_rule_split_the_noise():
    rng = np.random.default_rng(3)
    maps = [np.maximum(blob(rng, 3)[1], 0.35 * rng.random(SIZE)) for _ in range(8)]
    data = make_data([[row.astype(np.float32)] for row in maps], [frozenset({1})] * 8)
    state = threshold.fit(inputs_of(data), config=Threshold())
    assert state["otsu"] < 0.25
    assert state["threshold"] == state["peak_floor"] == pytest.approx(0.33, abs=0.001)


def test_the_factor_lowers_the_label_free_score_and_no_other():
    data = make_data(blobs(6, (8, 12))[1], [frozenset({1})] * 6)
    whole = threshold.fit(inputs_of(data), config=Threshold())
    cut = threshold.fit(inputs_of(data), config=Threshold(factor=0.6))
    assert cut == whole | {"threshold": pytest.approx(0.6 * whole["threshold"])}
    fixed = threshold.fit(inputs_of(data), config=Threshold(method="fixed", factor=0.6))
    assert fixed["threshold"] == 0.2


def test_label_free_does_not_open_masks_and_looks_at_training_images_only():
    _, maps = blobs(4, (8, 12))
    train = make_data(maps, [frozenset({1})] * 4, masks=[FOLDER / "does-not-exist.png"] * 4)
    bright = [[np.full(SIZE, 0.9, np.float32)]] * 3
    val = make_data(bright, [frozenset({1})] * 3, split="val")
    alone = threshold.fit(inputs_of(train), config=Threshold())
    assert threshold.fit(inputs_of(train, val), config=Threshold()) == alone


def test_untagged_images_and_images_without_maps_are_left_out():
    _, maps = blobs(4, (8, 12))
    train = make_data(maps, [frozenset({1})] * 4)
    noise = [[np.random.default_rng(0).random(SIZE).astype(np.float32)], []]
    samples, scores = make_data(noise, [None, frozenset()], class_ids=(2,))
    renamed = [Sample(f"extra-{i}", s.image_path, s.labels) for i, s in enumerate(samples)]
    extra = (renamed, {f"extra-{i}": scores[f"train-{i}"] for i in range(2)})
    state = threshold.fit(inputs_of(train, extra), config=Threshold())
    assert state == threshold.fit(inputs_of(train), config=Threshold())


def with_ok_images(ok_level: float, object_level: float, **settings):
    """Objects of a given height, and empty images whose maps are noise up to a given level."""
    _, maps = blobs(6, (8, 12))
    maps = [[row * np.float32(object_level) for row in rows] for rows in maps]
    rng = np.random.default_rng(8)
    empty = [[(rng.random(SIZE) * ok_level).astype(np.float32)] for _ in range(6)]
    data = make_data(maps + empty, [frozenset({1})] * 6 + [frozenset()] * 6)
    return threshold.fit(inputs_of(data), config=Threshold(**settings))


def test_maps_of_images_known_to_be_empty_push_the_threshold_up():
    state = with_ok_images(ok_level=0.7, object_level=0.9)
    assert state["otsu"] < 0.6
    assert state["ok_floor"] == pytest.approx(0.7 * 0.99, abs=0.01)
    assert state["threshold"] == state["ok_floor"]
    quiet = with_ok_images(ok_level=0.1, object_level=0.9)
    assert quiet["threshold"] == quiet["otsu"] == state["otsu"]


def test_empty_maps_scaled_to_one_per_image_are_not_used_and_a_note_says_so():
    state = with_ok_images(ok_level=1.0, object_level=1.0)
    assert state["ok_floor"] is None
    assert state["threshold"] == state["otsu"]
    assert "scaled to a maximum of 1" in state["notes"][0]


def test_where_empty_images_fire_higher_than_objects_the_tagged_classes_are_kept():
    state = with_ok_images(ok_level=0.8, object_level=0.4)
    assert state["ok_floor"] > state["tag_ceiling"]
    assert state["threshold"] == state["tag_ceiling"] < 0.4
    assert "does not separate" in state["notes"][0]


def test_nearly_every_tagged_class_keeps_a_pixel_where_maps_differ_in_level():
    _, maps = blobs(20, (14, 18))
    levels = np.linspace(0.15, 1.0, 20)
    maps = [[row * np.float32(f) for row in rows] for rows, f in zip(maps, levels, strict=True)]
    data = make_data(maps, [frozenset({1})] * 20)
    state = threshold.fit(inputs_of(data), config=Threshold())
    kept = [rows[0].max() > state["threshold"] for rows in maps]
    assert np.mean(kept) >= 0.95
    assert state["threshold"] == state["tag_ceiling"] < state["otsu"]
    loose = threshold.fit(inputs_of(data), config=Threshold(min_found_frac=0, min_peak_frac=0))
    assert loose["threshold"] == loose["otsu"]


def test_images_of_many_pixels_weigh_no_more_than_small_ones():
    _, maps = blobs(2, (10, 11), seed=2)
    large = maps[1][0]
    samples, scores = make_data(maps, [frozenset({1})] * 2)
    enlarged = np.repeat(np.repeat(large, 2, 0), 2, 1)
    values = np.stack([np.zeros_like(enlarged), enlarged])
    bigger = scores | {"train-1": Scores(values, np.array([0, 1], np.uint8), (128, 128))}
    config = Threshold()
    first = threshold.fit(inputs_of((samples, scores)), config=config)
    assert threshold.fit(inputs_of((samples, bigger)), config=config) == first


def test_a_data_set_without_tagged_maps_says_what_to_set():
    with pytest.raises(DataError, match='Set the method of the threshold to "fixed"'):
        threshold.fit(inputs_of(), config=Threshold())


def test_constant_maps_are_called_what_they_are():
    data = make_data([[np.full(SIZE, 0.5, np.float32)]] * 2, [frozenset({1})] * 2)
    with pytest.raises(DataError, match="has learnt nothing"):
        threshold.fit(inputs_of(data), config=Threshold())


def masked_data(tmp_path):
    """Objects with maps, images and masks on disk."""
    masks, maps = blobs(5, (8, 14))
    samples, scores = make_data(maps, [frozenset({1})] * 5, split="val")
    on_disk = []
    for sample, mask in zip(samples, masks, strict=True):
        image_path, mask_path = tmp_path / f"{sample.id}.png", tmp_path / f"{sample.id}-mask.png"
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(image_path)
        Image.fromarray(mask.astype(np.uint8)).save(mask_path)
        on_disk.append(replace(sample, image_path=image_path, mask_path=mask_path))
    return masks, (on_disk, scores)


def test_sweep_finds_the_best_threshold_and_admits_the_masks(tmp_path):
    masks, data = masked_data(tmp_path)
    state = threshold.fit(inputs_of(data, allow_masks=True), config=Threshold(method="sweep"))
    pairs = [(data[1][s.id], m.astype(np.uint8)) for s, m in zip(data[0], masks, strict=True)]
    curve = sweep_thresholds(pairs, 2)
    assert state["threshold"] == curve.best_threshold
    assert state["tuned_on_masks"] is True
    assert state["split"] == "val"
    assert len(state["curve"]["thresholds"]) == 60


def test_sweep_tries_the_grid_that_it_is_given(tmp_path):
    _, data = masked_data(tmp_path)
    config = Threshold(method="sweep", max_value=0.9, step=0.3)
    state = threshold.fit(inputs_of(data, allow_masks=True), config=config)
    np.testing.assert_allclose(state["curve"]["thresholds"], [0, 0.3, 0.6, 0.9])


def test_sweep_is_refused_where_masks_may_not_tune(tmp_path):
    _, data = masked_data(tmp_path)
    with pytest.raises(RecipeError, match="--use-masks"):
        threshold.fit(inputs_of(data), config=Threshold(method="sweep"))


def test_sweep_without_masks_in_the_split_names_the_split(tmp_path):
    _, data = masked_data(tmp_path)
    config = Threshold(method="sweep", split="test")
    with pytest.raises(DataError, match='no mask in the split "test"'):
        threshold.fit(inputs_of(data, allow_masks=True), config=config)


def test_sweep_names_the_mask_of_another_size(tmp_path):
    _, data = masked_data(tmp_path)
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / "val-2-mask.png")
    with pytest.raises(DataError, match=r"val-2-mask\.png is 5 x 3 px, but its image is 64 x 64"):
        threshold.fit(inputs_of(data, allow_masks=True), config=Threshold(method="sweep"))


def test_sweep_compares_maps_of_shrunk_images_at_the_size_of_the_mask(tmp_path):
    _, (samples, scores) = masked_data(tmp_path)
    shrunk = {
        name: Scores(np.ascontiguousarray(s.values[:, ::2, ::2]), s.class_ids, (32, 32))
        for name, s in scores.items()
    }
    config = Threshold(method="sweep")
    state = threshold.fit(inputs_of((samples, shrunk), allow_masks=True), config=config)
    full = threshold.fit(inputs_of((samples, scores), allow_masks=True), config=config)
    assert state["curve"]["best_miou"] == pytest.approx(full["curve"]["best_miou"], abs=0.1)
