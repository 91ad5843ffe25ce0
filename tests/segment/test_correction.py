"""Tests of ADELE: its curve, its corrections, its loss, and its training through the stage."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit

from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.labels import Boxes, WeakLabels
from wsseg.errors import OutputError
from wsseg.export.bundle import load_bundle
from wsseg.rundir import MANIFEST_FILE, StageDir
from wsseg.segment.bb_unet import BbUnet, bb_unet
from wsseg.segment.config import Smp
from wsseg.segment.correction import (
    classes_to_correct,
    corrected,
    epoch_ious,
    fit_curve,
    slowdown,
)
from wsseg.segment.correction_config import Adele
from wsseg.segment.correction_task import CorrectedTask
from wsseg.segment.losses.consistency import resized_images, scale_consistency
from wsseg.segment.stage import segment
from wsseg.segment.task import smp


def _curve(t, a, b, c):
    return a * (1 - np.exp(-1 / c * t**b))


def test_the_fit_finds_the_curve_that_made_the_values():
    t = np.arange(1, 13, dtype=float)
    found = fit_curve(_curve(t, 0.7, 0.8, 2.0).tolist())
    np.testing.assert_allclose(found, (0.7, 0.8, 2.0), rtol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_noisy_values_are_fitted_as_weighted_least_squares_does(seed: int):
    rng = np.random.default_rng(seed)
    t = np.arange(1, 16, dtype=float)
    y = np.clip(_curve(t, 0.6, 0.9, 3.0) + rng.normal(0, 0.01, len(t)), 0, 1)
    sigma = np.geomspace(1, 0.1, len(t))
    bounds = ([0, 0, 1e-6], [1, 1, np.inf])
    expected, _ = curve_fit(_curve, t, y, p0=(0.9, 0.9, 1.0), sigma=sigma, bounds=bounds)
    found = fit_curve(y.tolist())
    np.testing.assert_allclose(_curve(t, *found), _curve(t, *expected), atol=2e-4)


def test_the_slowdown_is_the_ratio_of_slopes():
    a, b, c = 0.7, 0.8, 2.0
    t = np.arange(1, 13, dtype=float)

    def slope(at: float) -> float:
        step = 1e-6
        return float((_curve(at + step, a, b, c) - _curve(at - step, a, b, c)) / (2 * step))

    found = slowdown(_curve(t, a, b, c).tolist())
    assert found == pytest.approx(abs(1 - slope(12) / slope(1)), abs=2e-3)


@pytest.mark.parametrize("ious", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.9, 0.1, 0.9, 0.1]])
def test_curves_that_are_no_curves_give_a_number(ious):
    assert 0 <= slowdown(ious) <= 1


def test_a_class_is_corrected_from_the_epoch_on_in_which_its_curve_flattens():
    t = np.arange(1, 31, dtype=float)
    fast, slow = _curve(t, 0.8, 1.0, 1.5), _curve(t, 0.8, 1.0, 60.0)
    history = [[0.9, float(x), float(y), None] for x, y in zip(fast, slow, strict=True)]
    known: list[int] = []
    began = None
    for epoch in range(1, 31):
        known = classes_to_correct(history[:epoch], known, Adele())
        if known and began is None:
            began = epoch
    # exp(-(t - 1) / 1.5) < 0.1 from t = 4.45 on.
    assert began == 5
    assert known == [0, 1]


def test_classes_stay_corrected_and_background_joins_them():
    history = [[0.5, 0.1 * epoch] for epoch in range(1, 6)]
    assert classes_to_correct(history, [], Adele()) == []
    assert classes_to_correct(history, [1], Adele()) == [0, 1]


def test_a_class_that_is_never_predicted_is_not_corrected():
    assert classes_to_correct([[0.9, 0.0, None]] * 9, [], Adele()) == []


def test_ious_of_an_epoch_are_counted_per_class():
    counts = np.array([[3, 0, 0], [5, 2, 0], [4, 1, 0]])
    assert epoch_ious(counts) == [3 / 6, 0.0, None]


def _probabilities(classes: list[list[int]], sure: list[list[float]], num: int = 4) -> np.ndarray:
    found = np.array(classes)
    values = np.repeat(((1 - np.array(sure)) / (num - 1))[None], num, axis=0)
    np.put_along_axis(values, found[None], np.array(sure)[None], axis=0)
    return values.astype(np.float32)


def test_only_sure_and_allowed_predictions_replace_labels():
    first = np.array([[0, 1, 2, 255, 1, 0]], np.uint8)
    # In order: sure; not sure; class not corrected; ignored before; not in the mask; background.
    values = _probabilities([[1, 0, 2, 1, 3, 0]], [[0.9, 0.8, 0.9, 0.9, 0.9, 0.9]])
    labels = WeakLabels(tags={1, 2, 3})
    found = corrected(first, values, [0, 1, 3], first=first, labels=labels, config=Adele())
    assert found.tolist() == [[1, 1, 2, 1, 1, 0]]


def test_a_correction_contradicts_neither_tags_nor_boxes():
    first = np.array([[1, 2, 0, 0]], np.uint8)
    values = _probabilities([[2, 1, 1, 1]], [[0.99] * 4])
    tagged = WeakLabels(tags={1})
    found = corrected(first, values, [0, 1, 2], first=first, labels=tagged, config=Adele())
    assert found.tolist() == [[1, 1, 1, 1]]
    boxed = WeakLabels(tags={1}, boxes=Boxes([[0, 0, 3, 1]], [1]))
    found = corrected(first, values, [0, 1, 2], first=first, labels=boxed, config=Adele())
    assert found.tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_correction_twice_changes_nothing(seed: int):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 4, (8, 9)).astype(np.uint8)
    first[rng.random(first.shape) < 0.2] = 255
    values = rng.dirichlet(np.full(4, 0.1), (8, 9)).transpose(2, 0, 1).astype(np.float32)
    rule = {"first": first, "labels": WeakLabels(tags={1, 2}), "config": Adele()}
    once = corrected(first, values, [0, 2], **rule)
    np.testing.assert_array_equal(corrected(once, values, [0, 2], **rule), once)
    assert (once != first).any()


def test_consistency_is_the_summed_divergence_from_the_mixture():
    rng = np.random.default_rng(0)
    maps = [rng.normal(0, 2, (2, 3, 4, 5)) for _ in range(3)]
    maps[0][1] *= 0.01
    maps[1][1] *= 0.01
    maps[2][1] *= 0.01  # nothing is sure in the second image
    weights = np.array([0.3, -0.2, 0.5])
    w = np.exp(weights) / np.exp(weights).sum()
    total = 0.0
    for y in range(4):
        for x in range(5):
            ps = []
            for map_ in maps:
                e = [math.exp(v) for v in map_[0, :, y, x]]
                ps.append([v / sum(e) for v in e])
            q = [sum(w[i] * ps[i][k] for i in range(3)) for k in range(3)]
            total += sum(p[k] * math.log(p[k] / q[k]) for p in ps for k in range(3))
    logits = [torch.tensor(map_, dtype=torch.float32, requires_grad=True) for map_ in maps]
    learned = torch.tensor(weights, dtype=torch.float32, requires_grad=True)
    found = scale_consistency(logits, learned)
    assert found.item() == pytest.approx(total / 40, rel=1e-5)
    found.backward()
    assert learned.grad is not None
    assert learned.grad.abs().sum() > 0
    assert all(map_.grad is not None and map_.grad[0].abs().sum() > 0 for map_ in logits)
    assert all(map_.grad is not None and not map_.grad[1].any() for map_ in logits)


def test_scales_of_any_size_are_compared_at_the_largest():
    images = torch.zeros(1, 3, 9, 7)
    assert resized_images(images, 0.7).shape[-2:] == (6, 5)
    assert resized_images(images, 0.01).shape[-2:] == (1, 1)
    maps = [torch.full((1, 2, 6, 5), 3.0), torch.full((1, 2, 9, 7), 1.0)]
    assert scale_consistency(maps, torch.zeros(2)).item() == pytest.approx(0, abs=1e-6)


BASE = {
    "architecture": "unet",
    "encoder": "tu-test_resnet",
    "encoder_depth": 3,
    "weights": "none",
    "training": {"epochs": 3, "batch_size": 2, "num_workers": 0, "precision": "float32"},
    "augment": {"scale": None, "crop_px": 32},
    "inference": {"flip": False},
    "validate_on": "none",
    "correction": {"scales": [0.5, 1.0], "min_confidence": 0.3},
}


@pytest.fixture
def dataset(make_dataset):
    top = np.zeros((32, 32), np.uint8)
    top[:16] = 1
    return make_dataset({name: {"mask": top * (1 + (name == "b"))} for name in "abcd"})


@pytest.fixture
def pseudo(dataset, tmp_path):
    stage = StageDir(tmp_path / "masks", "f")
    for sample in dataset.samples:
        append_jsonl(stage.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})
        write_mask(stage.path / f"{sample.id}.png", read_mask(sample.mask_path))
    return stage


@pytest.fixture
def always(monkeypatch):
    """Correct all classes from the first epoch on."""
    monkeypatch.setattr("wsseg.segment.correction_task.classes_to_correct", lambda *_: [0, 1, 2])


def _files(stage: StageDir) -> dict[str, bytes]:
    found = [*stage.path.glob("training/labels/*.png"), *stage.path.glob("model/*.safetensors")]
    found.append(stage.path / "training/labels/state.json")
    return {path.name: path.read_bytes() for path in found}


@pytest.mark.usefixtures("always")
def test_masks_are_corrected_while_training_and_keep_to_the_tags(dataset, pseudo, tmp_path):
    stage = StageDir(tmp_path / "segment", "f")
    segment(dataset, Smp.model_validate(BASE), pseudo, stage, RunContext())
    changed = 0
    for sample in dataset.samples:
        mask = read_mask(stage.path / "training" / "labels" / f"{sample.id}.png")
        changed += int((mask != read_mask(sample.mask_path)).sum())
        assert set(np.unique(mask).tolist()) <= {0, *sample.labels.tags}
    assert changed > 0
    state = json.loads((stage.path / "training" / "labels" / "state.json").read_text())
    assert (len(state["ious"]), state["classes"], state["epoch"]) == (3, [0, 1, 2], 2)
    line = json.loads((stage.path / "training" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"consistency", "train_iou"} <= set(line)
    # What is only needed to train is not part of the model.
    net, _ = load_bundle(stage.path / "model")
    assert not any("scale_weights" in name for name in net.state_dict())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("loss", "logged"),
    [
        ({"name": "cross_entropy", "tree_energy": {"grid_px": 8}}, "tree_energy"),
        ({"name": "psl"}, "loss"),
    ],
)
def test_masks_are_corrected_with_losses_that_look_at_features(
    loss, logged, dataset, pseudo, tmp_path
):
    stage = StageDir(tmp_path / "segment", "f")
    config = Smp.model_validate(BASE | {"loss": loss})
    segment(dataset, config, pseudo, stage, RunContext())
    line = json.loads((stage.path / "training" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"consistency", "train_iou", logged} <= set(line)


@pytest.mark.usefixtures("always")
def test_corrections_are_predicted_in_the_number_format_of_the_settings(
    dataset, pseudo, tmp_path, monkeypatch
):
    from wsseg.segment import correction_task as module

    asked = []

    class Forward(module.TorchForward):
        def __init__(self, net, *, precision="float32", **settings):
            asked.append(precision)
            super().__init__(net, **settings)

    monkeypatch.setattr(module, "TorchForward", Forward)
    config = Smp.model_validate(BASE | {"inference": {"flip": False, "precision": "bfloat16"}})
    segment(dataset, config, pseudo, StageDir(tmp_path / "segment", "f"), RunContext())
    assert asked == ["bfloat16", "bfloat16"]


def test_a_network_that_looks_at_boxes_is_counted_with_its_boxes():
    task = bb_unet(config=BbUnet(bypass=0), num_classes=2)
    whole = CorrectedTask(task, SimpleNamespace(rule=Adele(scales=(0.5, 1.0)))).eval()
    batch = {
        "image": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        "mask": torch.ones(1, 32, 32, dtype=torch.long),
        "boxes": torch.tensor([[[4.0, 4.0, 20.0, 24.0, 1.0]]]),
        "has_boxes": torch.tensor([True]),
    }
    terms = whole.loss(batch)
    assert {"loss", "consistency"} <= set(terms)
    expected = task.outputs(batch)[0].argmax(dim=1)
    assert whole._counts[1].tolist() == torch.bincount(expected.ravel(), minlength=3).tolist()


def test_terms_of_a_corrected_task_learn_how_far_training_is():
    task = smp(config=Smp.model_validate(BASE), num_classes=2)
    corrections = SimpleNamespace(rule=Adele())
    whole = CorrectedTask(task, corrections)
    whole.on_progress(0.25)
    assert task.progress == 0.25


class _KilledError(BaseException):
    """Stops a run as a signal would, past every handler."""


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("moment", ["correcting", "noted", "after epoch"])
def test_a_training_killed_at_any_moment_ends_with_the_same_masks(
    dataset, pseudo, tmp_path, monkeypatch, moment
):
    from wsseg.segment import correction_task as module
    from wsseg.training.loop import _Loop

    whole, stopped = StageDir(tmp_path / "whole", "f"), StageDir(tmp_path / "stopped", "f")
    config = Smp.model_validate(BASE)
    segment(dataset, config, pseudo, whole, RunContext())
    calls = []
    with monkeypatch.context() as patched:
        if moment == "correcting":
            real = module.Corrections._correct_image

            def image(self, *args):
                calls.append(1)
                if len(calls) == 7:
                    raise _KilledError
                return real(self, *args)

            patched.setattr(module.Corrections, "_correct_image", image)
        elif moment == "noted":
            note = module.Corrections.note

            def noted(self, epoch, ious):
                note(self, epoch, ious)
                if epoch == 1:
                    raise _KilledError

            patched.setattr(module.Corrections, "note", noted)
        else:
            save = _Loop._save_checkpoint

            def saved(self):
                save(self)
                if self.position.epoch == 2:
                    raise _KilledError

            patched.setattr(_Loop, "_save_checkpoint", saved)
        with pytest.raises(_KilledError):
            segment(dataset, config, pseudo, stopped, RunContext())
    segment(dataset, config, pseudo, stopped, RunContext())
    assert _files(stopped) == _files(whole)


def test_a_training_whose_corrections_were_removed_says_so(dataset, pseudo, tmp_path, monkeypatch):
    from wsseg.training.loop import _Loop

    stage = StageDir(tmp_path / "segment", "f")
    save = _Loop._save_checkpoint

    def saved(self):
        save(self)
        raise _KilledError

    with monkeypatch.context() as patched:
        patched.setattr(_Loop, "_save_checkpoint", saved)
        with pytest.raises(_KilledError):
            segment(dataset, Smp.model_validate(BASE), pseudo, stage, RunContext())
    (stage.path / "training/labels/state.json").unlink()
    with pytest.raises(OutputError, match="--force"):
        segment(dataset, Smp.model_validate(BASE), pseudo, stage, RunContext())


def test_a_bare_name_is_enough_to_ask_for_corrections():
    assert Smp.model_validate({"correction": "adele"}).correction == Adele()
    assert Smp.model_validate({"correction": None}).correction is None


def test_one_scale_has_nothing_to_agree_with():
    with pytest.raises(ValueError, match="give two or more"):
        Adele(scales=(1.0,))
    assert Adele(scales=(1.0,), consistency=0).consistency == 0
