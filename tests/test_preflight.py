from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wsseg.context import RunContext
from wsseg.errors import DataError, MissingWeightsError, RecipeError
from wsseg.pipeline import STAGES, plan, run
from wsseg.preflight import preflight
from wsseg.recipe import load_recipe
from wsseg.rundir import RunDir

TINY = [
    "localize.backbone=test_resnet",
    "localize.output_stride=8",
    "segment.encoder=tu-test_resnet",
    "segment.architecture=unet",
]


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def dataset(make_dataset):
    return make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}}})


def check(dataset, changes, tmp_path, *, recipe="cam", wanted=STAGES, use_masks=False):
    chosen = load_recipe(recipe, changes)
    context = RunContext(allow_masks=use_masks)
    stages = plan(RunDir(tmp_path / "run"), dataset, chosen, use_masks)
    preflight(dataset, chosen, stages, wanted, context)
    return stages


def test_a_recipe_that_can_run_passes(dataset, tmp_path):
    check(dataset, TINY, tmp_path)
    check(dataset, [*TINY, "segment.weights=localizer"], tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("localize.backbone=resnot18", RecipeError, 'Unknown backbone "resnot18"'),
        ("localize.last_stage=7", RecipeError, "cannot end after stage 7"),
        ("localize.weights=imagenet", MissingWeightsError, "localize.weights=none"),
        ("localize.weights=no.safetensors", MissingWeightsError, "no.safetensors does not exist"),
        ("segment.weights=imagenet", MissingWeightsError, "segment.weights=none"),
        ("segment.encoder=resnot18", RecipeError, "resnot18"),
        ("segment.validate_on=val_masks", RecipeError, "--use-masks"),
        ("refine.steps=[{name: threshold, method: sweep}]", RecipeError, "--use-masks"),
    ],
)
def test_what_cannot_be_done_is_told_at_once(change, error, message, dataset, tmp_path):
    with pytest.raises(error, match=message):
        check(dataset, [*TINY, change], tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["refine.steps=[attention_affinity]"], '"test_resnet" has no self-attention'),
        (
            [
                "refine.steps=[{name: attention_affinity, heads: [40]}]",
                "localize.backbone=test_vit",
                "localize.output_stride=16",
            ],
            'Backbone "test_vit" has .* attention heads',
        ),
        (
            ["refine.steps=[{name: affinity_net, stop_gradient_after_stage: 7}]"],
            "affinity_net.stop_gradient_after_stage is 7, but",
        ),
    ],
)
def test_a_step_that_the_localizers_network_cannot_serve_is_told_at_once(
    changes, message, dataset, tmp_path
):
    with pytest.raises(RecipeError, match=message):
        check(dataset, [*TINY, "segment=null", *changes], tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        [
            "refine.steps=[attention_affinity, threshold]",
            "localize.backbone=test_vit",
            "localize.output_stride=16",
        ],
        ["refine.steps=[affinity_net, irn]"],
    ],
)
def test_a_step_that_the_localizers_network_serves_passes(changes, dataset, tmp_path):
    check(dataset, [*TINY, "segment=null", *changes], tmp_path)


def test_a_complete_step_asks_nothing_of_the_localizer(dataset, tmp_path):
    changes = [*TINY, "segment=null", "refine.steps=[attention_affinity]"]
    stages = plan(RunDir(tmp_path / "run"), dataset, load_recipe("cam", changes), use_masks=False)
    for stage in (stages.localize, *stages.refine):
        stage.begin()
        stage.finish()
    check(dataset, changes, tmp_path)


def test_an_encoder_that_cannot_start_from_the_localizer_is_told_at_once(dataset, tmp_path):
    changes = [*TINY, "segment.weights=localizer", "segment.encoder=resnet18"]
    with pytest.raises(RecipeError, match="cannot start from the localizer's backbone test_resnet"):
        check(dataset, changes, tmp_path)


@pytest.mark.parametrize(
    "change",
    ["segment.validate_on=val_masks", "refine.steps=[{name: threshold, method: sweep}]"],
)
def test_masks_that_are_to_tune_must_exist(change, dataset, tmp_path):
    with pytest.raises(DataError, match="mask"):
        check(dataset, [*TINY, change], tmp_path, use_masks=True)


def test_only_the_wanted_stages_are_looked_at(dataset, tmp_path):
    changes = [*TINY, "segment.weights=imagenet", "segment.validate_on=val_masks"]
    check(dataset, changes, tmp_path, wanted=("localize", "refine"))
    with pytest.raises(RecipeError, match="--use-masks"):
        check(dataset, changes, tmp_path, wanted=("segment",))


def test_a_complete_stage_needs_no_first_weights_any_more(dataset, tmp_path):
    changes = [*TINY, "localize.weights=imagenet", "segment=null"]
    with pytest.raises(MissingWeightsError):
        check(dataset, changes, tmp_path)
    chosen = load_recipe("cam", changes)
    stages = plan(RunDir(tmp_path / "run"), dataset, chosen, use_masks=False)
    stages.localize.begin()
    stages.localize.finish()
    check(dataset, changes, tmp_path)


def test_a_run_without_its_weights_stops_before_it_reads_an_image(dataset, tmp_path, monkeypatch):
    def fail(*_args):
        raise AssertionError("an image was read")

    monkeypatch.setattr("wsseg.data.image_io.read_image", fail)
    with pytest.raises(MissingWeightsError) as caught:
        run(dataset, recipe="voc", out=tmp_path / "run")
    text = str(caught.value)
    assert caught.value.exit_code == 4
    for part in ("model.safetensors", "timm/resnet50", str(tmp_path / "hub"),
                 "localize.weights=PATH", "localize.weights=none"):  # fmt: skip
        assert part in text


def test_a_part_of_mixed_that_no_image_needs_is_not_asked(make_dataset, tmp_path):
    from wsseg.data.labels import Boxes, WeakLabels

    plain = make_dataset({"a": {"tags": {1}}, "b": {"tags": {2}}})
    boxed = WeakLabels(tags={1}, boxes=Boxes([[1, 1, 5, 5]], [1]))
    dataset = replace(plain, samples=tuple(replace(s, labels=boxed) for s in plain))
    missing = f"{{name: folder, path: {tmp_path / 'none'}}}"
    changes = ["localize.tags=null", "segment=null"]
    unused = f"localize.points={{name: point_prompts, segments: {missing}}}"
    check(dataset, [*changes, unused], tmp_path, recipe="mixed")
    used = f"localize.boxes={{name: box_prompts, segments: {missing}}}"
    with pytest.raises(DataError, match="none"):
        check(dataset, [*changes, used], tmp_path, recipe="mixed")
