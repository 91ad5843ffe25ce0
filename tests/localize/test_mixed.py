from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from wsseg import registry
from wsseg.context import RunContext
from wsseg.data.image_io import read_mask
from wsseg.data.labels import Boxes, Points, Scribbles, WeakLabels
from wsseg.data.scores import Scores, load_scores
from wsseg.errors import DataError, RecipeError
from wsseg.localize.constrain import constrained
from wsseg.localize.direct import LocalizeContext, scores_of_mask
from wsseg.localize.joined import joined
from wsseg.localize.kinds import leading_kind, led_by
from wsseg.localize.mixed import Mixed, mixed
from wsseg.localize.stage import localize
from wsseg.pipeline import plan, run
from wsseg.recipe import load_recipe, validate
from wsseg.rundir import RunDir, StageDir
from wsseg.segment.config import Smp
from wsseg.segment.data import SegmentationData
from wsseg.segment.trust import TrustConfig, trust_by_id

BOXES = Boxes([[2, 2, 8, 8]], [1])
POINTS = Points([[5, 5]], [1])
SCRIBBLES = Scribbles(([[3, 5], [7, 5]], [[0, 11], [12, 11]]), [1, 0])
FILLED = Mixed(boxes="filled_boxes", points="seeds", scribbles="seeds")
TINY_CAM = {
    "name": "cam",
    "backbone": "test_resnet",
    "training": {"epochs": 1, "batch_size": 2, "num_workers": 0, "precision": "float32"},
    "augment": {"scale": None, "crop_px": 32},
    "inference": {"scales": [1.0], "flip": False},
}


def hard(scores: Scores) -> np.ndarray:
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (12, 12, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("labels", "has_mask", "expected"),
    [
        (WeakLabels(tags={1}, boxes=BOXES, points=POINTS, scribbles=SCRIBBLES), True, "masks"),
        (WeakLabels(tags={1}, boxes=BOXES, points=POINTS, scribbles=SCRIBBLES), False, "scribbles"),
        (WeakLabels(tags={1}, boxes=BOXES, points=POINTS), False, "boxes"),
        (WeakLabels(tags={1}, points=POINTS), False, "points"),
        (WeakLabels(tags={1}), False, "tags"),
        (WeakLabels(tags={1}, boxes=Boxes(np.zeros((0, 4)), [])), False, "tags"),
        (WeakLabels(), False, None),
    ],
)
def test_the_strongest_label_leads(labels, has_mask, expected):
    assert leading_kind(labels, mask=has_mask) == expected


def test_a_painted_mask_is_used_as_it_is():
    painted = np.full((12, 12), 255, np.uint8)
    painted[:4], painted[4:8] = 0, 2
    context = LocalizeContext(mask=lambda: painted)
    labels = WeakLabels(tags={1}, boxes=BOXES)
    assert np.array_equal(hard(mixed(image(), labels, config=FILLED, context=context)), painted)
    assert context.facts["led_by"] == "masks"


def test_boxes_lead_and_points_pin():
    labels = WeakLabels(tags={1, 2}, boxes=Boxes([[2, 2, 8, 8]], [1]), points=Points([[5.5, 5.5]],
                        [2]))  # fmt: skip
    config = FILLED.model_copy(update={"points": FILLED.points.model_copy(
        update={"point_radius_px": 1.0})})  # fmt: skip
    context = LocalizeContext()
    found = hard(mixed(image(), labels, config=config, context=context))
    assert context.facts["led_by"] == "boxes"
    assert found[5, 5] == found[5, 4] == 2
    assert found[3, 3] == 1
    # Class 2 has no box, so the outside of the box of class 1 is not known.
    assert found[10, 10] == 255


def test_scribbles_lead_and_boxes_bound_them():
    scores = scores_of_mask(np.full((12, 12), 1, np.uint8))
    labels = WeakLabels(tags={1}, boxes=BOXES, scribbles=SCRIBBLES)
    found = hard(constrained(scores, labels))
    assert (found[2:8, 2:8] == 1).all()
    assert (found[:2] == 0).all()
    # A stroke binds more than the box does.
    long_stroke = Scribbles(([[1.5, 5.5], [10.5, 5.5]],), [1])
    pinned = WeakLabels(tags={1}, boxes=BOXES, scribbles=long_stroke)
    assert (hard(constrained(scores, pinned))[5, 1:11] == 1).all()


def test_tags_exclude_classes_and_what_they_covered_is_open():
    mask = np.array([[1, 2, 0, 255]], np.uint8)
    bound = constrained(scores_of_mask(mask), WeakLabels(tags={2}))
    assert bound.class_ids.tolist() == [0, 2]
    assert hard(bound).tolist() == [[255, 2, 0, 255]]
    untagged = constrained(scores_of_mask(mask), WeakLabels())
    assert hard(untagged).tolist() == mask.tolist()


def test_marks_of_a_class_that_the_tags_exclude_do_not_count():
    scores = scores_of_mask(np.zeros((12, 12), np.uint8))
    labels = WeakLabels(tags={2}, points=POINTS)
    assert (hard(constrained(scores, labels)) == 0).all()


def test_what_two_marks_claim_is_unknown_whatever_leads():
    scores = scores_of_mask(np.ones((1, 5), np.uint8))
    crossed = Scribbles(([[1.5, 0.5], [1.5, 0.5]], [[1.5, 0.5], [3.5, 0.5]]), [1, 2])
    found = constrained(scores, WeakLabels(tags={1, 2}, scribbles=crossed), scribble_width_px=1)
    assert hard(found).tolist() == [[1, 255, 2, 2, 1]]
    # A class that the tags rule out contradicts nothing.
    found = constrained(scores, WeakLabels(tags={1}, scribbles=crossed), scribble_width_px=1)
    assert hard(found).tolist() == [[1, 1, 1, 1, 1]]


def test_points_pin_no_more_than_their_localizer_draws():
    """Points 4 pixels apart draw one pixel each, where discs of 3 pixels would meet."""
    close = WeakLabels(tags={1, 2}, points=Points([[3.5, 5.5], [7.5, 5.5]], [1, 2]))
    points = {"name": "seeds", "background": "none", "point_spacing_frac": 0.125}
    config = FILLED.model_validate({**FILLED.model_dump(), "points": points})
    found = hard(mixed(image(), close, config=config))
    assert found[5, 3] == 1
    assert found[5, 7] == 2
    assert (found != 255).sum() == 2


def test_only_classes_with_boxes_are_bounded():
    mask = np.array([[1, 1, 2, 2]], np.uint8)
    labels = WeakLabels(tags={1, 2}, boxes=Boxes([[0, 0, 1, 1]], [1]))
    assert hard(constrained(scores_of_mask(mask), labels)).tolist() == [[1, 255, 2, 2]]
    every = WeakLabels(tags={1, 2}, boxes=Boxes([[0, 0, 1, 1], [2, 0, 3, 1]], [1, 2]))
    assert hard(constrained(scores_of_mask(mask), every)).tolist() == [[1, 0, 2, 0]]
    untagged = WeakLabels(boxes=Boxes([[0, 0, 1, 1]], [1]), points=Points([[3.5, 0.5]], [2]))
    found = hard(constrained(scores_of_mask(mask), untagged, point_radius_px=0.2))
    assert found.tolist() == [[1, 255, 2, 2]]


def test_a_box_off_the_image_bounds_nothing():
    mask = np.array([[1, 1, 2, 0]], np.uint8)
    off = WeakLabels(tags={1, 2}, boxes=Boxes([[9, 0, 12, 1]], [1]))
    assert hard(constrained(scores_of_mask(mask), off)).tolist() == mask.tolist()


def test_small_maps_are_bound_at_the_size_of_the_image():
    values = np.zeros((2, 3, 3), np.float32)
    values[0], values[1] = 0.3, 0.8
    scores = Scores(values, np.array([0, 1], np.uint8), (12, 12))
    bound = constrained(scores, WeakLabels(tags={1}, boxes=BOXES))
    assert bound.values.shape == (2, 12, 12)
    assert bound.values[:, 5, 5].tolist() == pytest.approx([0.3, 0.8])
    assert bound.values[:, 0, 0].tolist() == [1, 0]
    assert values[1].min() == np.float32(0.8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxes": "seeds"}, "boxes is seeds, which does not work from boxes"),
        ({"points": "grabcut"}, "points is grabcut"),
        ({"scribbles": "cam"}, "scribbles is cam"),
        ({"tags": "grabcut"}, "tags is grabcut, which does not train on tags"),
        ({"boxes": "mixed"}, "boxes is mixed"),
        ({"boxes": "grabcutt"}, 'Did you mean "grabcut"'),
    ],
)
def test_a_part_must_work_from_its_kind(settings, message):
    with pytest.raises(RecipeError, match=message):
        validate({"localize": {"name": "mixed", **settings}})


@pytest.fixture
def dataset(make_dataset):
    """One image of each kind, a second tag, an empty image, and one to hold out."""
    truth = np.zeros((12, 12), np.uint8)
    truth[2:8, 2:8] = 1
    made = make_dataset(
        {
            "masked": {"mask": truth},
            "boxed": {"mask": truth},
            "pointed": {"size": (12, 12)},
            "scribbled": {"size": (12, 12)},
            "tagged": {"tags": {2}, "size": (24, 24)},
            "ok": {"tags": set(), "size": (12, 12)},
            "val": {"mask": truth, "split": "val"},
        }
    )
    drawn = {
        "boxed": WeakLabels(tags={1}, boxes=BOXES),
        "pointed": WeakLabels(tags={1}, points=POINTS),
        "scribbled": WeakLabels(tags={1}, scribbles=SCRIBBLES),
        "val": WeakLabels(tags={1}, boxes=BOXES),
    }
    samples = []
    for sample in made:
        sample = dataclasses.replace(sample, labels=drawn.get(sample.id, sample.labels))
        if sample.id == "boxed":
            sample = dataclasses.replace(sample, mask_path=None)
        samples.append(sample)
    return dataclasses.replace(made, samples=tuple(samples))


def test_a_stage_uses_all_labels_and_says_which_led(dataset, tmp_path):
    config = FILLED.model_validate({**FILLED.model_dump(), "tags": TINY_CAM})
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, config, stage, RunContext(allow_masks=True))
    found = led_by(stage.manifest())
    assert found == {
        "masked": "masks",
        "boxed": "boxes",
        "pointed": "points",
        "scribbled": "scribbles",
        "tagged": "tags",
        "val": "boxes",
    }
    tagged = load_scores(stage.file("scores", "tagged", ".npz"))
    assert tagged.class_ids.tolist() == [0, 2]
    assert not tagged.unknown.any()
    assert tagged.values[0].max() == pytest.approx(0.3, abs=0.01)
    ok = load_scores(stage.file("scores", "ok", ".npz"))
    assert (ok.values == 1).all()


def test_painted_masks_are_no_labels_without_permission(dataset, tmp_path):
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, FILLED, stage, RunContext())
    assert set(led_by(stage.manifest())) == {"boxed", "pointed", "scribbled", "val"}
    assert "masks" not in led_by(stage.manifest()).values()


def test_images_with_tags_alone_are_left_out_and_counted_where_nothing_learns_from_tags(
    dataset, tmp_path, caplog
):
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, FILLED, stage, RunContext(allow_masks=True))
    assert not stage.failures()
    assert "tagged" not in stage.manifest()
    told = caplog.text
    assert "1 images have no scribbles or boxes or points and get no maps (tagged)" in told
    assert "--set localize.tags=cam" in told


def test_no_network_is_trained_for_images_that_have_masks(dataset):
    config = FILLED.model_validate({**FILLED.model_dump(), "tags": TINY_CAM})
    samples = [s for s in dataset if s.id in ("masked", "boxed", "ok")]
    assert config.uses_network(samples, allow_masks=False)
    assert not config.uses_network(samples, allow_masks=True)
    assert config.uses_network(dataset.samples, allow_masks=True)
    # Masks of other splits are there to score.
    held_out = [dataclasses.replace(samples[0], split="val")]
    assert config.uses_network(held_out, allow_masks=True)


def test_boxes_of_classes_without_scribbles_lead_beside_scribbles():
    labels = WeakLabels(
        tags={1, 2},
        boxes=Boxes([[6, 0, 10, 4]], [2]),
        scribbles=Scribbles(([[1, 9], [4, 9]], [[0, 6], [12, 6]]), [1, 0]),
    )
    context = LocalizeContext()
    found = hard(mixed(image(), labels, config=FILLED, context=context))
    assert (found[:4, 6:10] == 2).all()
    assert (found[9, 1:4] == 1).all()
    assert (found[6] == 0).all()
    # Seeds alone say nothing of the rest, so no more is known than that.
    assert (found[0, :6] == 255).all()
    assert context.facts["led_by"] == "scribbles"
    assert context.facts["led_classes"] == {"scribbles": [1], "boxes": [2]}


@pytest.mark.parametrize("tags", [None, {1, 2}])
def test_classes_from_boxes_and_from_seeds_share_their_background(tags):
    rows, columns = np.mgrid[:40, :60]
    truth = np.zeros((40, 60), np.uint8)
    truth[(rows - 20) ** 2 + (columns - 15) ** 2 <= 8**2] = 1
    truth[(rows - 20) ** 2 + (columns - 45) ** 2 <= 8**2] = 2
    picture = np.array([[60, 60, 60], [200, 40, 40], [40, 200, 40]], np.uint8)[truth]
    strokes = Scribbles(([[12, 20], [18, 20]], [[2, 2], [58, 2]]), [1, 0])
    labels = WeakLabels(tags=tags, boxes=Boxes([[34, 10, 56, 31]], [2]), scribbles=strokes)
    found = hard(mixed(picture, labels))
    for class_id in (0, 1, 2):
        mine, true = found == class_id, truth == class_id
        assert (mine & true).sum() / (mine | true).sum() > 0.8


def test_boxes_lead_where_strokes_mark_nothing_but_background():
    ground = Scribbles(([[0, 11], [12, 11]],), [0])
    labels = WeakLabels(tags={1}, boxes=BOXES, scribbles=ground)
    assert leading_kind(labels) == "boxes"
    context = LocalizeContext()
    found = hard(mixed(image(), labels, config=FILLED, context=context))
    assert (found[2:8, 2:8] == 1).all()
    assert (found == 1).sum() == 36
    assert context.facts["led_by"] == "boxes"
    assert leading_kind(WeakLabels(tags={1}, scribbles=ground)) == "tags"
    assert leading_kind(WeakLabels(points=POINTS, scribbles=ground)) == "points"
    assert leading_kind(WeakLabels(scribbles=ground)) == "scribbles"
    alone = hard(mixed(image(), WeakLabels(scribbles=ground), config=FILLED))
    assert (alone[11] == 0).all()
    assert (alone[:9] == 255).all()


def test_a_class_with_points_alone_keeps_the_outside_of_boxes_open():
    labels = WeakLabels(boxes=BOXES, points=Points([[10.5, 10.5]], [2]))
    found = hard(mixed(image(), labels, config=FILLED))
    assert found[10, 10] == 2
    assert found[4, 4] == 1
    assert found[0, 0] == 255


def test_shapes_that_the_tags_exclude_or_that_lie_off_the_image_do_not_lead():
    excluded = WeakLabels(tags={1}, boxes=BOXES, scribbles=Scribbles(([[3, 5], [7, 5]],), [2]))
    context = LocalizeContext()
    found = hard(mixed(image(), excluded, config=FILLED, context=context))
    assert context.facts["led_by"] == "boxes"
    assert (found == 1).sum() == 36
    off = Scribbles(([[30, 5], [40, 5]],), [1])
    context = LocalizeContext()
    labels = WeakLabels(tags={1}, boxes=BOXES, scribbles=off)
    found = hard(mixed(image(), labels, config=FILLED, context=context))
    assert context.facts["led_by"] == "boxes"
    assert (found == 1).sum() == 36
    context = LocalizeContext()
    nothing = mixed(image(), WeakLabels(scribbles=off), config=FILLED, context=context)
    assert nothing.unknown.all()
    assert "no shape lies in the image" in context.facts["notes"][0]


def test_joined_scores_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    parts = []
    for ids in ([0, 3, 1], [0, 2], [0, 7]):
        values = rng.random((len(ids), 3, 4)).astype(np.float32)
        parts.append(Scores(values, np.array(ids, np.uint8), (3, 4)))
    found = joined(parts)
    assert found.class_ids.tolist() == [0, 1, 2, 3, 7]
    a, b, c = (part.values.astype(np.float64) for part in parts)
    free = 1 - a[1:].max(axis=0), 1 - b[1], 1 - c[1]
    expected = {
        0: np.minimum(np.minimum(a[0], b[0]), c[0]),
        3: a[1] * free[1] * free[2],
        1: a[2] * free[1] * free[2],
        2: b[1] * free[0] * free[2],
        7: c[1] * free[0] * free[1],
    }
    for class_id, row in expected.items():
        at = found.class_ids.tolist().index(class_id)
        np.testing.assert_allclose(found.values[at], row, atol=1e-6)
    with pytest.raises(ValueError, match="scores of class 2"):
        joined([parts[1], parts[1]])


def test_parts_are_asked_for_their_segments_and_weights_before_the_run(dataset, tmp_path):
    missing = {"name": "folder", "path": str(tmp_path / "none")}
    config = Mixed(boxes={"name": "box_prompts", "segments": missing}, points="seeds")
    with pytest.raises(DataError, match="none"):
        config.check(dataset, allow_masks=False)
    # A part that no image needs is not asked.
    unboxed = tuple(s for s in dataset if s.labels.boxes is None)
    config.check(dataclasses.replace(dataset, samples=unboxed), allow_masks=False)
    config = Mixed(scribbles={"name": "graphnet", "backbone": "no_such_net"})
    with pytest.raises(RecipeError, match="no_such_net"):
        config.check(dataset, allow_masks=False)


def test_a_cue_inside_a_part_is_refused_with_what_to_do(dataset):
    class Cued(type(FILLED.boxes)):
        cue: object = None

    part = Cued(cue=registry.settings("cues", "rbd"))
    config = FILLED.model_copy(update={"boxes": part})
    with pytest.raises(RecipeError, match=r'with the cue "rbd".*localize\.boxes\.cue=null'):
        config.check(dataset, allow_masks=False)


def test_a_mixed_run_trains_by_trust_and_marks_numbers_of_painted_masks(dataset, tmp_path):
    recipe = validate(
        {
            "localize": FILLED.model_dump(mode="json") | {"tags": TINY_CAM},
            "supervision": "mixed",
            "segment": {
                "name": "smp",
                "architecture": "unet",
                "encoder": "tu-test_resnet",
                "weights": "none",
                "validate_on": "none",
                "training": TINY_CAM["training"],
                "augment": {"crop_px": 32, "scale": None},
                "trust": {"tags": 0.25, "points": 0.5},
            },
        }
    )
    finished = run(dataset, recipe=recipe, out=tmp_path / "run", use_masks=True)
    masked = read_mask(tmp_path / "run" / "masks" / "masked.png")
    assert np.array_equal(masked, read_mask(dataset.by_id("masked").mask_path))
    entries = {(e["stage"], e["split"]): e for e in finished.metrics["stages"]}
    assert entries["pseudo", "train"]["tuned_on_masks"]
    assert entries["localize", "train"]["tuned_on_masks"]
    weights = trust_by_id(tmp_path / "run" / "localize", recipe.segment.trust)
    assert weights["tagged"] == 0.25
    assert weights["pointed"] == 0.5
    assert weights["masked"] == weights["boxed"] == 1
    card = (tmp_path / "run" / "segment" / "model" / "README.md").read_text("utf-8")
    assert "tags, boxes, points, scribbles and masks" in card
    recipe_text = (tmp_path / "run" / "recipe.yaml").read_text("utf-8")
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == recipe
    assert "trust" in recipe_text


def test_a_mask_that_is_painted_anew_changes_the_maps_only_where_it_may_be_used(dataset, tmp_path):
    recipe = validate({"localize": {"name": "mixed", "boxes": "filled_boxes"}})
    folder = RunDir(tmp_path / "run")

    def marks(use_masks):
        return plan(folder, dataset, recipe, use_masks).localize.fingerprint

    before = marks(False), marks(True)
    path = dataset.by_id("masked").mask_path
    path.write_bytes(path.read_bytes() + b"\0")
    assert (marks(False) == before[0], marks(True) == before[1]) == (True, False)


def test_data_that_no_part_can_use_is_refused(make_dataset):
    tagged = make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}}})
    with pytest.raises(DataError, match="finds no label that it can use"):
        FILLED.check(tagged, allow_masks=False)
    masked = make_dataset({"a": {"tags": None, "mask": np.ones((4, 4))}})
    with pytest.raises(DataError, match="with --use-masks"):
        FILLED.check(masked, allow_masks=False)
    FILLED.check(masked, allow_masks=True)


def test_tags_that_cannot_train_are_refused_before_the_run(dataset):
    config = FILLED.model_validate({**FILLED.model_dump(), "tags": TINY_CAM})
    always = dataclasses.replace(
        dataset,
        samples=tuple(
            dataclasses.replace(s, labels=dataclasses.replace(s.labels, tags=frozenset({1})))
            for s in dataset
        ),
    )
    with pytest.raises(DataError, match=r"(?s)Every train image carries dent.*localize.tags=null"):
        config.check(always, allow_masks=False)


def test_trust_multiplies_the_weight_of_every_pixel(dataset, tmp_path):
    pairs = [(dataset.by_id("masked").image_path, dataset.by_id("masked").mask_path),
             (dataset.by_id("val").image_path, dataset.by_id("val").mask_path)]  # fmt: skip
    config = Smp(augment={"crop_px": 16, "scale": None}, trust={"boxes": 0.5})
    data = SegmentationData(pairs, config, trust={pairs[1][0]: 0.5})
    rng = np.random.default_rng
    assert (data.item(0, rng(0))["weight"] == 1).all()
    assert (data.item(1, rng(0))["weight"] == 0.5).all()
    assert "weight" not in SegmentationData(pairs, config).item(0, rng(0))


def test_even_trust_leaves_no_trace_in_the_settings():
    assert "trust" not in Smp().model_dump()
    assert Smp(trust={"tags": 0.5}).model_dump()["trust"]["tags"] == 0.5
    assert trust_by_id(None, TrustConfig(tags=0.5)) == {}
    with pytest.raises(RecipeError, match="trust weighs the pixels"):
        load_recipe("cam", ["segment.trust.tags=0.5", "segment.loss={name: sec}"])


def test_the_manifest_is_json(dataset, tmp_path):
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, FILLED, stage, RunContext())
    lines = (stage.path / "manifest.jsonl").read_text("utf-8").splitlines()
    assert all(json.loads(line) for line in lines)
