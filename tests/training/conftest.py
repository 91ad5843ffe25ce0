"""A tiny network and tiny data, trainable in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsseg.training.config import TrainingConfig


class TinyNet(nn.Module):
    """A convolution, dropout, and a linear head on 4x4 images of two channels."""

    def __init__(self, *, batch_norm: bool = False, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 1)

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.body(images)))
        return self.head(self.dropout(features.mean((2, 3))))[:, 0]

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = ((self(batch["image"]) - batch["target"]) ** 2).mean()
        return {"loss": error, "mse": error}


class TinyData:
    """Noisy images whose mean is the target; every draw adds noise of its own."""

    def __init__(self, num_items: int = 12) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.normal(size=(num_items, 2, 4, 4)).astype(np.float32)
        self.served: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        self.served.append(index)
        image = self.images[index]
        noise = rng.normal(scale=0.1, size=image.shape).astype(np.float32)
        return {"image": image + noise, "target": np.float32(image.mean())}


class Tiny:
    """What the tests of the loop build their trainings from."""

    Net = TinyNet
    Data = TinyData

    @staticmethod
    def net(**options: Any) -> TinyNet:
        torch.manual_seed(5)
        return TinyNet(**options)

    @staticmethod
    def config(**changes: Any) -> TrainingConfig:
        settings: dict[str, Any] = {
            "epochs": 3,
            "batch_size": 4,
            "optimiser": "sgd",
            "lr": 0.05,
            "weight_decay": 1e-3,
            "precision": "float32",
            "num_workers": 0,
        }
        return TrainingConfig(**{**settings, **changes})

    @staticmethod
    def weights(module: nn.Module) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in module.state_dict().items()}

    @staticmethod
    def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
        """Compare two states bit by bit."""
        return first.keys() == second.keys() and all(
            torch.equal(first[name], second[name]) for name in first
        )


@pytest.fixture
def tiny() -> type[Tiny]:
    return Tiny
