from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsseg.data.colour import normalise
from wsseg.errors import DataError
from wsseg.localize.config import (
    CamExtractor,
    GradCamExtractor,
    InferenceConfig,
    LayerCamExtractor,
)
from wsseg.localize.inference import class_maps, classify, normalised, prepare
from wsseg.nets.backbones import Backbone
from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet

PLAIN = InferenceConfig(scales=(1.0,), flip=False)


class Pixels(nn.Module):
    """A trunk whose features are the pixels, averaged over cells; it sees nothing around them."""

    feature_info = ()

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride)

    def forward_features(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.pool(images)
        return pooled


@pytest.fixture
def pixels() -> ClassMapNet:
    """Class 1 is red, class 2 green, class 3 blue."""
    net = ClassMapNet(Backbone(Pixels(), "pixels"), 3, dropout=0.0).eval()
    net.head.weight.data.copy_(torch.eye(3)[:, :, None, None])
    return net


@pytest.fixture(scope="module")
def trained_like() -> ClassMapNet:
    torch.manual_seed(0)
    return ClassMapNet(build_backbone("test_resnet"), 3).eval()


def scene(height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """A red square at the left on black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height // 2, width // 8 : width // 4, 0] = 255
    return image


def test_the_map_marks_the_object(pixels: ClassMapNet) -> None:
    scores, _ = class_maps(pixels, scene(), {1}, InferenceConfig())
    assert scores.values.shape == (2, 16, 24)
    assert scores.class_ids.tolist() == [0, 1]
    assert scores.size == (64, 96)
    assert (scores.values[0] == 0).all()
    inside = scores.values[1, 4:8, 3:6]
    assert inside.min() > 0.4
    assert scores.values[1, :, 12:].max() < 0.05
    row, column = np.unravel_index(scores.values[1].argmax(), scores.values[1].shape)
    assert (row // 4, column // 3) == (1, 1)


def test_flip_alone_changes_nothing_for_a_symmetric_network(pixels: ClassMapNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    with_flip, _ = class_maps(pixels, image, {1}, PLAIN.model_copy(update={"flip": True}))
    without, _ = class_maps(pixels, image, {1}, PLAIN)
    np.testing.assert_allclose(with_flip.values, without.values, atol=1e-6)


def test_a_mirrored_image_has_mirrored_maps(trained_like: ClassMapNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    config = InferenceConfig(scales=(1.0, 2.0))
    one, _ = class_maps(trained_like, image, {1, 2}, config)
    other, _ = class_maps(trained_like, np.ascontiguousarray(image[:, ::-1]), {1, 2}, config)
    np.testing.assert_allclose(other.values[..., ::-1], one.values, atol=1e-4)


def test_maps_are_the_average_over_scales(trained_like: ClassMapNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    raw = [
        InferenceConfig(scales=scales, flip=False, normalise="absolute", map_stride_px=8)
        for scales in ((1.0,), (2.0,), (1.0, 2.0))
    ]
    first, second, both = (
        2 * np.arctanh(np.minimum(class_maps(trained_like, image, {1}, c)[0].values[1], 1 - 1e-7))
        for c in raw
    )
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("extractor", [None, GradCamExtractor(), LayerCamExtractor(stages=(2, 4))])
def test_one_forward_pass_per_scale_and_flip_gives_all_classes(
    trained_like: ClassMapNet, extractor: object
) -> None:
    calls = []
    handle = trained_like.backbone.trunk.conv1.register_forward_hook(lambda *_: calls.append(1))
    config = InferenceConfig(scales=(0.5, 1.0, 2.0))
    if extractor is not None:
        config = config.model_copy(update={"extractor": extractor})
    try:
        class_maps(trained_like, scene(), {1, 2, 3}, config)
        assert len(calls) == 6
        calls.clear()
        predicted = config.model_copy(update={"tags": "predicted"})
        class_maps(trained_like, scene(), None, predicted)
        assert len(calls) == 6
    finally:
        handle.remove()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3, 2), (17, 33), (50, 41)])
def test_any_size_gives_maps_of_that_size(trained_like: ClassMapNet, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    scores, probabilities = class_maps(trained_like, image, {2}, InferenceConfig())
    assert scores.size == size
    assert scores.values.shape == (2, -(-size[0] // 4), -(-size[1] // 4))
    assert np.isfinite(scores.values).all()
    assert probabilities.shape == (3,)
    assert scores.resized().shape == (2, *size)


def test_an_image_without_classes_is_background_everywhere(trained_like: ClassMapNet) -> None:
    scores, probabilities = class_maps(trained_like, scene(), frozenset(), InferenceConfig())
    assert scores.class_ids.tolist() == [0]
    assert (scores.values == 1).all()
    np.testing.assert_allclose(
        probabilities, classify(trained_like, scene(), InferenceConfig()), rtol=1e-5
    )


def test_predicted_tags_are_those_above_the_threshold(pixels: ClassMapNet) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 1] = 255
    config = InferenceConfig(tags="predicted", min_tag_probability=0.6)
    scores, probabilities = class_maps(pixels, image, None, config)
    assert scores.class_ids.tolist() == [0, 2]
    assert (probabilities >= 0.6).tolist() == [False, True, False]
    nothing = config.model_copy(update={"min_tag_probability": 1.0})
    assert class_maps(pixels, image, None, nothing)[0].class_ids.tolist() == [0]


def test_probabilities_are_the_sigmoid_of_the_mean_logits(pixels: ClassMapNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    mean = normalise(image).mean(axis=(1, 2))
    np.testing.assert_allclose(classify(pixels, image, PLAIN), 1 / (1 + np.exp(-mean)), rtol=1e-4)


def test_maps_of_tiles_are_those_of_the_whole_where_the_network_looks_at_pixels(
    pixels: ClassMapNet,
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 203, 3), np.uint8)
    for rule in ("max", "minmax", "absolute"):
        config = InferenceConfig(scales=(1.0,), normalise=rule)
        stretched = np.zeros((152, 204, 3), np.uint8)
        stretched[:150, :203] = image
        whole, _ = class_maps(pixels, stretched, {1, 3}, config)
        tiled, _ = class_maps(
            pixels,
            stretched,
            {1, 3},
            config.model_copy(update={"tile_px": 64, "tile_overlap_px": 16}),
        )
        np.testing.assert_allclose(tiled.values, whole.values, atol=1e-5)


def test_tiles_leave_no_seams_in_a_uniform_image(trained_like: ClassMapNet) -> None:
    image = np.full((128, 256, 3), 90, np.uint8)
    config = InferenceConfig(scales=(1.0,), normalise="absolute", tile_px=64, tile_overlap_px=32)
    scores, _ = class_maps(trained_like, image, {1, 2, 3}, config)
    middle = scores.values[1:, 12:20, 12:-12]
    # Shifts of whole half tiles see the same, so that the map repeats with that period.
    np.testing.assert_allclose(middle[:, :, :8], middle[:, :, 8:16], atol=0.05)


def test_the_class_of_a_tiled_image_is_that_of_its_strongest_tile(pixels: ClassMapNet) -> None:
    image = np.zeros((64, 256, 3), np.uint8)
    image[:, 192:, 2] = 255
    config = InferenceConfig(scales=(1.0,), flip=False, tile_px=64, tile_overlap_px=0)
    tiled = classify(pixels, image, config)
    corner = classify(pixels, np.ascontiguousarray(image[:, 192:]), PLAIN)
    assert tiled[2] == pytest.approx(corner[2], rel=1e-5)


def test_forward_sizes_stay_bounded_by_the_tile(pixels: ClassMapNet) -> None:
    sizes = []
    handle = pixels.backbone.register_forward_pre_hook(
        lambda _, inputs: sizes.append(inputs[0].shape[2:])
    )
    config = InferenceConfig(scales=(1.0, 2.0), tile_px=64, tile_overlap_px=16)
    class_maps(pixels, scene(200, 500), {1}, config)
    handle.remove()
    assert max(max(size) for size in sizes) == 128


def test_maximum_normalisation_gives_every_present_class_its_full_range() -> None:
    maps = np.array([[[0.0, 0.002]], [[3.0, 6.0]]], np.float32)
    found = normalised(maps, "max")
    np.testing.assert_allclose(found, [[[0, 0.995]], [[0.5, 1.0]]], atol=1e-3)
    assert (normalised(np.zeros((1, 2, 2), np.float32), "max") == 0).all()


def test_minmax_normalisation_removes_a_constant() -> None:
    maps = np.array([[[2.0, 3.0, 4.0]]], np.float32)
    np.testing.assert_allclose(normalised(maps, "minmax"), [[[0, 0.5, 1]]], atol=1e-4)
    assert (normalised(np.full((1, 2, 2), 7.0, np.float32), "minmax") == 0).all()


def test_median_normalisation_counts_from_the_level_of_the_surroundings() -> None:
    maps = np.array([[[-9.0, -2.0, -2.0, -1.0, 0.0]]], np.float32)
    np.testing.assert_allclose(normalised(maps, "median"), [[[0, 0, 0, 0.5, 1]]], atol=1e-4)
    np.testing.assert_allclose(
        normalised(maps + 100, "median"), normalised(maps, "median"), atol=1e-4
    )
    assert (normalised(np.full((1, 2, 2), -7.0, np.float32), "median") == 0).all()


@pytest.mark.parametrize("tile_px", [None, 64])
def test_negative_maps_become_scores_between_zero_and_one(
    trained_like: ClassMapNet, tile_px: int | None
) -> None:
    config = InferenceConfig(
        extractor=CamExtractor(rectify=False),
        normalise="median",
        tile_px=tile_px,
        tile_overlap_px=16,
    )
    scores, _ = class_maps(trained_like, scene(96, 130), {1, 2, 3}, config)
    found = scores.values[1:]
    assert found.min() == 0
    np.testing.assert_allclose(found.max(axis=(1, 2)), 1, atol=1e-3)
    assert np.median(found, axis=(1, 2)).max() < 1e-2


def test_absolute_normalisation_leaves_a_weak_map_weak() -> None:
    maps = np.array([[[0.0, 0.1, 2.0, 50.0]]], np.float32)
    expected = 2 / (1 + np.exp(-maps.astype(np.float64))) - 1
    np.testing.assert_allclose(normalised(maps, "absolute"), expected, rtol=1e-5)
    assert normalised(maps, "absolute")[0, 0, 1] < 0.06


def test_the_prepared_network_gives_the_same_scores(trained_like: ClassMapNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    expected, probabilities = class_maps(trained_like, image, {1, 2, 3}, InferenceConfig())
    fast = prepare(trained_like, InferenceConfig())
    found, found_probabilities = class_maps(fast, image, {1, 2, 3}, InferenceConfig())
    np.testing.assert_allclose(found.values, expected.values, atol=1e-4)
    np.testing.assert_allclose(found_probabilities, probabilities, atol=1e-4)


def test_bfloat16_changes_the_maps_little(trained_like: ClassMapNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    config = InferenceConfig(precision="bfloat16", scales=(1.0, 2.0))
    expected, _ = class_maps(trained_like, image, {1, 2}, config)
    found, _ = class_maps(prepare(trained_like, config), image, {1, 2}, config)
    assert np.abs(found.values - expected.values).max() < 0.08


def test_grey_networks_take_colour_images() -> None:
    net = ClassMapNet(build_backbone("test_resnet", in_channels=1), 2).eval()
    scores, _ = class_maps(net, scene(), {1}, PLAIN)
    assert scores.values.shape == (2, 16, 24)


def test_the_square_root_of_vgg_maps_is_taken(pixels: ClassMapNet) -> None:
    image = np.random.default_rng(0).integers(128, 256, (32, 32, 3), np.uint8)
    config = InferenceConfig(scales=(1.0,), flip=False, normalise="absolute")
    plain = 2 * np.arctanh(class_maps(pixels, image, {1}, config)[0].values[1])
    pixels.backbone.map_exponent = 0.5
    rooted = 2 * np.arctanh(class_maps(pixels, image, {1}, config)[0].values[1])
    np.testing.assert_allclose(rooted, np.sqrt(plain), rtol=1e-3)


def test_the_image_is_left_unchanged_and_the_result_is_repeatable(
    trained_like: ClassMapNet,
) -> None:
    image = scene()
    before = image.copy()
    trained_like.train()
    one, _ = class_maps(trained_like, image, {1}, InferenceConfig())
    other, _ = class_maps(trained_like, image, {1}, InferenceConfig())
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(one.values, other.values)


def test_an_untagged_image_needs_predicted_tags(trained_like: ClassMapNet) -> None:
    with pytest.raises(DataError, match=r"localize\.inference\.tags=predicted"):
        class_maps(trained_like, scene(), None, InferenceConfig())


def test_a_tag_that_the_network_does_not_know_is_refused(trained_like: ClassMapNet) -> None:
    with pytest.raises(DataError, match=r"\[7\] are not classes of the network, which has 3"):
        class_maps(trained_like, scene(), {1, 7}, InferenceConfig())


def test_a_grey_array_is_refused(trained_like: ClassMapNet) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        class_maps(trained_like, np.zeros((8, 8), np.uint8), {1}, InferenceConfig())
