from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsseg.atomic import append_jsonl
from wsseg.data.dataset import Sample
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.labels import Boxes, Points, WeakLabels
from wsseg.errors import DataError
from wsseg.report.collect import collect
from wsseg.report.gallery import choose
from wsseg.report.model import GalleryItem, ReportData

MakeRun = Callable[..., Any]


@pytest.fixture
def data(make_run: MakeRun) -> ReportData:
    return collect(make_run().path)


def sample(name: str, split: Any = "train") -> Sample:
    return Sample(name, Path(name), split=split)


def test_the_recipe_tells_method_paper_seed_and_versions(data: ReportData):
    recipe = data.recipe
    assert recipe is not None
    assert (recipe.name, recipe.seed) == ("defects", 7)
    assert "CVPR 2016" in recipe.paper
    assert [(stage, method) for stage, method, _ in recipe.steps] == [
        ("localize", "cam"),
        ("refine", "background_power"),
        ("refine", "dense_crf"),
        ("pseudo", "default rule"),
        ("segment", "smp"),
    ]
    assert recipe.facts == (("software", "wsseg 0.1.0, Python 3.12, torch 2.9"),)


def test_extra_supervision_and_pretraining_are_named(data: ReportData):
    assert data.recipe is not None
    assert data.recipe.supervision == ("I: image tags",)
    assert data.recipe.pretraining == (
        ("localize: resnet18", "from scratch"),
        ("segment: resnet18", "imagenet"),
    )


def test_external_models_are_spelled_out(make_run: MakeRun):
    run = make_run()
    text = (
        (run.path / "recipe.yaml").read_text().replace("supervision: I\n", "supervision: I+SAM\n")
    )
    (run.path / "recipe.yaml").write_text(text)
    recipe = collect(run.path).recipe
    assert recipe is not None
    assert recipe.supervision == ("I: image tags", "+SAM: Segment Anything")


def test_a_stage_that_was_tuned_on_masks_is_named(make_run: MakeRun):
    run = make_run(num_images=3)
    (run.path / "settings.json").write_text('{"use_masks": true}')
    recipe = collect(run.path).recipe
    assert recipe is not None
    assert "allowed" in recipe.tuned_on_masks[0]
    state = {"progress": "done", "state": {"tuned_on_masks": True}}
    (run.path / "refine" / "2_dense_crf" / "stage.json").write_text(json.dumps(state))
    recipe = collect(run.path).recipe
    assert recipe is not None
    assert recipe.tuned_on_masks == ("refine/2_dense_crf",)


def test_the_machine_and_comment_lines_are_facts(make_run: MakeRun):
    run = make_run(num_images=3)
    (run.path / "machine.json").write_text('{"processor": "x86", "memory_gb": 8.0, "gpu": null}')
    path = run.path / "recipe.yaml"
    path.write_text("# data: abc\n" + path.read_text() + "extra: {torch: 2.9, cuda: false}\n")
    recipe = collect(run.path).recipe
    assert recipe is not None
    assert dict(recipe.facts) == {
        "data": "abc",
        "software": "wsseg 0.1.0, Python 3.12, torch 2.9",
        "extra torch": "2.9",
        "extra cuda": "no",
        "processor": "x86",
        "memory gb": "8",
    }


def test_a_recipe_of_plain_names_is_understood(make_run: MakeRun):
    run = make_run(num_images=3)
    (run.path / "recipe.yaml").write_text("localize: cam\nsupervision: [I, +S]\nseed: x\n")
    recipe = collect(run.path).recipe
    assert recipe is not None
    assert recipe.steps == (("localize", "cam", ""),)
    assert recipe.supervision == ("I: image tags", "+S: saliency")
    assert recipe.seed is None


def test_a_stage_without_its_own_time_adds_up_its_images(make_run: MakeRun):
    run = make_run(num_images=3)
    (run.path / "masks" / "stage.json").write_text('{"progress": "running"}')
    masks = next(stage for stage in collect(run.path).stage_runs if stage.name == "masks")
    assert (masks.state, masks.finished) == ("running", None)
    assert masks.seconds == pytest.approx(0.3)


def test_a_sweep_may_be_two_lists(make_run: MakeRun):
    run = make_run(num_images=3)
    metrics = json.loads((run.path / "metrics.json").read_text())
    metrics["stages"][0]["curve"] = {"thresholds": [0.1, 0.2], "miou": [0.3, None]}
    metrics["classifier"] = None
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    data = collect(run.path)
    assert data.stages[0].curve == ((0.1, 0.3),)
    assert data.classifier is None


def test_images_are_counted_per_class_and_split(data: ReportData):
    summary = data.data
    assert summary is not None
    assert summary.splits == {"train": 6, "val": 3}
    rows = {row.name: row.counts for row in summary.rows}
    # Tags repeat in the order (1), (2, 3), none, (1, 2, 3), (2); every third image is val.
    assert rows["scratch"] == {"train": 2, "val": 2, "test": 0}
    assert rows["dent"] == {"train": 4, "val": 1, "test": 0}
    assert rows["no class (ok)"] == {"train": 1, "val": 1, "test": 0}
    assert "not labelled" not in rows
    assert summary.label_kinds == {"tags": 9}


def test_results_keep_undefined_values_apart_from_zero(data: ReportData):
    assert [stage.stage for stage in data.stages][-1] == "segment"
    assert data.stages[0].tuned_on_masks
    assert len(data.stages[0].curve) == 21
    assert data.stages[-1].classes[3].iou is None
    assert data.classifier is not None
    assert data.classifier.mean_ap == pytest.approx(0.91)


def test_an_epoch_trained_twice_counts_once_with_its_last_line(make_run: MakeRun):
    run = make_run()
    path = run.path / "localize" / "training" / "metrics.jsonl"
    with path.open("a") as stream:
        stream.write('{"epoch": 8, "loss": 99.0}\n{"epoch": 9, "loss": NaN}\n{"epo')
    loss = next(c for c in collect(run.path).curves if (c.stage, c.name) == ("localize", "loss"))
    assert loss.xs == tuple(float(epoch) for epoch in range(1, 10))
    assert loss.ys[7] == 99.0
    assert math.isnan(loss.ys[8])


def test_failures_come_from_the_last_line_of_each_image(make_run: MakeRun):
    run = make_run()
    (failure,) = collect(run.path).failures
    assert (failure.stage, failure.id) == ("localize", "broken <1>")
    assert "0 bytes" in failure.reason
    with (run.path / "localize" / "manifest.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "broken <1>", "status": "ok"}) + "\n")
    assert collect(run.path).failures == ()


def test_stages_are_listed_in_the_order_of_the_chain(data: ReportData):
    assert [run.name for run in data.stage_runs] == [
        "localize",
        "refine/2_dense_crf",
        "masks",
        "segment",
    ]
    assert [run.seconds for run in data.stage_runs] == [12.0, 24.0, 36.0, 48.0]


def test_what_a_training_keeps_between_its_rounds_is_no_stage(make_run: MakeRun):
    run = make_run()
    mined = run.path / "localize" / "training" / "round_1" / "mined"
    mined.mkdir(parents=True)
    (mined / "stage.json").write_text('{"progress": "done"}')
    line = {"id": "torn", "status": "failed", "reason": "it is torn"}
    (mined / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    data = collect(run.path)
    assert not [one.name for one in data.stage_runs if "mined" in one.name]
    assert ("torn", "it is torn") in [(one.id, one.reason) for one in data.failures]


def test_the_gallery_is_ordered_worst_first(data: ReportData):
    doubts = [item.doubt for item in data.gallery]
    assert None not in doubts
    assert doubts == sorted(doubts, reverse=True)
    assert len(doubts) == 9


def test_each_image_shows_its_maps_masks_and_ground_truth_where_there_is_one(data: ReportData):
    item = next(item for item in data.gallery if item.id == "part_008")
    assert [tile.title for tile in item.tiles] == [
        "Image",
        "Map: scratch",
        "Map: dent",
        "Map: 흠집 <b>&",
        "Pseudo mask",
        "Prediction",
        "Ground truth",
    ]
    assert all(tile.picture is not None for tile in item.tiles)
    without = next(item for item in data.gallery if item.id == "with space/part 1")
    assert "Ground truth" not in [tile.title for tile in without.tiles]


def test_an_image_that_is_gone_leaves_its_row_and_a_reason(make_run: MakeRun):
    run = make_run()
    run.dataset.samples[0].image_path.unlink()
    item = next(item for item in collect(run.path).gallery if item.id == "plain")
    assert [tile.picture for tile in item.tiles] == [None]
    assert "no such file" in item.tiles[0].note


def test_a_damaged_mask_or_map_costs_only_its_own_tile(make_run: MakeRun):
    run = make_run()
    (run.path / "masks" / "plain.png").write_bytes(b"not a png")
    (run.path / "localize" / "scores" / "plain.npz").write_bytes(b"PK")
    item = next(item for item in collect(run.path).gallery if item.id == "plain")
    missing = {tile.kind for tile in item.tiles if tile.picture is None}
    assert missing == {"mask", "map"}
    assert all(tile.note for tile in item.tiles if tile.picture is None)


@pytest.mark.parametrize(
    "part",
    ["recipe.yaml", "samples.jsonl", "metrics.json", "masks", "localize", "segment", "predictions"],
)
def test_a_missing_part_is_no_fault(make_run: MakeRun, part: str):
    run = make_run(num_images=3)
    path = run.path / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    data = collect(run.path)
    assert data.problems == ()
    assert (data.recipe is None) == (part == "recipe.yaml")
    assert (data.data is None) == (part == "samples.jsonl")
    assert (data.stages == ()) == (part == "metrics.json")


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("metrics.json", '{"stages": [{"nothing": 1}]}'),
        ("metrics.json", "[1, 2]"),
        ("metrics.json", '{"stages"'),
        ("recipe.yaml", "a: [1,"),
        ("recipe.yaml", "- 1"),
        ("samples.jsonl", "{}"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_reported(
    make_run: MakeRun, part: str, content: str
):
    run = make_run(num_images=3)
    (run.path / part).write_text(content)
    data = collect(run.path)
    assert len(data.problems) == 1
    assert part in data.problems[0]
    assert data.curves


def test_a_folder_that_is_no_run_is_refused_with_a_remedy(tmp_path: Path):
    with pytest.raises(DataError, match="wsseg run"):
        collect(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is not a run"):
        collect(tmp_path / "empty")


def test_the_most_doubtful_images_are_always_chosen():
    samples = [sample(f"s{i:03d}") for i in range(100)]
    doubt = {f"s{i:03d}": i / 100 for i in range(100)}
    chosen = [s.id for s in choose(samples, doubt, 12)]
    assert chosen[:8] == [f"s{i:03d}" for i in range(99, 91, -1)]
    assert len(set(chosen)) == 12
    assert chosen[-1] == "s000"


def test_every_split_gets_a_fair_share_of_the_gallery():
    samples = [sample(f"t{i}") for i in range(50)] + [sample(f"v{i}", "val") for i in range(3)]
    chosen = choose(samples, {}, 10)
    assert sum(s.split == "val" for s in chosen) == 3
    assert len(chosen) == 10


def test_images_without_doubt_come_last_in_the_order_of_their_names():
    samples = [sample("b"), sample("a"), sample("z")]
    assert [s.id for s in choose(samples, {"z": 0.0}, 5)] == ["z", "a", "b"]


def test_the_gallery_holds_no_more_images_than_asked(make_run: MakeRun):
    data = collect(make_run().path, max_images=4)
    assert len(data.gallery) == 4
    assert data.num_shown_of == 9


def test_with_many_classes_the_strongest_maps_are_shown_and_the_rest_counted(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("wsseg.report.gallery.MAX_MAPS", 1)
    item = next(item for item in collect(make_run().path).gallery if item.id == "part_008")
    assert [tile.kind for tile in item.tiles].count("map") == 1
    assert item.num_hidden_maps == 2


def labelled(run: Any, image_id: str, labels: WeakLabels) -> None:
    """Give one image of a run other labels."""
    samples = tuple(
        dataclasses.replace(sample, labels=labels) if sample.id == image_id else sample
        for sample in run.dataset.samples
    )
    dataclasses.replace(run.dataset, samples=samples).to_jsonl(run.path / "samples.jsonl")


def shown(run: Any, image_id: str) -> GalleryItem:
    return next(item for item in collect(run.path).gallery if item.id == image_id)


def test_what_people_drew_has_a_tile_of_its_own(make_run: MakeRun):
    run = make_run()
    assert "labels" not in [tile.kind for tile in shown(run, "part_008").tiles]
    labels = WeakLabels(
        boxes=Boxes([[2, 2, 30, 20], [0, 0, 9, 9]], [1, 2]), points=Points([[5, 5]], [1])
    )
    labelled(run, "part_008", labels)
    tiles = shown(run, "part_008").tiles
    assert [tile.title for tile in tiles[:2]] == ["Image", "Labels: 2 boxes, 1 point"]
    assert tiles[1].picture is not None


def test_predictions_with_boxes_stand_beside_those_without(make_run: MakeRun):
    run = make_run()
    mask = read_mask(run.path / "predictions" / "part_008.png")
    write_mask(run.path / "segment" / "with_boxes" / "part_008.png", mask)
    titles = [tile.title for tile in shown(run, "part_008").tiles]
    assert titles[-3:] == ["Prediction", "Prediction, with boxes", "Ground truth"]


def test_labels_that_led_and_corrections_are_told_per_image(make_run: MakeRun):
    run = make_run()
    (run.path / "settings.json").write_text('{"use_masks": true}')
    for folder, fact in (("localize", {"led_by": "masks"}), ("masks", {"corrected_frac": 0.25})):
        append_jsonl(
            run.path / folder / "manifest.jsonl", {"id": "part_008", "status": "ok"} | fact
        )
    item = shown(run, "part_008")
    assert (item.led_by, item.corrected_frac) == ("masks", 0.25)
    assert shown(run, "plain").led_by == ""
    data = collect(run.path)
    assert data.data is not None
    assert data.data.label_kinds["painted masks"] == 1
    assert data.recipe is not None
    said = "painted masks of 1 image were used as labels (--use-masks)"
    assert said in data.recipe.tuned_on_masks
