"""PAMR and PAR against loops in float64 that follow the formula pixel by pixel."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsseg.kernels import pamr_torch
from wsseg.kernels.pamr import PamrConfig, pamr, pamr_planes, pamr_weights

METHODS = ["pamr", "par"]
SIZES = [(1, 1), (1, 9), (7, 1), (5, 6), (13, 11)]


def slow_weights(image: np.ndarray, method: str, dilations) -> np.ndarray:
    """Weights (H, W, P) of the neighbours, one pixel after the other."""
    height, width = image.shape[:2]
    picture = image.astype(np.float64) / 255
    steps = [
        (dy * d, dx * d)
        for d in dilations
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    ]
    weights = np.zeros((height, width, len(steps)))
    distances = np.array([math.hypot(*step) for step in steps])
    position = np.exp(-((distances / distances.std(ddof=1) / 0.3) ** 2))
    for y in range(height):
        for x in range(width):
            around = [
                picture[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                for dy, dx in steps
            ]
            logits = np.zeros(len(steps))
            for channel in range(3):
                colours = [pixel[channel] for pixel in around]
                here = picture[y, x, channel]
                if method == "pamr":
                    spread = np.std(colours + [here] * len(dilations), ddof=1)
                    parts = np.abs(np.array(colours) - here) / (1e-8 + 0.1 * spread)
                else:
                    spread = np.std(colours, ddof=1)
                    parts = (np.abs(np.array(colours) - here) / (spread + 1e-8) / 0.3) ** 2
                logits -= parts / 3
            colour = np.exp(logits - logits.max())
            weights[y, x] = colour / colour.sum()
            if method == "par":
                weights[y, x] = (weights[y, x] + 0.01 * position / position.sum()) / 1.01
    return weights


def slow_average(image: np.ndarray, values: np.ndarray, method: str, dilations, iterations):
    """Iterate the weighted mean in float64."""
    weights = slow_weights(image, method, dilations)
    height, width = image.shape[:2]
    steps = PamrConfig(dilations_px=dilations).offsets
    values = values.astype(np.float64)
    for _ in range(iterations):
        before, values = values, np.zeros_like(values)
        for y in range(height):
            for x in range(width):
                for place, (dy, dx) in enumerate(steps):
                    row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                    values[:, y, x] += weights[y, x, place] * before[:, row, column]
    return values


def as_tensors(image: np.ndarray, values: np.ndarray):
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return pixels, torch.from_numpy(values)[None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_both_forms_follow_the_formula(make_image, method, size):
    image = make_image(size, seed=3)
    values = np.random.default_rng(1).random((3, *size)).astype(np.float32)
    dilations = (1, 2, 5)
    expected = slow_average(image, values, method, dilations, iterations=3)
    config = PamrConfig(method=method, dilations_px=dilations, iterations=3)
    np.testing.assert_allclose(pamr(image, values, config=config), expected, atol=2e-6)
    unfolded = pamr_torch.pamr(*as_tensors(image, values), config)
    np.testing.assert_allclose(unfolded[0], expected, atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_both_forms_follow_the_formula_and_sum_to_one(make_image, method):
    image = make_image((6, 7), seed=5, noise=60)
    config = PamrConfig(method=method, dilations_px=(1, 3))
    expected = slow_weights(image, method, (1, 3))
    compiled = pamr_weights(image, config=config)
    np.testing.assert_allclose(compiled.transpose(0, 2, 1), expected, atol=1e-6)
    unfolded = pamr_torch.pamr_weights(as_tensors(image, image[None, ..., 0])[0], config)
    np.testing.assert_allclose(unfolded[0].permute(1, 2, 0), expected, atol=1e-6)
    np.testing.assert_allclose(compiled.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_labels", [1, 3, 9])
def test_the_published_settings_agree_on_a_photograph(photo, make_scores, method, num_labels):
    image = photo("astronaut")
    values = make_scores(num_labels, image.shape[:2])
    config = PamrConfig(method=method)
    compiled = pamr(image, values, config=config)
    pixels, masks = as_tensors(image, values)
    exact = pamr_torch.pamr(pixels.double(), masks.double(), config)[0].numpy()
    assert np.abs(compiled - exact).max() < 1e-5
    assert np.abs(compiled - pamr_torch.pamr(pixels, masks, config)[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "far"), [(1, 0.0), (3, 100.0), (5, -3.0)])
def test_any_planes_are_averaged_as_the_unfolded_form_does_in_float64(method, channels, far):
    """Planes far from zero, and with a flat area, where a sum of squares would be mere rounding."""
    rng = np.random.default_rng(6)
    planes = (rng.normal(size=(channels, 12, 9)) + far).astype(np.float32)
    planes[:, :4] = np.float32(far + 0.1)
    values = rng.random((3, 12, 9)).astype(np.float32)
    config = PamrConfig(method=method, dilations_px=(1, 2), iterations=4)
    tensors = [torch.from_numpy(one).double()[None] for one in (planes, values)]
    expected = pamr_torch.pamr(*tensors, config)[0].numpy()
    found = pamr_planes(planes, values, config=config)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-6)
    np.testing.assert_array_equal(found, pamr_planes(planes, values, config=config, threads=3))


def test_planes_of_other_shapes_and_types_are_refused():
    values = np.zeros((1, 4, 5), np.float32)
    with pytest.raises(ValueError, match=r"float64; expected \(D, H, W\) float32"):
        pamr_planes(np.zeros((3, 4, 5)), values)
    with pytest.raises(ValueError, match=r"expected \(D, H, W\) float32"):
        pamr_planes(np.zeros((4, 5), np.float32), values)
    with pytest.raises(ValueError, match=r"values has shape \(1, 4, 5\); expected \(K, 5, 4\)"):
        pamr_planes(np.zeros((3, 5, 4), np.float32), values)


def test_the_defaults_are_the_published_ones():
    config = PamrConfig()
    assert config.dilations_px == (1, 2, 4, 8, 12, 24)
    assert (config.iterations, config.scale, len(config.offsets)) == (10, 0.1, 48)
    assert PamrConfig(method="par").scale == 0.3
    assert len(set(config.offsets)) == 48
    assert config.position_share == 0


def test_an_image_of_one_colour_gives_the_plain_mean_of_the_neighbours():
    image = np.full((5, 5, 3), 130, np.uint8)
    values = np.zeros((1, 5, 5), np.float32)
    values[0, 2, 2] = 1
    found = pamr(image, values, config=PamrConfig(dilations_px=(1,), iterations=1))
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 1 / 8
    expected[2, 2] = 0
    np.testing.assert_allclose(found[0], expected, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_cross_a_strong_edge(method):
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 8:] = 200
    values = np.zeros((1, 20, 20), np.float32)
    values[0, :, :8] = 1
    found = pamr(image, values, config=PamrConfig(method=method, dilations_px=(1, 2)))
    assert found[0, :, :8].min() > (0.999 if method == "pamr" else 0.9)
    assert found[0, :, 8:].max() < (0.001 if method == "pamr" else 0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_map_stays_constant_and_sums_are_kept(make_image, method):
    image = make_image((17, 23), noise=90)
    values = np.random.default_rng(0).dirichlet(np.ones(4), (17, 23)).transpose(2, 0, 1)
    found = pamr(image, values, config=PamrConfig(method=method))
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    constant = pamr(image, np.full((1, 17, 23), 0.3), config=PamrConfig(method=method))
    np.testing.assert_allclose(constant, 0.3, atol=1e-5)


def test_result_stays_within_the_range_of_the_input(make_image):
    values = np.random.default_rng(4).uniform(0.2, 0.7, (2, 15, 15))
    found = pamr(make_image((15, 15), noise=100), values)
    assert found.min() >= 0.2 - 1e-6
    assert found.max() <= 0.7 + 1e-6


def test_no_iterations_return_the_scores_themselves(make_image):
    values = np.random.default_rng(4).random((2, 6, 5)).astype(np.float32)
    found = pamr(make_image((6, 5)), values, config=PamrConfig(iterations=0))
    np.testing.assert_array_equal(found, values)
    assert not np.shares_memory(found, values)


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_threads_does_not_change_the_result(make_image, method):
    image = make_image((19, 14))
    values = np.random.default_rng(2).random((3, 19, 14)).astype(np.float32)
    config = PamrConfig(method=method)
    alone = pamr(image, values, config=config, threads=1)
    for threads in (2, 3, 40):
        np.testing.assert_array_equal(pamr(image, values, config=config, threads=threads), alone)


def test_given_weights_are_used_and_nothing_is_changed(make_image):
    image = make_image((9, 8))
    values = np.random.default_rng(2).random((3, 9, 8)).astype(np.float32)
    weights = pamr_weights(image)
    kept = image.copy(), values.copy(), weights.copy()
    np.testing.assert_array_equal(pamr(image, values, weights=weights), pamr(image, values))
    for found, expected in zip((image, values, weights), kept, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_brightness_and_contrast_of_the_image_do_not_matter():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 100, (10, 10, 3)).astype(np.uint8)
    stretched = (image * 2 + 30).astype(np.uint8)
    np.testing.assert_allclose(pamr_weights(image), pamr_weights(stretched), atol=1e-6)


def test_the_compiled_form_never_holds_the_neighbours_of_all_labels(make_image):
    image = make_image((40, 50))
    values = np.random.default_rng(0).random((30, 40, 50)).astype(np.float32)
    pamr(image, values)
    tracemalloc.start()
    pamr(image, values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    unfolded = 30 * 48 * 40 * 50 * 4
    padded = 30 * (40 + 48) * (50 + 48) * 4
    assert peak < 48 * 40 * 50 * 4 + 4 * padded < unfolded


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_the_torch_form_are_right(method):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(1, 2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    config = PamrConfig(method=method, dilations_px=(1, 2), iterations=2, colour_scale=1.0)
    assert torch.autograd.gradcheck(lambda x, m: pamr_torch.pamr(x, m, config), (images, masks))


def test_the_torch_form_handles_a_batch_like_single_images(make_image):
    images = torch.cat(
        [as_tensors(make_image((8, 9), seed=s), np.zeros((1, 1)))[0] for s in (0, 1)]
    )
    masks = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    together = pamr_torch.pamr(images, masks)
    for image, mask, found in zip(images, masks, together, strict=True):
        torch.testing.assert_close(pamr_torch.pamr(image[None], mask[None])[0], found)


def test_wrong_inputs_are_refused_with_the_shapes(make_image):
    image = make_image((6, 5))
    with pytest.raises(ValueError, match=r"values has shape \(2, 5, 6\); expected \(K, 6, 5\)"):
        pamr(image, np.zeros((2, 5, 6)))
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) uint8"):
        pamr(image.astype(np.float32), np.zeros((2, 6, 5)))
    with pytest.raises(ValueError, match="Compute it by pamr_weights"):
        pamr(image, np.zeros((2, 6, 5)), weights=np.zeros((6, 8, 5), np.float32))
    pixels, masks = as_tensors(image, np.zeros((2, 6, 5), np.float32))
    with pytest.raises(ValueError, match="Resize the masks"):
        pamr_torch.pamr(pixels, masks[..., :4])
    with pytest.raises(ValueError, match="masks has shape"):
        pamr_torch.pamr(pixels, masks[0])
    with pytest.raises(ValueError, match="floating-point"):
        pamr_torch.pamr_weights(pixels.to(torch.uint8))


@pytest.mark.parametrize("dilations", [(), (0,), (1.5,), (2000,)])
def test_impossible_dilations_are_refused(dilations):
    with pytest.raises(ValidationError):
        PamrConfig(dilations_px=dilations)
