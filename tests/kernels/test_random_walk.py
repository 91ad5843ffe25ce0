import math
import tracemalloc

import numpy as np
import pytest
import torch

from wsseg.kernels.path_affinity import feature_affinity, half_plane_offsets, path_affinity
from wsseg.kernels.random_walk import (
    chebyshev_coefficients,
    irn_propagate,
    psa_propagate,
    random_walk,
)

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 9), (11, 13)]
# "cpu:0" takes the torch form, on the processor.
DEVICES = [
    "cpu",
    "cpu:0",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]


def points_of_path(source, target):
    """Grid points of the rectangle whose squared distance to the segment is below 1."""
    a, b = np.array(source, float), np.array(target, float)
    rows = range(min(source[0], target[0]), max(source[0], target[0]) + 1)
    columns = range(min(source[1], target[1]), max(source[1], target[1]) + 1)
    for point in ((y, x) for y in rows for x in columns):
        along = np.clip((np.array(point) - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        if ((np.array(point) - a - along * (b - a)) ** 2).sum() < 1 - 1e-9:
            yield point


def dense_links(shape, radius, affinity_of):
    """The dense matrix of the papers; sources in rows 0 .. h - r, columns r - 1 .. w - r."""
    height, width = shape
    matrix = np.eye(height * width)
    for y in range(height - radius + 1):
        for x in range(radius - 1, width - radius + 1):
            for dy in range(radius):
                for dx in range(1 - radius, radius):
                    if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius:
                        i, j = y * width + x, (y + dy) * width + x + dx
                        matrix[i, j] = matrix[j, i] = affinity_of((y, x), (y + dy, x + dx))
    return matrix


def irn_matrix(edge, radius):
    """Pad the map with 1 on the left, right and lower side, link, and cut the padding off."""
    height, width = edge.shape
    padded = np.pad(edge, ((0, radius), (radius, radius)), constant_values=1.0)

    def affinity(source, target):
        return 1 - max(padded[point] for point in points_of_path(source, target))

    rows, columns = padded.shape
    matrix = dense_links(padded.shape, radius, affinity).reshape(rows, columns, rows, columns)
    inner = matrix[:height, radius:-radius, :height, radius:-radius]
    return inner.reshape(height * width, height * width)


def psa_matrix(features, radius):
    def affinity(source, target):
        return np.exp(-np.abs(features[:, *source] - features[:, *target]).mean())

    return dense_links(features.shape[1:], radius, affinity)


def dense_walk(values, matrix, beta, steps):
    """values · (A^beta / column sums)^steps in float64."""
    powered = matrix**beta
    transition = powered / powered.sum(axis=0, keepdims=True)
    rows = values.reshape(len(values), -1) @ np.linalg.matrix_power(transition, steps)
    return rows.reshape(values.shape)


def make(shape, rows=3, seed=0):
    """Class maps, a boundary map with sure and unsure places, features."""
    rng = np.random.default_rng(seed)
    values = rng.random((rows, *shape)).astype(np.float32)
    edge = rng.random(shape).astype(np.float32) ** 3
    edge[rng.random(shape) < 0.1] = 1
    return values, edge, rng.normal(scale=0.5, size=(6, *shape)).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["exact", "chebyshev"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [2, 3, 5])
def test_irn_equals_the_dense_procedure(shape, radius, method, device):
    values, edge, _ = make(shape)
    expected = dense_walk(values * (1.0 - edge), irn_matrix(edge.astype(float), radius), 10, 256)
    found = irn_propagate(values, edge, radius=radius, method=method, device=device)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["exact", "chebyshev"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [2, 3, 5])
def test_psa_equals_the_dense_procedure(shape, radius, method, device):
    values, _, features = make(shape)
    expected = dense_walk(values, psa_matrix(features.astype(float), radius), 8, 256)
    found = psa_propagate(values, features, radius=radius, method=method, device=device)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["exact", "chebyshev"])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 64, 255])
@pytest.mark.parametrize("beta", [1, 2.5, 10])
def test_any_number_of_steps_and_any_exponent_equal_matrix_powers(beta, steps, method, device):
    values, edge, _ = make((6, 7))
    found = random_walk(
        values,
        path_affinity(edge, 4),
        half_plane_offsets(4),
        beta=beta,
        steps=steps,
        method=method,
        device=device,
    )
    expected = dense_walk(values.astype(float), irn_matrix(edge.astype(float), 4), beta, steps)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 8, 9, 80])
def test_rows_are_walked_independently(rows, device):
    values, edge, _ = make((9, 10), rows=rows)
    together = irn_propagate(values, edge, device=device)
    alone = np.concatenate([irn_propagate(row[None], edge, device=device) for row in values])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_result_does_not_depend_on_threads():
    values, edge, _ = make((12, 14), rows=21)
    affinity, offsets = path_affinity(edge, 5), half_plane_offsets(5)
    one, three = (
        random_walk(values, affinity, offsets, beta=10, steps=256, threads=threads)
        for threads in (1, 3)
    )
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["exact", "chebyshev"])
def test_columns_of_the_walk_sum_to_one(method, device):
    # A unit map per pixel gives the rows of T^steps; column j says from where pixel j takes.
    _, edge, _ = make((7, 8))
    units = np.eye(56, dtype=np.float32).reshape(56, 7, 8)
    walk = random_walk(
        units,
        path_affinity(edge, 5),
        half_plane_offsets(5),
        beta=10,
        steps=256,
        method=method,
        device=device,
    ).reshape(56, 56)
    np.testing.assert_allclose(walk.sum(axis=0), 1, atol=2e-5)
    assert walk.min() > -1e-6


@pytest.mark.parametrize("method", ["exact", "chebyshev"])
def test_constants_and_the_mass_weighted_by_degree_are_kept(method):
    values, edge, _ = make((20, 30))
    values[0] = 0.7
    affinity, offsets = path_affinity(edge, 5), half_plane_offsets(5)
    walked = random_walk(values, affinity, offsets, beta=10, steps=256, method=method)
    np.testing.assert_allclose(walked[0], 0.7, atol=1e-5)
    degrees = np.ones(edge.shape)
    for o, (dy, dx) in enumerate(offsets.tolist()):
        for y, x in zip(*np.nonzero(affinity[o]), strict=True):
            weight = float(affinity[o, y, x]) ** 10
            degrees[y, x] += weight
            degrees[y + dy, x + dx] += weight
    before, after = ((degrees * maps).sum(axis=(1, 2)) for maps in (values, walked))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_no_value_crosses_a_closed_boundary():
    edge = np.zeros((20, 30), np.float32)
    edge[:, 15] = 1
    values = np.zeros((1, 20, 30), np.float32)
    values[0, 10, 5] = 1
    walked = irn_propagate(values, edge)
    assert (walked[0, :, 15:] == 0).all()
    assert walked[0, :, :15].min() > 1e-4


def test_links_off_the_grid_are_ignored():
    values, edge, _ = make((6, 7))
    offsets = half_plane_offsets(5)
    affinity = path_affinity(edge, 5)
    everywhere = np.ones_like(affinity)
    for o, (dy, dx) in enumerate(offsets.tolist()):
        y, x = np.mgrid[:6, :7]
        on_grid = (y + dy < 6) & (x + dx >= 0) & (x + dx < 7)
        everywhere[o][on_grid] = affinity[o][on_grid]
    assert (everywhere != affinity).any()
    for device in ("cpu", "cpu:0"):
        kept, other = (
            random_walk(values, links, offsets, beta=2, steps=9, device=device)
            for links in (affinity, everywhere)
        )
        np.testing.assert_array_equal(kept, other)


def test_psa_moves_nothing_on_a_grid_below_the_stencil():
    values, _, features = make((4, 9))
    np.testing.assert_allclose(psa_propagate(values, features), values, rtol=1e-6)


def test_faint_links_are_not_lost_next_to_the_own_value():
    # 1 + 1e-8 is 1 in float32: added to the own value one by one, 68 such links would vanish, and
    # 1000 steps would lose 7e-4 of a constant map.
    affinity = np.full((34, 15, 16), 10**-0.8, np.float32)
    ones = np.ones((1, 15, 16), np.float32)
    offsets = half_plane_offsets(5)
    for device in ("cpu", "cpu:0"):
        found = random_walk(
            ones, affinity, offsets, beta=10, steps=1000, method="exact", device=device
        )
        np.testing.assert_allclose(found, ones, atol=1e-4)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 256, 3000])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_coefficients_give_the_power_within_tolerance(steps, tolerance):
    coefficients = chebyshev_coefficients(steps, tolerance)
    x = np.linspace(-1, 1, 2001)
    error = np.abs(np.polynomial.chebyshev.chebval(x, coefficients) - x**steps)
    assert error.max() <= tolerance
    assert (coefficients >= 0).all()
    assert abs(coefficients.sum() - 1) < 1e-12
    if steps > 100:
        assert len(coefficients) < math.sqrt(2 * steps * math.log(4 / tolerance)) + 2


def test_coefficients_of_a_small_power_are_exact():
    # 16 x^5 = T_5 + 5 T_3 + 10 T_1
    expected = np.array([0, 10, 0, 5, 0, 1]) / 16
    np.testing.assert_allclose(chebyshev_coefficients(5, 1e-9), expected, atol=1e-14)


def test_a_looser_tolerance_takes_fewer_products_and_stays_close():
    values, edge, _ = make((20, 30))
    assert len(chebyshev_coefficients(256, 1e-2)) < len(chebyshev_coefficients(256, 1e-6)) / 1.5
    exact = irn_propagate(values, edge, method="exact")
    loose = irn_propagate(values, edge, tolerance=1e-2)
    assert 1e-5 < np.abs(loose - exact).max() < 2e-2


def test_memory_stays_linear_in_pixels():
    def peak(shape):
        values, edge, _ = make(shape, rows=2)
        tracemalloc.start()
        irn_propagate(values, edge, steps=2)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak((4, 5))
    small = peak((47, 63))
    large = peak((94, 126))
    assert large < 4.5 * small
    # The dense matrix of this grid takes 561 MB.
    assert large < 30e6


def test_inputs_are_not_changed_and_may_be_lists_or_views():
    values, edge, features = make((6, 10))
    kept = [array.copy() for array in (values, edge, features)]
    expected = irn_propagate(values, edge), psa_propagate(values, features)
    for before, after in zip(kept, (values, edge, features), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(irn_propagate(values.tolist(), edge.tolist()), expected[0])
    flipped = irn_propagate(values[:, :, ::-1], edge[:, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(flipped, expected[0], atol=1e-5)
    strided = np.repeat(values, 2, axis=0)[::2], np.asfortranarray(features)
    np.testing.assert_array_equal(psa_propagate(*strided), expected[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0}, "beta is 0"),
        ({"beta": np.inf}, "beta is inf"),
        ({"steps": -1}, "steps is -1"),
        ({"method": "dense"}, "method is 'dense'; expected one of chebyshev, exact"),
        ({"tolerance": 0}, "tolerance is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"values": np.full((1, 2, 3), np.nan)}, "infinite or NaN"),
        ({"values": np.zeros((0, 2, 3))}, r"shape \(0, 2, 3\)"),
        ({"values": np.zeros((2, 3))}, r"shape \(2, 3\)"),
        ({"affinity": np.full((1, 2, 3), 1.5)}, "from 1.0 to 1.5; expected numbers in"),
        ({"affinity": np.full((1, 2, 3), np.nan)}, "expected numbers in"),
        ({"offsets": [(0, 1), (1, 0)]}, r"offsets \(2, 2\)"),
        ({"offsets": [(0, -1)]}, "not in the half plane"),
    ],
)
def test_wrong_input_is_named(change, message):
    arguments = {
        "values": np.zeros((1, 2, 3)),
        "affinity": np.zeros((1, 2, 3)),
        "offsets": [(0, 1)],
        "beta": 8,
        "steps": 2,
    } | change
    with pytest.raises(ValueError, match=message):
        random_walk(**arguments)


def test_grids_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"values have shape \(1, 2, 3\) and edge \(3, 2\)"):
        irn_propagate(np.zeros((1, 2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"and features \(4, 3, 2\)"):
        psa_propagate(np.zeros((1, 2, 3)), np.zeros((4, 3, 2)))
    with pytest.raises(ValueError, match="apply the sigmoid first"):
        irn_propagate(np.zeros((1, 2, 3)), np.full((2, 3), 4.0))


def test_links_of_features_beyond_the_inner_sources_are_part_of_the_full_form():
    # The full form links border pixels too; only the rule of PSA leaves them out.
    values, _, features = make((8, 11))
    full = random_walk(
        values, feature_affinity(features, 5), half_plane_offsets(5), beta=8, steps=256
    )
    assert np.abs(full[:, -1] - psa_propagate(values, features)[:, -1]).max() > 1e-3
