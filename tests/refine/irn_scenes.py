"""Scenes for the tests of irn: shaded discs, alone or touching, with blurred maps of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import ClassList, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.tags.cam import Cam, cam
from wsseg.refine.irn import Irn, irn
from wsseg.refine.protocol import FitInputs, RefineContext

SIDE_PX = 96
RADIUS_PX = 14
PLAIN_VIEW = {"scale": None, "crop_px": SIDE_PX, "brightness": 0, "contrast": 0, "saturation": 0}
TRAINING = {
    "batch_size": 4,
    "optimiser": "psa_poly",
    "head_lr_factor": 10,
    "weight_decay": 1e-4,
    "bias_rule": "same",
    "keep": "last",
    "num_workers": 0,
}


def disc_scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one disc, or in every fourth scene two that touch; their shade tells the direction.

    Returns:
        (96, 96, 3) uint8 image and (96, 96) uint8 object numbers from 1.
    """
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    x, y = rng.integers(32, 64, 2)
    middles = [(x - RADIUS_PX, y), (x + RADIUS_PX, y)] if number % 4 == 0 else [(x, y)]
    objects = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    image = np.full((SIDE_PX, SIDE_PX, 3), 30.0)
    for one, (x, y) in enumerate(middles, start=1):
        inside = (columns - x) ** 2 + (rows - y) ** 2 <= RADIUS_PX**2
        shade = [140 + 7 * (columns - x), 140 + 7 * (rows - y), np.full_like(rows, 200)]
        objects[inside] = one
        image[inside] = np.stack(shade, axis=-1)[inside]
    image += rng.integers(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8), objects


def blurred_map(objects: np.ndarray, stride: int = 4) -> np.ndarray:
    """Make the class map of a scene, (2, h, w) with an empty background row."""
    soft = cv2.GaussianBlur((objects > 0).astype(np.float32), (0, 0), 5)
    side = SIDE_PX // stride
    small = cv2.resize(soft, (side, side), interpolation=cv2.INTER_AREA)
    return np.stack([np.zeros_like(small), small / small.max()])


def tiny_localizer(num_classes: int = 1, **settings: Any):
    """Make an untrained classifier; its random features are good enough to learn from."""
    torch.manual_seed(0)
    config = Cam(backbone="test_resnet", output_stride=8, **settings)
    return cam(config=config, num_classes=num_classes).eval()


def short(epochs: int = 1, lr: float = 0.1, **more: Any) -> Irn:
    """Make settings for the scenes."""
    training = TRAINING | {"epochs": epochs, "lr": lr}
    return Irn(**({"pair_radius": 5, "augment": PLAIN_VIEW, "training": training} | more))


@dataclass
class World:
    """Images on disk with their scores, and what irn needs besides."""

    folder: Path
    samples: list[Sample] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    objects: dict[str, np.ndarray] = field(default_factory=dict)
    localizer: Callable[[], Any] | None = None

    def add(self, name: str, image: np.ndarray, scores: Scores, split: Any = "train") -> None:
        """Write an image."""
        path = self.folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        labels = WeakLabels(tags=frozenset(scores.present))
        self.samples.append(Sample(name, path, labels, split))
        self.scores[name], self.images[name] = scores, image

    def add_disc(self, number: int, split: Any = "train") -> str:
        """Write a scene of discs."""
        image, objects = disc_scene(number)
        name = f"discs/{number}"
        values = blurred_map(objects)
        self.add(name, image, Scores(values, np.array([0, 1], np.uint8), objects.shape), split)
        self.objects[name] = objects
        return name

    def inputs(self, **more: Any) -> FitInputs:
        """Say it as the stage does."""
        dataset = Dataset(self.folder, ClassList(("disc", "bar")), tuple(self.samples))
        return FitInputs(
            dataset=dataset,
            samples=tuple(self.samples),
            load=lambda sample: self.scores[sample.id],
            folder=self.folder / "stage",
            localizer=self.localizer,
            **more,
        )

    def context(self, name: str, state: dict[str, Any], shared: dict | None = None):
        """Say what the stage knows of an image."""
        return RefineContext(
            sample_id=name,
            state=state,
            folder=self.folder / "stage",
            shared={} if shared is None else shared,
            localizer=self.localizer,
        )

    def refine(self, name: str, config: Irn, state: dict[str, Any], shared=None) -> Scores:
        """Refine one image."""
        context = self.context(name, state, shared)
        return irn(self.images[name], self.scores[name], config=config, context=context)

    def instances(self, name: str) -> dict[str, Any]:
        """Read the instances of an image."""
        return json.loads((self.folder / "stage" / "instances" / f"{name}.json").read_text())
