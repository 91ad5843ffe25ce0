"""Tests of wsseg.refine.irn_instances on displacement fields made by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from wsseg.refine.irn_instances import (
    Instance,
    cluster_map,
    detect,
    instances_document,
    separate,
    track_centroids,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def two_squares() -> tuple[np.ndarray, np.ndarray]:
    """Make two touching squares of 9 x 9 cells and the field that points to their middles."""
    shown = np.zeros((13, 22), np.int64)
    shown[2:11, 2:11], shown[2:11, 11:20] = 1, 2
    rows, columns = np.indices(shown.shape)
    displacement = np.zeros((2, *shown.shape), np.float32)
    for number, middle in ((1, 6), (2, 15)):
        inside = shown == number
        displacement[0][inside] = (6 - rows)[inside]
        displacement[1][inside] = (middle - columns)[inside]
    return shown, displacement


def follow(displacement: np.ndarray, row: int, column: int, steps: int) -> tuple[float, float]:
    """Follow a field from one cell in float64, one step after the other."""
    height, width = displacement.shape[1:]
    y, x = float(row), float(column)
    for _ in range(steps):
        y0, x0 = math.floor(y), math.floor(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        step = [
            float(d[y0, x0]) * (1 - y + y0) * (1 - x + x0)
            + float(d[y0, x1]) * (1 - y + y0) * (x - x0)
            + float(d[y1, x0]) * (y - y0) * (1 - x + x0)
            + float(d[y1, x1]) * (y - y0) * (x - x0)
            for d in displacement
        ]
        y = min(max(y + step[0], 0.0), height - 1)
        x = min(max(x + step[1], 0.0), width - 1)
    return y, x


def test_every_cell_ends_at_the_middle_of_its_square():
    shown, displacement = two_squares()
    rows, columns = track_centroids(displacement)
    assert (rows[shown > 0] == 6).all()
    assert (columns[shown == 1] == 6).all()
    assert (columns[shown == 2] == 15).all()


def test_tracking_is_that_of_a_loop_over_cells():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(0, 8, (2, 7, 9)), (0, 1, 1)).astype(np.float32)
    found = track_centroids(smooth, 20)
    expected = [[follow(smooth, y, x, 20) for x in range(9)] for y in range(7)]
    np.testing.assert_allclose(found, np.moveaxis(expected, 2, 0), atol=1e-4)


def test_no_cell_leaves_the_grid_and_one_cell_stays():
    outward = np.full((2, 3, 4), 100, np.float32)
    rows, columns = track_centroids(outward, 5)
    assert (rows == 2).all()
    assert (columns == 3).all()
    assert track_centroids(np.full((2, 1, 1), -3, np.float32)).tolist() == [[[0.0]], [[0.0]]]


def test_squares_that_touch_are_two_clusters():
    shown, displacement = two_squares()
    # Nothing else may be weak: the surroundings point far away, each to itself when clipped.
    displacement[:, shown == 0] = 50
    clusters = cluster_map(track_centroids(displacement), displacement, 2.5)
    first, second = clusters[shown == 1], clusters[shown == 2]
    assert len(np.unique(first)) == len(np.unique(second)) == 1
    assert first[0] != second[0]


def test_clusters_are_numbered_without_gaps():
    rng = np.random.default_rng(1)
    displacement = ndimage.gaussian_filter(rng.normal(0, 20, (2, 20, 30)), (0, 1.5, 1.5))
    clusters = cluster_map(track_centroids(displacement), displacement)
    assert clusters.shape == (20, 30)
    assert sorted(np.unique(clusters)) == list(range(clusters.max() + 1))


def test_weak_cells_that_touch_at_a_corner_are_two_centroids():
    displacement = np.full((2, 2, 2), 9, np.float32)
    displacement[:, [0, 1], [0, 1]] = 0
    stay = np.indices((2, 2)).astype(np.float32)
    clusters = cluster_map(stay, displacement)
    # The two cells that arrive nowhere are one cluster of their own.
    assert len(np.unique(clusters)) == 3
    assert clusters[0, 0] != clusters[1, 1]
    assert clusters[0, 1] == clusters[1, 0]


def test_parts_add_up_to_the_maps_and_empty_ones_are_left_out():
    rng = np.random.default_rng(2)
    maps = rng.random((2, 6, 10)).astype(np.float32)
    maps[1, :, 5:] = 0
    clusters = np.repeat(np.arange(10)[None] // 2, 6, axis=0)
    pieces = list(separate(maps, clusters))
    parts = np.concatenate([part for part, _ in pieces])
    rows = np.concatenate([row for _, row in pieces])
    assert rows.tolist() == [0] * 5 + [1] * 3
    for number in (0, 1):
        np.testing.assert_array_equal(parts[rows == number].sum(axis=0), maps[number])
    for part in parts:
        assert len(np.unique(clusters[part > 0])) == 1


def test_many_clusters_come_a_few_at_a_time():
    clusters = np.arange(100).reshape(10, 10)
    pieces = list(separate(np.ones((1, 10, 10), np.float32), clusters))
    assert max(len(part) for part, _ in pieces) <= 32
    assert sum(len(part) for part, _ in pieces) == 100


def test_no_evidence_gives_no_parts_and_no_instance():
    assert list(separate(np.zeros((2, 3, 3), np.float32), np.zeros((3, 3), np.int64))) == []
    assert detect([], (12, 12)) == []
    assert detect([(np.zeros((1, 3, 3), np.float32), np.array([1]))], (12, 12)) == []


def test_the_strongest_part_wins_and_the_background_is_a_share_of_the_largest_value():
    first = np.zeros((2, 1, 6), np.float32)
    first[0, 0] = [8, 8, 6, 1, 0, 0]
    first[1, 0] = [0, 0, 7, 3, 0, 0]
    second = np.zeros((1, 1, 6), np.float32)
    second[0, 0] = [0, 0, 0, 0, 2, 6]
    walked = [(first, np.array([4, 4])), (second, np.array([9]))]
    found = detect(walked, (1, 6), background=0.25, min_fragment_frac=0)
    # 2 of 8 is no more than the background's 0.25.
    assert [(i.class_id, i.score, i.box) for i in found] == [
        (4, 1.0, (0, 0, 2, 1)),
        (4, 0.875, (2, 0, 2, 1)),
        (9, 0.75, (5, 0, 1, 1)),
    ]


def test_fragments_get_score_zero_and_come_last():
    maps = np.zeros((1, 10, 10), np.float32)
    maps[0, 1:6, 1:6] = 0.5
    maps[0, 8, 8] = 1.0
    found = detect([(maps, np.array([3]))], (10, 10), min_fragment_frac=0.02)
    assert [(i.score, int(i.mask.sum())) for i in found] == [(0.5, 25), (0.0, 1)]
    kept = detect([(maps, np.array([3]))], (10, 10), min_fragment_frac=0.01)
    assert [i.score for i in kept] == [1.0, 0.5]


def test_regions_that_touch_at_a_corner_are_two_instances():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, :2, :2] = maps[0, 2:, 2:] = 1
    found = detect([(maps, np.array([3]))], (4, 4))
    assert sorted(i.box for i in found) == [(0, 0, 2, 2), (2, 2, 2, 2)]


def test_the_document_decodes_to_the_same_masks():
    mask = np.array([[1, 0, 1], [1, 1, 1]], bool)
    document = instances_document([Instance(5, 0.123456, (4, 2, 3, 2), mask)], (7, 9))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["size"] == [7, 9]
    (entry,) = document["instances"]
    assert entry["class_id"] == 5
    assert entry["score"] == 0.12346
    assert entry["bbox"] == [4, 2, 3, 2]
    assert entry["area"] == 5
    whole = np.zeros((7, 9), np.uint8)
    whole[2:4, 4:7] = mask
    np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), whole)
