"""Affinity networks behind localizers that know the background."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from wsseg.data.image_io import read_mask
from wsseg.data.labels import Points, WeakLabels
from wsseg.data.scores import Scores, load_scores
from wsseg.errors import RecipeError
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.localize.direct import scores_of_mask
from wsseg.localize.stage import fingerprint_settings
from wsseg.pipeline import run
from wsseg.recipe import validate
from wsseg.refine.affinity_data import TwoAlphas, make_confident
from wsseg.refine.confident import labels_from_marginals
from wsseg.refine.irn_config import Irn
from wsseg.refine.irn_training import write_labels
from wsseg.refine.known_labels import can_fill, filled, labels_of_known, with_known
from wsseg.refine.protocol import FitInputs
from wsseg.rundir import KNOWS_BACKGROUND, StageDir

AUGMENT = {"scale": None, "crop_px": 64, "brightness": 0, "contrast": 0, "saturation": 0}
TRAINING = {
    "epochs": 8,
    "batch_size": 4,
    "optimiser": "adamw",
    "lr": 2e-3,
    "num_workers": 0,
    "precision": "float32",
    "keep": "last",
}
STEPS = {
    "affinity_net": {
        "name": "affinity_net",
        "init": "none",
        "backbone": "test_resnet",
        "stride_px": 4,
        "links": "all",
        "augment": AUGMENT,
        "training": TRAINING,
    },
    "irn": {"name": "irn", "pair_radius": 5, "augment": AUGMENT, "training": TRAINING},
}


def hard(scores: Scores) -> np.ndarray:
    mask = scores.class_ids[scores.values.argmax(axis=0)]
    mask[scores.unknown] = 255
    return mask


def walked(maps: np.ndarray, passes: np.ndarray, steps: int = 3) -> np.ndarray:
    """Walk along a line whose links are given, by a dense matrix."""
    count = maps.shape[2]
    links = np.eye(count)
    for at, weight in enumerate(passes):
        links[at, at + 1] = links[at + 1, at] = weight
    matrix = links / links.sum(axis=0)
    return np.einsum("khi,ij->khj", maps, np.linalg.matrix_power(matrix, steps)).astype(np.float32)


def test_unknown_pixels_have_no_label_and_row_zero_alone_makes_background():
    mask = np.array([[0, 0, 255, 3, 3, 255]], np.uint8)
    assert labels_of_known(scores_of_mask(mask)).tolist() == mask.tolist()
    unsure = Scores(np.array([[[0.2]], [[0.25]]], np.float32), np.array([0, 3], np.uint8), (1, 1))
    assert labels_of_known(unsure, 0.3).tolist() == [[255]]
    assert labels_of_known(unsure).tolist() == [[3]]
    nothing = Scores(np.zeros((1, 2, 2), np.float32), np.array([0], np.uint8), (2, 2))
    assert (labels_of_known(nothing) == 255).all()


def test_walks_fill_up_to_the_edge_however_few_cells_were_marked():
    cells = np.zeros((2, 1, 40), np.float32)
    cells[0, 0, :12] = 1
    cells[1, 0, 35] = 1
    passes = np.ones(39)
    passes[19] = 1e-4
    found = filled(cells, lambda maps: walked(maps, passes), rounds=60)
    assert (found[:, 0, :20].argmax(axis=0) == 0).all()
    assert (found[:, 0, 20:].argmax(axis=0) == 1).all()
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(found[:, 0, :12], cells[:, 0, :12])
    np.testing.assert_array_equal(found[:, 0, 35], cells[:, 0, 35])


def test_cells_that_nothing_reaches_stay_unknown():
    cells = np.zeros((2, 1, 12), np.float32)
    cells[0, 0, 0] = cells[1, 0, 4] = 1
    passes = np.ones(11)
    passes[6] = 0
    found = filled(cells, lambda maps: walked(maps, passes))
    assert (found[:, 0, 7:] == 0).all()
    assert (found[:, 0, :7].sum(axis=0) > 0.99).all()


def test_known_pixels_get_their_scores_back():
    before = scores_of_mask(np.array([[0, 255, 255, 5]], np.uint8))
    other = scores_of_mask(np.array([[5, 5, 0, 0]], np.uint8))
    assert hard(with_known(other, before)).tolist() == [[0, 5, 0, 5]]


def test_there_is_nothing_to_fill_without_unknown_pixels_a_class_and_a_background():
    for mask, expected in (([0, 255, 4], True), ([0, 4], False), ([0, 255], False),
                           ([4, 255], False), ([255], False)):  # fmt: skip
        assert can_fill(scores_of_mask(np.array([mask], np.uint8), (4,))) == expected


def scene(number: int) -> tuple[np.ndarray, np.ndarray, WeakLabels]:
    """A rectangle on noise, what is where, and a point on it."""
    rng = np.random.default_rng(number)
    image = rng.integers(40, 70, (64, 64, 3)).astype(np.uint8)
    y, x = rng.integers(8, 24, 2)
    truth = np.zeros((64, 64), np.uint8)
    truth[y : y + 28, x : x + 28] = 1
    image[truth == 1] += np.array([120, 40, 0], np.uint8)
    points = Points([[x + 14.5, y + 14.5]], [1])
    return image, truth, WeakLabels(tags={1}, points=points)


@pytest.fixture
def dataset(make_dataset):
    """Eight images with one point each, one that shows nothing, one whose point lies outside."""
    made = make_dataset(
        {str(k): {"image": scene(k)[0], "mask": scene(k)[1], "tags": {1}} for k in range(8)}
        | {"ok": {"tags": set(), "size": (64, 64)}, "off": {"tags": None, "size": (64, 64)}}
    )
    drawn = {str(k): scene(k)[2] for k in range(8)}
    drawn["off"] = WeakLabels(points=Points([[90, 3]], [1]))
    samples = [
        dataclasses.replace(sample, labels=drawn.get(sample.id, sample.labels)) for sample in made
    ]
    return dataclasses.replace(made, samples=tuple(samples))


def seeds_of(dataset) -> dict[str, Scores]:
    """Discs of class 1, a frame of background, and nothing between."""
    found = {}
    for sample in dataset:
        mask = np.full((64, 64), 255, np.uint8)
        if sample.id.isdigit():
            x, y = sample.labels.points.xy[0].astype(int)
            mask[:4], mask[-4:], mask[:, :4], mask[:, -4:] = 0, 0, 0, 0
            mask[y - 3 : y + 4, x - 3 : x + 4] = 1
        elif sample.id == "ok":
            mask[:] = 0
        found[sample.id] = scores_of_mask(mask)
    return found


def test_both_networks_learn_from_known_pixels_alone(dataset, tmp_path):
    known = seeds_of(dataset)
    inputs = FitInputs(
        dataset, dataset.samples, lambda s: known[s.id], tmp_path, knows_background=True
    )
    stage = write_labels(inputs, Irn(pair_radius=5))
    rule = TwoAlphas(4.0, 32.0, CrfConfig())
    marginals = StageDir(tmp_path / "psa", "f")
    make_confident(inputs, rule, marginals)
    for sample in dataset:
        expected = hard(known[sample.id])
        np.testing.assert_array_equal(read_mask(stage.file("labels", sample.id, ".png")), expected)
        low, high = (
            load_scores(marginals.file(kind, sample.id, ".npz")) for kind in ("low", "high")
        )
        labels = labels_from_marginals(low.values, high.values, low.class_ids)
        np.testing.assert_array_equal(labels, expected)


def test_behind_maps_of_tags_what_is_below_the_thresholds_is_still_background(dataset, tmp_path):
    known = seeds_of(dataset)
    inputs = FitInputs(dataset, dataset.samples, lambda s: known[s.id], tmp_path)
    stage = write_labels(inputs, Irn(pair_radius=5))
    assert (read_mask(stage.file("labels", "0", ".png")) == 0).mean() > 0.5


def weight_file(tmp_path):
    """Weights of a tiny backbone, as `init` takes them."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_points_grow_to_whole_objects_and_marks_stay(name, dataset, tmp_path):
    step = dict(STEPS[name])
    if name == "irn":
        step |= {"init": weight_file(tmp_path), "backbone": "test_resnet", "output_stride": 8,
                 "train_backbone": True}  # fmt: skip
    recipe = validate(
        {
            "supervision": "points",
            "localize": {"name": "seeds", "background": "border", "point_radius_px": 4},
            "refine": {"steps": [step]},
        }
    )
    out = tmp_path / "run"
    finished = run(dataset, recipe=recipe, out=out)
    assert StageDir(out / "localize", "").state()[KNOWS_BACKGROUND]
    folder = out / "refine" / f"1_{name}"
    scores_before, after, truths = {}, {}, {}
    for sample in dataset:
        scores_before[sample.id] = load_scores(out / "localize" / "scores" / f"{sample.id}.npz")
        after[sample.id] = load_scores(folder / "scores" / f"{sample.id}.npz")
        if sample.id.isdigit():
            truths[sample.id] = scene(int(sample.id))[1]
    for image_id, truth in truths.items():
        known = ~scores_before[image_id].unknown
        np.testing.assert_array_equal(
            hard(after[image_id])[known], hard(scores_before[image_id])[known]
        )
        assert (hard(scores_before[image_id])[truth == 1] == 1).mean() < 0.1
    ious = [
        ((hard(after[k]) == 1) & (truth == 1)).sum() / ((hard(after[k]) == 1) | (truth == 1)).sum()
        for k, truth in truths.items()
    ]
    assert np.mean(ious) > 0.55
    assert (hard(after["ok"]) == 0).all()
    assert after["off"].unknown.all()
    entries = {(e["stage"], e["split"]): e for e in finished.metrics["stages"]}
    assert entries["pseudo", "train"]["miou"] > entries["localize", "train"]["miou"]


@pytest.mark.parametrize("name", ["threshold", "background_constant"])
def test_rules_that_make_the_background_anew_are_still_refused(name, dataset, tmp_path):
    recipe = validate(
        {"supervision": "points", "localize": "seeds", "refine": {"steps": [{"name": name}]}}
    )
    with pytest.raises(RecipeError, match="affinity_net and irn fill what was left open"):
        run(dataset, recipe=recipe, out=tmp_path / "run")


def test_irn_behind_points_needs_features_of_its_own(dataset, tmp_path):
    recipe = validate(
        {"supervision": "points", "localize": "seeds", "refine": {"steps": [{"name": "irn"}]}}
    )
    with pytest.raises(RecipeError, match="trains none"):
        run(dataset, recipe=recipe, out=tmp_path / "run")


def test_maps_of_the_version_before_are_made_anew():
    recipe = validate({"supervision": "points", "localize": "seeds"})
    assert fingerprint_settings(recipe.localize)["version"] >= 2
