from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wsseg.errors import MissingWeightsError
from wsseg.nets.mxnet_params import read_mxnet_params

FLAGS = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4}


def encode(
    arrays: dict[str, NDArray[np.generic]], version: str = "v2", *, storage: int = 0
) -> bytes:
    """Write a parameter file from the published layout, independently of the reader."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        shape = array.shape
        if version == "v2":
            out += struct.pack("<Ii", 0xF993FAC9, storage)
            out += struct.pack(f"<I{len(shape)}q", len(shape), *shape)
        elif version == "v1":
            out += struct.pack(f"<II{len(shape)}q", 0xF993FAC8, len(shape), *shape)
        else:
            out += struct.pack(f"<I{len(shape)}I", len(shape), *shape)
        out += struct.pack("<iii", 1, 0, FLAGS[array.dtype.str]) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name)) + name.encode()
    return out


ARRAYS: dict[str, NDArray[np.generic]] = {
    "arg:conv1a_weight": np.arange(24, dtype="<f4").reshape(2, 3, 2, 2),
    "aux:bn7_moving_mean": np.array([0.5, -1.5], "<f8"),
    "arg:half": np.array([[1.0, 2.0]], "<f2"),
    "arg:bytes": np.array([0, 255], "|u1"),
    "arg:whole": np.array([-3, 7], "<i4"),
}


@pytest.mark.parametrize("version", ["v2", "v1", "legacy"])
def test_every_header_version_and_dtype_is_read(tmp_path: Path, version: str) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(encode(ARRAYS, version))
    found = read_mxnet_params(path)
    assert list(found) == ["conv1a_weight", "bn7_moving_mean", "half", "bytes", "whole"]
    for given, read in zip(ARRAYS.values(), found.values(), strict=True):
        assert read.dtype == given.dtype
        np.testing.assert_array_equal(read, given)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = encode({"arg:a": np.ones(3, "<f4")})
    path = tmp_path / "net.params"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(MissingWeightsError, match=r"net\.params"):
            read_mxnet_params(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode(ARRAYS) + b"\0", "1 bytes follow its end"),
        (b"\x13" + encode(ARRAYS)[1:], "does not start"),
        (encode(ARRAYS, storage=1), "sparse storage type 1"),
        (struct.pack("<QQQ", 0x112, 0, 2**40), "more than its size allows"),
        (struct.pack("<QQQI", 0x112, 0, 1, 99) + b"\0" * 64, "99 axes"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(content)
    with pytest.raises(MissingWeightsError, match=reason):
        read_mxnet_params(path)


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(encode({"arg:a": np.ones(1, "<f4"), "aux:a": np.ones(1, "<f4")}))
    with pytest.raises(MissingWeightsError, match="same name"):
        read_mxnet_params(path)
