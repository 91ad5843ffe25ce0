from __future__ import annotations

import json

import numpy as np
import pytest

from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.data.image_io import read_mask, write_mask
from wsseg.errors import DataError, RecipeError
from wsseg.export.bundle import load_bundle
from wsseg.rundir import MANIFEST_FILE, StageDir
from wsseg.segment.config import Smp
from wsseg.segment.stage import MODEL_FOLDER, check_validation, predict, segment

CONFIG = Smp.model_validate(
    {
        "architecture": "unet",
        "encoder": "tu-test_resnet",
        "weights": "none",
        "training": {"epochs": 1, "batch_size": 2, "num_workers": 0, "precision": "float32"},
        "augment": {"scale": None, "crop_px": 32},
        "inference": {"flip": False},
        "validate_on": "none",
    }
)
MASK = np.zeros((32, 32), np.uint8)
MASK[:16] = 1


@pytest.fixture
def dataset(make_dataset):
    return make_dataset(
        {
            "a": {"mask": MASK},
            "sub/b": {"mask": 2 * MASK},
            "c": {"mask": MASK},
            "d": {"mask": MASK},
            "failed": {"mask": MASK},
            "val": {"mask": MASK, "split": "val"},
            "test": {"mask": np.zeros((24, 40)), "split": "test"},
        }
    )


@pytest.fixture
def pseudo(dataset, tmp_path):
    """Pseudo masks of all images but one, also of those that must never train."""
    stage = StageDir(tmp_path / "masks", "f")
    for sample in dataset.samples:
        status = "failed" if sample.id == "failed" else "ok"
        append_jsonl(stage.path / MANIFEST_FILE, {"id": sample.id, "status": status})
        if status == "ok":
            write_mask(stage.path / f"{sample.id}.png", read_mask(sample.mask_path))
    return stage


@pytest.fixture
def stage(tmp_path):
    return StageDir(tmp_path / "segment", "f")


def test_pseudo_masks_train_a_model_that_says_what_it_is(dataset, pseudo, stage):
    context = RunContext(recipe="tiny", supervision="I", max_side_px=32)
    segment(dataset, CONFIG, pseudo, stage, context)
    net, info = load_bundle(stage.path / MODEL_FOLDER)
    assert net.num_classes == 2
    assert info.classes == ("dent", "stain")
    assert info.recipe == "tiny"
    assert info.max_side_px == 32
    assert info.data["train images"] == 5
    state = stage.state()
    assert state["progress"] == "done"
    assert (state["num_train"], state["num_held_out"]) == (4, 0)
    assert state["tuned_on_masks"] is False
    curve = (stage.path / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in curve] == [1]


@pytest.fixture
def trained_on(monkeypatch):
    """Record the files that a segmenter is trained and validated on."""
    from wsseg.segment import stage as module

    seen: dict[str, list[str]] = {"train": [], "validate": []}
    data, validation = module.SegmentationData, module.MaskValidation

    class Data(data):
        def __init__(self, pairs, *args, **kwargs):
            seen["train"] += [mask.parent.name + "/" + mask.stem for _, mask in pairs]
            super().__init__(pairs, *args, **kwargs)

    class Validation(validation):
        def __init__(self, pairs, *args, **kwargs):
            seen["validate"] += [str(mask.parts[-2:]) for _, mask in pairs]
            super().__init__(pairs, *args, **kwargs)

    monkeypatch.setattr(module, "SegmentationData", Data)
    monkeypatch.setattr(module, "MaskValidation", Validation)
    return seen


def test_only_pseudo_masks_of_the_train_split_train(dataset, pseudo, stage, trained_on):
    segment(dataset, CONFIG, pseudo, stage, RunContext())
    assert trained_on == {"train": ["masks/a", "sub/b", "masks/c", "masks/d"], "validate": []}


def test_a_part_of_the_pseudo_masks_is_held_out_to_choose_the_best_epoch(
    dataset, pseudo, stage, trained_on
):
    config = CONFIG.model_copy(update={"validate_on": "pseudo", "validation_frac": 0.25})
    segment(dataset, config, pseudo, stage, RunContext())
    assert len(trained_on["train"]) == 3
    assert len(trained_on["validate"]) == 1
    assert (stage.state()["num_train"], stage.state()["num_held_out"]) == (3, 1)
    assert stage.state()["tuned_on_masks"] is False


def test_masks_choose_the_best_epoch_only_where_it_is_allowed(dataset, pseudo, stage, trained_on):
    config = CONFIG.model_copy(update={"validate_on": "val_masks"})
    with pytest.raises(RecipeError, match="--use-masks"):
        segment(dataset, config, pseudo, stage, RunContext())
    segment(dataset, config, pseudo, stage, RunContext(allow_masks=True))
    assert trained_on["validate"] == ["('masks', 'val.png')"]
    assert stage.state()["tuned_on_masks"] is True


def test_validation_on_masks_needs_masks(make_dataset):
    dataset = make_dataset({"a": {"mask": MASK}, "val": {"tags": {1}, "split": "val"}})
    config = CONFIG.model_copy(update={"validate_on": "val_masks"})
    with pytest.raises(DataError, match="no image of the val split has a mask"):
        check_validation(dataset, config, RunContext(allow_masks=True))
    check_validation(dataset, CONFIG, RunContext())


def test_without_a_pseudo_mask_there_is_nothing_to_train_on(dataset, tmp_path, stage):
    empty = StageDir(tmp_path / "nothing", "f")
    with pytest.raises(DataError, match=r"nothing to train a segmenter on.*manifest\.jsonl"):
        segment(dataset, CONFIG, empty, stage, RunContext())


def test_rare_classes_weigh_more_where_it_is_asked_for(dataset, pseudo, stage, monkeypatch):
    given = []
    monkeypatch.setattr(
        "wsseg.segment.task.SegmenterTask.set_pixel_counts",
        lambda _task, counts: given.append(counts.tolist()),
    )
    loss = CONFIG.loss.model_copy(update={"class_balance": "inverse_sqrt"})
    segment(dataset, CONFIG.model_copy(update={"loss": loss}), pseudo, stage, RunContext())
    assert given == [[4 * 512, 3 * 512, 512]]


@pytest.mark.parametrize("loss", [{"name": "sec"}, {"name": "dsrg"}, {"constrain": {}}])
def test_losses_on_seeds_train_a_model_and_log_their_parts(dataset, pseudo, stage, loss):
    config = Smp.model_validate(CONFIG.model_dump() | {"loss": loss})
    segment(dataset, config, pseudo, stage, RunContext())
    line = json.loads((stage.path / "training" / "metrics.jsonl").read_text())
    parts = {"sec": "expand", "dsrg": "grown"}
    assert {"constrain", parts.get(loss.get("name"), "cross_entropy")} <= set(line)
    assert load_bundle(stage.path / MODEL_FOLDER)[1].segmenter["loss"] == config.loss.model_dump(
        mode="json"
    )


def test_tags_of_the_images_reach_the_loss(dataset, pseudo, stage, monkeypatch):
    seen = []

    def loss(task, batch):
        seen.extend(batch["tags"].tolist())
        return {"loss": task(batch["image"]).mean()}

    monkeypatch.setattr("wsseg.segment.task.SegmenterTask.loss", loss)
    config = Smp.model_validate(CONFIG.model_dump() | {"loss": {"name": "sec"}})
    segment(dataset, config, pseudo, stage, RunContext())
    assert sorted(seen) == [[0, 1], [1, 0], [1, 0], [1, 0]]


def test_held_out_images_are_predicted_at_their_own_size(dataset, pseudo, stage, tmp_path):
    segment(dataset, CONFIG, pseudo, stage, RunContext(max_side_px=32))
    predictions = StageDir(tmp_path / "predictions", "f")
    predict(dataset, stage, predictions)
    assert [s.id for s in predictions.usable(dataset.samples)] == ["val", "test"]
    mask = read_mask(predictions.path / "test.png", dataset.classes)
    assert mask.shape == (24, 40)
    # It is complete now, so no model is needed any more.
    predict(dataset, StageDir(tmp_path / "no model", "f"), predictions)


def test_without_held_out_images_those_that_trained_are_predicted(make_dataset, tmp_path, stage):
    dataset = make_dataset({"a": {"mask": MASK}, "b": {"mask": 2 * MASK}})
    pseudo = StageDir(tmp_path / "masks", "f")
    for sample in dataset.samples:
        append_jsonl(pseudo.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})
        write_mask(pseudo.path / f"{sample.id}.png", MASK)
    segment(dataset, CONFIG, pseudo, stage, RunContext())
    predictions = StageDir(tmp_path / "predictions", "f")
    predict(dataset, stage, predictions)
    assert [s.id for s in predictions.usable(dataset.samples)] == ["a", "b"]


def test_a_complete_stage_is_not_done_again(dataset, pseudo, stage, monkeypatch):
    stage.begin()
    stage.finish()
    before = stage.state()
    monkeypatch.setattr("wsseg.segment.stage.SegmentationData", None)
    segment(dataset, CONFIG, pseudo, stage, RunContext())
    assert stage.is_done
    assert stage.state() == before


def test_training_starts_from_what_the_localizer_learned(dataset, pseudo, stage):
    import torch

    from wsseg.localize.regularise.attach import make_localizer
    from wsseg.localize.tags.cam import Cam

    localizer = make_localizer(Cam(backbone="test_resnet"), 2)
    training = CONFIG.training.model_copy(update={"lr": 1e-12})
    config = CONFIG.model_copy(update={"weights": "localizer", "training": training})
    segment(dataset, config, pseudo, stage, RunContext(), lambda: localizer)
    net, info = load_bundle(stage.path / MODEL_FOLDER)
    learned = localizer.backbone.trunk.state_dict()["conv1.0.weight"]
    kept = [v for k, v in net.state_dict().items() if k.endswith("encoder.model.conv1.0.weight")]
    assert len(kept) == 1
    torch.testing.assert_close(kept[0], learned, atol=1e-6, rtol=0)
    assert info.segmenter["weights"] == "localizer"


def test_without_a_localizer_nothing_can_start_from_it(dataset, pseudo, stage):
    config = CONFIG.model_copy(update={"weights": "localizer"})
    with pytest.raises(RecipeError, match=r"Set segment\.weights to none"):
        segment(dataset, config, pseudo, stage, RunContext())
