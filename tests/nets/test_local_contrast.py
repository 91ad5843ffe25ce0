"""Local contrast normalisation against explicit windows, and where networks use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.nets.build import build_backbone
from wsseg.nets.local_contrast import EPSILON, LocalContrast
from wsseg.nets.segmentation import SegmentationNet


def explicit(image: np.ndarray, window: int) -> np.ndarray:
    """The formula with a loop over pixels in float64; image (C, H, W)."""
    reach = window // 2
    result = np.empty(image.shape)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            box = image[
                :,
                max(0, row - reach) : row + reach + 1,
                max(0, column - reach) : column + reach + 1,
            ].reshape(len(image), -1)
            deviation = np.sqrt(box.var(axis=1).mean() + EPSILON**2)
            result[:, row, column] = (image[:, row, column] - box.mean(axis=1)) / deviation
    return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 12), (20, 9)])
def test_it_is_the_formula_with_boxes_cut_at_the_border(
    channels: int, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).normal(2, 1.5, (channels, *size))
    found = LocalContrast(5)(torch.tensor(image, dtype=torch.float32)[None])[0].numpy()
    np.testing.assert_allclose(found, explicit(image, 5), atol=2e-5)


def test_slow_shading_goes_and_a_spot_stays() -> None:
    rows, columns = np.mgrid[:64, :64]
    image = (columns / 16 + rows / 32).astype(np.float32)
    image[30:33, 40:43] += 0.5
    found = LocalContrast(17)(torch.from_numpy(image)[None, None])[0, 0].numpy()
    inner = found[12:-12, 12:-12]
    assert np.unravel_index(inner.argmax(), inner.shape) == pytest.approx((19, 29), abs=2)
    assert inner.max() > 4 * np.median(np.abs(inner))


def test_an_offset_far_from_zero_costs_no_digits() -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(0, 0.2, (1, 1, 32, 32)))
    plain = LocalContrast(9)(image.float())
    shifted = LocalContrast(9)((image + 100).float())
    torch.testing.assert_close(plain, shifted, atol=2e-3, rtol=0)


def test_half_precision_comes_back_as_it_went_in() -> None:
    images = torch.randn(1, 3, 16, 16, dtype=torch.bfloat16)
    found = LocalContrast(5)(images)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.float(), LocalContrast(5)(images.float()), atol=0.03, rtol=0.01
    )


def test_a_backbone_sees_the_same_under_another_lighting() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet", output_stride=8, local_contrast_px=15).eval()
    plain = build_backbone("test_resnet", output_stride=8).eval()
    plain.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, 48, 48)
    lit = images + torch.linspace(0, 4, 48)[None, None, None]
    with torch.no_grad():
        evened = (backbone(images) - backbone(lit)).abs().mean()
        uneven = (plain(images) - plain(lit)).abs().mean()
    assert float(evened) < 0.2 * float(uneven)


@torch.no_grad()
def test_a_segmentation_network_normalises_inside() -> None:
    torch.manual_seed(0)
    net = SegmentationNet("unet", "resnet18", 2, weights="none", local_contrast_px=9).eval()
    other = SegmentationNet("unet", "resnet18", 2, weights="none").eval()
    other.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 40, 33)
    torch.testing.assert_close(net(images), other(LocalContrast(9)(images)))
