from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.cues.folder import read_cue
from wsseg.errors import DataError


def _write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def test_a_grey_picture_becomes_a_map_from_0_to_1(tmp_path: Path) -> None:
    _write(tmp_path / "sub" / "금속 1.png", np.array([[0, 51, 255]]))
    cue = read_cue(tmp_path, "sub/금속 1", (1, 3))
    assert cue.dtype == np.float32
    assert cue.tolist() == [[0.0, pytest.approx(0.2), 1.0]]


def test_a_smaller_map_of_the_same_shape_is_resized(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", np.full((10, 20), 255))
    cue = read_cue(tmp_path, "a", (31, 61))
    assert cue.shape == (31, 61)
    assert (cue == 1).all()


def test_a_map_of_another_shape_names_the_file_and_both_sizes(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", np.zeros((20, 10)))
    with pytest.raises(DataError, match=r"a\.png: the map is 10 x 20 px, its image 20 x 10 px"):
        read_cue(tmp_path, "a", (10, 20))


def test_a_missing_map_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.png: there is no map"):
        read_cue(tmp_path, "b", (4, 4))
