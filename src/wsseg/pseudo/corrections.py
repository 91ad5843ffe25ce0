"""Corrections by people: index masks that override pseudo masks, and survive every new run.

A folder holds ``ID.png`` files named like the pseudo masks, of the size of the upright image. The
values 0 to C override the pseudo mask, and 254 says that nobody can tell, so that the pixel is
ignored. **255 means untouched**: there the pseudo mask stays as the run makes it, now and after
every change of the recipe. So a correction may be a whole mask, or a few strokes on a picture that
is 255 everywhere else. The folder belongs to the user; no run writes there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsseg import console
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import IMAGE_SUFFIXES, check_mask_values, image_size, read_mask
from wsseg.data.labels import IGNORE, MAX_CLASSES, ClassList
from wsseg.errors import DataError, RecipeError, did_you_mean

UNTOUCHED = IGNORE
UNUSABLE = 254
_SUFFIX = ".png"
_MAX_NAMES_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Given:
    """What a person said of an image, pixel by pixel.

    Args:
        values: (H, W) uint8 class ids, 255 where the pixel is to be ignored; anything where nothing
            was said.
        is_given: (H, W) bool, the pixels of which something was said.
    """

    values: npt.NDArray[np.uint8]
    is_given: npt.NDArray[np.bool_]

    @classmethod
    def nothing(cls, size: tuple[int, ...]) -> Given:
        """Say nothing of any pixel of an image of this size (H, W)."""
        return cls(np.full(size, IGNORE, np.uint8), np.zeros(size, np.bool_))

    @classmethod
    def of_correction(cls, drawn: npt.NDArray[np.uint8]) -> Given:
        """Read the values of a correction (H, W).

        Example:
            >>> given = Given.of_correction(np.array([[0, 254, 255]], np.uint8))
            >>> given.over(np.array([[1, 1, 1]], np.uint8)).tolist()
            [[0, 255, 1]]
        """
        values = np.where(drawn == UNUSABLE, np.uint8(IGNORE), drawn)
        return cls(values, drawn != UNTOUCHED)

    @classmethod
    def of_mask(cls, mask: npt.NDArray[np.uint8]) -> Given:
        """Take the class ids (H, W) of a mask as said, and nothing where it is 255."""
        return cls(mask, mask != IGNORE)

    def also(self, stronger: Given) -> Given:
        """Add what another source says, which wins where both say something."""
        return Given(stronger.over(self.values), self.is_given | stronger.is_given)

    def over(self, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Lay what was said over a mask (H, W) of the same size.

        Example:
            >>> mask, drawn = np.array([[0, 1, 255]], np.uint8), np.array([[255, 0, 2]], np.uint8)
            >>> Given.of_mask(drawn).over(mask).tolist()
            [[0, 0, 2]]
        """
        result: npt.NDArray[np.uint8] = np.where(self.is_given, self.values, mask)
        return result


def find_corrections(folder: str | Path) -> dict[str, Path]:
    """List the corrections in a folder and all folders below it.

    Args:
        folder: The folder; one that is missing counts as empty.

    Returns:
        Files by the id of their image; the suffix may be written in capitals, too. Where several
        files are named for one image, the first in order of their names; see `check_corrections`.
    """
    root, found = Path(folder), dict[str, Path]()
    for path in _files(root):
        found.setdefault(_id_of(path, root), path)
    return found


def read_correction(path: Path) -> Given:
    """Read a correction as it is; `check_corrections` has looked whether it fits.

    Args:
        path: An index PNG.

    Returns:
        What it says.

    Raises:
        DataError: When it cannot be read.
    """
    return Given.of_correction(read_mask(path))


def check_correction(path: Path, sample: Sample, classes: ClassList) -> None:
    """Refuse a correction that does not fit its image.

    Args:
        path: An index PNG.
        sample: The image.
        classes: The class list.

    Raises:
        DataError: When it cannot be read, has values beyond the class list or another size.
    """
    drawn = read_mask(path)
    try:
        check_mask_values(np.where(drawn == UNUSABLE, np.uint8(IGNORE), drawn), classes, path)
    except DataError as fault:
        raise DataError(
            f"{fault} In a correction, {UNUSABLE} ignores a pixel and {UNTOUCHED} leaves it as it "
            "is."
        ) from fault
    size = image_size(sample.image_path)
    if drawn.shape != size:
        raise DataError(
            f"{path}: the correction is {drawn.shape[1]} x {drawn.shape[0]} px (width x "
            f"height), but its image {sample.image_path} is {size[1]} x {size[0]} px. Draw it on "
            "the upright image, at its size."
        )


def corrections_fingerprint(folder: str | Path) -> str:
    """Hash names and content of all corrections; the place of the folder does not matter.

    Args:
        folder: The folder; one that is missing counts as empty.
    """
    root = Path(folder)
    digest = hashlib.sha256()
    for path in _files(root):
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
        RecipeError: When the folder does not exist, is one that the run empties, or holds the run.
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
    if place in masks.parents:
        raise RecipeError(
            f"pseudo.corrections is {root}, which holds the folder that this run writes its masks "
            f"to ({masks_folder}), so that every run would count as a change of the corrections. "
            "Copy the corrected masks to a folder of their own, or write the run elsewhere (--out)."
        )
    if dataset.classes.num_classes >= UNUSABLE:
        raise RecipeError(
            f"pseudo.corrections is {root}, but with {MAX_CLASSES} classes nobody can tell class "
            f"{UNUSABLE} from pixels to be ignored. Remove or merge a class, or set "
            "pseudo.corrections=null."
        )
    known = {sample.id: sample for sample in dataset.samples}
    chosen = find_corrections(root)
    problems, strangers = [], []
    for path in _files(root):
        sample = known.get(_id_of(path, root))
        if sample is None:
            strangers.append(path)
            continue
        if chosen[sample.id] != path:
            problems.append(f"{path} and {chosen[sample.id]} are for the same image. Remove one.")
            continue
        try:
            check_correction(path, sample, dataset.classes)
        except DataError as fault:
            problems.append(str(fault))
    if problems:
        raise DataError("Some corrections of pseudo masks cannot be used:", problems)
    _warn_of_strangers(root, strangers, known)
    _warn_of_other_formats(root)


def _files(root: Path) -> Iterator[Path]:
    """List all PNG files below a folder in order of their names."""
    if root.is_dir():
        found = (path for path in root.rglob("*") if path.suffix.lower() == _SUFFIX)
        yield from sorted(path for path in found if path.is_file())


def _id_of(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _warn_of_strangers(root: Path, strangers: list[Path], known: Collection[str]) -> None:
    if strangers:
        console.warning(
            f"{len(strangers)} correction(s) in {root} belong to no image and count for nothing: "
            f"{_names(root, strangers)}.{did_you_mean(_id_of(strangers[0], root), known)}"
        )


def _warn_of_other_formats(root: Path) -> None:
    others = IMAGE_SUFFIXES - {_SUFFIX}
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in others)
    if found:
        console.warning(
            f"{len(found)} image(s) in {root} are no PNG and count for nothing: "
            f"{_names(root, found)}. Save corrections as index PNG."
        )


def _names(root: Path, paths: list[Path]) -> str:
    shown = [path.relative_to(root).as_posix() for path in paths[:_MAX_NAMES_SHOWN]]
    return ", ".join([*shown, *(["..."] if len(paths) > _MAX_NAMES_SHOWN else [])])
