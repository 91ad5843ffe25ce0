"""Tests of wsseg.segment.companions, and of the stage with losses and networks that use them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.cues.protocol import CueInputs
from wsseg.cues.saliency_ft import Ft
from wsseg.cues.source import open_cue
from wsseg.data.dataset import Dataset
from wsseg.data.image_io import read_image, read_mask, write_mask
from wsseg.data.labels import Boxes, Points
from wsseg.data.transforms import IDENTITY, AugmentConfig, normalise
from wsseg.errors import DataError, RecipeError
from wsseg.export.bundle import load_bundle
from wsseg.pseudo.corrections import Given
from wsseg.rundir import MANIFEST_FILE, StageDir
from wsseg.segment.bb_unet import BbUnet
from wsseg.segment.companions import Companions, check_companions, make_companions, masks_with_boxes
from wsseg.segment.config import Smp
from wsseg.segment.data import ImageTags, SegmentationData
from wsseg.segment.loss_config import LossConfig
from wsseg.segment.stage import MODEL_FOLDER, check_validation, segment
from wsseg.segment.views import said_of_view

SPOT = np.zeros((24, 32), np.uint8)
SPOT[6:12, 8:20] = 1


@pytest.fixture
def dataset(make_dataset) -> Dataset:
    """Three images with the same object; the second has two boxes, the third is not boxed."""
    made = make_dataset({name: {"mask": SPOT} for name in ("a", "b", "c")})
    boxes = {
        "a": Boxes([[8, 6, 20, 12]], [1]),
        "b": Boxes([[8, 6, 20, 12], [-5, 20, 4, 99]], [1, 2]),
        "c": None,
    }
    samples = tuple(
        dataclasses.replace(s, labels=dataclasses.replace(s.labels, boxes=boxes[s.id]))
        for s in made.samples
    )
    return dataclasses.replace(made, samples=samples)


def _pairs(dataset: Dataset):
    return [(sample.image_path, sample.mask_path) for sample in dataset.samples]


def _data(dataset: Dataset, config, companions, **more) -> SegmentationData:
    tags = ImageTags(2, {s.image_path: s.labels.tags for s in dataset.samples})
    return SegmentationData(_pairs(dataset), config, tags=tags, companions=companions, **more)


def test_boxes_are_those_of_the_image_cut_at_its_edge_and_filled_up(dataset):
    config = BbUnet(augment=IDENTITY)
    data = _data(dataset, config, Companions(dataset.samples, config))
    items = [data.item(index, np.random.default_rng(0)) for index in range(3)]
    assert items[0]["boxes"].tolist() == [[8, 6, 20, 12, 1], [0] * 5]
    assert items[1]["boxes"].tolist() == [[8, 6, 20, 12, 1], [0, 20, 4, 24, 2]]
    assert items[2]["boxes"].tolist() == [[0] * 5, [0] * 5]
    assert [bool(item["has_boxes"]) for item in items] == [True, True, False]
    assert set(items[0]) == {"image", "mask", "boxes", "has_boxes"}


def test_boxes_that_a_tagged_class_lacks_are_not_those_of_all_objects(dataset):
    """Else its objects would be background, which nobody said."""
    labels = [dataclasses.replace(s.labels, tags=frozenset({1, 2})) for s in dataset.samples]
    samples = tuple(
        dataclasses.replace(s, labels=one) for s, one in zip(dataset.samples, labels, strict=True)
    )
    tagged = dataclasses.replace(dataset, samples=samples)
    config = BbUnet(augment=IDENTITY)
    data = _data(tagged, config, Companions(samples, config))
    items = [data.item(index, np.random.default_rng(0)) for index in range(3)]
    assert [bool(item["has_boxes"]) for item in items] == [False, True, False]
    check_companions(tagged, config)
    incomplete = dataclasses.replace(tagged, samples=(samples[0], samples[2]))
    with pytest.raises(DataError, match="boxes"):
        check_companions(incomplete, config)


def test_boxes_follow_the_view_and_the_working_size(dataset):
    augment = AugmentConfig(crop_px=24, scale=(0.8, 1.6), vflip=0.5, rot90=0.5)
    config = BbUnet(augment=augment)
    for side in (None, 16):
        data = _data(dataset, config, Companions(dataset.samples, config), max_side_px=side)
        seen = 0
        for seed in range(25):
            item = data.item(0, np.random.default_rng(seed))
            shown = item["mask"] == 1
            x0, y0, x1, y1, class_id = item["boxes"][0]
            if shown.sum() < 4:
                continue
            seen += 1
            rows, columns = np.nonzero(shown)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert class_id == 1
            # The nearest pixel of a mask is off by less than one.
            np.testing.assert_allclose([x0, y0, x1, y1], found, atol=1.6)
        assert seen > 10


def test_the_guide_is_the_view_without_changes_of_colour(dataset):
    loud = AugmentConfig(crop_px=24, scale=None, brightness=1, contrast=1, saturation=1)
    plain = loud.model_copy(update={"brightness": 0, "contrast": 0, "saturation": 0})
    loss = {"tree_energy": {"high_level": False}}
    for in_channels in (1, 3):
        config = Smp.model_validate({"augment": loud, "loss": loss, "in_channels": in_channels})
        item = _data(dataset, config, Companions(dataset.samples, config)).item(
            0, np.random.default_rng(3)
        )
        assert item["guide"].shape == item["image"].shape == (in_channels, 24, 24)
        assert np.abs(item["guide"] - item["image"]).max() > 0.1
        still = config.model_copy(update={"augment": plain})
        item = _data(dataset, still, Companions(dataset.samples, still)).item(
            0, np.random.default_rng(3)
        )
        np.testing.assert_allclose(item["guide"], item["image"], atol=0.03)


def test_the_cue_follows_the_view(dataset, tmp_path):
    config = Smp.model_validate(
        {"loss": {"name": "whats_the_point", "cue": {"name": "ft"}}, "augment": IDENTITY}
    )
    companions = make_companions(
        dataset, dataset.samples, config, RunContext(), cues_dir=tmp_path / "cues"
    )
    item = _data(dataset, config, companions).item(1, np.random.default_rng(0))
    source = open_cue(Ft(), CueInputs(dataset, tmp_path / "cues"))
    sample = dataset.samples[1]
    np.testing.assert_allclose(
        item["cue"], source.map(sample, read_image(sample.image_path)), atol=1e-6
    )
    assert set(item) == {"image", "mask", "valid", "tags", "cue"}
    padded = config.model_copy(update={"augment": AugmentConfig(crop_px=64, scale=None)})
    item = _data(dataset, padded, companions).item(1, np.random.default_rng(0))
    assert item["cue"][~item["valid"]].max() == 0
    assert item["cue"][item["valid"]].max() > 0


def test_masks_are_read_with_the_boxes_in_their_pixels(dataset, tmp_path):
    half = tmp_path / "half.png"
    write_mask(half, SPOT[::2, ::2])
    found = list(masks_with_boxes(dataset.samples, [half] * 3))
    assert len(found) == 2
    np.testing.assert_array_equal(found[0][1], [[4, 3, 10, 6]])
    np.testing.assert_array_equal(found[0][0], read_mask(half))


@pytest.mark.parametrize(
    "config",
    [BbUnet(), Smp.model_validate({"loss": {"name": "filling_rate"}})],
)
def test_no_boxes_at_all_are_refused_before_anything_is_trained(dataset, config):
    bare = dataclasses.replace(
        dataset,
        samples=tuple(
            dataclasses.replace(s, labels=dataclasses.replace(s.labels, boxes=None))
            for s in dataset.samples
        ),
    )
    with pytest.raises(DataError, match="no image of the train split has a box"):
        check_validation(bare, config, RunContext())
    check_companions(dataset, config)
    with pytest.raises(ValueError, match="companions is None"):
        SegmentationData(_pairs(dataset), config)


FILLING = {"name": "filling_rate", "rates": 0.5}


def test_what_people_said_goes_along_with_losses_that_replace_the_masks(dataset, tmp_path):
    masks = StageDir(tmp_path / "masks", "f")
    for sample in dataset.samples:
        write_mask(masks.path / f"{sample.id}.png", SPOT)
    marked = dataclasses.replace(dataset.samples[1].labels, points=Points([[3.5, 2.5]], [2]))
    samples = list(dataset.samples)
    samples[1] = dataclasses.replace(samples[1], labels=marked)
    drawn = np.full(SPOT.shape, 255, np.uint8)
    drawn[20], drawn[7, 9] = 254, 0
    write_mask(tmp_path / "drawn" / "a.png", drawn)
    context = RunContext(corrections_dir=tmp_path / "drawn")
    config = Smp.model_validate({"loss": FILLING, "augment": IDENTITY})
    made = make_companions(
        dataset, samples, config, context, cues_dir=tmp_path / "cues", masks=masks
    )
    data = SegmentationData(_pairs(dataset), config, companions=made)
    items = [data.item(index, np.random.default_rng(0)) for index in range(3)]
    corrected, pointed, silent = (item["said"] for item in items)
    expected = np.full(SPOT.shape, -1)
    expected[20], expected[7, 9] = 255, 0
    assert corrected.tolist() == expected.tolist()
    assert np.argwhere(pointed >= 0).tolist() == [[2, 3]]
    assert pointed[2, 3] == 2
    assert (silent == -1).all()


def test_what_people_said_follows_the_view_and_is_open_at_padding(dataset):
    given = Given.of_mask(np.where(SPOT == 1, SPOT, np.uint8(255)))
    augment = AugmentConfig(crop_px=40, scale=(0.8, 1.6), vflip=0.5, rot90=0.5)
    config = BbUnet(augment=augment)
    for seed in range(8):
        view = augment_view(dataset, config, seed)
        found = said_of_view(given, view.geometry)
        assert (found[~view.valid] == -1).all()
        assert ((found == 1) == (view.mask == 1)).mean() > 0.97
        assert set(np.unique(found)) <= {-1, 1}


def augment_view(dataset, config, seed):
    from wsseg.data.transforms import augment

    image = read_image(dataset.samples[0].image_path)
    return augment(image, SPOT, np.random.default_rng(seed), config.augment, in_channels=3)


@pytest.mark.parametrize(
    "idle",
    [
        {"correction": "adele"},
        {"rounds": {"count": 1}},
        {"rounds": {"count": 1}, "correction": "adele", "loss": {"name": "filling_rate"}},
    ],
)
def test_what_changes_masks_that_nobody_looks_at_is_refused(dataset, idle, caplog):
    config = Smp.model_validate({"loss": FILLING} | idle)
    with caplog.at_level("WARNING", logger="wsseg"):
        check_companions(dataset, config)
    assert "2 of 3 images" in caplog.text
    boxed = dataclasses.replace(dataset, samples=dataset.samples[:2])
    with pytest.raises(RecipeError, match="nothing would change"):
        check_companions(boxed, config)
    check_companions(boxed, config.model_copy(update={"loss": LossConfig()}))


def test_rounds_that_change_measured_rates_are_told_and_not_refused(dataset, caplog):
    boxed = dataclasses.replace(dataset, samples=dataset.samples[:2])
    config = Smp.model_validate({"loss": {"name": "filling_rate"}, "rounds": {"count": 1}})
    with caplog.at_level("WARNING", logger="wsseg"):
        check_companions(boxed, config)
    assert "the rates that are measured" in caplog.text


def test_a_cue_without_maps_is_refused_before_anything_is_trained(dataset, tmp_path):
    cue = {"name": "folder", "path": str(tmp_path / "nowhere")}
    config = Smp.model_validate({"loss": {"name": "whats_the_point", "cue": cue}})
    with pytest.raises(DataError, match="nowhere"):
        check_companions(dataset, config)
    unused = {"name": "whats_the_point", "cue": cue, "objectness_weight": 0}
    check_companions(dataset, Smp.model_validate({"loss": unused}))


TINY = {
    "training": {"epochs": 1, "batch_size": 2, "num_workers": 0, "precision": "float32"},
    "augment": {"scale": None, "crop_px": 32},
    "inference": {"flip": False},
    "validate_on": "none",
}
SMALL = {"architecture": "unet", "encoder": "tu-test_resnet", "weights": "none"}
GRID = {"grid_px": 8}


@pytest.mark.parametrize(
    ("config", "logged"),
    [
        (BbUnet.model_validate(TINY), set()),
        (Smp.model_validate({**TINY, **SMALL, "loss": {"name": "filling_rate"}}), set()),
        (
            Smp.model_validate(
                {**TINY, **SMALL, "loss": {"name": "whats_the_point", "cue": {"name": "ft"}}}
            ),
            {"points", "image", "objectness"},
        ),
        (
            Smp.model_validate(
                {
                    **TINY,
                    **SMALL,
                    "loss": {
                        "gated_crf": GRID,
                        "dense_crf": GRID,
                        "normalised_cut": GRID,
                        "tree_energy": {**GRID, "feature_channels": 4},
                    },
                }
            ),
            {"cross_entropy", "gated_crf", "dense_crf", "normalised_cut", "tree_energy"},
        ),
    ],
    ids=["bb_unet", "filling_rate", "whats_the_point", "terms"],
)
def test_the_stage_trains_and_writes_a_model(dataset, tmp_path, config, logged):
    pseudo, stage = StageDir(tmp_path / "masks", "f"), StageDir(tmp_path / "segment", "f")
    for sample in dataset.samples:
        append_jsonl(pseudo.path / MANIFEST_FILE, {"id": sample.id, "status": "ok"})
        write_mask(pseudo.path / f"{sample.id}.png", SPOT)
    segment(dataset, config, pseudo, stage, RunContext())
    net, info = load_bundle(stage.path / MODEL_FOLDER)
    assert info.segmenter["loss"]["name"] == config.loss.name
    image = torch.from_numpy(normalise(read_image(dataset.samples[0].image_path)))[None]
    assert net(image).shape == (1, 3, 24, 32)
    curve = (stage.path / "training" / "metrics.jsonl").read_text()
    assert all(f'"{name}"' in curve for name in logged)
