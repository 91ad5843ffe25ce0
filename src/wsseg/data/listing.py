"""Find the image files below a folder and give each its sample id."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsseg.data.image_io import IMAGE_SUFFIXES
from wsseg.data.problems import Problems

_IGNORED_NAMES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Listing:
    """The images below one folder.

    Args:
        folder: The folder.
        images: Id (path relative to ``folder`` without suffix, "/" between folders) to file, in
            the order of the ids.
        others: Number of files per suffix that are no images.
    """

    folder: Path
    images: dict[str, Path]
    others: Counter[str]


def shown(path: Path, root: Path) -> str:
    """Write a path for a message: relative to the data folder where it lies inside.

    Example:
        >>> shown(Path("/data/images/a.png"), Path("/data"))
        'images/a.png'
    """
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def list_images(
    folder: Path,
    problems: Problems,
    *,
    root: Path,
    contain: bool = False,
    skip: frozenset[str] = frozenset(),
) -> Listing:
    """List the images below a folder, sub-folders included.

    Names that start with a dot are left out. Of two files with the same stem in one folder the
    first by name is kept and the other becomes a problem, because both would write the same
    mask.

    Args:
        folder: Where to look.
        problems: Receives duplicate stems, unusable names and links out of the folder.
        root: The data folder, for the messages.
        contain: Whether files and folders that are links to outside ``folder`` and ``root`` are
            problems. Readers of annotation files set it, so that a downloaded data set cannot
            make wsseg read other files of the machine.
        skip: Names of sub-folders of ``folder`` to leave out.

    Returns:
        The images and how many other files there are.
    """
    images: dict[str, Path] = {}
    others: Counter[str] = Counter()
    inside = (folder.resolve(), root.resolve()) if contain else None
    for path in _walk(folder, skip, inside):
        name = shown(path, root)
        if _leaves(path, inside):
            problems.error(
                name,
                f"is a link to {path.resolve()}, outside the data folder.",
                "Copy the file into the data folder.",
            )
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            others[path.suffix.lower()] += 1
        elif fault := _name_fault(path.relative_to(folder)):
            problems.error(ascii(name), fault, "Rename the file.")
        else:
            sample_id = path.relative_to(folder).with_suffix("").as_posix()
            if sample_id in images:
                problems.error(
                    name,
                    f"has the duplicate stem of {images[sample_id].name}; both would write the "
                    "same mask.",
                    "Rename or remove one of them.",
                )
            else:
                images[sample_id] = path
    return Listing(folder, dict(sorted(images.items())), others)


def _walk(folder: Path, skip: frozenset[str], inside: tuple[Path, ...] | None) -> Iterator[Path]:
    """Yield files, and folders that are links to outside; enter no folder twice."""
    entered = {os.path.realpath(folder)}
    stack = [folder]
    while stack:
        current = stack.pop()
        for entry in sorted(os.scandir(current), key=lambda entry: entry.name):
            path = current / entry.name
            if entry.name.startswith(".") or entry.name in _IGNORED_NAMES:
                continue
            if not entry.is_dir() or _leaves(path, inside):
                yield path
            elif not (current == folder and entry.name in skip):
                real = os.path.realpath(path)
                if real not in entered:
                    entered.add(real)
                    stack.append(path)


def _leaves(path: Path, inside: tuple[Path, ...] | None) -> bool:
    """Whether a path is a link to outside of the folders; never where none are given."""
    if inside is None or not path.is_symlink():
        return False
    real = path.resolve()
    return not any(real.is_relative_to(folder) for folder in inside)


def _name_fault(relative: Path) -> str:
    """Say why a name cannot be a sample id, or return an empty text."""
    text = relative.as_posix()
    if "\\" in text:
        return "has a backslash in its name, which other systems read as a folder."
    try:
        text.encode()
    except UnicodeEncodeError:
        return "has a name that is not valid UTF-8."
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return "has a line break or another control character in its name."
    return ""
