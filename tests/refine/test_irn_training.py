"""Tests of wsseg.refine.irn_training: labels, pairs and training items."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.data.dataset import Sample
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.labels import WeakLabels
from wsseg.data.scores import Scores
from wsseg.data.transforms import AugmentConfig
from wsseg.refine.dense_crf import DenseCrf, dense_crf
from wsseg.refine.irn_config import Irn
from wsseg.refine.irn_training import (
    IrnData,
    cells_of,
    confident_facts,
    count_pairs,
    write_labels,
)
from wsseg.rundir import StageDir


def test_a_cell_has_the_label_of_its_middle():
    mask = np.arange(9 * 6, dtype=np.uint8).reshape(9, 6)
    # Rows 2, 6 and, beyond the image, the last one; columns 2 and the last one.
    assert cells_of(mask).tolist() == [[14, 17], [38, 41], [50, 53]]
    assert cells_of(mask[:1, :1]).tolist() == [[0]]


@pytest.mark.parametrize("radius", [2, 4])
def test_pairs_are_counted_as_a_loop_does(radius):
    rng = np.random.default_rng(0)
    cells = rng.choice([0, 3, 7, 255], (5, 8)).astype(np.uint8)
    counts = {"same_pairs": 0, "different_pairs": 0}
    for y, x in np.ndindex(cells.shape):
        for dy in range(radius):
            for dx in range(1 - radius, radius):
                is_pair = (dy > 0 or dx > 0) and dx * dx + dy * dy < radius * radius
                inside = y + dy < 5 and 0 <= x + dx < 8
                if not (is_pair and inside) or 255 in (cells[y, x], cells[y + dy, x + dx]):
                    continue
                same = cells[y, x] == cells[y + dy, x + dx]
                counts["same_pairs" if same else "different_pairs"] += 1
    assert count_pairs(np.kron(cells, np.ones((4, 4), np.uint8)), radius) == counts


def test_labels_follow_the_rule_of_two_thresholds(scenes, tmp_path):
    world = scenes.World(tmp_path)
    image, objects = scenes.disc_scene(3)
    values = np.concatenate([scenes.blurred_map(objects), scenes.blurred_map(objects)[1:] / 2])
    scores = Scores(values, np.array([0, 2, 1], np.uint8), objects.shape)
    world.add("a", image, scores)
    config = Irn()
    stage = write_labels(world.inputs(), config)
    crf = DenseCrf(**config.crf.model_dump(), gt_prob=0.7)
    full = scores.resized()
    winners = []
    for threshold in (0.30, 0.05):
        full[0] = threshold
        cut = Scores(full.copy(), scores.class_ids, objects.shape)
        winners.append(scores.class_ids[dense_crf(image, cut, config=crf).values.argmax(axis=0)])
    expected = winners[0].copy()
    expected[(winners[0] == 0) & (winners[1] > 0)] = 255
    found = read_mask(stage.file("labels", "a", ".png"))
    np.testing.assert_array_equal(found, expected)
    assert set(np.unique(found)) >= {0, 2}
    (line,) = stage.manifest().values()
    assert line["background"] == (expected == 0).sum()
    assert line["foreground"] == ((expected > 0) & (expected < 255)).sum()
    facts = confident_facts(stage, config)
    assert facts["background"] == pytest.approx((expected == 0).mean())


def test_images_without_classes_are_background_everywhere(scenes, tmp_path):
    world = scenes.World(tmp_path)
    image, _ = scenes.disc_scene(1)
    world.add("ok", image, Scores(np.ones((1, 24, 24), np.float32), np.zeros(1, np.uint8),
                                  (96, 96)))  # fmt: skip
    stage = write_labels(world.inputs(), Irn())
    assert (read_mask(stage.file("labels", "ok", ".png")) == 0).all()


def test_labels_are_made_again_only_under_other_thresholds(scenes, tmp_path):
    world = scenes.World(tmp_path)
    name = world.add_disc(1)
    path = write_labels(world.inputs(), Irn()).file("labels", name, ".png")
    marker = np.zeros((96, 96), np.uint8)
    write_mask(path, marker)
    write_labels(world.inputs(), Irn(background=0.4, beta=5))
    np.testing.assert_array_equal(read_mask(path), marker)
    write_labels(world.inputs(), Irn(min_foreground=0.5))
    assert read_mask(path).any()


def test_labels_move_with_the_image(tmp_path):
    # Every label has a grey value of its own, so that the image tells what the labels must be.
    rng = np.random.default_rng(0)
    mask = np.kron(rng.choice([0, 3, 7], (4, 5)), np.ones((16, 16))).astype(np.uint8)
    image = np.repeat((mask * 30)[..., None], 3, axis=2)
    Image.fromarray(image).save(tmp_path / "a.png")
    stage = StageDir(tmp_path / "confident", "f")
    write_mask(stage.file("labels", "a", ".png"), mask)
    sample = Sample("a", tmp_path / "a.png", WeakLabels(tags=frozenset({3, 7})))
    config = AugmentConfig(
        scale=(0.5, 1.5), crop_px=72, hflip=0.5, rot90=0.5, brightness=0, contrast=0, saturation=0
    )
    data = IrnData([sample], stage, config, in_channels=1)
    num_compared = 0
    for seed in range(20):
        item = data.item(0, np.random.default_rng(seed))
        assert item["image"].shape == (1, 72, 72)
        assert item["labels"].shape == (18, 18)
        assert item["labels"].dtype == np.uint8
        grey = (item["image"][0] * 0.226 + 0.449) * 255
        for (row, column), label in np.ndenumerate(item["labels"]):
            around = grey[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            if label == 255 or np.ptp(around) > 0.5:
                continue
            assert around.mean() == pytest.approx(label * 30, abs=1)
            num_compared += 1
    assert num_compared > 1000
    assert data.sample_id(0) == "a"
    again = [data.item(0, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(again[0]["image"], again[1]["image"])
    np.testing.assert_array_equal(again[0]["labels"], again[1]["labels"])
