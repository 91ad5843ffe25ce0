from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.data.working import read_working_image, working_size
from wsseg.errors import DataError


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((300, 600), 200, (100, 200)),
        ((600, 300), 200, (200, 100)),
        ((300, 600), 600, (300, 600)),
        ((300, 600), None, (300, 600)),
        ((20, 10), 64, (20, 10)),
        ((1, 1000), 16, (1, 16)),
        ((333, 500), 250, (166, 250)),
    ],
)
def test_the_longer_side_is_shrunk_to_fit(
    size: tuple[int, int], longest: int | None, expected: tuple[int, int]
) -> None:
    assert working_size(size, longest) == expected


def test_a_large_image_is_averaged_over_areas(tmp_path: Path) -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:2, :2] = [[[100], [20]], [[60], [20]]]
    image[2:, 6:] = (40, 80, 120)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    small = read_working_image(path, 4)
    assert small.shape == (2, 4, 3)
    assert small.dtype == np.uint8
    assert small[0, 0].tolist() == [50, 50, 50]
    assert small[1, 3].tolist() == [40, 80, 120]
    assert small[1, 0].tolist() == [0, 0, 0]


def test_a_small_image_is_read_as_it_is(tmp_path: Path) -> None:
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    assert np.array_equal(read_working_image(path, 7), image)
    assert np.array_equal(read_working_image(path, None), image)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"broken\.png"):
        read_working_image(path, 32)
