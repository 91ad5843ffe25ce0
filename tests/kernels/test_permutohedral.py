import numpy as np
import pytest

from wsseg.errors import RecipeError
from wsseg.kernels.permutohedral import build_lattice


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (13, 21), (40, 31)])
@pytest.mark.parametrize("num_values", [1, 5, 40])
def test_filter_equals_float64_reference(reference, make_image, shape, num_values):
    image = make_image(shape)
    values = np.random.default_rng(1).normal(size=(num_values, *shape))
    lattice = build_lattice(shape, 9.0, image, 12.0)
    expected = reference.ReferenceLattice(reference.features(image, 9.0, 12.0))
    assert lattice.num_vertices == expected.num_vertices
    rows = expected.filter(values.reshape(num_values, -1).T)
    filtered = lattice.filter(values)
    np.testing.assert_allclose(filtered.reshape(num_values, -1).T, rows, atol=3e-6)


def test_position_filter_resembles_the_exact_gaussian(reference):
    shape, sigma = (32, 40), 3.0
    points = reference.features(np.zeros((*shape, 3)), sigma)
    kernel = np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(axis=2))
    norm = 1 / np.sqrt(kernel.sum(axis=1))
    values = np.random.default_rng(0).random(shape)
    exact = norm * (kernel @ (norm * values.ravel()))
    filtered = build_lattice(shape, sigma).filter(values[None])[0].ravel()
    assert np.abs(filtered - exact).mean() < 0.02
    assert np.corrcoef(filtered, exact)[0, 1] > 0.9


def test_filter_is_linear(make_image):
    image = make_image((12, 15))
    lattice = build_lattice((12, 15), 5.0, image, 20.0)
    a, b = np.random.default_rng(0).random((2, 1, 12, 15))
    np.testing.assert_allclose(
        lattice.filter(2 * a - b), 2 * lattice.filter(a) - lattice.filter(b), atol=1e-5
    )


def test_an_impulse_is_not_seen_across_a_strong_edge():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 10:] = 255
    impulse = np.zeros((1, 10, 20))
    impulse[0, 5, 8] = 1
    filtered = build_lattice((10, 20), 10.0, image, 10.0).filter(impulse)[0]
    assert filtered[:, :10].min() > 0
    assert np.abs(filtered[:, 10:]).max() == 0


@pytest.mark.parametrize("sigma", [1e3, 1e9])
def test_a_huge_sigma_averages_the_whole_image(sigma):
    values = np.random.default_rng(0).random((1, 15, 11))
    filtered = build_lattice((15, 11), sigma).filter(values)
    np.testing.assert_allclose(filtered, values.mean(), atol=1e-5 if sigma > 1e6 else 2e-2)


def test_a_constant_image_filters_like_position_smoothed(reference):
    image = np.full((14, 14, 3), 77, np.uint8)
    lattice = build_lattice((14, 14), 4.0, image, 10.0)
    expected = reference.ReferenceLattice(reference.features(image, 4.0, 10.0))
    values = np.random.default_rng(0).random((2, 14, 14))
    rows = expected.filter(values.reshape(2, -1).T)
    np.testing.assert_allclose(lattice.filter(values).reshape(2, -1).T, rows, atol=1e-6)


def test_threads_and_repetitions_give_the_same_bits(make_image):
    shape = (330, 300)
    image = make_image(shape)
    values = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    first = build_lattice(shape, 50.0, image, 5.0, threads=1)
    assert len(first.bands) > 1
    assert first.num_vertices * 4 > 1 << 18
    second = build_lattice(shape, 50.0, image, 5.0, threads=3)
    for name in ("index", "weights", "neighbours", "row_sources", "first_row"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(first.filter(values, threads=1), second.filter(values, threads=3))


def test_bands_agree_with_one_band(make_image, monkeypatch):
    from wsseg.kernels import permutohedral

    image = make_image((50, 60))
    values = np.random.default_rng(0).random((2, 50, 60))
    whole = build_lattice((50, 60), 20.0, image, 8.0)
    monkeypatch.setattr(permutohedral, "_PIXELS_PER_BAND", 700)
    banded = build_lattice((50, 60), 20.0, image, 8.0)
    assert (len(whole.bands), len(banded.bands)) == (1, 4)
    assert banded.num_vertices == whole.num_vertices
    np.testing.assert_allclose(banded.filter(values), whole.filter(values), atol=1e-6)


def test_images_of_other_types_and_channels_work(make_image):
    image = make_image((9, 8))
    values = np.random.default_rng(0).random((1, 9, 8))
    expected = build_lattice((9, 8), 5.0, image, 10.0).filter(values)
    as_float = build_lattice((9, 8), 5.0, image / 255.0, 10.0 / 255).filter(values)
    np.testing.assert_allclose(as_float, expected, atol=1e-5)
    grey = build_lattice((9, 8), 5.0, image[..., :1], 10.0)
    assert grey.dims == 3
    assert np.isfinite(grey.filter(values)).all()


def test_read_only_and_sliced_images_are_accepted(make_image):
    image = make_image((20, 18))
    view = image[::2, ::2]
    view.flags.writeable = False
    values = np.random.default_rng(0).random((1, 10, 9))
    expected = build_lattice((10, 9), 5.0, image[::2, ::2].copy(), 10.0).filter(values)
    np.testing.assert_array_equal(build_lattice((10, 9), 5.0, view, 10.0).filter(values), expected)


def test_sigmas_too_small_for_the_keys_are_refused_with_the_numbers(make_image):
    with pytest.raises(RecipeError, match=r"0.001 px and 0.01 in value need \d+ bits"):
        build_lattice((50, 60), 1e-3, make_image((50, 60)), 0.01)
    with pytest.raises(RecipeError, match=r"sigmas are too small for this image: 1e-08 px need"):
        build_lattice((50, 60), 1e-8)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_sigmas_that_are_no_positive_number_are_refused(sigma):
    with pytest.raises(RecipeError, match="position sigma is"):
        build_lattice((5, 5), sigma)


def test_wrong_shapes_and_values_are_named(make_image):
    with pytest.raises(ValueError, match=r"shape \(0, 4\); expected at least one pixel"):
        build_lattice((0, 4), 3.0)
    with pytest.raises(ValueError, match=r"values has shape \(4, 4, 3\); expected \(5, 5, C\)"):
        build_lattice((5, 5), 3.0, make_image((4, 4)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        build_lattice((2, 2), 3.0, np.full((2, 2, 1), np.nan))
    with pytest.raises(ValueError, match=r"values has shape \(5, 5\); expected \(V, 5, 5\)"):
        build_lattice((5, 5), 3.0).filter(np.zeros((5, 5)))
