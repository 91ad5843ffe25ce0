"""Tests of wsseg.export.bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wsseg.errors import MissingWeightsError
from wsseg.export.bundle import (
    ModelInfo,
    describe,
    find_bundle,
    load_bundle,
    model_card,
    save_bundle,
)
from wsseg.segment.config import PredictConfig, Smp
from wsseg.segment.predict import Predictor
from wsseg.segment.task import SegmenterTask, smp

CONFIG = Smp(
    architecture="unet",
    encoder="tu-test_resnet",
    weights="none",
    inference=PredictConfig(flip=False, tile_px=64, overlap_px=16),
)


def _task() -> SegmenterTask:
    torch.manual_seed(0)
    return smp(config=CONFIG, num_classes=2).eval()


def _info(**changes) -> ModelInfo:
    settings = {
        "segmenter": describe(CONFIG),
        "classes": ("scratch", "dent"),
        "recipe": "defects",
        "data": {"source": "folder per class", "train images": 120},
        "metrics": {"mIoU (val)": 0.61234, "mIoU (test)": None},
    }
    return ModelInfo(**{**settings, **changes})


def test_bundle_loads_to_the_same_network_and_description(tmp_path: Path):
    task = _task()
    save_bundle(tmp_path / "model", task, _info())
    loaded, info = load_bundle(tmp_path / "model")
    assert info == _info()
    assert not loaded.training
    images = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), task(images), rtol=0, atol=0)


def test_bundle_needs_no_weights_but_its_own(tmp_path: Path):
    segmenter = {**describe(CONFIG), "weights": "imagenet"}
    save_bundle(tmp_path, _task(), _info(segmenter=segmenter))
    _, info = load_bundle(tmp_path)
    assert info.segmenter["weights"] == "imagenet"


def test_predictor_of_a_bundle_predicts_as_the_network_does(tmp_path: Path):
    task = _task()
    save_bundle(tmp_path / "segment" / "model", task, _info(max_side_px=48))
    # A run's folder, the bundle's folder and its weight file all name the model.
    for name in (".", "segment", "segment/model", "segment/model/model.safetensors"):
        predictor = Predictor.load(tmp_path / name, device="cpu")
        assert predictor.classes.names == ("scratch", "dent")
        assert predictor.config == CONFIG.inference
        assert predictor.max_side_px == 48
    image = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    from wsseg.data.colour import normalise

    with torch.no_grad():
        expected = task(torch.from_numpy(normalise(image))[None]).softmax(dim=1)[0].numpy()
    prediction = predictor.predict(image)
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(prediction.mask, prediction.probabilities.argmax(axis=0))


def test_card_tells_supervision_data_numbers_and_use():
    card = model_card(_info(supervision="I+SAM", limits=("blurred images",)))
    assert "# Segmentation model: scratch, dent" in card
    assert "(I+SAM): image tags and the Segment Anything model" in card
    assert "| mIoU (val) | 0.6123 |" in card
    assert "| mIoU (test) | - |" in card
    assert "| train images | 120 |" in card
    assert "same camera" in card
    assert "- blurred images" in card
    assert "First weights of the encoder: none" in card


def test_folder_without_a_model_names_what_was_expected(tmp_path: Path):
    with pytest.raises(MissingWeightsError, match=r"expected model\.json and model\.safetensors"):
        find_bundle(tmp_path)


def test_bundle_of_an_unknown_segmenter_is_refused(tmp_path: Path):
    save_bundle(tmp_path, _task(), _info())
    content = json.loads((tmp_path / "model.json").read_text())
    content["segmenter"]["name"] = "smq"
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(MissingWeightsError, match='Did you mean "smp"'):
        load_bundle(tmp_path)


def test_damaged_description_is_refused(tmp_path: Path):
    save_bundle(tmp_path, _task(), _info())
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(MissingWeightsError, match=r"model\.json is not the description"):
        load_bundle(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    save_bundle(tmp_path, _task(), _info(classes=("scratch",)))
    with pytest.raises(MissingWeightsError, match="belong to another network"):
        load_bundle(tmp_path)
