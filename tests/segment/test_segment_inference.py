"""Tests of wsseg.segment.inference, forward and predict with networks that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsseg.data.colour import normalise
from wsseg.data.labels import Boxes, ClassList
from wsseg.errors import RecipeError
from wsseg.nets.bb_unet import draw_boxes
from wsseg.segment.bb_unet import BbUnet, bb_unet
from wsseg.segment.config import PredictConfig, PredictCrfConfig
from wsseg.segment.forward import TorchForward
from wsseg.segment.inference import only_tags, predict_probabilities, resize_maps
from wsseg.segment.predict import Predictor

PLAIN = PredictConfig(scales=(1.0,), flip=False, tile_px=None)


class PixelForward:
    """Softmax of the three colours of each pixel: local, so tiles and mirrors change nothing."""

    def __init__(self, fixed_size: tuple[int, int] | None = None) -> None:
        self.fixed_size = fixed_size
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.shapes.append(images.shape)
        if self.fixed_size is not None:
            assert images.shape[1:3] == self.fixed_size
        values = np.exp(images.astype(np.float32) / 64).transpose(0, 3, 1, 2)
        return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


class GradientForward:
    """Class 1 grows from left to right of whatever view it is given."""

    fixed_size = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        n, h, w = images.shape[:3]
        ramp = np.broadcast_to((np.arange(w, dtype=np.float32) + 0.5) / w, (n, h, w))
        return np.stack([1 - ramp, ramp], axis=1)


class BoxForward(PixelForward):
    """Class 1 where a box of class 1 is, class 2 where one of class 2 is, whatever the image."""

    takes_boxes = True

    def with_boxes(self, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        h, w = images.shape[1:3]
        drawn = draw_boxes(torch.from_numpy(boxes), (h, w), 2, per_class=True).numpy()
        background = 1 - drawn.sum(axis=1, keepdims=True)
        return np.concatenate([background, drawn], axis=1).astype(np.float32)


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (53, 41), (64, 64)])
def test_probabilities_have_the_size_of_the_image_and_sum_to_one(size: tuple[int, int]):
    config = PredictConfig(scales=(0.5, 1.0, 1.7), flip=True, tile_px=32, overlap_px=8)
    result = predict_probabilities(PixelForward(), _image(*size), config)
    assert result.shape == (3, *size)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        PredictConfig(flip=True, tile_px=None),
        PredictConfig(flip=True, tile_px=32, overlap_px=8, batch_size=3),
        PredictConfig(scales=(1.0, 2.0), flip=True, tile_px=48, overlap_px=16),
    ],
)
def test_boxes_are_where_they_belong_in_every_scale_mirror_and_tile(config):
    boxes = np.array([[4, 10, 50, 30, 1], [60, 2, 90, 44, 2], [0] * 5], np.float32)
    found = predict_probabilities(BoxForward(), _image(50, 100), config, boxes=boxes)
    expected = np.zeros((50, 100), int)
    expected[10:30, 4:50], expected[2:44, 60:90] = 1, 2
    np.testing.assert_array_equal(found.argmax(axis=0), expected)


def test_boxes_of_an_image_are_shrunk_with_it():
    predictor = Predictor(BoxForward(), ClassList(("a", "b")), PLAIN, max_side_px=50)
    boxes = Boxes([[20, 10, 60, 30]], [2])
    found = predictor.predict(_image(50, 100), boxes=boxes).mask
    assert (found[10:30, 20:60] == 2).all()
    assert found.sum() == 2 * 20 * 40
    assert predictor.predict(_image(50, 100), boxes=Boxes([], [])).mask.sum() == 0


def test_boxes_for_a_network_that_does_not_look_at_them_are_refused():
    predictor = Predictor(PixelForward(), ClassList(("a", "b")), PLAIN)
    with pytest.raises(RecipeError, match="does not look at boxes"):
        predictor.predict(_image(4, 4), boxes=Boxes([], []))
    with pytest.raises(ValueError, match="does not look at boxes"):
        predict_probabilities(PixelForward(), _image(4, 4), PLAIN, boxes=np.zeros((1, 5), "f"))


def test_a_network_with_boxes_computes_what_it_computed_in_training():
    task = bb_unet(config=BbUnet(in_channels=1), num_classes=2).eval()
    forward = TorchForward(task, in_channels=1)
    assert forward.takes_boxes
    assert not TorchForward(nn.Conv2d(3, 3, 1)).takes_boxes
    image = _image(16, 24)
    boxes = np.array([[2, 3, 12, 14, 2]], np.float32)
    grey = torch.from_numpy(normalise(image, 1))[None]
    with torch.no_grad():
        expected = task.with_boxes(grey, torch.from_numpy(boxes)[None]).softmax(dim=1)[0]
    found = predict_probabilities(forward, image, PLAIN, boxes=boxes)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    plain = predict_probabilities(forward, image, PLAIN)
    assert np.abs(plain - found).max() > 1e-4


def test_tiles_and_mirrors_of_a_local_network_change_nothing():
    image = _image(75, 110)
    expected = predict_probabilities(PixelForward(), image, PLAIN)
    tiled = PredictConfig(flip=True, tile_px=33, overlap_px=7, batch_size=3)
    np.testing.assert_allclose(
        predict_probabilities(PixelForward(), image, tiled), expected, atol=1e-6
    )


def test_tiles_have_at_most_the_tile_size_and_batches_the_batch_size():
    forward = PixelForward()
    predict_probabilities(
        forward, _image(75, 110), PredictConfig(tile_px=40, overlap_px=8, batch_size=3)
    )
    assert all(shape[0] <= 3 and shape[1:] == (40, 40, 3) for shape in forward.shapes)
    # 3 x 4 tiles, each plain and mirrored.
    assert sum(shape[0] for shape in forward.shapes) == 24


def test_mirrored_view_is_mirrored_back_before_averaging():
    result = predict_probabilities(GradientForward(), _image(6, 10), PredictConfig(flip=True))
    # A ramp and its mirror image average to one half everywhere.
    np.testing.assert_allclose(result, 0.5, atol=1e-6)
    mirrored = predict_probabilities(GradientForward(), _image(6, 10), PLAIN)
    np.testing.assert_allclose(mirrored[1, 0], (np.arange(10) + 0.5) / 10, atol=1e-6)


def test_prediction_with_flip_is_equivariant_to_mirroring_the_image():
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 5, padding=2)
    forward = TorchForward(net)
    image = _image(21, 34)
    config = PredictConfig(flip=True)
    plain = predict_probabilities(forward, image, config)
    mirrored = predict_probabilities(forward, np.ascontiguousarray(image[:, ::-1]), config)
    np.testing.assert_allclose(mirrored[..., ::-1], plain, atol=1e-5)


def test_scales_are_averaged_after_softmax_at_the_original_size():
    image = _image(24, 36)
    half = PredictConfig(scales=(0.5,), flip=False)
    both = PredictConfig(scales=(0.5, 1.0), flip=False)
    expected = (
        predict_probabilities(PixelForward(), image, half)
        + predict_probabilities(PixelForward(), image, PLAIN)
    ) / 2
    np.testing.assert_allclose(
        predict_probabilities(PixelForward(), image, both), expected, atol=1e-6
    )


@pytest.mark.parametrize("size", [(20, 30), (32, 48), (70, 90), (1, 1)])
def test_network_of_one_size_sees_that_size_and_gives_the_same_result(size: tuple[int, int]):
    image = _image(*size)
    expected = predict_probabilities(PixelForward(), image, PLAIN)
    fixed = predict_probabilities(PixelForward((32, 48)), image, PredictConfig(flip=True))
    np.testing.assert_allclose(fixed, expected, atol=1e-6)


def test_torch_forward_is_softmax_of_the_normalised_image():
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1)
    image = _image(9, 7)
    expected = net(torch.from_numpy(normalise(image))[None]).softmax(dim=1)[0]
    found = TorchForward(net)(image[None])[0]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


def test_torch_forward_of_a_grey_network_sees_what_training_sees():
    torch.manual_seed(0)
    net = nn.Conv2d(1, 2, 3, padding=1)
    image = _image(9, 7)
    expected = net(torch.from_numpy(normalise(image, in_channels=1))[None]).softmax(dim=1)[0]
    found = TorchForward(net, in_channels=1)(image[None])[0]
    # OpenCV rounds luma halves in fixed point: now and then one grey level apart.
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=0.01)


def test_torch_forward_leaves_the_mode_of_the_network_as_it_was():
    class Dropping(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return images

    net = Dropping().train()
    TorchForward(net)(_image(4, 4)[None])
    assert net.training
    net.eval()
    TorchForward(net)(_image(4, 4)[None])
    assert not net.training


def test_bfloat16_is_close_to_float32():
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1)
    image = _image(16, 16)
    exact = TorchForward(net)(image[None])
    half = TorchForward(net, precision="bfloat16")(image[None])
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.02


def test_only_tags_removes_other_classes_and_renormalises():
    values = np.array([[0.1, 0.0], [0.3, 0.0], [0.6, 1.0]], np.float32).reshape(3, 1, 2)
    result = only_tags(values, {1})
    np.testing.assert_allclose(result[:, 0, 0], [0.25, 0.75, 0], atol=1e-6)
    # Nothing allowed had any probability: background.
    np.testing.assert_array_equal(result[:, 0, 1], [1, 0, 0])


def test_tags_restrict_only_where_the_settings_say_so():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 2] = 255
    free = predict_probabilities(PixelForward(), image, PLAIN, tags={1})
    assert (free.argmax(axis=0) == 2).all()
    restricted = PLAIN.model_copy(update={"restrict_to_tags": True})
    bound = predict_probabilities(PixelForward(), image, restricted, tags={1})
    assert (bound[2] == 0).all()
    unknown = predict_probabilities(PixelForward(), image, restricted, tags=None)
    np.testing.assert_array_equal(unknown, free)


def test_crf_settings_are_those_of_the_kernel():
    from wsseg.kernels.dense_crf import DEEPLAB, CrfConfig

    settings = PredictCrfConfig().model_dump(exclude={"prune_below"})
    assert CrfConfig.model_validate(settings) == DEEPLAB
    assert set(settings) == set(CrfConfig.model_fields)


def test_crf_is_applied_to_the_averaged_probabilities():
    from wsseg.kernels.dense_crf import DEEPLAB, dense_crf, unary_from_scores

    image = _image(15, 22)
    plain = predict_probabilities(PixelForward(), image, PLAIN)
    config = PLAIN.model_copy(update={"crf": PredictCrfConfig()})
    expected = dense_crf(image, unary_from_scores(plain), config=DEEPLAB)
    found = predict_probabilities(PixelForward(), image, config)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - plain).max() > 0.05


def test_resized_maps_keep_their_sum_and_a_constant():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 5, 7)).astype(np.float32)
    maps /= maps.sum(axis=0)
    maps = np.concatenate([maps * 0.5, np.full((1, 5, 7), 0.5, np.float32)])
    resized = resize_maps(maps, (11, 20))
    np.testing.assert_allclose(resized.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(resized[3], 0.5, atol=1e-6)


def test_predictor_returns_masks_at_the_original_size_of_shrunk_images():
    forward = PixelForward()
    predictor = Predictor(forward, ClassList(("green", "blue")), PLAIN, max_side_px=32)
    image = np.zeros((50, 101, 3), np.uint8)
    image[:, :50, 1] = 255
    image[:, 50:, 2] = 255
    prediction = predictor.predict(image)
    assert forward.shapes == [(1, 16, 32, 3)]
    assert prediction.mask.shape == (50, 101)
    assert prediction.mask.dtype == np.uint8
    assert (prediction.mask[:, :45] == 1).all()
    assert (prediction.mask[:, 56:] == 2).all()
    np.testing.assert_array_equal(prediction.mask, prediction.probabilities.argmax(axis=0))
