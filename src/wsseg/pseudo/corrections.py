"""Corrections by people: index masks that override pseudo masks, and survive every new run.

A folder holds ``ID.png`` files named like the pseudo masks, of the size of the upright image. The
values 0 to C override the pseudo mask; **255 means untouched**: there the pseudo mask stays as the
run makes it, now and after every change of the recipe. So a correction may be a whole mask, or a
few strokes on a picture that is 255 everywhere else. The folder belongs to the user; no run writes
there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsseg import console
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import image_size, read_mask
from wsseg.data.labels import IGNORE, ClassList
from wsseg.errors import DataError, RecipeError, did_you_mean

UNTOUCHED = IGNORE
_MAX_NAMES_SHOWN = 5


def correction_file(folder: Path, sample: Sample) -> Path | None:
    """Name the correction of a sample; None where there is none."""
    path = folder / f"{sample.id}.png"
    return path if path.is_file() else None


def read_correction(path: Path, sample: Sample, classes: ClassList) -> npt.NDArray[np.uint8]:
    """Read a correction and check that it fits its image.

    Args:
        path: An index PNG.
        sample: The image.
        classes: The class list.

    Returns:
        (H, W) uint8: 0 to C override, 255 is untouched.

    Raises:
        DataError: When it cannot be read, has values beyond the class list or another size.
    """
    correction = read_mask(path, classes)
    size = image_size(sample.image_path)
    if correction.shape != size:
        raise DataError(
            f"{path}: the correction is {correction.shape[1]} x {correction.shape[0]} px (width x "
            f"height), but its image {sample.image_path} is {size[1]} x {size[0]} px. Draw it on "
            "the upright image, at its size."
        )
    return correction


def corrected(
    mask: npt.NDArray[np.uint8], correction: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Lay a correction over a mask of the same size.

    Example:
        >>> mask, drawn = np.array([[0, 1, 255]], np.uint8), np.array([[255, 0, 2]], np.uint8)
        >>> corrected(mask, drawn).tolist()
        [[0, 0, 2]]
    """
    result: npt.NDArray[np.uint8] = np.where(correction == UNTOUCHED, mask, correction)
    return result


def corrections_fingerprint(folder: str | Path) -> str:
    """Hash names and content of all corrections; the place of the folder does not matter.

    Args:
        folder: The folder; one that is missing counts as empty.
    """
    root = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.png")) if root.is_dir() else ():
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def check_corrections(folder: str | Path, dataset: Dataset, masks_folder: Path) -> None:
    """Look at all corrections before a run starts.

    Args:
        folder: The folder that the recipe names.
        dataset: The data set.
        masks_folder: Where the run writes its pseudo masks.

    Raises:
        RecipeError: When the folder does not exist, or is one that the run empties.
        DataError: When corrections cannot be used; all of them are named.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RecipeError(
            f"pseudo.corrections is {root}, which is no folder. Give the folder of the corrected "
            "masks, or set pseudo.corrections=null."
        )
    place, masks = root.resolve(), masks_folder.resolve()
    if place == masks or masks in place.parents:
        raise RecipeError(
            f"pseudo.corrections is {root}, in the folder that this run writes its masks to and "
            "empties when they change. Copy the corrected masks to a folder of their own."
        )
    known = {sample.id: sample for sample in dataset.samples}
    problems, strangers = [], []
    for path in sorted(root.rglob("*.png")):
        sample = known.get(path.relative_to(root).with_suffix("").as_posix())
        if sample is None:
            strangers.append(path)
            continue
        try:
            read_correction(path, sample, dataset.classes)
        except DataError as fault:
            problems.append(str(fault))
    if problems:
        raise DataError("Some corrections of pseudo masks cannot be used:", problems)
    if strangers:
        first = strangers[0].relative_to(root)
        more = ", ..." if len(strangers) > _MAX_NAMES_SHOWN else ""
        names = ", ".join(
            path.relative_to(root).as_posix() for path in strangers[:_MAX_NAMES_SHOWN]
        )
        console.warning(
            f"{len(strangers)} correction(s) in {root} belong to no image and count for nothing: "
            f"{names}{more}.{did_you_mean(first.with_suffix('').as_posix(), known)}"
        )
