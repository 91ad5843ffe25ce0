"""Scores: evidence per class and pixel, the one currency between label and mask.

A localizer makes Scores from weak labels, refiners map Scores to Scores, and the pseudo-mask
rule turns them into a mask.

A pixel whose rows are all zero is unknown: nothing speaks for a class, and nothing for the
background. Localizers from boxes, points and scribbles leave such pixels open, refiners may fill
them, and pseudo masks ignore the rest (255). Maps of localizers from tags have no background row
yet; a background rule gives every pixel one.

Only the classes present in the image have a row, so a file holds little more than nothing for most
images: at a quarter of 500 x 375 pixels a set of 10 582 images with 1.5 classes on average stays
below half a gigabyte.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.errors import DataError

StorageType = Literal["uint8", "float16"]

# What NumPy and zipfile raise on files that are torn, overwritten or of another kind.
_DAMAGE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Scores:
    """Evidence for the background and the present classes.

    Args:
        values: (K, h, w) float32 in [0, 1]; row 0 is the background (all zero as long as no
            background rule has run), then one row per present class. A pixel without any
            evidence, all rows zero, is unknown.
        class_ids: (K,) uint8; ``class_ids[0] == 0``, the rest unique ids of foreground classes.
        size: (H, W) of the upright image in pixels; h and w are usually smaller.

    Raises:
        ValueError: If a shape, dtype or range is wrong.

    Example:
        >>> values = np.zeros((2, 3, 4), np.float32)
        >>> scores = Scores(values, np.array([0, 7], np.uint8), (12, 16))
        >>> scores.resized().shape, scores.present
        ((2, 12, 16), (7,))
    """

    values: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.uint8]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        _check_values(self.values)
        _check_class_ids(self.class_ids, len(self.values))
        size = tuple(int(length) for length in self.size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (H, W) with both at least 1, got {self.size}.")
        object.__setattr__(self, "size", size)

    @property
    def present(self) -> tuple[int, ...]:
        """Ids of the present foreground classes, in the order of the rows 1..K-1."""
        return tuple(int(class_id) for class_id in self.class_ids[1:])

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """(h, w) bool, True where all rows are zero: nothing is known about the pixel.

        Example:
            >>> values = np.array([[[1.0, 0.0]], [[0.0, 0.0]]], np.float32)
            >>> Scores(values, np.array([0, 7], np.uint8), (1, 2)).unknown.tolist()
            [[False, True]]
        """
        return np.logical_not(self.values.any(axis=0))

    def resized(self) -> npt.NDArray[np.float32]:
        """Interpolate to the size of the image.

        Bilinear with half-pixel centres (pixel i of the small map covers i to i + 1), constant
        beyond the outermost centres.

        Returns:
            New array (K, H, W) float32 in [0, 1].
        """
        import cv2

        height, width = self.size
        if self.values.shape[1:] == self.size:
            return self.values.copy()
        full = np.empty((len(self.values), height, width), np.float32)
        for row, small in zip(full, self.values, strict=True):
            row[:] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        # Weights of the interpolation sum to 1 only up to rounding.
        return np.clip(full, 0.0, 1.0, out=full)

    def with_background(self, row0: npt.NDArray[np.float32]) -> Scores:
        """Return Scores whose background row is replaced.

        Args:
            row0: (h, w) float32 in [0, 1].

        Raises:
            ValueError: If the shape or the range is wrong.
        """
        if row0.shape != self.values.shape[1:]:
            raise ValueError(f"row0 must have shape {self.values.shape[1:]}, got {row0.shape}.")
        values = self.values.copy()
        values[0] = row0
        return replace(self, values=values)


def _check_values(values: Any) -> None:
    """Check (K, h, w) float32 in [0, 1]."""
    if not isinstance(values, np.ndarray) or values.dtype != np.float32:
        found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"values must be a float32 array, got {found}.")
    if values.ndim != 3 or min(values.shape) < 1:
        raise ValueError(f"values must have shape (K, h, w), none 0, got {values.shape}.")
    low, high = float(values.min()), float(values.max())
    # NaN fails both comparisons.
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"values must be in [0, 1], got {low:g} to {high:g}.")


def _check_class_ids(class_ids: Any, num_rows: int) -> None:
    """Check (K,) uint8, background first, the rest unique foreground ids."""
    if not isinstance(class_ids, np.ndarray) or class_ids.dtype != np.uint8:
        found = class_ids.dtype if isinstance(class_ids, np.ndarray) else type(class_ids).__name__
        raise ValueError(f"class_ids must be a uint8 array, got {found}.")
    if class_ids.shape != (num_rows,):
        raise ValueError(
            f"class_ids must have shape ({num_rows},), one per row, got {class_ids.shape}."
        )
    ids = class_ids.tolist()
    if ids[0] != BACKGROUND or len(set(ids)) != len(ids) or IGNORE in ids:
        raise ValueError(
            f"class_ids must start with {BACKGROUND} and hold each class once, without {IGNORE}, "
            f"got {ids}."
        )


def save_scores(path: Path, scores: Scores, dtype: StorageType = "uint8") -> None:
    """Write Scores to a compressed ``.npz`` file, atomically and never pickled.

    Args:
        path: File to write; its folder is made where missing.
        scores: What to write.
        dtype: "uint8" stores round(255 v), an error of at most 1/510; "float16" stores an error
            of at most 2**-12 and takes twice the room.

    Raises:
        OutputError: If the file cannot be written.
        ValueError: If ``dtype`` is neither of the two.
    """
    from wsseg.atomic import atomic_path

    if dtype == "uint8":
        stored: npt.NDArray[Any] = np.rint(scores.values * np.float32(255)).astype(np.uint8)
    elif dtype == "float16":
        stored = scores.values.astype(np.float16)
    else:
        raise ValueError(f'dtype must be "uint8" or "float16", got "{dtype}".')
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            values=stored,
            class_ids=scores.class_ids,
            size=np.asarray(scores.size, dtype=np.int32),
        )


def load_scores(path: Path) -> Scores:
    """Read Scores that :func:`save_scores` wrote.

    Args:
        path: The ``.npz`` file.

    Raises:
        DataError: If the file is missing, damaged or something else.
    """
    try:
        # NumPy leaves the file open when the archive is damaged, so it is opened here.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            stored, class_ids, size = (archive[key] for key in ("values", "class_ids", "size"))
        if stored.dtype == np.uint8:
            values = stored.astype(np.float32) / np.float32(255)
        elif stored.dtype == np.float16:
            values = stored.astype(np.float32)
        else:
            raise ValueError(f"values have dtype {stored.dtype}; expected uint8 or float16.")
        return Scores(values, class_ids, (int(size[0]), int(size[1])))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Run the stage that writes it again.") from None
    except _DAMAGE as fault:
        raise DataError(
            f"{path}: not a valid Scores file ({fault}). Delete it and run its stage again."
        ) from fault
