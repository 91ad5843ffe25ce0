"""What every registered refiner must hold, whatever it does.

A new refiner is tested by being registered, with its defaults. Where they would take long (a
training) or need something else (a transformer), `CASES` says what to change.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsseg import registry
from wsseg.config import MethodConfig
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import ClassList, WeakLabels
from wsseg.data.scores import Scores
from wsseg.refine.protocol import FitInputs, FittedRefiner, RefineContext

CLASSES = ClassList(tuple(f"class-{number}" for number in range(1, 81)))
NAMES = sorted(registry.table("refiners"))
# (H, W) of the image and (h, w) of the maps.
SIZES = [((1, 1), (1, 1)), ((33, 47), (9, 12)), ((16, 1), (4, 1)), ((24, 20), (24, 20))]
# What trained refiners learn does not matter here: one short epoch on a few small crops.
TRAINING = {"epochs": 1, "batch_size": 2, "num_workers": 0}
TRAIN_PX = 40


@dataclass(frozen=True)
class Case:
    """How a refiner is tested: its settings, and the backbone of the run's localizer."""

    settings: dict[str, Any] = field(default_factory=dict)
    backbone: str = "test_resnet"


CASES = {
    "affinity_net": Case({"radius": 2, "augment": {"crop_px": 32}, "training": TRAINING}),
    "attention_affinity": Case(backbone="test_vit"),
    "irn": Case(
        {"pair_radius": 2, "augment": {"crop_px": 16}, "training": TRAINING, "instances": True}
    ),
}


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


def make_localizer(backbone: str):
    """Make a tiny untrained classifier anew, as a run loads its trained one for each caller."""
    import torch

    from wsseg.nets.build import build_backbone
    from wsseg.nets.cam_head import ClassMapNet

    torch.manual_seed(0)
    trunk = build_backbone(backbone, output_stride=16)
    return ClassMapNet(trunk, num_classes=CLASSES.num_classes).eval()


def make_training_scores(sample: Sample) -> Scores:
    """Make maps of two classes, one of them on the bright part of the image."""
    seed = int(sample.id[-1])
    values = 0.04 * np.random.default_rng(seed).random((3, 10, 10))
    values[0] = 0
    values[1 + seed % 2, 4:, 4:] += 0.9
    return Scores(values.astype(np.float32), np.array([0, 3, 7], np.uint8), (TRAIN_PX, TRAIN_PX))


@dataclass(frozen=True)
class Method:
    """A refiner with its settings, which is fitted at most once per session for all tests."""

    name: str
    refiner: Any
    config: MethodConfig
    localizer: Callable[[], Any]
    fitted: dict[str, tuple[Path, dict]]
    make_folder: Callable[[], Path]

    def context(self, scores: Scores, *, anew: bool = False) -> RefineContext:
        """Give the refiner all it may ask for; ``anew`` fits it again in another folder."""
        if anew or self.name not in self.fitted:
            folder = self.make_folder()
            self.fitted[self.name] = (folder, self._fit(folder))
        folder, state = self.fitted[self.name]
        return RefineContext(
            sample_id="folder/image",
            tags=frozenset(scores.present),
            cue=np.random.default_rng(1).random(scores.size).astype(np.float32),
            state=state,
            folder=folder,
            localizer=self.localizer,
        )

    def __call__(self, image: np.ndarray, scores: Scores, context: RefineContext) -> Scores:
        return self.refiner(image, scores, config=self.config, context=context)

    def _fit(self, folder: Path) -> dict:
        if not isinstance(self.refiner, FittedRefiner):
            return {}
        labels = WeakLabels(tags=frozenset({3, 7}))
        samples = tuple(
            Sample(f"image-{i}", folder / f"image-{i}.png", labels, "train") for i in range(4)
        )
        for i, sample in enumerate(samples):
            Image.fromarray(make_image((TRAIN_PX, TRAIN_PX), seed=i)).save(sample.image_path)
        inputs = FitInputs(
            dataset=Dataset(folder, CLASSES, samples),
            samples=samples,
            load=make_training_scores,
            folder=folder,
            max_side_px=None,
            fingerprint="contract",
            localizer=self.localizer,
        )
        return self.refiner.fit(inputs, config=self.config)


@pytest.fixture(scope="session")
def fitted() -> dict[str, tuple[Path, dict]]:
    """What fitting gave, by name: its folder and state."""
    return {}


@pytest.fixture(params=NAMES)
def method(request, fitted, tmp_path_factory) -> Method:
    case = CASES.get(request.param, Case())
    return Method(
        request.param,
        registry.load("refiners", request.param),
        registry.config_class("refiners", request.param)(**case.settings),
        partial(make_localizer, case.backbone),
        fitted,
        lambda: tmp_path_factory.mktemp(request.param),
    )


def test_every_case_belongs_to_a_refiner():
    assert set(CASES) <= set(NAMES)


@pytest.mark.parametrize("num_rows", [1, 2, 21, 81])
@pytest.mark.parametrize(("size", "map_size"), SIZES)
def test_result_keeps_classes_type_and_range(method, size, map_size, num_rows):
    scores = make_scores(num_rows, size, map_size)
    refined = method(make_image(size), scores, method.context(scores))
    # A class that is not among the tags has no row, and gets none.
    assert refined.class_ids.tolist() == scores.class_ids.tolist()
    assert refined.size == size
    assert refined.values.shape[1:] in (map_size, size)
    assert refined.values.dtype == np.float32
    assert np.isfinite(refined.values).all()
    assert refined.values.min() >= 0
    assert refined.values.max() <= 1


def test_image_and_scores_are_not_changed_and_a_second_call_gives_the_same(method):
    size, map_size = SIZES[1]
    image, scores = make_image(size), make_scores(4, size, map_size)
    image_before, values_before = image.copy(), scores.values.copy()
    context = method.context(scores)
    first = method(image, scores, context)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(scores.values, values_before)
    warm = method(image, scores, context)
    # The whole way again, the training of a trained refiner included.
    fresh = method(image, scores, method.context(scores, anew=True))
    np.testing.assert_array_equal(first.values, warm.values)
    np.testing.assert_array_equal(first.values, fresh.values)
    assert not np.shares_memory(first.values, scores.values)


@pytest.mark.parametrize(("size", "map_size"), SIZES)
def test_an_image_without_classes_is_background_everywhere(method, size, map_size):
    scores = make_scores(1, size, map_size)
    refined = method(make_image(size), scores, method.context(scores))
    np.testing.assert_array_equal(refined.values, np.ones_like(refined.values))


def test_the_order_of_the_classes_does_not_matter(method):
    size, map_size = SIZES[1]
    scores = make_scores(4, size, map_size)
    order = [0, 3, 1, 2]
    moved = Scores(scores.values[order], scores.class_ids[order], size)
    image = make_image(size)
    expected = method(image, scores, method.context(scores)).values[order]
    found = method(image, moved, method.context(moved)).values
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_grey_images_are_refined(method):
    size, map_size = SIZES[1]
    image = np.repeat(make_image(size)[..., :1], 3, axis=2)
    scores = make_scores(3, size, map_size)
    refined = method(image, scores, method.context(scores))
    assert np.isfinite(refined.values).all()
    assert (refined.values[1:] > 0).any()


def test_an_image_of_one_colour_and_a_class_without_evidence_are_refined(method):
    size, map_size = SIZES[1]
    scores = make_scores(3, size, map_size)
    scores.values[2] = 0
    refined = method(np.full((*size, 3), 90, np.uint8), scores, method.context(scores))
    assert np.isfinite(refined.values).all()
    # What has no evidence wins nowhere against what has some.
    assert (refined.values[2] <= refined.values[:2].max(axis=0)).all()


def test_settings_say_what_they_mean_and_carry_the_name(method):
    for key, setting in type(method.config).model_fields.items():
        assert setting.description, f"{key} has no description"
    assert method.config.name == method.name
    parameters = inspect.signature(method.refiner).parameters
    assert list(parameters) == ["image", "scores", "config", "context"]


def test_the_state_of_a_fitted_refiner_is_json_and_admits_the_use_of_masks(method):
    if not isinstance(method.refiner, FittedRefiner):
        assert not hasattr(method.refiner, "fit")
        return
    state = method.context(make_scores(2, (8, 8), (8, 8))).state
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert state["tuned_on_masks"] is False
