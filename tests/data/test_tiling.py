"""Tests of wsseg.data.tiling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg.data.tiling import Tile, TileMerger, blending_window, tiles
from wsseg.errors import RecipeError

layouts = st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30)).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(0, sizes[2] - 1))
)


@given(layouts)
@settings(deadline=None)
def test_tiles_cover_all_pixels_with_the_least_overlap(layout):
    (height, width, tile_px), overlap_px = layout
    found = tiles((height, width), tile_px, overlap_px)
    covered = np.zeros((height, width), int)
    for tile in found:
        assert tile.top >= 0
        assert tile.left >= 0
        assert tile.bottom - tile.top == min(tile_px, height)
        assert tile.right - tile.left == min(tile_px, width)
        covered[tile.slices] += 1
    assert covered.all()
    for starts in ({tile.top for tile in found}, {tile.left for tile in found}):
        gaps = np.diff(sorted(starts))
        assert (tile_px - gaps >= overlap_px).all()


@given(layouts)
@settings(deadline=None)
def test_no_fewer_tiles_would_do(layout):
    (height, _, tile_px), overlap_px = layout
    count = len(tiles((height, 1), tile_px, overlap_px))
    fewer = count - 1
    reach = fewer * tile_px - (fewer - 1) * overlap_px if fewer else 0
    assert reach < height


@given(layouts, st.floats(0.0, 1.0, width=32, allow_subnormal=False))
@settings(deadline=None)
def test_constant_maps_come_back_constant(layout, value):
    (height, width, tile_px), overlap_px = layout
    merger = TileMerger(2, (height, width), overlap_px)
    for tile in tiles((height, width), tile_px, overlap_px):
        shape = (2, tile.bottom - tile.top, tile.right - tile.left)
        merger.add(tile, np.full(shape, value, np.float32))
    np.testing.assert_allclose(merger.merged(), value, rtol=1e-5)


def test_maps_that_agree_where_they_overlap_come_back_unchanged():
    maps = np.random.default_rng(0).random((3, 37, 53)).astype(np.float32)
    merger = TileMerger(3, (37, 53), 5)
    for tile in tiles((37, 53), 16, 5):
        rows, columns = tile.slices
        merger.add(tile, maps[:, rows, columns])
    np.testing.assert_allclose(merger.merged(), maps, rtol=1e-5)


def test_two_tiles_blend_by_the_squared_sine_without_a_jump():
    merger = TileMerger(1, (1, 12), overlap_px=4)
    first, second = tiles((1, 12), 8, 4)
    merger.add(first, np.zeros((1, 1, 8), np.float32))
    merger.add(second, np.ones((1, 1, 8), np.float32))
    # Opposite squared sines sum to 1 over an overlap of exactly the ramp's length.
    ramp = np.sin(0.5 * np.pi * (np.arange(4) + 0.5) / 4) ** 2
    expected = np.concatenate([np.zeros(4), ramp, np.ones(4)])
    np.testing.assert_allclose(merger.merged()[0, 0], expected, atol=1e-6)


def test_window_is_positive_symmetric_and_flat_in_the_middle():
    window = blending_window(20, 6)
    assert (window > 0).all()
    np.testing.assert_array_equal(window, window[::-1])
    np.testing.assert_array_equal(window[6:14], 1)
    np.testing.assert_array_equal(blending_window(1, 8), [1])
    np.testing.assert_array_equal(blending_window(5, 0), np.ones(5))


def test_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(RecipeError, match="64 px with an overlap of 64 px"):
        tiles((100, 100), 64, 64)


def test_missing_tile_is_reported():
    merger = TileMerger(1, (4, 10), 2)
    merger.add(Tile(0, 0, 4, 6), np.zeros((1, 4, 6)))
    with pytest.raises(ValueError, match="16 pixels are covered by no tile"):
        merger.merged()


def test_map_of_another_size_than_its_tile_is_refused():
    merger = TileMerger(1, (4, 10), 2)
    with pytest.raises(ValueError, match=r"Expected maps of shape \(1, 4, 6\)"):
        merger.add(Tile(0, 0, 4, 6), np.zeros((1, 4, 5)))
