from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import polygon2mask

from wsseg.data.formats.outgoing import bridged_outlines
from wsseg.data.outlines import outlines_and_holes
from wsseg.data.raster import Region, connected_regions, fill_polygon


def painted(region: Region, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[region.window] = region.pixels
    return mask


@pytest.mark.parametrize("seed", range(10))
def test_outlines_along_pixel_edges_fill_back_to_their_region(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((17, 23)) < 0.6
    filled = np.zeros_like(mask)
    for class_id, region in connected_regions(mask.astype(np.uint8)):
        assert class_id == 1
        again = np.zeros_like(mask)
        for ring in bridged_outlines(region):
            one, crosses = fill_polygon(ring.astype(float), mask.shape)
            assert not crosses
            again |= painted(one, mask.shape)
        np.testing.assert_array_equal(again, painted(region, mask.shape))
        filled |= again
    np.testing.assert_array_equal(filled, mask)


@pytest.mark.parametrize("seed", range(5))
def test_a_convex_polygon_holds_the_centres_that_scikit_image_finds(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
    ring = np.stack([20.3 + 15.1 * np.cos(angles), 16.7 + 12.9 * np.sin(angles)], axis=1)
    region, crosses = fill_polygon(ring, (33, 41))
    # scikit-image asks whether whole coordinates lie inside, so centres are moved there.
    expected = polygon2mask((33, 41), ring[:, ::-1] - 0.5)
    np.testing.assert_array_equal(painted(region, (33, 41)), expected)
    assert not crosses


def test_a_polygon_outside_of_the_image_is_cut():
    ring = np.array([[-5.0, -5], [1e6, -5], [1e6, 2], [-5, 2]])
    region, _ = fill_polygon(ring, (4, 3))
    assert painted(region, (4, 3)).sum(axis=1).tolist() == [3, 3, 0, 0]
    region, _ = fill_polygon(ring + 1e6, (4, 3))
    assert region.pixels.size == 0


@pytest.mark.parametrize(
    "ring",
    [
        [[0, 0], [4, 4], [4, 0], [0, 4]],
        # The same square twice around.
        [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [4, 0], [4, 4], [0, 4]],
    ],
)
def test_an_outline_over_itself_is_noticed_and_leaves_no_hole(ring):
    region, crosses = fill_polygon(np.array(ring, float), (5, 5))
    assert crosses
    assert region.pixels[0, 1] or region.pixels[1, 0]


def test_holes_are_traced_apart_and_bridged_to_the_outline_around_them():
    region = np.ones((5, 7), bool)
    region[1:3, 1] = region[2, 4:6] = False
    outer, holes = outlines_and_holes(region)
    assert (len(outer), len(holes)) == (1, 2)
    (ring,) = bridged_outlines(Region(region, 10, 20))
    assert ring.min(axis=0).tolist() == [20, 10]
    assert ring.max(axis=0).tolist() == [27, 15]


def test_regions_are_cut_to_the_image_and_trimmed_to_their_pixels():
    pixels = np.zeros((4, 4), bool)
    pixels[1, 2] = pixels[3, 3] = True
    region = Region(pixels, -2, -1).cut((5, 5))
    assert (region.top, region.left, region.area) == (0, 0, 1)
    trimmed = region.trimmed()
    assert (trimmed.top, trimmed.left, trimmed.pixels.tolist()) == (1, 2, [[True]])
    assert Region(pixels, 9, 9).cut((5, 5)).area == 0
    assert Region(~pixels & False, 0, 0).trimmed().pixels.size == 0
