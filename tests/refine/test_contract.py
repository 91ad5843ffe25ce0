"""What every registered refiner must hold, whatever it does."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from wsseg import registry
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import ClassList, WeakLabels
from wsseg.data.scores import Scores
from wsseg.refine.protocol import FitInputs, FittedRefiner, RefineContext

CLASSES = ClassList(tuple(f"class-{number}" for number in range(1, 81)))
NAMES = sorted(registry.table("refiners"))
# (H, W) of the image and (h, w) of the maps.
SIZES = [((1, 1), (1, 1)), ((33, 47), (9, 12)), ((16, 1), (4, 1)), ((24, 20), (24, 20))]


def make_image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3)).astype(np.uint8)
    image[size[0] // 3 :, size[1] // 3 :] += 150
    return image


def make_scores(num_rows: int, size, map_size, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    values = rng.random((num_rows, *map_size)).astype(np.float32)
    values[0] = 0
    foreground = rng.permutation(np.arange(1, 81))[: num_rows - 1]
    return Scores(values, np.array([0, *foreground], np.uint8), size)


def make_context(refiner, config, scores: Scores, folder: Path) -> RefineContext:
    """Give a refiner all it may ask for, and fit it where it wants to be fitted."""
    rng = np.random.default_rng(1)
    context = RefineContext(
        sample_id="folder/image",
        tags=frozenset(scores.present),
        cue=rng.random(scores.size).astype(np.float32),
        folder=folder,
    )
    if isinstance(refiner, FittedRefiner):
        samples = tuple(
            Sample(f"image-{i}", folder / f"image-{i}.png", WeakLabels(tags=frozenset({3, 7})))
            for i in range(3)
        )
        inputs = FitInputs(
            dataset=Dataset(folder, CLASSES, samples),
            samples=samples,
            load=lambda sample: Scores(
                make_scores(3, (20, 20), (10, 10), seed=int(sample.id[-1])).values,
                np.array([0, 3, 7], np.uint8),
                (20, 20),
            ),
            folder=folder,
        )
        context.state = refiner.fit(inputs, config=config)
    return context


@pytest.fixture(params=NAMES)
def method(request):
    refiner = registry.load("refiners", request.param)
    return refiner, registry.config_class("refiners", request.param)()


@pytest.mark.parametrize("num_rows", [1, 2, 21, 81])
@pytest.mark.parametrize(("size", "map_size"), SIZES)
def test_result_keeps_classes_type_and_range(method, size, map_size, num_rows, tmp_path):
    refiner, config = method
    scores = make_scores(num_rows, size, map_size)
    context = make_context(refiner, config, scores, tmp_path)
    refined = refiner(make_image(size), scores, config=config, context=context)
    # A class that is not among the tags has no row, and gets none.
    assert refined.class_ids.tolist() == scores.class_ids.tolist()
    assert refined.size == size
    assert refined.values.shape[1:] in (map_size, size)
    assert refined.values.dtype == np.float32
    assert np.isfinite(refined.values).all()
    assert refined.values.min() >= 0
    assert refined.values.max() <= 1


def test_image_and_scores_are_not_changed_and_a_second_call_gives_the_same(method, tmp_path):
    refiner, config = method
    size, map_size = SIZES[1]
    image, scores = make_image(size), make_scores(4, size, map_size)
    image_before, values_before = image.copy(), scores.values.copy()
    context = make_context(refiner, config, scores, tmp_path)
    first = refiner(image, scores, config=config, context=context)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(scores.values, values_before)
    warm = refiner(image, scores, config=config, context=context)
    fresh_context = make_context(refiner, config, scores, tmp_path)
    fresh = refiner(image, scores, config=config, context=fresh_context)
    np.testing.assert_array_equal(first.values, warm.values)
    np.testing.assert_array_equal(first.values, fresh.values)
    assert not np.shares_memory(first.values, scores.values)


def test_an_image_without_classes_is_background_everywhere(method, tmp_path):
    refiner, config = method
    size, map_size = SIZES[1]
    scores = make_scores(1, size, map_size)
    context = make_context(refiner, config, scores, tmp_path)
    refined = refiner(make_image(size), scores, config=config, context=context)
    np.testing.assert_array_equal(refined.values, np.ones_like(refined.values))


def test_the_order_of_the_classes_does_not_matter(method, tmp_path):
    refiner, config = method
    size, map_size = SIZES[1]
    scores = make_scores(4, size, map_size)
    order = [0, 3, 1, 2]
    moved = Scores(scores.values[order], scores.class_ids[order], size)
    context = make_context(refiner, config, scores, tmp_path)
    image = make_image(size)
    expected = refiner(image, scores, config=config, context=context).values[order]
    found = refiner(image, moved, config=config, context=context).values
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_grey_images_are_refined(method, tmp_path):
    refiner, config = method
    size, map_size = SIZES[1]
    image = np.repeat(make_image(size)[..., :1], 3, axis=2)
    scores = make_scores(3, size, map_size)
    context = make_context(refiner, config, scores, tmp_path)
    refined = refiner(image, scores, config=config, context=context)
    assert np.isfinite(refined.values).all()
    assert (refined.values[1:] > 0).any()


def test_settings_say_what_they_mean_and_carry_the_name(method):
    refiner, config = method
    for key, field in type(config).model_fields.items():
        assert field.description, f"{key} has no description"
    name = config.name
    assert registry.load("refiners", name) is refiner
    parameters = inspect.signature(refiner).parameters
    assert list(parameters) == ["image", "scores", "config", "context"]


def test_the_state_of_a_fitted_refiner_is_json_and_admits_the_use_of_masks(method, tmp_path):
    refiner, config = method
    if not isinstance(refiner, FittedRefiner):
        assert not hasattr(refiner, "fit")
        return
    scores = make_scores(2, (8, 8), (8, 8))
    state = make_context(refiner, config, scores, tmp_path).state
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert state["tuned_on_masks"] is False
