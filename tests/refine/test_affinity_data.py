from __future__ import annotations

import numpy as np
import pytest

from wsseg.data.scores import Scores, save_scores
from wsseg.data.transforms import AugmentConfig, augment
from wsseg.errors import DataError
from wsseg.kernels.dense_crf_config import PSA
from wsseg.refine import affinity_data
from wsseg.refine.affinity_data import (
    AffinityData,
    TwoAlphas,
    confident_shares,
    make_confident,
    pool_cells,
)
from wsseg.refine.protocol import FitInputs
from wsseg.rundir import StageDir

RULE = TwoAlphas(4.0, 32.0, PSA)
PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0}


def scene(seed: int = 0, size=(40, 56)) -> tuple[np.ndarray, np.ndarray]:
    """A bright rectangle on a dark ground, and its mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    y, x = rng.integers(4, 16, 2)
    mask[y : y + 18, x : x + 22] = 1
    image = np.full((*size, 3), 30, np.uint8)
    image[mask == 1] = 220
    return image, mask


def one_hot(mask: np.ndarray, ids=(0, 1)) -> Scores:
    values = np.stack([mask == class_id for class_id in ids]).astype(np.float32)
    return Scores(values, np.array(ids, np.uint8), mask.shape)


@pytest.fixture
def inputs(make_dataset, tmp_path):
    items = {}
    for number in range(3):
        image, _ = scene(number)
        items[f"set/{number}"] = {"image": image, "tags": {1}}
    items["ok"] = {"image": np.full((40, 56, 3), 30, np.uint8), "tags": set()}
    items["val"] = {"image": scene(9)[0], "tags": {1}, "split": "val"}
    dataset = make_dataset(items)
    read = []

    def load(sample):
        read.append(sample.id)
        if sample.id == "ok":
            return Scores(np.ones((1, 10, 14), np.float32), np.array([0], np.uint8), (40, 56))
        mask = scene(int(sample.id[-1]))[1]
        values = np.stack([np.zeros(mask.shape), mask * 0.9]).astype(np.float32)
        return Scores(values, np.array([0, 1], np.uint8), mask.shape)

    found = FitInputs(dataset, dataset.samples, load, tmp_path / "step")
    found.folder.mkdir()
    return found, read


def stage_of(inputs: FitInputs) -> StageDir:
    return StageDir(inputs.folder / "confident", "mark")


def test_only_images_of_the_train_split_are_looked_at(inputs):
    inputs, read = inputs
    samples = make_confident(inputs, RULE, stage_of(inputs))
    assert [sample.id for sample in samples] == ["set/0", "set/1", "set/2", "ok"]
    assert set(read) == {"set/0", "set/1", "set/2", "ok"}


def test_shares_are_those_of_the_labels(inputs):
    inputs, _ = inputs
    stage = stage_of(inputs)
    shares = confident_shares(make_confident(inputs, RULE, stage), stage)
    assert (shares.num_images, shares.num_mixed) == (4, 3)
    # The scenes are cut cleanly; the ok image is all background.
    object_share = 18 * 22 / (40 * 56)
    assert shares.foreground == pytest.approx(0.75 * object_share, abs=0.02)
    assert shares.background == pytest.approx(1 - 0.75 * object_share, abs=0.02)
    assert "confident foreground" in shares.text()


def test_an_image_that_cannot_be_read_is_left_out_and_the_others_go_on(inputs):
    inputs, _ = inputs
    inputs.samples[1].image_path.write_bytes(b"torn")
    stage = stage_of(inputs)
    samples = make_confident(inputs, RULE, stage)
    assert [sample.id for sample in samples] == ["set/0", "set/2", "ok"]
    assert list(stage.failures()) == ["set/1"]


def test_images_that_are_done_are_not_done_again(inputs, monkeypatch):
    inputs, _ = inputs
    work = affinity_data.two_alpha_marginals
    seen = []

    def interrupted(image, scores, **options):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(scores.class_ids.tolist())
        return work(image, scores, **options)

    monkeypatch.setattr(affinity_data, "two_alpha_marginals", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_confident(inputs, RULE, stage_of(inputs))
    seen.clear()
    make_confident(inputs, RULE, stage_of(inputs))
    assert len(seen) == 2
    make_confident(inputs, RULE, stage_of(inputs))
    assert len(seen) == 2


def test_maps_too_weak_for_any_confident_foreground_are_an_error(inputs):
    inputs, _ = inputs
    weak = Scores(np.full((2, 40, 56), 0.01, np.float32), np.array([0, 1], np.uint8), (40, 56))
    inputs = FitInputs(inputs.dataset, inputs.samples, lambda _: weak, inputs.folder)
    stage = stage_of(inputs)
    samples = make_confident(inputs, RULE, stage)
    with pytest.raises(DataError, match=r"0\.0% are confident foreground.*raise alpha_low"):
        confident_shares(samples, stage)


def test_one_class_that_fills_every_image_is_an_error(inputs):
    inputs, _ = inputs
    full = Scores(np.ones((2, 40, 56), np.float32), np.array([0, 1], np.uint8), (40, 56))
    inputs = FitInputs(inputs.dataset, inputs.samples, lambda _: full, inputs.folder)
    stage = stage_of(inputs)
    samples = make_confident(inputs, RULE, stage)
    with pytest.raises(DataError, match=r"100\.0% are confident foreground.*lower alpha_high"):
        confident_shares(samples, stage)


def test_without_training_images_there_is_an_error(inputs):
    inputs, _ = inputs
    with pytest.raises(DataError, match="no training image"):
        confident_shares([], stage_of(inputs))


def make_data(inputs, config: AugmentConfig, stride: int = 4) -> AffinityData:
    """Items whose marginals are the masks of the scenes."""
    stage = stage_of(inputs)
    samples = [sample for sample in inputs.samples if sample.id.startswith("set/")]
    for sample in samples:
        mask = scene(int(sample.id[-1]))[1]
        for kind in ("low", "high"):
            save_scores(stage.file(kind, sample.id, ".npz"), one_hot(mask))
    return AffinityData(samples, stage, config, stride_px=stride)


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": None, "crop_px": 32},
        {"scale": None, "crop_px": 64, "vflip": 0.5, "rot90": 0.5},
        {"scale": (0.5, 2.0), "crop_px": 48, "rot90": 1.0},
    ],
)
def test_labels_see_what_the_image_sees(inputs, changes):
    inputs, _ = inputs
    data = make_data(inputs, AugmentConfig(**changes, **PLAIN))
    for seed in range(12):
        item = data.item(seed % 3, np.random.default_rng(seed))
        view = augment(
            scene(seed % 3)[0], None, np.random.default_rng(seed), data.config, in_channels=3
        )
        np.testing.assert_array_equal(item["image"], view.image)
        cells = item["labels"].shape[0]
        assert item["labels"].dtype == np.uint8
        # Bright cells are the object; cells that are cut are left to the next test.
        bright = (item["image"][0] > 0).reshape(cells, 4, cells, 4).mean(axis=(1, 3))
        valid = view.valid.reshape(cells, 4, cells, 4).mean(axis=(1, 3))
        sure = (valid == 1) & ((bright == 0) | (bright == 1))
        # Resized borders are blurred differently, by up to a pixel.
        slack = 0 if changes["scale"] is None else 4
        assert (item["labels"] != bright)[sure].sum() <= slack
        assert (item["labels"][valid == 0] == 255).all()


def test_cells_are_averaged_before_they_are_labelled(inputs):
    inputs, _ = inputs
    sample = inputs.samples[0]
    stage = stage_of(inputs)
    rng = np.random.default_rng(3)
    ids = np.array([0, 5, 2], np.uint8)
    low, high = rng.random((2, 3, 40, 56)).astype(np.float32)
    for kind, values in (("low", low), ("high", high)):
        save_scores(stage.file(kind, sample.id, ".npz"), Scores(values, ids, (40, 56)))
    config = AugmentConfig(scale=None, crop_px=56, hflip=1.0, **PLAIN)
    data = AffinityData([sample], stage, config, stride_px=8)
    item = data.item(0, np.random.default_rng(1))
    top = int(np.flatnonzero(np.abs(item["image"]).sum(axis=(0, 2)))[0])
    expected = np.full((7, 7), 255)
    canvas = np.zeros((2, 3, 56, 56))
    stored = np.rint(np.stack([low, high]) * 255) / 255
    canvas[:, :, top : top + 40] = stored[..., ::-1]
    for row in range(7):
        for column in range(7):
            block = canvas[..., row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            means = block.mean(axis=(2, 3))
            if means[0].max() < 1e-5:
                continue
            label = int(ids[means[0].argmax()])
            expected[row, column] = label if label != 0 else 255
            if means[1].argmax() == 0:
                expected[row, column] = 0
    np.testing.assert_array_equal(item["labels"], expected)
    assert len(np.unique(expected)) >= 3


def test_items_are_made_again_from_the_same_generator(inputs):
    inputs, _ = inputs
    data = make_data(inputs, AugmentConfig(crop_px=48))
    one, other = (data.item(1, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["labels"], other["labels"])
    assert data.sample_id(1) == "set/1"
    assert len(data) == 3


def test_cells_that_stick_out_are_filled_with_zeros():
    values = np.arange(15, dtype=np.float32).reshape(1, 3, 5)
    pooled = pool_cells(values, 2)
    assert pooled.tolist() == [
        [[3.0, 5.0, (4 + 9) / 4], [(10 + 11) / 4, (12 + 13) / 4, 14 / 4]],
    ]
    assert pool_cells(values, 1) == pytest.approx(values)
