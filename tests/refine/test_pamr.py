from __future__ import annotations

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.kernels import pamr as kernel
from wsseg.refine.pamr import Pamr, _on_device, pamr
from wsseg.refine.protocol import RefineContext

METHODS = ["pamr", "par"]


def two_tone(size=(60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """A bright rectangle on dark ground with some noise, and where it is."""
    inside = np.zeros(size, bool)
    inside[15:45, 33:70] = True
    image = np.where(inside[..., None], (200, 180, 60), (30, 40, 50))
    image = image + np.random.default_rng(0).integers(-5, 6, image.shape)
    return image.astype(np.uint8), inside


def blurred_scores(inside: np.ndarray) -> Scores:
    blurred = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 4)[::4, ::4]
    values = np.stack([np.full_like(blurred, 0.5), blurred])
    return Scores(values, np.array([0, 1], np.uint8), inside.shape)


def iou(values: np.ndarray, truth: np.ndarray) -> float:
    found = values[1] > values[0]
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale_frac", [1.0, 0.5])
def test_a_blurred_map_gets_the_outline_of_the_object(method, scale_frac):
    image, inside = two_tone()
    scores = blurred_scores(inside)
    config = Pamr(method=method, scale_frac=scale_frac, dilations_px=(1, 2, 4, 8))
    refined = pamr(image, scores, config=config)
    assert refined.values.shape == (2, 60, 80)
    assert iou(refined.values, inside) > iou(scores.resized(), inside) + 0.02
    assert iou(refined.values, inside) > 0.93


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_kernel_on_the_enlarged_scores(method):
    image, inside = two_tone()
    scores = blurred_scores(inside)
    config = Pamr(method=method, iterations=3, dilations_px=(1, 5))
    expected = kernel.pamr(
        image,
        scores.resized(),
        config=kernel.PamrConfig(method=method, iterations=3, dilations_px=(1, 5)),
    )
    np.testing.assert_array_equal(pamr(image, scores, config=config).values, expected)


def test_the_torch_form_that_devices_run_gives_the_same():
    image, inside = two_tone()
    scores = blurred_scores(inside)
    # Without a GPU: what a device would run, on the CPU.
    unfolded = _on_device(image, scores.resized(), Pamr().kernel(), "cpu")
    np.testing.assert_allclose(unfolded, pamr(image, scores).values, atol=1e-5)


def test_no_evidence_stays_no_evidence_and_the_background_is_averaged_too():
    image, inside = two_tone()
    scores = blurred_scores(inside)
    raw = scores.with_background(np.zeros_like(scores.values[0]))
    assert (pamr(image, raw).values[0] == 0).all()
    np.testing.assert_allclose(pamr(image, scores).values[0], 0.5, atol=1e-5)


def test_half_the_size_costs_detail_but_keeps_the_size_of_the_image():
    image, inside = two_tone((61, 83))
    scores = blurred_scores(inside)
    refined = pamr(image, scores, config=Pamr(scale_frac=0.01))
    assert refined.values.shape == (2, 61, 83)
    # One pixel for the whole image keeps its mean only.
    np.testing.assert_allclose(refined.values[1], scores.resized()[1].mean(), atol=1e-3)


def test_an_image_without_classes_is_background():
    scores = Scores(np.zeros((1, 2, 2), np.float32), np.array([0], np.uint8), (8, 8))
    refined = pamr(np.zeros((8, 8, 3), np.uint8), scores, context=RefineContext())
    np.testing.assert_array_equal(refined.values, np.ones((1, 8, 8), np.float32))


def test_an_image_of_another_size_and_unknown_settings_are_refused():
    scores = Scores(np.zeros((2, 5, 5), np.float32), np.array([0, 1], np.uint8), (20, 20))
    with pytest.raises(DataError, match=r"30 x 10 px, but its scores were made for 20 x 20 px"):
        pamr(np.zeros((10, 30, 3), np.uint8), scores)
    with pytest.raises(ValidationError):
        Pamr(method="parr")
    with pytest.raises(ValidationError):
        Pamr(scale_frac=0)
