from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg import registry
from wsseg.cues.folder import Folder
from wsseg.cues.protocol import CueInputs
from wsseg.cues.saliency_ft import Ft, ft
from wsseg.cues.saliency_spectral import SpectralResidual
from wsseg.cues.source import check_cue, configured_cue, open_cue
from wsseg.errors import DataError
from wsseg.refine.background import BackgroundConstant, BackgroundCue


@pytest.fixture
def dataset(make_dataset):
    flat = np.full((8, 8, 3), 60, np.uint8)
    return make_dataset(
        {"a": {"tags": {1}}, "sub/금속 1": {"tags": {1}}, "flat": {"tags": {1}, "image": flat}}
    )


@pytest.fixture
def calls(monkeypatch):
    """The ids of the images whose map was computed."""
    made = []

    def spy(image, *, config=Ft(), context=None):
        made.append(context.sample_id)
        return ft(image, config=config)

    load = registry.load
    monkeypatch.setattr(
        registry, "load", lambda group, name: spy if name == "ft" else load(group, name)
    )
    return made


def test_a_map_is_made_once_and_comes_back_the_same(dataset, tmp_path, calls):
    samples = dataset.samples
    first = open_cue(Ft(), CueInputs(dataset, tmp_path / "cues"))
    maps = [first.map(sample) for sample in samples]
    again = open_cue(Ft(), CueInputs(dataset, tmp_path / "cues"))
    for sample, values in zip(samples, maps, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(again.map(sample), values)
        image = np.array(Image.open(sample.image_path))
        np.testing.assert_allclose(values, ft(image), atol=0.5 / 255 + 1e-6)
    assert calls == ["a", "sub/금속 1", "flat"]


def test_stored_maps_are_pictures_that_the_cue_folder_reads(dataset, tmp_path):
    source = open_cue(Ft(), CueInputs(dataset, tmp_path / "cues"))
    source.prepare(dataset.samples)
    [maps] = (tmp_path / "cues").glob("ft-*/maps")
    assert (maps / "sub" / "금속 1.png").is_file()
    read = open_cue(Folder(path=str(maps)), CueInputs(dataset, tmp_path / "cues"))
    for sample in dataset.samples:
        np.testing.assert_array_equal(read.map(sample), source.map(sample))
    assert not list((tmp_path / "cues").glob("folder-*"))


def test_a_damaged_map_and_one_of_another_size_are_made_anew(dataset, tmp_path, calls):
    inputs = CueInputs(dataset, tmp_path / "cues")
    values = open_cue(Ft(), inputs).map(dataset.samples[0])
    [path] = (tmp_path / "cues").rglob("a.png")
    path.write_bytes(b"torn")
    np.testing.assert_array_equal(open_cue(Ft(), inputs).map(dataset.samples[0]), values)
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(path)
    np.testing.assert_array_equal(open_cue(Ft(), inputs).map(dataset.samples[0]), values)
    assert calls == ["a", "a", "a"]


def test_other_settings_and_other_images_have_a_folder_of_their_own(dataset, tmp_path):
    folder = tmp_path / "cues"
    for config in (SpectralResidual(), SpectralResidual(side_px=32)):
        open_cue(config, CueInputs(dataset, folder)).map(dataset.samples[0])
    open_cue(SpectralResidual(), CueInputs(dataset, folder, seed=5)).map(dataset.samples[0])
    assert len(list(folder.iterdir())) == 2  # a plain cue draws nothing, so the seed is no matter
    open_cue(SpectralResidual(), CueInputs(dataset, folder, max_side_px=4))
    assert len(list(folder.iterdir())) == 3


def test_images_are_read_at_the_size_that_the_run_works_with(dataset, tmp_path):
    source = open_cue(Ft(), CueInputs(dataset, tmp_path, max_side_px=4))
    assert source.map(dataset.samples[0]).shape == (4, 4)


def test_maps_that_are_zero_everywhere_are_told_once(dataset, tmp_path, caplog):
    source = open_cue(Ft(), CueInputs(dataset, tmp_path / "cues"))
    source.note_empty()
    assert not caplog.text
    for _ in range(2):
        for sample in dataset.samples:
            source.map(sample)
    source.note_empty()
    assert "The cue ft is zero everywhere in 1 images (flat)" in caplog.text


def test_an_image_that_cannot_be_read_stops_no_other(dataset, tmp_path, caplog):
    broken = dataset.samples[1]
    broken.image_path.write_bytes(b"no image")
    source = open_cue(Ft(), CueInputs(dataset, tmp_path / "cues"))
    source.prepare(dataset.samples)
    stored = {path.name for path in (tmp_path / "cues").rglob("*.png")}
    assert stored == {"a.png", "flat.png"}
    assert str(broken.image_path.name) in caplog.text
    with pytest.raises(DataError, match=broken.image_path.name):
        source.map(broken)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4), np.float32), r"shape \(4, 4\).*expected \(8, 8\)"),
        (np.zeros((8, 8), np.uint8), "type uint8"),
        (np.full((8, 8), 1.5), r"from 1\.5 to 1\.5; expected \[0, 1\]"),
        (np.full((8, 8), np.nan), r"expected \[0, 1\]"),
    ],
)
def test_what_a_cue_of_somebody_else_returns_is_checked(
    dataset, tmp_path, monkeypatch, values, message
):
    monkeypatch.setattr(registry, "load", lambda _group, _name: lambda *_a, **_k: values)
    source = open_cue(Ft(), CueInputs(dataset, tmp_path))
    with pytest.raises(DataError, match=message):
        source.map(dataset.samples[0])


def test_the_cue_of_a_step_is_found_by_either_field():
    assert configured_cue(BackgroundCue(cue="ft")) == Ft()
    assert configured_cue(BackgroundCue(cue_folder="maps")) == Folder(path="maps")
    assert configured_cue(BackgroundCue()) is None
    assert configured_cue(BackgroundConstant()) is None


def test_missing_maps_are_told_before_the_run(dataset, tmp_path, caplog):
    config = Folder(path=str(tmp_path / "maps"))
    with pytest.raises(DataError, match="maps, does not exist"):
        check_cue(config, dataset)
    (tmp_path / "maps").mkdir()
    with pytest.raises(DataError, match=r"no map of any of the 3 images.*a\.png"):
        check_cue(config, dataset)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "maps" / "a.png")
    check_cue(config, dataset)
    assert "no map for 2 of 3 images (sub/금속 1, flat); they will fail" in caplog.text
    check_cue(Ft(), dataset)


def test_every_cue_loads_and_names_itself_in_its_settings():
    for name in registry.TABLES["cues"]:
        cls = registry.config_class("cues", name)
        assert cls.model_fields["name"].default == name
        assert all(field.description for field in cls.model_fields.values())
        assert callable(registry.load("cues", name))
