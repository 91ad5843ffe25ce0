"""Read MXNet ``.params`` files without MXNet (the published ResNet-38 weights come as one).

Layout (from memory, little-endian): a list header, dense arrays in one of three header versions,
then the list of names, each prefixed ``arg:`` or ``aux:``. Nothing in the file is executed.
Anything that does not fit the layout, trailing bytes included, is an error.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.errors import MissingWeightsError

LIST_MAGIC = 0x112
ARRAY_V1 = 0xF993FAC8
ARRAY_V2 = 0xF993FAC9
# An array of more axes than this is a sign of a file that is not what it claims to be.
MAX_AXES = 8
DTYPES: dict[int, str] = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4"}


def read_mxnet_params(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read all arrays of an MXNet parameter file.

    Args:
        path: The ``.params`` file.

    Returns:
        ``{name: array}`` without the ``arg:`` and ``aux:`` prefixes.

    Raises:
        MissingWeightsError: When the file cannot be read or is not such a file.
    """
    try:
        reader = _Reader(path.read_bytes(), path)
    except OSError as error:
        raise MissingWeightsError(
            f"Weights file {path} cannot be read: {error.strerror}."
        ) from error
    if reader.number("Q") != LIST_MAGIC:
        raise reader.fault("it does not start with the mark of a parameter list (0x112)")
    reader.number("Q")
    arrays = [reader.array() for _ in range(reader.count())]
    names = [reader.text() for _ in range(reader.count())]
    if reader.position != len(reader.data):
        raise reader.fault(f"{len(reader.data) - reader.position} bytes follow its end")
    if len(names) != len(arrays):
        raise reader.fault(f"it has {len(arrays)} arrays but {len(names)} names")
    named = {
        name.removeprefix("arg:").removeprefix("aux:"): array
        for name, array in zip(names, arrays, strict=True)
    }
    if len(named) != len(arrays):
        raise reader.fault("two of its arrays have the same name")
    return named


class _Reader:
    """A position in the bytes of one file."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0

    def fault(self, reason: str) -> MissingWeightsError:
        return MissingWeightsError(
            f"Weights file {self.path} is not a complete MXNet .params file: {reason}. "
            "Fetch it again, or give a .safetensors or .pth file."
        )

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise self.fault(f"it ends after {len(self.data)} bytes, {end} are needed")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0])

    def count(self) -> int:
        """Read a list length; each entry takes at least eight bytes."""
        count = self.number("Q")
        if count * 8 > len(self.data):
            raise self.fault(f"it announces {count} entries, more than its size allows")
        return count

    def array(self) -> NDArray[np.generic]:
        shape = self._shape()
        self.number("i")  # device type
        self.number("i")  # device number
        flag = self.number("i")
        if flag not in DTYPES:
            raise self.fault(f"an array has the unknown dtype flag {flag}")
        dtype = np.dtype(DTYPES[flag])
        data = self.take(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape).copy()

    def _shape(self) -> tuple[int, ...]:
        word = self.number("I")
        if word == ARRAY_V2:
            storage = self.number("i")
            if storage != 0:
                raise self.fault(f"an array has the sparse storage type {storage}")
        is_legacy = word not in (ARRAY_V1, ARRAY_V2)
        num_axes = word if is_legacy else self.number("I")
        if not 0 < num_axes <= MAX_AXES:
            raise self.fault(f"an array has {num_axes} axes")
        shape = tuple(self.number("I" if is_legacy else "q") for _ in range(num_axes))
        if any(length < 0 for length in shape):
            raise self.fault(f"an array has the shape {shape}")
        return shape

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fault("a name is not UTF-8") from error
