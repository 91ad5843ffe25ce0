"""Tiny networks with regularisers, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wsseg.localize.regularise.attach import make_localizer
from wsseg.localize.tags.cam import Cam
from wsseg.nets.cam_head import ClassMapNet

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "output_stride": 8,
    "dropout": 0.0,
    "training": {"epochs": 2, "batch_size": 4, "num_workers": 0, "precision": "float32"},
    "augment": {"scale": None, "crop_px": 64},
    "inference": {"scales": [1.0], "flip": False, "normalise": "minmax"},
}


# Settings of those whose defaults take long, or add to what a network without them has.
CASES: dict[str, dict[str, Any]] = {
    "s2c": {
        "name": "s2c",
        "dim": None,
        "start_epoch": 1,
        "scales": [1.0],
        "segments": {"name": "folder", "path": "unused"},
    }
}


def small_config(*regularisers: Any, **changes: Any) -> Cam:
    """Settings of a tiny localizer."""
    chosen = [CASES.get(one, one) if isinstance(one, str) else one for one in regularisers]
    return Cam.model_validate({**SMALL, "regularisers": chosen, **changes})


@pytest.fixture
def config() -> Callable[..., Cam]:
    return small_config


@pytest.fixture
def make_net() -> Callable[..., ClassMapNet]:
    """Make the tiny network with regularisers, the same weights every time."""

    def make(*regularisers: Any, num_classes: int = 3, **changes: Any) -> ClassMapNet:
        torch.manual_seed(0)
        return make_localizer(small_config(*regularisers, **changes), num_classes)

    return make


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four images of 64 pixels with tags and segments, the last one without; a part is padding."""
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(4, 1, 64, 64)
    valid[1, :, :, 40:] = 0
    segments = torch.zeros(4, 1, 64, 64, dtype=torch.int32)
    segments[:3, :, :40, :40], segments[:3, :, 40:, 10:] = 1000, 5
    return {
        "image": torch.randn(4, 3, 64, 64, generator=generator) * valid,
        "tags": torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0]]),
        "valid": valid,
        "segments": segments,
    }


class TagItems:
    """Items that a tiny localizer can train on; reading may be interrupted once."""

    def __init__(self, num_items: int = 12, size: int = 32, stop_at: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.normal(size=(num_items, 3, size, size)).astype(np.float32)
        self.tags = (rng.random((num_items, 2)) < 0.5).astype(np.float32)
        self.stop_at, self.served = stop_at, 0

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        self.served += 1
        if self.served == self.stop_at:
            raise KeyboardInterrupt
        valid = np.ones((1, *self.images.shape[2:]), np.float32)
        noise = rng.normal(scale=0.1, size=self.images[index].shape).astype(np.float32)
        segments = np.ones(valid.shape, np.int32)
        segments[:, : 5 + index] = 2
        return {
            "image": self.images[index] + noise,
            "tags": self.tags[index],
            "valid": valid,
            "segments": segments,
        }


@pytest.fixture
def tag_items() -> type[TagItems]:
    return TagItems
