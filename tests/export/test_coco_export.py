"""Tests of wsseg.export.coco and polygons: pycocotools reads back what was written."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsseg.data.labels import ClassList
from wsseg.data.outlines import outlines
from wsseg.errors import DataError, OutputError
from wsseg.export import coco as coco_module
from wsseg.export.coco import MaskedImage, coco_document, regions, write_coco

# pycocotools 2.0 does not know the `copy` keyword of NumPy 2 yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ClassList(("scratch", "dent", "stain"))
masks = arrays(
    np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from([0, 1, 3])
)


def _decoded(path: Path, image_id: int, size: tuple[int, int]) -> np.ndarray:
    """Rebuild the label map of an image with pycocotools."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    result = np.zeros(size, np.uint8)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id])):
        part = coco.annToMask(annotation).astype(bool)
        assert part.sum() == annotation["area"]
        rows, columns = np.nonzero(part)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert (result[part] == 0).all()
        result[part] = annotation["category_id"]
    return result


@pytest.mark.parametrize("style", ["polygon", "rle"])
def test_file_is_read_back_by_pycocotools_to_the_same_masks(tmp_path: Path, style: str):
    rng = np.random.default_rng(0)
    items = []
    for number, size in enumerate([(40, 55), (31, 17)]):
        smooth = ndimage.gaussian_filter(rng.random((4, *size)), (0, 2, 2))
        items.append(MaskedImage(f"{number}.png", smooth.argmax(axis=0).astype(np.uint8)))
    count = write_coco(tmp_path / "masks.json", items, CLASSES, style=style)
    document = json.loads((tmp_path / "masks.json").read_text())
    assert count == len(document["annotations"]) > 10
    assert len({annotation["id"] for annotation in document["annotations"]}) == count
    for image, item in zip(document["images"], items, strict=True):
        assert (image["height"], image["width"]) == item.mask.shape
        assert image["file_name"] == item.file_name
        np.testing.assert_array_equal(
            _decoded(tmp_path / "masks.json", image["id"], item.mask.shape), item.mask
        )


def test_categories_are_the_class_list_with_its_ids():
    document = coco_document([], CLASSES)
    assert [(c["id"], c["name"]) for c in document["categories"]] == [
        (1, "scratch"),
        (2, "dent"),
        (3, "stain"),
    ]


@given(masks)
@settings(deadline=None, max_examples=60)
def test_every_mask_becomes_annotations_that_decode_exactly(mask: np.ndarray):
    # coco_document compares each region with its decoded annotation and raises otherwise.
    document = coco_document([MaskedImage("a.png", mask)], CLASSES)
    areas = {class_id: int((mask == class_id).sum()) for class_id in (1, 3)}
    found = dict.fromkeys(areas, 0)
    for annotation in document["annotations"]:
        found[annotation["category_id"]] += annotation["area"]
    assert found == areas


@given(masks)
@settings(deadline=None)
def test_regions_are_the_eight_connected_components(mask: np.ndarray):
    expected = sum(
        ndimage.label(mask == class_id, structure=np.ones((3, 3)))[1] for class_id in (1, 3)
    )
    assert len(list(regions(mask))) == expected


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(deadline=None)
def test_holes_are_noticed_exactly_where_there_are_some(region: np.ndarray):
    # A hole is background that reaches the border neither straight nor over corners.
    around, count = ndimage.label(np.pad(~region, 1, constant_values=True), np.ones((3, 3)))
    assert outlines(region)[1] == (count > 1)
    assert around[0, 0] == 1


def test_region_with_a_hole_is_run_length_encoded_even_as_polygon():
    mask = np.ones((5, 6), np.uint8)
    mask[2, 2:4] = 0
    (annotation,) = coco_document([MaskedImage("a.png", mask)], CLASSES)["annotations"]
    assert annotation["segmentation"]["size"] == [5, 6]
    assert annotation["area"] == 28


def test_pixels_touching_at_a_corner_are_one_annotation_of_two_polygons():
    mask = np.diag([2, 2]).astype(np.uint8)
    (annotation,) = coco_document([MaskedImage("a.png", mask)], CLASSES)["annotations"]
    assert annotation["segmentation"] == [
        [0, 0, 1, 0, 1, 1, 0, 1],
        [1, 1, 2, 1, 2, 2, 1, 2],
    ]


def test_ignored_pixels_and_small_regions_are_left_out():
    mask = np.array([[255, 0, 1], [0, 0, 0], [2, 2, 2]], np.uint8)
    document = coco_document([MaskedImage("a.png", mask)], CLASSES, min_area_px=2)
    assert [a["category_id"] for a in document["annotations"]] == [2]


def test_class_id_beyond_the_list_is_refused():
    with pytest.raises(DataError, match="Class id 4"):
        coco_document([MaskedImage("a.png", np.full((2, 2), 4, np.uint8))], CLASSES)


def test_annotation_that_decodes_to_something_else_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        coco_module,
        "outlines",
        lambda region: ([np.array([[0, 0], [1, 0], [1, 1], [0, 1]])], False),
    )
    with pytest.raises(OutputError, match=r"a\.png: the region at .* does not decode"):
        coco_document([MaskedImage("a.png", np.ones((3, 3), np.uint8))], CLASSES)
