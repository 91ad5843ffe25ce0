from __future__ import annotations

from dataclasses import replace

import pytest

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.labels import ClassList
from wsseg.data.rendered import keep_rendered, temporary_folder, with_kept


@pytest.fixture
def dataset(tmp_path, add_image, add_mask):
    """One image whose mask was drawn by a reader, one whose mask is a file of the user's."""
    drawn = add_mask(temporary_folder() / "x" / "a.png", 1)
    own = add_mask(tmp_path / "masks" / "b.png", 1)
    samples = (
        Sample("x/a", add_image(tmp_path / "a.png"), mask_path=drawn),
        Sample("b", add_image(tmp_path / "b.png"), mask_path=own),
        Sample("c", add_image(tmp_path / "c.png")),
    )
    return Dataset(tmp_path, ClassList(("dent",)), samples)


def test_masks_that_a_reader_drew_are_copied_and_others_stay(dataset, tmp_path):
    kept = keep_rendered(dataset, tmp_path / "run" / "drawn")
    copy = tmp_path / "run" / "drawn" / "x" / "a.png"
    assert [s.mask_path for s in kept] == [copy, dataset.samples[1].mask_path, None]
    assert copy.read_bytes() == dataset.samples[0].mask_path.read_bytes()
    assert with_kept(dataset, tmp_path / "run" / "drawn") == kept


def test_a_copy_that_is_the_same_keeps_its_time_and_the_fingerprint(dataset, tmp_path, add_mask):
    first = keep_rendered(dataset, tmp_path / "run")
    again = temporary_folder()
    add_mask(again / "a.png", 1)
    samples = (replace(dataset.samples[0], mask_path=again / "a.png"), *dataset.samples[1:])
    second = keep_rendered(replace(dataset, samples=samples), tmp_path / "run")
    assert second.fingerprint() == first.fingerprint()


def test_masks_are_drawn_into_the_folder_that_is_given_and_left_alone_there(
    tmp_path, add_image, add_text
):
    add_image(tmp_path / "data" / "images" / "a.png")
    add_text(tmp_path / "data" / "labels" / "a.txt", "0 0 0 0.5 0 0.5 0.5\n")
    add_text(tmp_path / "data" / "data.yaml", "names: [dent]\n")
    dataset = open_dataset(tmp_path / "data", work_dir=tmp_path / "work")
    path = dataset.samples[0].mask_path
    assert path == tmp_path / "work" / "a.png"
    time = path.stat().st_mtime_ns
    assert open_dataset(tmp_path / "data", work_dir=tmp_path / "work") == dataset
    assert path.stat().st_mtime_ns == time
    path.write_bytes(b"torn")
    assert open_dataset(tmp_path / "data", work_dir=tmp_path / "work") == dataset
    assert path.stat().st_size > 10
