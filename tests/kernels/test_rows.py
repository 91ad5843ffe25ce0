import numpy as np
import pytest

from wsseg.kernels._jit import compiled
from wsseg.kernels._rows import (
    WIDTHS,
    add,
    add_distance,
    axpy,
    exp_minus,
    lanes_for,
    largest,
    load,
    multiply_add,
    scale,
    store,
    total,
)


@compiled
def softmax_rows(lanes, source, target, peaks):
    width = len(lanes)
    for row in range(len(peaks)):
        values = load(source, row * width, lanes)
        peaks[row] = largest(values)
        values = exp_minus(values, peaks[row])
        store(target, row * width, scale(np.float32(1) / total(values), values))


@compiled
def combine(lanes, a, b, target):
    row = axpy(np.float32(0.5), load(a, 1, lanes), load(b, 0, lanes))
    store(target, 0, add(row, load(b, 0, lanes)))


@compiled
def combine_values(lanes, a, b, c, products, distances):
    rows = load(a, 0, lanes), load(b, 0, lanes), load(c, 0, lanes)
    store(products, 0, multiply_add(*rows))
    store(distances, 0, add_distance(*rows))


@pytest.mark.parametrize("width", [*WIDTHS, 64])
def test_products_and_distances_are_formed_value_by_value(width):
    rng = np.random.default_rng(width)
    a, b, c = rng.normal(size=(3, width)).astype(np.float32)
    products, distances = np.empty(width, np.float32), np.empty(width, np.float32)
    combine_values((0,) * width, a, b, c, products, distances)
    np.testing.assert_allclose(products, a * b + c, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(distances, abs(a - b) + c)


@pytest.mark.parametrize("width", WIDTHS)
def test_softmax_of_a_row_equals_float64(width):
    rng = np.random.default_rng(width)
    values = rng.normal(scale=20, size=(50, width)).astype(np.float32)
    # Energies far below the others, and padding lanes, have probability exactly 0.
    values[3, 1] = -1e30
    result, peaks = np.empty_like(values), np.empty(50, np.float32)
    softmax_rows((0,) * width, values.ravel(), result.reshape(-1), peaks)
    np.testing.assert_array_equal(peaks, values.max(axis=1))
    exact = np.exp((values - values.max(axis=1, keepdims=True)).astype(np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result, exact, rtol=1e-6, atol=1e-37)
    assert result[3, 1] == 0


def test_rows_start_at_any_offset():
    a, b = np.arange(9, dtype=np.float32), np.full(8, 10, np.float32)
    target = np.zeros(8, np.float32)
    combine(lanes_for(8), a, b, target)
    np.testing.assert_array_equal(target, 20 + 0.5 * np.arange(1, 9))


@pytest.mark.parametrize(
    ("labels", "width"), [(1, 4), (4, 4), (5, 8), (17, 24), (24, 24), (25, 32), (33, 32), (255, 32)]
)
def test_width_is_the_next_one_that_fits_and_at_most_32(labels, width):
    assert len(lanes_for(labels)) == width
