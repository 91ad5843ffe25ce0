import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from wsseg.data.image_io import write_mask

# Tests that write files take as long as the disk wants; a busy machine is no fault of the code.
settings.register_profile("files", deadline=None)
settings.load_profile("files")


@pytest.fixture
def add_image():
    """Write a small image and return its path."""

    def add(path, size=(4, 6), value=100):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
        return path

    return add


@pytest.fixture
def add_mask():
    """Write a mask whose first row holds the given values."""

    def add(path, *values):
        mask = np.zeros((4, 6), np.uint8)
        mask[0, : len(values)] = values
        write_mask(path, mask)
        return path

    return add


@pytest.fixture
def add_text():
    """Write a text file."""

    def add(path, text, encoding="utf-8"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding))
        return path

    return add


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real image sets."""
    folder = os.environ.get("WSSEG_TEST_DATA")
    if not folder:
        pytest.skip("WSSEG_TEST_DATA does not name the folder of the real image sets")
    return Path(folder)
