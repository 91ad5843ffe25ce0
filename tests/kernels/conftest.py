import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference():
    """The module crf_reference.py, which lies beside this file."""
    path = Path(__file__).with_name("crf_reference.py")
    spec = importlib.util.spec_from_file_location("crf_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_scores():
    """Soft blobs for a few labels and next to nothing for the others; row 0 is background."""

    def make(num_labels, shape, seed=0, rest=1e-3):
        rng = np.random.default_rng(seed)
        height, width = shape
        y, x = np.mgrid[:height, :width]
        scores = (rest * rng.random((num_labels, height, width))).astype(np.float32)
        for label in range(1, min(num_labels, 4)):
            cx, cy = rng.uniform(0.2, 0.8, 2) * (width, height)
            spread = rng.uniform(0.1, 0.2) * max(shape)
            scores[label] = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
        scores[0] = (1 - scores[1:].max(axis=0)) ** 2 if num_labels > 1 else 1
        return scores

    return make


@pytest.fixture
def make_image():
    """A textured image of two colours with an edge."""

    def make(shape, seed=0, noise=30):
        rng = np.random.default_rng(seed)
        image = np.full((*shape, 3), (60, 90, 40), np.int64)
        image[shape[0] // 3 :, shape[1] // 4 :] = (180, 120, 150)
        image += rng.integers(-noise, noise + 1, image.shape)
        return image.clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture
def photo():
    """A photograph from scikit-image's wheel, reduced to a size."""

    def load(name, size=(125, 94)):
        from PIL import Image
        from skimage import data

        picture = Image.fromarray(getattr(data, name)())
        return np.array(picture.resize(size, Image.Resampling.BICUBIC))

    return load
