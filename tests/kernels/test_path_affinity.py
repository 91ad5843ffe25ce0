import numpy as np
import pytest
import torch

from wsseg.kernels.path_affinity import (
    feature_affinity,
    half_plane_offsets,
    inner_window,
    path_affinity,
    path_points,
    torch_feature_affinity,
    torch_path_affinity,
)
from wsseg.kernels.stencil import half_plane_checked, source_window

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 9), (12, 17)]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]


def distance_to_segment(point, end):
    """Distance of a point to the segment from (0, 0) to end, by projection."""
    point, end = np.array(point, float), np.array(end, float)
    along = np.clip(point @ end / (end @ end), 0, 1)
    return np.linalg.norm(point - along * end)


def slow_links(shape, radius, affinity_of):
    """Fill (n, h, w) pixel by pixel; 0 where the link leaves the grid."""
    height, width = shape
    offsets = half_plane_offsets(radius)
    result = np.zeros((len(offsets), height, width))
    for o, (dy, dx) in enumerate(offsets.tolist()):
        for y, x in np.ndindex(shape):
            if y + dy < height and 0 <= x + dx < width:
                result[o, y, x] = affinity_of((y, x), (y + dy, x + dx))
    return result


def slow_path_affinity(edge, radius):
    def affinity(source, target):
        end = (target[0] - source[0], target[1] - source[1])
        rows = range(source[0], target[0] + 1)
        columns = range(min(source[1], target[1]), max(source[1], target[1]) + 1)
        return 1 - max(
            edge[y, x]
            for y in rows
            for x in columns
            if distance_to_segment((y - source[0], x - source[1]), end) < 1 - 1e-9
        )

    return slow_links(edge.shape, radius, affinity)


def slow_feature_affinity(features, radius):
    def affinity(source, target):
        return np.exp(-np.abs(features[:, *source] - features[:, *target]).mean())

    return slow_links(features.shape[1:], radius, affinity)


@pytest.mark.parametrize(("radius", "count"), [(1, 0), (2, 4), (3, 12), (5, 34), (10, 152)])
def test_half_plane_has_the_published_number_of_offsets(radius, count):
    offsets = half_plane_offsets(radius)
    assert offsets.shape == (count, 2)
    both = {*map(tuple, offsets.tolist()), *map(tuple, (-offsets).tolist())}
    disc = [
        (y, x)
        for y in range(-radius, radius + 1)
        for x in range(-radius, radius + 1)
        if 0 < x * x + y * y < radius * radius
    ]
    assert both == set(disc)
    assert len(both) == 2 * count


def test_offsets_come_row_by_row():
    assert half_plane_offsets(3).tolist() == [
        [0, 1],
        [0, 2],
        *([1, dx] for dx in (-2, -1, 0, 1, 2)),
        *([2, dx] for dx in (-2, -1, 0, 1, 2)),
    ]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((0, 3), [(0, 0), (0, 1), (0, 2), (0, 3)]),
        ((2, 0), [(0, 0), (1, 0), (2, 0)]),
        ((1, 1), [(0, 0), (0, 1), (1, 0), (1, 1)]),
        # (0, 2) and (2, 0) are further than 1 from the diagonal.
        ((2, 2), [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)]),
        # The corners are sqrt(0.9) from the segment, so both rows belong to so flat a path.
        ((1, -3), [(0, -3), (0, -2), (0, -1), (0, 0), (1, -3), (1, -2), (1, -1), (1, 0)]),
        ((3, 1), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]),
    ],
)
def test_paths_of_hand_made_offsets(offset, expected):
    assert list(map(tuple, path_points(offset).tolist())) == expected


@pytest.mark.parametrize("offset", half_plane_offsets(10).tolist())
def test_path_is_what_lies_within_distance_one_of_the_segment(offset):
    dy, dx = offset
    expected = [
        (y, x)
        for y in range(dy + 1)
        for x in range(min(dx, 0), max(dx, 0) + 1)
        if distance_to_segment((y, x), offset) < 1 - 1e-9
    ]
    assert list(map(tuple, path_points((dy, dx)).tolist())) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1, 2, 5])
def test_path_affinity_equals_the_pixel_by_pixel_form(shape, radius):
    edge = np.random.default_rng(0).random(shape).astype(np.float32)
    found = path_affinity(edge, radius)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_path_affinity(edge, radius), atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1, 2, 5])
def test_feature_affinity_equals_the_pixel_by_pixel_form(shape, radius):
    features = np.random.default_rng(0).normal(size=(7, *shape)).astype(np.float32)
    expected = slow_feature_affinity(features.astype(float), radius)
    found = feature_affinity(features, radius)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_feature_affinity_does_not_depend_on_threads():
    features = np.random.default_rng(0).random((300, 40, 30))
    one, three = (feature_affinity(features, 5, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_a_wall_cuts_every_path_that_crosses_it():
    edge = np.zeros((6, 9), np.float32)
    edge[:, 4] = 1
    affinity = path_affinity(edge, 5)
    for o, (dy, dx) in enumerate(half_plane_offsets(5).tolist()):
        rows, columns = source_window((dy, dx), edge.shape)
        x = np.arange(columns.start, columns.stop)
        crosses = (np.minimum(x, x + dx) <= 4) & (np.maximum(x, x + dx) >= 4)
        expected = np.broadcast_to(~crosses, affinity[o, rows, columns].shape)
        np.testing.assert_array_equal(affinity[o, rows, columns], expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("radius", "shape"), [(1, (3, 4)), (2, (2, 3)), (5, (5, 9)), (5, (14, 17))]
)
def test_torch_forms_equal_the_inner_sources_of_the_compiled_ones(radius, shape, device):
    rng = np.random.default_rng(1)
    edges = rng.random((2, 1, *shape)).astype(np.float32)
    features = rng.normal(size=(2, 6, *shape)).astype(np.float32)
    window = inner_window(radius, shape)
    pairs = [
        (torch_path_affinity, path_affinity, edges, edges[:, 0]),
        (torch_feature_affinity, feature_affinity, features, features),
    ]
    for on_torch, compiled, batch, images in pairs:
        found = on_torch(torch.from_numpy(batch).to(device), radius).cpu().numpy()
        expected = np.stack([compiled(image, radius)[:, *window] for image in images])
        height, width = shape
        count = len(half_plane_offsets(radius))
        assert found.shape == (2, count, height - radius + 1, width - 2 * radius + 2)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("function", [torch_path_affinity, torch_feature_affinity])
@pytest.mark.parametrize(("radius", "shape"), [(2, (3, 5)), (3, (4, 6))])
def test_gradients_equal_finite_differences(function, radius, shape):
    channels = 1 if function is torch_path_affinity else 3
    values = np.random.default_rng(2).random((2, channels, *shape))
    grid = torch.from_numpy(values).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, radius), grid, eps=1e-7)


def test_of_equal_barriers_one_gets_the_gradient():
    edge = torch.full((1, 1, 6, 11), 0.5, requires_grad=True)
    affinity = torch_path_affinity(edge, 5)
    affinity.sum().backward()
    assert edge.grad.sum() == -affinity.numel()


@pytest.mark.parametrize("function", [torch_path_affinity, torch_feature_affinity])
def test_half_precision_is_computed_in_float32(function):
    grid = torch.rand(1, 1, 6, 11).bfloat16().requires_grad_()
    found = function(grid, 5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, function(grid.float(), 5))
    found.sum().backward()
    assert grid.grad.dtype == torch.bfloat16


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"from -1.0 to 2.0; expected probabilities"):
        path_affinity([[-1.0, 2.0]], 2)
    with pytest.raises(ValueError, match="expected probabilities"):
        path_affinity([[0.0, np.nan]], 2)
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(h, w\)"):
        path_affinity([0.0, 1.0], 2)
    with pytest.raises(ValueError, match="infinite or NaN"):
        feature_affinity([[[0.0, np.inf]]], 2)
    with pytest.raises(ValueError, match=r"shape \(1, 2\); expected \(c, h, w\)"):
        feature_affinity([[0.0, 1.0]], 2)
    with pytest.raises(ValueError, match="radius is 0"):
        half_plane_offsets(0)
    with pytest.raises(ValueError, match="use at least 5 x 9, or a smaller radius"):
        torch_path_affinity(torch.zeros(1, 1, 5, 8), 5)
    with pytest.raises(ValueError, match=r"expected \(B, 1, h, w\)"):
        torch_path_affinity(torch.zeros(1, 2, 5, 9), 5)
    with pytest.raises(ValueError, match=r"expected \(B, c, h, w\)"):
        torch_feature_affinity(torch.zeros(5, 9), 5)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([(0, -1)], r"\(0, -1\) is not in the half plane"),
        ([(0, 0)], "not in the half plane"),
        ([(1, 0), (1, 0)], "occurs twice"),
        ([(0.5, 1)], "whole numbers"),
        ([1, 2], "whole numbers"),
    ],
)
def test_wrong_offsets_are_named(offsets, message):
    with pytest.raises(ValueError, match=message):
        half_plane_checked(offsets)
