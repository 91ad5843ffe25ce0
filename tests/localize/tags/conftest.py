"""Tiny localizers from tags, and a batch for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from wsseg import registry
from wsseg.localize.config import TagLocalizerConfig
from wsseg.localize.regularise.attach import make_localizer
from wsseg.nets.cam_head import ClassMapNet

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "output_stride": 8,
    "dropout": 0.0,
    "training": {"epochs": 2, "batch_size": 4, "num_workers": 0, "precision": "float32"},
    "augment": {"scale": None, "crop_px": 64},
    "inference": {"scales": [1.0], "flip": False},
}


def small_settings(name: str, **changes: Any) -> TagLocalizerConfig:
    cls = registry.config_class("localizers", name)
    settings = cls.model_validate({**SMALL, "name": name, **changes})
    assert isinstance(settings, TagLocalizerConfig)
    return settings


@pytest.fixture
def settings() -> Callable[..., TagLocalizerConfig]:
    """Give a function that makes settings of a tiny localizer."""
    return small_settings


@pytest.fixture
def make() -> Callable[..., ClassMapNet]:
    """Give a function that makes a tiny localizer by its name, the same weights every time."""

    def make_one(name: str, num_classes: int = 3, **changes: Any) -> ClassMapNet:
        torch.manual_seed(0)
        return make_localizer(small_settings(name, **changes), num_classes)

    return make_one


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four images of 64 pixels with tags, the last one without any; a part is padding."""
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(4, 1, 64, 64)
    valid[1, :, :, 40:] = 0
    return {
        "image": torch.randn(4, 3, 64, 64, generator=generator) * valid,
        "tags": torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0]]),
        "valid": valid,
    }
