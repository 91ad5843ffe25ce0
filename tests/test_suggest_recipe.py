from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from wsseg.data.labels import Boxes, Points, Scribbles, WeakLabels
from wsseg.pipeline import run
from wsseg.recipe import load_recipe, shipped
from wsseg.suggest import suggest_recipe

BOXES = Boxes([[1, 1, 5, 5]], [1])
POINTS = Points([[3, 3]], [1])
SCRIBBLES = Scribbles(([[1, 1], [5, 5]],), [1])
NONE = Boxes(np.zeros((0, 4)), [])


def labelled(make_dataset, *labels, split="train"):
    made = make_dataset({f"image-{i}": {"split": split} for i in range(len(labels))})
    samples = [dataclasses.replace(s, labels=one) for s, one in zip(made, labels, strict=True)]
    return dataclasses.replace(made, samples=tuple(samples))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([WeakLabels(tags={1}), WeakLabels(tags={2})], "tags"),
        ([WeakLabels(tags={1}), WeakLabels(tags=())], "defects"),
        ([WeakLabels(tags={1}, boxes=BOXES)], "grabcut"),
        ([WeakLabels(boxes=BOXES), WeakLabels(tags=())], "grabcut"),
        ([WeakLabels(boxes=BOXES), WeakLabels()], "grabcut"),
        ([WeakLabels(tags={1}, points=POINTS)], "points"),
        ([WeakLabels(tags={1}, scribbles=SCRIBBLES)], "scribbles"),
        ([WeakLabels(tags={1}, boxes=BOXES), WeakLabels(tags={1})], "mixed"),
        ([WeakLabels(boxes=BOXES), WeakLabels(points=POINTS)], "mixed"),
        ([WeakLabels(boxes=BOXES, scribbles=SCRIBBLES)], "mixed"),
        ([WeakLabels(tags={1}, boxes=NONE)], "tags"),
        ([WeakLabels()], "tags"),
    ],
)
def test_the_recipe_follows_the_kinds_of_label(labels, expected, make_dataset):
    name, why = suggest_recipe(labelled(make_dataset, *labels))
    assert name == expected
    assert name in shipped()
    assert why


@pytest.mark.parametrize(
    ("num_ok", "num_tagged", "num_untagged", "expected"),
    [(1, 3, 0, "defects"), (1, 4, 0, "tags"), (1, 3, 9, "defects"), (25, 75, 0, "defects")],
)
def test_a_few_empty_images_are_no_inspection(
    num_ok, num_tagged, num_untagged, expected, make_dataset
):
    labels = [WeakLabels(tags=())] * num_ok + [WeakLabels(tags={1})] * num_tagged
    name, why = suggest_recipe(labelled(make_dataset, *labels, *[WeakLabels()] * num_untagged))
    assert name == expected
    assert f"{num_ok} of {num_ok + num_tagged} images" in why


def test_labels_of_held_out_images_decide_nothing(make_dataset):
    dataset = labelled(make_dataset, WeakLabels(tags={1}, boxes=BOXES), split="val")
    assert suggest_recipe(dataset)[0] == "tags"


def test_the_choice_is_said_with_its_reason(make_dataset, tmp_path, caplog):
    dataset = labelled(make_dataset, WeakLabels(tags={1}, boxes=BOXES))
    changes = ["segment=null", "localize=filled_boxes"]
    with caplog.at_level(logging.INFO, logger="wsseg"):
        run(dataset, overrides=changes, out=tmp_path / "run")
    assert (
        'recipe: "grabcut", because there are boxes (choose another with --recipe)' in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "localizer"),
    [
        ("grabcut", "grabcut"),
        ("boxes", "grabcut_jitter"),
        ("points", "random_walker_seeds"),
        ("scribbles", "random_walker_seeds"),
        ("mixed", "mixed"),
    ],
)
def test_recipes_for_shapes_name_their_localizer_and_what_they_need(name, localizer):
    recipe = load_recipe(name)
    assert recipe.localize.name == localizer
    assert recipe.localize.writes_background
    assert recipe.supervision == ("boxes" if name == "grabcut" else name)


@pytest.mark.parametrize("name", ["grabcut", "boxes", "points", "scribbles", "mixed"])
def test_every_recipe_for_shapes_makes_masks(name, make_dataset, tmp_path):
    image = np.full((40, 48, 3), 60, np.uint8)
    image[10:30, 14:34] = (200, 60, 60)
    image = image + np.random.default_rng(0).integers(0, 10, image.shape).astype(np.uint8)
    made = make_dataset({"a": {"image": image, "size": (40, 48)}})
    labels = WeakLabels(
        tags={1},
        boxes=Boxes([[10, 6, 38, 34]], [1]),
        points=Points([[24, 20]], [1]),
        scribbles=Scribbles(([[18, 20], [30, 20]], [[2, 2], [46, 2]]), [1, 0]),
    )
    only = {"grabcut": "boxes"}.get(name, name)
    if only != "mixed":
        labels = dataclasses.replace(labels, **{
            kind: None for kind in ("boxes", "points", "scribbles") if kind != only})  # fmt: skip
    dataset = dataclasses.replace(made, samples=(dataclasses.replace(made.samples[0],
                                                                    labels=labels),))  # fmt: skip
    run(dataset, recipe=name, overrides=["segment=null"], out=tmp_path / "run")
    from wsseg.data.image_io import read_mask

    mask = read_mask(tmp_path / "run" / "masks" / "a.png")
    truth = np.zeros((40, 48), bool)
    truth[10:30, 14:34] = True
    found = mask == 1
    assert (found & truth).sum() / found.sum() > 0.9
    assert found.sum() > 60
    assert (mask[0] == 0).mean() > 0.5
