"""What every localizer without training must hold, whatever it is given.

A new one is tested by being registered, with its defaults.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from PIL import Image

from wsseg import registry
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import Boxes, ClassList, Points, Scribbles, WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.localize.direct import (
    DirectLocalizerConfig,
    FittedLocalizer,
    LearnInputs,
    LocalizeContext,
)
from wsseg.localize.kinds import leading_kind

NAMES = [
    name
    for name in registry.table("localizers")
    if issubclass(registry.config_class("localizers", name), DirectLocalizerConfig)
    and set(registry.config_class("localizers", name).label_kinds)
    & {"boxes", "points", "scribbles"}
]
SIZE = (36, 48)
# Where many runs would take long.
FASTER = {
    "bap": {
        "backbone": "test_resnet",
        "scales": [1.0],
        "flip": False,
        "training": {
            "epochs": 30,
            "batch_size": 4,
            "optimiser": "adamw",
            "lr": 3e-3,
            "num_workers": 0,
            "precision": "float32",
        },
        "augment": {"scale": None, "crop_px": 64, "hflip": 0.5},
    },
    "grabcut_jitter": {"runs": 3},
}

LABELS = {
    "one of each": WeakLabels(
        tags={1, 2},
        boxes=Boxes([[6, 6, 26, 28], [24, 10, 44, 30]], [1, 2]),
        points=Points([[14, 16], [34, 20]], [1, 2]),
        scribbles=Scribbles(
            ([[10, 12], [18, 22]], [[30, 14], [38, 26]], [[1, 1], [46, 1]]), [1, 2, 0]
        ),
    ),
    "outside of the image": WeakLabels(
        tags={1},
        boxes=Boxes([[-50, -50, -10, -10], [100, 100, 120, 130]], [1, 1]),
        points=Points([[-5, -5], [500, 3], [3, 36]], [1, 1, 1]),
        scribbles=Scribbles(([[-90, -90], [-50, -40]], [[300, 3]]), [1, 0]),
    ),
    "covering everything": WeakLabels(
        tags={1},
        boxes=Boxes([[-10, -10, 60, 50]], [1]),
        points=Points([[x, y] for x in range(0, 48, 3) for y in range(0, 36, 3)], [1] * 192),
        scribbles=Scribbles(tuple([[0, y], [48, y]] for y in range(37)), [1] * 37),
    ),
    "two classes on one pixel": WeakLabels(
        tags={1, 2},
        boxes=Boxes([[10, 10, 30, 30], [10, 10, 30, 30]], [1, 2]),
        points=Points([[20, 20], [20, 20]], [1, 2]),
        scribbles=Scribbles(([[10, 20], [30, 20]], [[20, 10], [20, 30]]), [1, 2]),
    ),
    "as small as can be": WeakLabels(
        tags={1},
        boxes=Boxes([[10.1, 10.1, 10.2, 10.2]], [1]),
        points=Points([[10.1, 10.1]], [1]),
        scribbles=Scribbles(([[10.1, 10.1]],), [1]),
    ),
    "none drawn": WeakLabels(
        boxes=Boxes(np.zeros((0, 4)), []),
        points=Points(np.zeros((0, 2)), []),
        scribbles=Scribbles((), []),
    ),
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Train a localizer that learns, once, on four copies of one picture."""
    folders: dict = {}

    def folder_and_state(name, function, config):
        if name not in folders:
            folder = tmp_path_factory.mktemp(name)
            Image.fromarray(picture()).save(folder / "picture.png")
            samples = tuple(
                Sample(f"{name}{k}", folder / "picture.png", LABELS["one of each"], "train")
                for k in range(4)
            )
            dataset = Dataset(folder, ClassList(("red", "green")), samples)
            inputs = LearnInputs(dataset, samples, folder, fingerprint=name)
            folders[name] = folder, function.fit(inputs, config=config), {}
        return folders[name]

    return folder_and_state


@pytest.fixture(params=NAMES)
def method(request, learned):
    config = registry.config_class("localizers", request.param)(**FASTER.get(request.param, {}))
    function = registry.load("localizers", request.param)

    def run(image, labels, context=None) -> Scores:
        context = context or LocalizeContext(sample_id="folder/image")
        if isinstance(function, FittedLocalizer):
            context.folder, context.state, context.shared = learned(request.param, function, config)
        return function(image, labels, config=config, context=context)

    run.config, run.function = config, function
    return run


def picture(size=SIZE) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 80, (*size, 3)).astype(np.uint8)
    image[8:26, 8:24] += np.array([120, 0, 0], np.uint8)
    image[12:28, 26:42] += np.array([0, 120, 0], np.uint8)
    return image


def check(scores: Scores, labels: WeakLabels, size) -> None:
    assert scores.size == size
    assert scores.values.dtype == np.float32
    assert np.isfinite(scores.values).all()
    assert set(scores.class_ids.tolist()) - {0} <= labels.class_ids()


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_any_labels_give_scores_of_their_classes(method, labels):
    if method.config.name == "mixed" and leading_kind(labels, mask=False) is None:
        # It takes what there is, so that nothing at all is an error in the data.
        with pytest.raises(DataError, match="folder/image has no label"):
            method(picture(), labels)
        return
    check(method(picture(), labels), labels, SIZE)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (5, 4), (33, 47)])
@pytest.mark.parametrize("labels", list(LABELS.values())[:4], ids=list(LABELS)[:4])
def test_any_size_works(method, size, labels):
    check(method(picture(size), labels), labels, size)


def test_an_image_of_one_colour_works(method):
    labels = LABELS["one of each"]
    check(method(np.full((*SIZE, 3), 90, np.uint8), labels), labels, SIZE)


def test_grey_images_work(method):
    labels = LABELS["one of each"]
    grey = np.repeat(picture()[..., :1], 3, axis=2)
    check(method(grey, labels), labels, SIZE)


def test_nothing_is_changed_and_a_second_call_gives_the_same(method):
    labels, image = LABELS["one of each"], picture()
    kept = image.copy()
    first = method(image, labels)
    np.testing.assert_array_equal(image, kept)
    second = method(image, labels)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.class_ids.tolist() == second.class_ids.tolist()


def test_both_objects_are_found_and_what_lies_apart_is_not_taken(method):
    scores = method(picture(), LABELS["one of each"])
    assert set(scores.class_ids.tolist()) == {0, 1, 2}
    strongest = scores.class_ids[scores.values.argmax(axis=0)]
    strongest[scores.unknown] = 255
    assert strongest[16, 14] == 1
    assert strongest[20, 34] == 2
    assert strongest[1, 40] in (0, 255)


def test_the_settings_carry_the_name_and_say_which_labels_they_need(method):
    config = method.config
    assert config.name in NAMES
    assert set(config.label_kinds) <= {"tags", "boxes", "points", "scribbles"}
    assert config.label_kinds
    assert config.writes_background
    function = method.function
    call = function.__call__ if isinstance(function, FittedLocalizer) else function
    assert list(inspect.signature(call).parameters) == [
        "image",
        "labels",
        "config",
        "context",
    ]
