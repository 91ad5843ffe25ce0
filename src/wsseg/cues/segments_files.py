"""Segments on disk: compressed archives, one per image, never pickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from wsseg.atomic import atomic_path
from wsseg.cues.segments import Segments
from wsseg.errors import DataError

DAMAGE = (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged archive raises."""


def save_segments(path: Path, segments: Segments) -> None:
    """Write segments to a compressed ``.npz`` file, atomically and never pickled.

    Args:
        path: File to write; its folder is made where missing.
        segments: What to write; soft masks are kept in 16 bits.

    Raises:
        OutputError: When the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {
        "packed": segments.packed,
        "scores": segments.scores,
        "size": np.asarray(segments.size, np.int32),
    }
    if segments.logits is not None:
        arrays["logits"] = segments.logits.astype(np.float16)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def load_segments(path: Path) -> Segments:
    """Read segments that `save_segments` wrote.

    Args:
        path: The ``.npz`` file.

    Raises:
        DataError: When the file is missing, damaged or something else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            logits = archive["logits"].astype(np.float32) if "logits" in archive else None
            height, width = (int(side) for side in archive["size"])
            return Segments(archive["packed"], archive["scores"], (height, width), logits)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Run the stage that writes it again.") from None
    except DAMAGE as fault:
        raise DataError(
            f"{path}: not a valid segments file ({fault}). Delete it and run its stage again."
        ) from fault
