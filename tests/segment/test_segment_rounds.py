"""Tests of self-training rounds through the segment stage: tiny networks, real files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset
from wsseg.data.image_io import read_image, read_mask, write_mask
from wsseg.data.labels import Boxes
from wsseg.errors import DataError
from wsseg.rundir import MANIFEST_FILE, StageDir
from wsseg.segment import rounds as rounds_module
from wsseg.segment.bb_unet import BbUnet
from wsseg.segment.boxed import predict_with_boxes
from wsseg.segment.config import Smp
from wsseg.segment.data import PixelWeights, SegmentationData
from wsseg.segment.forward import TorchForward
from wsseg.segment.predict import Predictor
from wsseg.segment.rounds import (
    check_self_training,
    mask_folders,
    round_stage,
    round_stages,
)
from wsseg.segment.rounds_config import RoundsConfig, Urn
from wsseg.segment.stage import segment

BASE = {
    "architecture": "unet",
    "encoder": "tu-test_resnet",
    "encoder_depth": 3,
    "weights": "none",
    "training": {"epochs": 1, "batch_size": 2, "num_workers": 0, "precision": "float32"},
    "augment": {"scale": None, "crop_px": 32},
    "inference": {"flip": False},
    "validate_on": "none",
}
CRF = {"name": "crf", "iterations": 1}


def _config(**rounds) -> Smp:
    return Smp.model_validate(BASE | {"rounds": {"count": 2, "cleanups": ["tags", CRF]} | rounds})


@pytest.fixture
def dataset(make_dataset) -> Dataset:
    top, left = np.zeros((32, 32), np.uint8), np.zeros((24, 40), np.uint8)
    top[:16], left[:, :20] = 1, 2
    items = {"a": top, "sub/b": left, "c": top, "d": np.zeros((32, 32), np.uint8)}
    return make_dataset({name: {"mask": mask} for name, mask in items.items()})


@pytest.fixture
def pseudo(dataset, tmp_path) -> StageDir:
    stage = StageDir(tmp_path / "masks", "f")
    for sample in dataset.samples:
        append_jsonl(stage.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})
        write_mask(stage.path / f"{sample.id}.png", read_mask(sample.mask_path))
    return stage


def _files(folder: Path) -> dict[str, bytes]:
    """Every mask and weight of all rounds, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in ("round_*/masks/**/*.png", "model/*.safetensors")
        for path in sorted(folder.glob(pattern))
    }


def test_every_round_has_masks_that_keep_to_the_tags_and_a_training(dataset, pseudo, tmp_path):
    stage = StageDir(tmp_path / "segment", "f")
    segment(dataset, _config(), pseudo, stage, RunContext())
    for masks in round_stages(_config(), stage):
        assert masks.is_done
        for sample in dataset.samples:
            mask = read_mask(masks.path / f"{sample.id}.png", dataset.classes)
            assert mask.shape == read_mask(sample.mask_path).shape
            assert set(np.unique(mask).tolist()) <= {0, *sample.labels.tags}
        assert (masks.path.parent / "training" / "last.safetensors").is_file()
    state = stage.state()
    assert (state["progress"], state["num_train"]) == ("done", 4)


def test_no_rounds_leave_no_trace_in_settings_and_folder(dataset, pseudo, tmp_path):
    config = Smp.model_validate(BASE)
    assert "rounds" not in config.model_dump()
    assert "correction" not in config.model_dump()
    again = Smp.model_validate(_config().model_dump(mode="json"))
    assert again == _config()
    stage = StageDir(tmp_path / "segment", "f")
    segment(dataset, config, pseudo, stage, RunContext())
    assert not list(stage.path.glob("round_*"))


def test_a_round_trains_on_its_masks_from_the_first_weights(dataset, pseudo, tmp_path, monkeypatch):
    from wsseg.segment import stage as module

    started, seen = [], []
    real = module._task

    def task(*args):
        built = real(*args)
        started.append(built.state_dict()["net.net.segmentation_head.0.weight"].clone())
        return built

    class Data(SegmentationData):
        def __init__(self, pairs, *args, **kwargs):
            seen.append({mask.parts[len(tmp_path.parts)] for _, mask in pairs})
            super().__init__(pairs, *args, **kwargs)

    monkeypatch.setattr(module, "_task", task)
    monkeypatch.setattr(module, "SegmentationData", Data)
    segment(dataset, _config(), pseudo, StageDir(tmp_path / "segment", "f"), RunContext())
    assert seen == [{"masks"}, {"segment"}, {"segment"}]
    assert all(weights.equal(started[0]) for weights in started)


def test_training_can_go_on_from_the_round_before(dataset, pseudo, tmp_path):
    import safetensors.numpy

    config = _config(count=1, start="previous")
    training = config.training.model_copy(update={"lr": 1e-12})
    stage = StageDir(tmp_path / "segment", "f")
    segment(dataset, config.model_copy(update={"training": training}), pseudo, stage, RunContext())
    first = safetensors.numpy.load_file(stage.path / "training/last.safetensors")
    second = safetensors.numpy.load_file(stage.path / "round_1/training/last.safetensors")
    name = next(key for key in first if key.endswith("running_mean"))
    assert not np.array_equal(first[name], second[name])
    head = "net.net.segmentation_head.0.weight"
    np.testing.assert_allclose(first[head], second[head], atol=1e-6)


class _KilledError(BaseException):
    """Stops a run as a signal would, past every handler."""


@pytest.mark.parametrize("moment", ["mask", "epoch"])
def test_a_run_killed_in_its_second_round_ends_with_the_same_files(
    dataset, pseudo, tmp_path, monkeypatch, moment
):
    config = _config(uncertainty={"powers": [0.25, 4], "crf": {"iterations": 1}})
    whole, stopped = StageDir(tmp_path / "whole", "f"), StageDir(tmp_path / "stopped", "f")
    segment(dataset, config, pseudo, whole, RunContext())
    folder = stopped.path / "round_2"
    with monkeypatch.context() as patched:
        if moment == "mask":
            real = rounds_module.write_mask

            def write(path, mask, palette=True):
                if path == folder / "masks" / "c.png":
                    raise _KilledError
                real(path, mask, palette)

            patched.setattr(rounds_module, "write_mask", write)
        else:
            from wsseg.training.folder import TrainingFolder

            log = TrainingFolder.log

            def killed(self, record):
                if folder in self.path.parents:
                    raise _KilledError
                log(self, record)

            patched.setattr(TrainingFolder, "log", killed)
        with pytest.raises(_KilledError):
            segment(dataset, config, pseudo, stopped, RunContext())
    done = (folder / "masks" / "sub" / "b.png").stat().st_mtime_ns
    segment(dataset, config, pseudo, stopped, RunContext())
    assert (folder / "masks" / "sub" / "b.png").stat().st_mtime_ns == done
    expected, found = _files(whole.path), _files(stopped.path)
    assert len(expected) == 2 * 2 * 4 + 1
    assert found == expected


def test_uncertain_pixels_reach_the_loss_and_first_masks_can_stay(dataset, pseudo, tmp_path):
    config = _config(
        count=1, masks="first", uncertainty={"powers": [0.25, 4], "crf": {"iterations": 1}}
    )
    stage = StageDir(tmp_path / "segment", "f")
    segment(dataset, config, pseudo, stage, RunContext())
    masks = round_stage(stage, 1)
    for sample in dataset.samples:
        same = (masks.path / f"{sample.id}.png").read_bytes()
        assert same == (pseudo.path / f"{sample.id}.png").read_bytes()
        weight = read_mask(masks.path / "weights" / f"{sample.id}.png")
        assert weight.shape == read_mask(sample.mask_path).shape
    # An image that a person tagged as empty leaves nothing to doubt.
    assert (read_mask(masks.path / "weights" / "d.png") == 255).all()


def test_weights_follow_the_geometry_of_their_mask(dataset, tmp_path):
    sample = dataset.samples[1]
    mask = read_mask(sample.mask_path)
    path = tmp_path / "weights.png"
    write_mask(path, np.where(mask == 2, np.uint8(0), np.uint8(255)), palette=False)
    config = Smp.model_validate(
        BASE | {"augment": {"scale": [0.6, 1.7], "crop_px": 32, "rot90": 0.8, "vflip": 0.5}}
    )
    data = SegmentationData(
        [(sample.image_path, sample.mask_path)], config, weights=PixelWeights([path], Urn())
    )
    for seed in range(20):
        item = data.item(0, np.random.default_rng(seed))
        inside = item["mask"] != 255
        expected = np.where(item["mask"] == 2, np.float32(0.05), np.float32(1))
        assert (item["weight"] == expected)[inside].mean() > 0.93
        assert item["weight"].dtype == np.float32


def test_draws_depend_on_seed_round_and_image_alone(tmp_path):
    seeds = {
        rounds_module._image_seed(seed, round_stage(StageDir(tmp_path / place, "f"), n), image)
        for place in ("x", "y")
        for seed in (0, 1)
        for n in (1, 2)
        for image in ("a", "b")
    }
    assert len(seeds) == 8


def test_masks_come_back_at_the_size_of_the_image_and_keep_to_its_boxes(dataset, pseudo, tmp_path):
    samples = []
    for sample in dataset.samples:
        boxes = Boxes([[4, 6, 20, 18]], [max(sample.labels.tags, default=1)])
        samples.append(replace(sample, labels=replace(sample.labels, tags=None, boxes=boxes)))
    boxed = replace(dataset, samples=tuple(samples))
    config = _config(count=1, cleanups=["boxes", CRF])
    stage = StageDir(tmp_path / "segment", "f")
    segment(boxed, config, pseudo, stage, RunContext(max_side_px=20))
    outside = np.ones((24, 40), bool)
    outside[6:18, 4:20] = False
    mask = read_mask(round_stage(stage, 1).path / "sub" / "b.png")
    assert mask.shape == (24, 40)
    assert not mask[outside].any()


@pytest.mark.parametrize("way", ["rounds", "correction"])
def test_a_network_that_looks_at_boxes_relabels_with_them(
    dataset, pseudo, tmp_path, monkeypatch, way
):
    monkeypatch.setattr("wsseg.segment.correction_task.classes_to_correct", lambda *_: [0, 1, 2])
    seen = []
    real = TorchForward.with_boxes

    def with_boxes(self, images, boxes):
        seen.append((images.shape[1:3], boxes[0].tolist()))
        return real(self, images, boxes)

    monkeypatch.setattr(TorchForward, "with_boxes", with_boxes)
    boxes = Boxes([[4, 6, 20, 18]], [2])
    first, second, *others = dataset.samples
    second = replace(second, labels=replace(second.labels, boxes=boxes))
    boxed = replace(dataset, samples=(first, second, *others))
    chosen = {
        "rounds": {"rounds": {"count": 1, "cleanups": ["tags"]}},
        "correction": {"correction": {"consistency": 0, "scales": [1.0]}},
    }[way]
    shared = {key: BASE[key] for key in ("augment", "inference", "validate_on")}
    training = BASE["training"] | {"epochs": 2}
    config = BbUnet.model_validate(shared | {"training": training} | chosen)
    stage = StageDir(tmp_path / "segment", "f")
    segment(boxed, config, pseudo, stage, RunContext(max_side_px=20))
    assert seen == [((12, 20), [[2.0, 3.0, 10.0, 9.0, 2.0]])]


def test_held_out_images_with_boxes_are_predicted_with_them_too(dataset, pseudo, tmp_path):
    boxes = Boxes([[4, 6, 20, 18]], [2])
    split = {"a": "train", "sub/b": "val", "c": "train", "d": "val"}
    samples = [
        replace(
            sample,
            split=split[sample.id],
            labels=replace(sample.labels, boxes=None if sample.id == "d" else boxes),
        )
        for sample in dataset.samples
    ]
    boxed = replace(dataset, samples=tuple(samples))
    shared = {key: BASE[key] for key in ("augment", "inference", "validate_on", "training")}
    config = BbUnet.model_validate(shared)
    stage = StageDir(tmp_path / "segment", "f")
    segment(boxed, config, pseudo, stage, RunContext())
    predict_with_boxes(boxed, config, stage)
    (folder,) = mask_folders(config, stage)
    assert (folder.stage, folder.label) == ("segment/with_boxes", "Segmenter, with boxes")
    assert [one.id for one in folder.folder.usable(boxed.samples)] == ["sub/b"]
    expected = Predictor.load(stage.path).predict(read_image(samples[1].image_path), boxes=boxes)
    np.testing.assert_array_equal(read_mask(folder.folder.path / "sub" / "b.png"), expected.mask)
    predict_with_boxes(boxed, _config(), stage)
    assert mask_folders(_config(count=0), stage) == ()


def test_clean_ups_of_boxes_need_boxes(dataset):
    with pytest.raises(DataError, match=r"rounds\.cleanups has boxes, proposals.*no image"):
        check_self_training(dataset, _config(cleanups=["boxes", "proposals"]))
    check_self_training(dataset, _config())
    check_self_training(dataset, Smp.model_validate(BASE | {"rounds": {"cleanups": ["boxes"]}}))


def test_rounds_on_the_first_masks_need_no_labels_for_clean_ups_that_never_run(dataset):
    cleanups = ["boxes", "proposals", "graph_cut"]
    check_self_training(dataset, _config(masks="first", uncertainty={}, cleanups=cleanups))
    with pytest.raises(DataError, match=r"rounds\.cleanups has boxes"):
        check_self_training(dataset, _config(uncertainty={}, cleanups=cleanups))


def test_weights_need_a_loss_that_takes_them():
    with pytest.raises(ValueError, match="loss is sec"):
        Smp.model_validate(
            BASE | {"loss": {"name": "sec"}, "rounds": {"count": 1, "uncertainty": {}}}
        )


def test_held_out_images_stay_held_out_in_every_round(dataset, pseudo, tmp_path):
    config = _config(count=1).model_copy(update={"validate_on": "pseudo", "validation_frac": 0.25})
    stage = StageDir(tmp_path / "segment", "f")
    segment(dataset, config, pseudo, stage, RunContext())
    for folder in ("training", "round_1/training"):
        line = json.loads((stage.path / folder / "metrics.jsonl").read_text())
        assert "miou" in line
    assert (stage.state()["num_train"], stage.state()["num_held_out"]) == (3, 1)


def test_bare_names_of_clean_ups_are_enough():
    config = RoundsConfig.model_validate({"count": 1, "cleanups": ["boxes", "keep_first"]})
    assert [cleanup.name for cleanup in config.cleanups] == ["boxes", "keep_first"]
