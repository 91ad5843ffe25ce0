from __future__ import annotations

import math

import numpy as np
import pytest

from wsseg import registry
from wsseg.cues.lab import lab_image
from wsseg.cues.saliency import saliency, stretched
from wsseg.cues.saliency_ft import ft
from wsseg.cues.saliency_mbd import Mbd, barrier_distance, border_contrast, mbd
from wsseg.cues.saliency_rbd import Rbd, neighbour_pairs, rbd, region_graph, region_saliency
from wsseg.cues.saliency_spectral import residual_energy, spectral_residual
from wsseg.errors import DataError, RecipeError

METHODS = ("rbd", "mbd", "ft", "spectral_residual")


def noise(size, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (*size, 3)).astype(np.uint8)


def scene(size=(60, 90)):
    """A red thing in the middle of a slightly noisy grey ground."""
    image = noise(size, low=110, high=122)
    image[20:40, 35:60] = noise((20, 25), seed=1, low=0, high=12) + np.array(
        [180, 30, 30], np.uint8
    )
    thing = np.zeros(size, bool)
    thing[20:40, 35:60] = True
    return image, thing


@pytest.mark.parametrize("method", METHODS)
def test_a_thing_in_the_middle_stands_out_from_its_ground(method):
    image, thing = scene()
    before = image.copy()
    found = saliency(image, method)
    assert found.dtype == np.float32
    assert found.shape == thing.shape
    assert found.min() >= 0
    assert found.max() == 1
    assert found[thing].mean() > found[~thing].mean() + 0.3
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(saliency(image, method), found)


@pytest.mark.parametrize("method", ["rbd", "mbd", "ft"])
def test_the_outline_of_the_thing_is_met(method):
    image, thing = scene()
    found = saliency(image, method) > 0.5
    assert (found & thing).sum() / (found | thing).sum() > 0.8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40), (40, 1), (7, 9), (33, 47)])
def test_small_and_odd_images_give_maps_of_their_size(method, size):
    found = saliency(noise(size), method)
    assert found.shape == size
    assert np.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (40, 60)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_nothing_stands_out_of_one_colour(method, size, value):
    assert not saliency(np.full((*size, 3), value, np.uint8), method).any()


@pytest.mark.parametrize("method", METHODS)
def test_grey_images_are_taken(method):
    image, thing = scene()
    grey = np.repeat(image[..., :1], 3, axis=2)
    found = saliency(grey, method)
    assert found[thing].mean() > found[~thing].mean() + 0.2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_rgb_image_is_refused(method, image):
    with pytest.raises(DataError, match=r"expected \(H, W, 3\) uint8"):
        saliency(image, method)


def test_an_unknown_method_is_answered_with_the_known():
    with pytest.raises(RecipeError, match=r'Unknown saliency method "rdb"\. Did you mean "rbd"'):
        saliency(noise((4, 4)), "rdb")


def test_settings_carry_the_registered_name():
    for name in METHODS:
        assert registry.config_class("cues", name)().name == name


def test_stretching_rounding_noise_gives_zero():
    values = np.full((3, 3), 1000.0)
    values[1, 1] += 1e-5
    assert not stretched(values).any()


# --- FT ---


def test_ft_is_the_distance_from_the_mean_colour():
    from skimage.color import rgb2lab

    image = noise((12, 17), seed=3)
    lab = rgb2lab(image).astype(np.float64)
    window = np.array([1, 4, 6, 4, 1]) / 16
    padded = np.pad(lab, ((2, 2), (2, 2), (0, 0)), mode="edge")
    blurred = np.zeros_like(lab)
    for dy in range(5):
        for dx in range(5):
            blurred += window[dy] * window[dx] * padded[dy : dy + 12, dx : dx + 17]
    distance = np.linalg.norm(blurred - lab.mean(axis=(0, 1)), axis=2)
    expected = (distance - distance.min()) / (distance.max() - distance.min())
    # OpenCV's Lab differs from scikit-image's by up to half a unit.
    np.testing.assert_allclose(ft(image), expected, atol=5e-3)


def test_lab_of_grey_pixels_has_no_colour():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    lab = lab_image(grey)
    assert not lab[..., 1:].any()
    assert (np.diff(lab[0, :, 0]) > 0).all()


# --- spectral residual ---


def test_the_spectral_residual_is_that_of_the_sums_written_out():
    grey = np.random.default_rng(0).random((5, 6))
    rows, columns = np.arange(5), np.arange(6)
    forward = [
        np.exp(-2j * math.pi * np.outer(k, k) / len(k)) for k in (rows, columns)
    ]  # matrices of the transform
    spectrum = forward[0] @ grey @ forward[1]
    log_amplitude = np.log(np.abs(spectrum) + math.sqrt(30) / (255 * math.sqrt(12)))
    mean = np.zeros_like(log_amplitude)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            mean += np.roll(log_amplitude, (dy, dx), (0, 1)) / 9
    residual = np.exp(log_amplitude - mean) * spectrum / np.abs(spectrum)
    back = forward[0].conj() @ residual @ forward[1].conj() / 30
    np.testing.assert_allclose(residual_energy(grey), np.abs(back) ** 2, rtol=1e-9)


def test_a_drawn_image_whose_spectrum_has_zeros_is_no_trap():
    image = np.full((64, 64, 3), 80, np.uint8)
    image[40:44, 10:14] = 255
    row, column = np.unravel_index(spectral_residual(image).argmax(), (64, 64))
    assert abs(row - 42) < 4
    assert abs(column - 12) < 4


# --- RBD ---


def reference_rbd(regions, config):
    """The formulas with loops over superpixels and Floyd-Warshall paths, in float64."""
    colours, centres = regions.colours.tolist(), regions.centres.tolist()
    n = len(colours)
    colour = [[math.dist(a, b) for b in colours] for a in colours]
    path = [[0.0 if i == j else math.inf for j in range(n)] for i in range(n)]
    pairs = {tuple(pair) for pair in regions.neighbours.tolist()}
    border = [i for i in range(n) if regions.border[i]]
    for i, j in pairs | {(i, j) for i in border for j in border if i < j}:
        path[i][j] = path[j][i] = colour[i][j]
    for k in range(n):
        for i in range(n):
            for j in range(n):
                path[i][j] = min(path[i][j], path[i][k] + path[k][j])
    two = 2 * config.sigma_colour**2
    weights = []
    for p in range(n):
        area = sum(math.exp(-(path[p][q] ** 2) / two) for q in range(n))
        length = sum(math.exp(-(path[p][q] ** 2) / two) for q in border)
        weights.append(1 - math.exp(-(length**2 / area) / 2))
    contrast = [
        sum(
            colour[p][q] * math.exp(-(math.dist(centres[p], centres[q]) ** 2) / 0.125) * weights[q]
            for q in range(n)
        )
        for p in range(n)
    ]
    low, high = min(contrast), max(contrast)
    contrast = [(value - low) / (high - low) for value in contrast]
    system = np.diag(np.array(weights) + contrast)
    for i, j in pairs:
        link = math.exp(-(colour[i][j] ** 2) / two) + config.smoothness
        system[i, i] += link
        system[j, j] += link
        system[i, j] -= link
        system[j, i] -= link
    found = np.linalg.solve(system, contrast)
    return (found - found.min()) / (found.max() - found.min())


def test_rbd_is_that_of_the_formulas_written_out():
    image = scene()[0][12:36, 28:58]
    labels = np.arange(24)[:, None] // 4 * 6 + np.arange(30)[None, :] // 5
    regions = region_graph(lab_image(image), labels)
    config = Rbd(sigma_colour=12.0, smoothness=0.2)
    found = region_saliency(regions, config)
    np.testing.assert_allclose(found, reference_rbd(regions, config), atol=1e-5)


def test_the_graph_of_regions_has_their_means_and_neighbours():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    lab = np.zeros((3, 3, 3), np.float32)
    lab[..., 0] = [[1, 2, 9], [3, 6, 9], [5, 5, 8]]
    regions = region_graph(lab, labels)
    assert regions.colours[:, 0].tolist() == [3, 9, 6]
    np.testing.assert_allclose(regions.centres * math.hypot(3, 3), [[0.5, 0.5], [0.5, 2], [2, 1]])
    assert regions.neighbours.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert regions.border.tolist() == [True, True, True]
    inner = region_graph(lab, np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    assert inner.border.tolist() == [True, False]


def test_a_pair_of_neighbours_is_listed_once():
    assert neighbour_pairs(np.array([[1, 0], [0, 1]])).tolist() == [[0, 1]]
    assert neighbour_pairs(np.zeros((2, 2), int)).shape == (0, 2)


def test_rbd_trusts_no_thing_that_fills_the_border():
    image = noise((60, 60), low=110, high=120)
    image[:, :20] = (200, 30, 30)
    image[20:40, 34:52] = (30, 30, 200)
    found = rbd(image)
    assert found[25:35, 38:48].mean() > found[:, :15].mean() + 0.5


# --- MBD ---


def reference_barriers(plane, num_passes):
    height, width = plane.shape
    distance = {}
    for y in range(height):
        for x in range(width):
            is_border = y in (0, height - 1) or x in (0, width - 1)
            distance[y, x] = (0.0 if is_border else math.inf, plane[y, x], plane[y, x])
    for scan in range(num_passes):
        places = sorted(distance, reverse=scan % 2 == 1)
        step = -1 if scan % 2 == 0 else 1
        for y, x in places:
            for place in ((y + step, x), (y, x + step)):
                if place not in distance or distance[place][0] == math.inf:
                    continue
                _, top, bottom = distance[place]
                top, bottom = max(top, plane[y, x]), min(bottom, plane[y, x])
                if top - bottom < distance[y, x][0]:
                    distance[y, x] = (top - bottom, top, bottom)
    return np.array([[distance[y, x][0] for x in range(width)] for y in range(height)])


@pytest.mark.parametrize("num_passes", [1, 2, 3, 4])
def test_barriers_are_those_of_the_scans_written_out(num_passes):
    planes = np.random.default_rng(0).integers(0, 50, (9, 11, 2)).astype(np.float32)
    expected = sum(reference_barriers(planes[..., c].astype(float), num_passes) for c in (0, 1))
    np.testing.assert_array_equal(barrier_distance(planes, num_passes), expected)


def test_a_barrier_is_what_a_path_must_climb_and_not_how_long_it_is():
    plane = np.zeros((9, 9, 1), np.float32)
    plane[2:7, 2:7] = 5  # a ring of height 5 around
    plane[3:6, 3:6] = 2  # a pool of height 2
    found = barrier_distance(plane, 4)
    assert (found[2:7, 2:7] == 5).all()
    assert not found[:2].any()


def test_border_contrast_forgives_one_strip_that_is_covered():
    lab = np.zeros((40, 40, 3), np.float32)
    lab[..., 0] = np.random.default_rng(0).normal(50, 1, (40, 40))
    lab[0:20, 10:30, 0] += 40  # the thing reaches the upper strip
    found = border_contrast(lab, 0.1)
    assert found[5:15, 15:25].min() > 3 * found[30:, :].max()


def test_mbd_can_do_without_each_of_its_extras():
    image, _ = scene()
    plain = Mbd(
        backgroundness=False, smoothing=0, centre_prior=False, steepness=0, max_side_px=None
    )
    lab = lab_image(image)
    np.testing.assert_allclose(
        mbd(image, config=plain), stretched(barrier_distance(lab, 3)), atol=1e-6
    )
    off_centre = np.full((60, 90, 3), 110, np.uint8)
    off_centre[20:40, 40:50] = off_centre[20:40, 4:14] = 200
    flat = plain.model_copy(update={"centre_prior": True})
    found = mbd(off_centre, config=flat)
    assert found[30, 45] > found[30, 8] + 0.2


def test_mbd_smooths_away_holes_and_specks():
    image, _ = scene()
    image[30, 47] = 115  # a hole
    image[5, 5] = (200, 30, 30)  # a speck
    rough, smooth = (mbd(image, config=Mbd(smoothing=value)) for value in (0, 50))
    assert smooth[5, 5] < rough[5, 5]
    assert smooth[30, 47] > rough[30, 47]
