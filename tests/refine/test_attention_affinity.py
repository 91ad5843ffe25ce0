from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsseg.data.colour import normalise
from wsseg.data.dataset import Dataset
from wsseg.data.labels import ClassList
from wsseg.data.scores import Scores
from wsseg.errors import DataError, MissingWeightsError, RecipeError
from wsseg.nets.attention import attention_maps
from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet
from wsseg.refine.attention_affinity import AttentionAffinity, attention_affinity
from wsseg.refine.attention_steps import boxes_around, interpolated, sinkhorn, spread, stretched
from wsseg.refine.protocol import RefineContext


def make_net(name: str = "test_vit", seed: int = 0) -> ClassMapNet:
    torch.manual_seed(seed)
    backbone = build_backbone(name, output_stride=16)
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            if parameter.ndim > 1:
                # Fresh transformers look at all patches alike.
                parameter.normal_(std=0.2)
    return ClassMapNet(backbone, num_classes=5).eval()


@pytest.fixture(scope="module")
def net() -> ClassMapNet:
    return make_net()


@pytest.fixture
def context(net) -> RefineContext:
    return RefineContext(localizer=lambda: net)


def make_image(size=(64, 80), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3)).astype(np.uint8)
    image[size[0] // 2 :, size[1] // 2 :] += 150
    return image


def make_scores(map_size=(4, 5), size=(64, 80), rows=3, seed: int = 0) -> Scores:
    values = np.random.default_rng(seed).random((rows, *map_size)).astype(np.float32)
    return Scores(values, np.array([0, 4, 2, 5][:rows], np.uint8), size)


def reference_sinkhorn(matrix: np.ndarray, iterations: int) -> np.ndarray:
    """Divide columns, then rows, by their sums, one number at a time, in float64."""
    matrix = matrix.astype(np.float64).copy()
    for _ in range(iterations):
        for column in range(len(matrix)):
            matrix[:, column] /= sum(matrix[:, column])
        for row in range(len(matrix)):
            matrix[row] /= sum(matrix[row])
    if iterations == 0:
        for row in range(len(matrix)):
            matrix[row] /= sum(matrix[row])
    return matrix


def reference_boxes(one: np.ndarray, min_frac: float) -> np.ndarray:
    """Grow each part from a seed, eight neighbours at a time, and fill its bounding box."""
    strong = {tuple(cell) for cell in np.argwhere(one >= min_frac * one.max())}
    mask = np.zeros(one.shape)
    while strong:
        part, waiting = set(), [strong.pop()]
        while waiting:
            row, column = waiting.pop()
            part.add((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
            waiting += around & strong
            strong -= around
        rows, columns = zip(*part, strict=True)
        mask[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1] = 1
    return mask


def reference(net, image, scores, config: AttentionAffinity) -> np.ndarray:
    """Refine by the formula of the paper: the dense power of the matrix, columns masked."""
    planes = torch.from_numpy(normalise(image))[None]
    with torch.no_grad():
        layers = attention_maps(net.backbone, planes)[0].double().numpy()
    last = layers[-config.num_layers :] if config.num_layers else layers
    matrix = reference_sinkhorn(last.mean(axis=0), config.sinkhorn_iterations)
    if config.symmetrise:
        matrix = (matrix + matrix.T) / 2
    matrix = np.linalg.matrix_power(matrix, config.num_steps)
    refined = scores.values.astype(np.float64)
    for row in range(1, len(refined)):
        one = refined[row]
        mask = np.ones(one.shape)
        if config.box_min_frac is not None:
            mask = reference_boxes(one, config.box_min_frac)
        found = ((matrix * mask.reshape(1, -1)) @ one.reshape(-1)).reshape(one.shape)
        if config.stretch == "minmax":
            found = (found - found.min()) / (found.max() - found.min()) * one.max()
        elif config.stretch == "max":
            found = found / found.max() * one.max()
        refined[row] = found
    return refined


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_layers": 1, "symmetrise": False},
        {"num_layers": None, "box_min_frac": None},
        {"num_layers": 3, "num_steps": 1, "stretch": "none"},
        {"num_steps": 5, "stretch": "max", "sinkhorn_iterations": 0, "box_min_frac": 0.9},
        {"sinkhorn_iterations": 20, "stretch": "none"},
    ],
)
def test_the_result_is_that_of_the_dense_formula_in_float64(net, context, settings):
    config = AttentionAffinity(**settings)
    image, scores = make_image(), make_scores()
    found = attention_affinity(image, scores, config=config, context=context)
    expected = reference(net, image, scores, config)
    assert np.abs(expected[1:] - scores.values[1:]).max() > 0.1
    np.testing.assert_allclose(found.values, expected, atol=2e-5)
    assert found.class_ids.tolist() == scores.class_ids.tolist()


def test_only_the_chosen_heads_count(context):
    image, scores = make_image(), make_scores()
    one, every, none = (
        AttentionAffinity(heads=heads, num_steps=1, stretch="none") for heads in ((0,), None, (99,))
    )
    found = attention_affinity(image, scores, config=one, context=context).values
    mean = attention_affinity(image, scores, config=every, context=context).values
    assert np.abs(found - mean).max() > 1e-3
    with pytest.raises(RecipeError, match="attention heads"):
        attention_affinity(image, scores, config=none, context=context)


def attend_to(groups: np.ndarray):
    """Give a stand-in for `attention_maps` where cells look at their own group only."""

    def attention(backbone, images, layers=None, heads=None):
        same = torch.from_numpy((groups.reshape(-1, 1) == groups.reshape(1, -1)).astype(np.float32))
        return (same / same.sum(1, keepdim=True))[None, None]

    return attention


def test_a_part_fills_the_patches_that_look_at_each_other(context, monkeypatch):
    groups = np.zeros((4, 5), int)
    groups[1:3, 1:4] = 1
    monkeypatch.setattr("wsseg.nets.attention.attention_maps", attend_to(groups))
    values = np.zeros((2, 4, 5), np.float32)
    values[1, 1, 1] = 0.8
    scores = Scores(values, np.array([0, 3], np.uint8), (64, 80))
    refined = attention_affinity(make_image(), scores, context=context)
    np.testing.assert_allclose(refined.values[1], 0.8 * groups, atol=1e-6)


def test_what_lies_outside_the_boxes_does_not_spread(context, monkeypatch):
    groups = np.tile([0, 0, 1, 1, 1], (4, 1))
    monkeypatch.setattr("wsseg.nets.attention.attention_maps", attend_to(groups))
    values = np.zeros((2, 4, 5), np.float32)
    values[1, 0, 0], values[1, 3, 4] = 1.0, 0.3
    scores = Scores(values, np.array([0, 3], np.uint8), (64, 80))
    boxed = attention_affinity(make_image(), scores, context=context).values[1]
    np.testing.assert_allclose(boxed, 1.0 - groups, atol=1e-6)
    config = AttentionAffinity(box_min_frac=None, stretch="max")
    free = attention_affinity(make_image(), scores, config=config, context=context).values[1]
    # 1 spread over 8 cells against 0.3 over 12.
    np.testing.assert_allclose(free[:, 2:], 0.3 / 12 * 8, atol=1e-6)


def test_attention_to_everything_alike_keeps_a_flat_map_instead_of_none(context, monkeypatch):
    monkeypatch.setattr("wsseg.nets.attention.attention_maps", attend_to(np.zeros((4, 5))))
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 1, 1] = 0.8
    scores = Scores(values, np.array([0, 3, 5], np.uint8), (64, 80))
    refined = attention_affinity(make_image(), scores, context=context).values
    np.testing.assert_allclose(refined[1], 0.8, atol=1e-6)
    np.testing.assert_array_equal(refined[2], 0)


def test_the_background_row_stays_and_classes_do_not_see_each_other(context):
    image, scores = make_image(), make_scores(rows=4)
    refined = attention_affinity(image, scores, context=context)
    np.testing.assert_array_equal(refined.values[0], scores.values[0])
    alone = Scores(scores.values[[0, 2]], scores.class_ids[[0, 2]], scores.size)
    found = attention_affinity(image, alone, context=context).values[1]
    np.testing.assert_allclose(found, refined.values[2], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "map_size"),
    [((1, 1), (1, 1)), ((33, 47), (9, 12)), ((16, 1), (4, 1)), ((50, 70),) * 2],
)
def test_odd_sizes_keep_their_shape_and_their_peaks_nearly(context, size, map_size):
    scores = make_scores(map_size, size)
    refined = attention_affinity(make_image(size), scores, context=context)
    assert refined.values.shape == scores.values.shape
    assert refined.size == size
    peaks = scores.values.max(axis=(1, 2))
    assert (refined.values.max(axis=(1, 2)) <= peaks + 1e-6).all()
    assert (refined.values[1:].max(axis=(1, 2)) > 0.5 * peaks[1:]).all()


def test_large_images_are_shrunk_for_the_network(context, monkeypatch):
    seen = []

    def spy(backbone, images, layers=None, heads=None):
        seen.append(tuple(images.shape[2:]))
        return attention_maps(backbone, images, layers, heads)

    monkeypatch.setattr("wsseg.nets.attention.attention_maps", spy)
    config = AttentionAffinity(max_side_px=64)
    scores = make_scores((8, 16), (128, 250))
    refined = attention_affinity(make_image((128, 250)), scores, config=config, context=context)
    assert seen == [(32, 64)]
    assert refined.values.shape == (3, 8, 16)


def test_an_image_without_classes_is_background_and_needs_no_network():
    scores = Scores(np.zeros((1, 4, 5), np.float32), np.array([0], np.uint8), (64, 80))
    np.testing.assert_array_equal(attention_affinity(make_image(), scores).values, 1)


def test_the_network_is_loaded_once_per_stage_and_affinities_once_per_image(net, monkeypatch):
    loaded, computed = [], []

    def localizer():
        loaded.append(1)
        return net

    def spy(*arguments):
        computed.append(1)
        return attention_maps(*arguments)

    monkeypatch.setattr("wsseg.nets.attention.attention_maps", spy)
    shared: dict = {}
    image, scores = make_image(), make_scores()
    for _ in range(2):
        context = RefineContext(localizer=localizer, shared=shared)
        first = attention_affinity(image, scores, context=context)
        second = attention_affinity(image, scores, context=context)
        np.testing.assert_array_equal(first.values, second.values)
    assert (len(loaded), len(computed)) == (1, 2)


def test_another_transformer_can_be_given_by_name_and_file(net, context, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "vit.safetensors"
    save_file(net.backbone.trunk.state_dict(), path)
    image, scores = make_image(), make_scores()
    config = AttentionAffinity(backbone="test_vit", weights=str(path))
    dataset = Dataset(tmp_path, ClassList(("a",)), ())
    attention_affinity.check(dataset, config=config, allow_masks=False)
    found = attention_affinity(image, scores, config=config)
    # A weight file brings ImageNet-like statistics of its own, which the localizer's did not have.
    own = build_backbone("test_vit", weights=str(path), output_stride=16).eval()
    expected = reference(ClassMapNet(own, 5), image, scores, config)
    np.testing.assert_allclose(found.values, expected, atol=2e-5)
    convolutional = RefineContext(localizer=lambda: make_net_without_attention())
    again = attention_affinity(image, scores, config=config, context=convolutional)
    np.testing.assert_array_equal(again.values, found.values)


def make_net_without_attention() -> ClassMapNet:
    return ClassMapNet(build_backbone("test_resnet", output_stride=16), 5).eval()


def test_missing_weights_and_networks_without_attention_are_found_before_the_run(tmp_path):
    dataset = Dataset(tmp_path, ClassList(("a",)), ())
    missing = AttentionAffinity(backbone="test_vit", weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(MissingWeightsError, match=r"none\.safetensors"):
        attention_affinity.check(dataset, config=missing, allow_masks=False)
    attention_affinity.check(dataset, config=AttentionAffinity(), allow_masks=False)


def test_a_localizer_without_attention_is_refused_by_name():
    context = RefineContext(localizer=make_net_without_attention)
    with pytest.raises(RecipeError, match='"test_resnet" has no self-attention'):
        attention_affinity(make_image(), make_scores(), context=context)


def test_without_a_localizer_the_ways_out_are_named():
    with pytest.raises(RecipeError, match=r"none here.*RefineContext.*`backbone` and `weights`"):
        attention_affinity(make_image(), make_scores())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "test_vit"}, "give both"),
        ({"weights": "imagenet"}, "give both"),
        ({"backbone": "test_vit", "weights": "none"}, "random network means nothing"),
    ],
)
def test_a_network_of_its_own_needs_name_and_weights(settings, message):
    with pytest.raises(ValidationError, match=message):
        AttentionAffinity(**settings)


def test_an_image_of_another_size_is_refused(context):
    with pytest.raises(DataError, match="its scores were made for"):
        attention_affinity(make_image((32, 32)), make_scores(), context=context)


@pytest.mark.parametrize("iterations", [0, 1, 3, 10])
def test_sinkhorn_is_the_loop_over_columns_and_rows(iterations):
    matrix = np.random.default_rng(0).random((7, 7)) ** 3
    found = sinkhorn(torch.from_numpy(matrix), iterations).numpy()
    np.testing.assert_allclose(found, reference_sinkhorn(matrix, iterations), rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_sinkhorn_tends_to_a_doubly_stochastic_matrix_and_keeps_one():
    matrix = torch.from_numpy(np.random.default_rng(1).random((9, 9)))
    balanced = sinkhorn(matrix, 100)
    np.testing.assert_allclose(balanced.sum(0), 1, atol=1e-12)
    torch.testing.assert_close(sinkhorn(balanced, 3), balanced)


def test_sinkhorn_survives_a_patch_that_nobody_looks_at():
    matrix = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert torch.isfinite(sinkhorn(matrix, 3)).all()


@pytest.mark.parametrize("seed", range(8))
def test_boxes_are_those_of_a_flood_fill(seed):
    one = np.random.default_rng(seed).random((11, 13)) ** 4
    np.testing.assert_array_equal(boxes_around(one, 0.4), reference_boxes(one, 0.4))


def test_a_map_of_zeros_has_no_box():
    assert not boxes_around(np.zeros((3, 4)), 0.4).any()


def test_spreading_is_the_power_of_the_matrix():
    rng = np.random.default_rng(2)
    matrix, maps = rng.random((6, 6)) / 6, rng.random((2, 2, 3))
    expected = (np.linalg.matrix_power(matrix, 3) @ maps.reshape(2, 6).T).T.reshape(2, 2, 3)
    found = spread(torch.from_numpy(matrix), maps, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_stretched_maps_reach_the_given_peaks():
    maps = np.array([[[0.2, 0.4]], [[0.5, 0.5]], [[0.0, 0.0]]])
    peaks = np.array([0.6, 0.3, 0.0]).reshape(3, 1, 1)
    minmax = stretched(maps, peaks, "minmax")
    np.testing.assert_allclose(minmax, [[[0, 0.6]], [[0.3, 0.3]], [[0, 0]]], rtol=1e-6)
    scaled = stretched(maps, peaks, "max")
    np.testing.assert_allclose(scaled, [[[0.3, 0.6]], [[0.3, 0.3]], [[0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(stretched(maps, peaks, "none"), maps, rtol=1e-6)


def test_shrinking_a_map_averages_its_cells_and_keeps_the_mean():
    maps = np.random.default_rng(3).random((1, 8, 8)).astype(np.float32)
    assert interpolated(maps, (2, 2)).mean() == pytest.approx(maps.mean(), abs=0.03)
    same = interpolated(maps, (8, 8))
    np.testing.assert_array_equal(same, maps)
    assert not np.shares_memory(same, maps)
