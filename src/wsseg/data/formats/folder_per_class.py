"""One sub-folder of images per class; ``ok/``, ``good/``, ``normal/`` and the like mean "no class".

The top level may be ``train/``, ``val/`` and ``test/`` with the class folders inside. Folders
inside a class folder belong to that class. Class ids follow the names in sorted order unless the
user gives the class list.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from wsseg.data.dataset import Dataset, Sample, Split
from wsseg.data.formats.protocol import (
    SPLIT_NAMES,
    Evidence,
    ReadOptions,
    empty_dataset,
    is_normal_name,
)
from wsseg.data.image_io import IMAGE_SUFFIXES
from wsseg.data.labels import MAX_CLASSES, ClassList, WeakLabels, class_name_fault
from wsseg.data.listing import list_images, shown
from wsseg.data.problems import Problems
from wsseg.errors import did_you_mean

NAME = "folder_per_class"

_OTHER_LAYOUTS = frozenset({"images", "jpegimages", "annotations", "imagesets"})
_PLAIN_NAMES = frozenset({"image", "img", "imgs", "data", "default", "frames", "photos"})
_MAX_NAMES_SHOWN = 8


@dataclass(frozen=True)
class _ClassFolder:
    path: Path
    split: Split

    @property
    def name(self) -> str:
        return self.path.name


def detect(path: Path) -> Evidence | None:
    """Recognise sub-folders with images, unless they are those of another layout."""
    folders = _folders(path)
    if any(folder.name.casefold() in _OTHER_LAYOUTS for folder in folders):
        return None
    # A folder of whole data sets is no set with one class per data set.
    if any(_holds_data_set(folder) for folder in folders):
        return None
    names = [folder.name for folder in folders if _holds_image(folder)]
    if not names:
        return None
    more = ", ..." if len(names) > _MAX_NAMES_SHOWN else ""
    found = f"folders with images: {', '.join(names[:_MAX_NAMES_SHOWN])}{more}"
    return Evidence(NAME, found, is_weak=all(_is_plain_name(name) for name in names))


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images and the class that their folder names.

    Args:
        path: The folder with the class folders.
        problems: Receives layouts that cannot be told apart, unknown classes and stray images.
        options: What the user said.

    Returns:
        The samples in the order of their ids.
    """
    root = path.absolute()
    folders = _class_folders(root, problems)
    classes = options.classes or _classes_from_names(folders, problems)
    if classes is None or not folders:
        return empty_dataset(root, NAME, options)
    _warn_of_stray_images(root, problems)
    samples: list[Sample] = []
    others = 0
    for folder in folders:
        tags = _tags(folder, classes, problems, root)
        listing = list_images(folder.path, problems, root=root)
        others += sum(listing.others.values())
        if not listing.images:
            problems.warning(
                shown(folder.path, root), "holds no image.", "Add images or remove the folder."
            )
        if tags is None:
            continue
        prefix = shown(folder.path, root)
        samples += [
            Sample(f"{prefix}/{name}", file, WeakLabels(tags=tags), folder.split)
            for name, file in listing.images.items()
        ]
    notes = [f"{others} file(s) that are no images left out."] if others else []
    normal = sorted({folder.name for folder in folders if _is_normal(folder, classes)})
    if normal:
        notes.append(f"Taken for images without any class: {', '.join(normal)}.")
    samples.sort(key=lambda sample: sample.id)
    return Dataset(root, classes, tuple(samples), NAME, tuple(notes))


def _is_plain_name(name: str) -> bool:
    """Whether a folder's name tells of no class, as train2017 and img do not."""
    word = name.casefold().rstrip("0123456789_-")
    return word in SPLIT_NAMES or word in _PLAIN_NAMES


def _folders(path: Path) -> list[Path]:
    return sorted(
        entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _images_directly_in(path: Path) -> list[Path]:
    return sorted(
        entry
        for entry in path.iterdir()
        if entry.suffix.lower() in IMAGE_SUFFIXES
        and not entry.name.startswith(".")
        and not entry.is_dir()
    )


def _holds_data_set(path: Path) -> bool:
    names = {entry.name.casefold() for entry in path.iterdir()}
    return bool(names & {"labels.csv", "jpegimages"}) or names >= {"images", "masks"}


def _holds_image(path: Path) -> bool:
    """Whether there is an image in a folder or below; stops at the first."""
    for _, _, files in os.walk(path, followlinks=False):
        if any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in files):
            return True
    return False


def _class_folders(root: Path, problems: Problems) -> list[_ClassFolder]:
    """Find the class folders and their splits; none when the layout cannot be told."""
    folders = [folder for folder in _folders(root) if _is_class_folder(folder)]
    with_split = [folder for folder in folders if _is_split_folder(folder)]
    if with_split:
        others = [folder.name for folder in folders if folder not in with_split]
        if others:
            problems.error(
                ".",
                f"mixes split folders ({', '.join(folder.name for folder in with_split)}) with "
                f"others ({', '.join(others)}).",
                "Keep only train/, val/ and test/, or only class folders, at the top level.",
            )
            return []
        return [
            _ClassFolder(inner, SPLIT_NAMES[folder.name.casefold()])
            for folder in with_split
            for inner in _folders(folder)
            if _is_class_folder(inner)
        ]
    if len(folders) == 1 and not _images_directly_in(folders[0]):
        inner = [folder.name for folder in _folders(folders[0])]
        problems.error(
            folders[0].name,
            f"is the only folder with images, and they lie in {', '.join(inner)}.",
            f"Open {root / folders[0].name} instead.",
        )
        return []
    return [_ClassFolder(folder, "train") for folder in folders]


def _is_class_folder(path: Path) -> bool:
    """Whether a folder holds images, or is empty and so waits for some."""
    return _holds_image(path) or not any(path.iterdir())


def _is_split_folder(path: Path) -> bool:
    """Whether a folder is named like a split and holds folders of images, not images."""
    return (
        path.name.casefold() in SPLIT_NAMES
        and not _images_directly_in(path)
        and any(_holds_image(folder) for folder in _folders(path))
    )


def _is_normal(folder: _ClassFolder, classes: ClassList) -> bool:
    return folder.name not in classes.names and is_normal_name(folder.name)


def _classes_from_names(folders: list[_ClassFolder], problems: Problems) -> ClassList | None:
    """Sort the folder names that mean a class."""
    names = sorted({folder.name for folder in folders if not is_normal_name(folder.name)})
    num_before = problems.num_errors
    for name in names:
        if fault := class_name_fault(name):
            problems.error(name, f"{fault} and cannot be a class.", "Rename the folder.")
    if len(names) > MAX_CLASSES:
        problems.error(
            ".", f"holds {len(names)} classes; at most {MAX_CLASSES} fit.", "Merge some."
        )
    return ClassList(tuple(names)) if problems.num_errors == num_before else None


def _tags(
    folder: _ClassFolder, classes: ClassList, problems: Problems, root: Path
) -> frozenset[int] | None:
    """Return the tags of all images of a folder; None when its class is unknown."""
    if _is_normal(folder, classes):
        return frozenset()
    if folder.name in classes.names:
        return frozenset({classes.id_of(folder.name)})
    problems.error(
        shown(folder.path, root),
        f"is not in the class list ({', '.join(classes.names)})."
        f"{did_you_mean(folder.name, classes.names)}",
        "Rename the folder, or add it to the classes given.",
    )
    return None


def _warn_of_stray_images(root: Path, problems: Problems) -> None:
    for path in _images_directly_in(root):
        problems.warning(
            path.name, "lies in no class folder and is left out.", "Move it into a class folder."
        )
