"""Annotation files of strangers: found, opened and parsed with care.

Nothing outside of the data folder is read, whatever links or names say; XML with entities is
refused; numbers must be finite.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from wsseg.data.dataset import Split
from wsseg.data.formats.drawn import Coordinates
from wsseg.data.formats.protocol import SPLIT_NAMES
from wsseg.data.listing import Listing, list_images, shown
from wsseg.data.problems import Problems
from wsseg.errors import did_you_mean

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LARGEST_COORDINATE = 1e7
_FOLDERS_OF_MASKS = frozenset({"masks", "SegmentationClass", "SegmentationObject"})
_WORD = re.compile(r"[a-z]+")


class ImageFiles:
    """The images of a data folder, found by the names that annotation files give them.

    No path is built from a name, so no name can reach a file outside of the folder. Sample ids
    are relative to ``images/`` where there is such a folder, else to the data folder.

    Args:
        root: The data folder.
        problems: Receives files that cannot be samples.
        base: Folder of the images, where it is another.
    """

    def __init__(self, root: Path, problems: Problems, *, base: Path | None = None) -> None:
        default = root / "images" if (root / "images").is_dir() else root
        self.root = root
        self.base = base or default
        self.listing: Listing = list_images(
            self.base, problems, root=root, contain=True, skip=_FOLDERS_OF_MASKS
        )
        self._ids = {shown(path, root): key for key, path in self.listing.images.items()}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self._ids:
            self._by_name[PurePosixPath(path).name].append(path)

    def path(self, sample_id: str) -> Path:
        """Return the file of a sample."""
        return self.listing.images[sample_id]

    def find(self, name: str, folders: Sequence[Path] = ()) -> tuple[str | None, str]:
        r"""Look up the image that an annotation file names.

        Args:
            name: The name as written; ``\`` counts as "/".
            folders: Where to look first, e.g. the folder of the annotation file.

        Returns:
            The sample id and "", or None and what is wrong with the name.
        """
        text = name.strip().replace("\\", "/")
        if not text:
            return None, "the name of the image is empty."
        file = PurePosixPath(text)
        if file.is_absolute() or re.match(r"^[A-Za-z]:", text) or "://" in text:
            return None, f'"{name}" is not a path inside the data folder.'
        places = [*folders, self.root, self.base]
        if ".." in file.parts:
            # Only from the file that says so: from elsewhere the name means something else.
            places = [*folders[:1], self.root]
        inside = [path for place in places if (path := self._inside(place, file)) is not None]
        if not inside:
            return None, f'"{name}" climbs out of the data folder.'
        found = next((path for path in inside if path in self._ids), None)
        if found is not None:
            return self._ids[found], ""
        return self.find_by_end(inside[0])

    def find_by_end(self, name: str) -> tuple[str | None, str]:
        """Look up the only image whose path ends like a name, wherever it lies.

        Args:
            name: A path with "/" between folders; its folders help to choose, but only the last
                part must agree.

        Returns:
            The sample id and "", or None and what is wrong with the name.
        """
        parts = PurePosixPath(name).parts
        last = parts[-1] if parts else ""
        near = self._by_name.get(last, [])
        for count in range(len(parts), 0, -1):
            end = "/".join(parts[-count:])
            ends = [path for path in near if path == end or path.endswith(f"/{end}")]
            if len(ends) == 1:
                return self._ids[ends[0]], ""
            if len(ends) > 1:
                return None, f'"{name}" may be any of {", ".join(ends[:3])}.'
        place = shown(self.base, self.root)
        where = "the data folder" if place == "." else f"{place}/"
        return None, f'"{name}" is not in {where}.{did_you_mean(last, self._by_name)}'

    def find_by_stem(self, path: Path) -> str | None:
        """Find the image beside a file, or at the same place below the images, with its stem."""
        for place in (path.parent, self.base / _below_first(path.parent, self.root)):
            stem = shown(place / path.stem, self.base)
            if stem in self.listing.images:
                return stem
        return None

    def _inside(self, place: Path, file: PurePosixPath) -> str | None:
        """Join a place and a name without touching the disk; None when it leaves the folder."""
        parts = list(PurePosixPath(shown(place, self.root)).parts)
        for part in file.parts:
            if part != "..":
                parts.append(part)
            elif parts:
                parts.pop()
            else:
                return None
        return "/".join(parts)


def _below_first(path: Path, root: Path) -> Path:
    """Leave out the first folder below the root: ``labels/a`` becomes ``a``."""
    return Path(*path.relative_to(root).parts[1:]) if path.is_relative_to(root) else Path()


def own_files(root: Path, patterns: Iterable[str], problems: Problems) -> list[Path]:
    """List files by patterns; a link out of the data folder is an error and left out.

    Args:
        root: The data folder.
        patterns: As for ``Path.glob``; hidden files do not count.
        problems: Receives such links.

    Returns:
        The files in the order of their names, each once.
    """
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    kept = []
    for path in sorted(found):
        if path.name.startswith("."):
            continue
        if path.resolve().is_relative_to(root.resolve()):
            kept.append(path)
        else:
            problems.error(
                shown(path, root),
                "is a link out of the data folder.",
                "Copy the file into the data folder.",
            )
    return kept


def holds(path: Path, *patterns: bytes) -> bool:
    """Whether a file holds all of some patterns, without parsing or loading it.

    Args:
        path: The file; one that cannot be read holds nothing.
        patterns: Regular expressions over bytes.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m:
            return all(re.search(pattern, m) for pattern in patterns)
    except (OSError, ValueError):
        # An empty file cannot be mapped.
        return False


def split_of(path: Path, root: Path) -> Split:
    """Tell the split from words in a file's name and folders, "train" where there are none.

    Example:
        >>> split_of(Path("/d/annotations/instances_val2017.json"), Path("/d"))
        'val'
    """
    for part in reversed(Path(shown(path, root)).parts):
        for word in _WORD.findall(part.casefold()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return "train"


def split_of_folders(path: Path, root: Path) -> Split:
    """Tell the split from folders that are called like one; "train" where there are none.

    Example:
        >>> split_of_folders(Path("/d/valid/images/test 3.png"), Path("/d"))
        'val'
    """
    folders = reversed(Path(shown(path.parent, root)).parts)
    found = (SPLIT_NAMES[name.casefold()] for name in folders if name.casefold() in SPLIT_NAMES)
    return next(found, "train")


def read_json(path: Path, problems: Problems, *, root: Path) -> Any | None:
    """Parse a JSON file; what is wrong becomes an error, and None is returned."""
    file = shown(path, root)

    def refuse(text: str) -> float:
        raise ValueError(f"holds {text}, which is no number")

    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=refuse)
    except json.JSONDecodeError as fault:
        problems.error(
            f"{file} line {fault.lineno}",
            f"column {fault.colno}: not valid JSON ({fault.msg}).",
            "Export it again.",
        )
    except RecursionError:
        problems.error(file, "is nested too deeply to be annotations.", "Export it again.")
    except OSError as fault:
        problems.error(file, f"cannot be read ({fault.strerror}).", "Check its permissions.")
    except UnicodeDecodeError as fault:
        problems.error(file, f"is not UTF-8 (byte {fault.start}).", "Save it as UTF-8.")
    except ValueError as fault:
        problems.error(file, f"{fault}.", "Export it again.")
    return None


def read_xml(path: Path, problems: Problems, *, root: Path) -> Element | None:
    """Parse an XML file without entities; what is wrong becomes an error, and None is returned."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException, ElementTree

    file = shown(path, root)
    try:
        tree = ElementTree.parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as fault:
        problems.error(
            file,
            f"declares a document type or entities ({type(fault).__name__}), which can be used to "
            "exhaust the memory or to read other files.",
            "Remove the <!DOCTYPE ...> part.",
        )
        return None
    except ParseError as fault:
        line, column = fault.position
        problems.error(
            f"{file} line {line}", f"column {column + 1}: not valid XML ({fault}).", "Correct it."
        )
        return None
    except (OSError, ValueError, LookupError) as fault:
        problems.error(file, f"cannot be read ({fault}).", "Check the file.")
        return None
    if tree is None:
        problems.error(file, "holds no element.", "Write an <annotation>.")
    return tree


def number(value: object) -> float | None:
    """Read a finite number of sensible size; text counts where it is a number.

    Example:
        >>> number("2.5"), number(True), number("nan")
        (2.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) and abs(read) <= _LARGEST_COORDINATE else None


def coordinates(values: object) -> Coordinates | None:
    """Read a list of (x, y), nested or flat.

    Args:
        values: ``[[x, y], ...]`` or ``[x, y, x, y, ...]``.

    Returns:
        (n, 2), n >= 1; None when it is something else.

    Example:
        >>> coordinates([[0, 1], [2, 3]]).tolist() == coordinates([0, 1, 2, 3]).tolist()
        True
    """
    if not isinstance(values, list | tuple) or not values:
        return None
    flat: list[object] = []
    for value in values:
        if isinstance(value, list | tuple):
            if len(value) != 2:
                return None
            flat.extend(value)
        else:
            flat.append(value)
    numbers = [number(value) for value in flat]
    if len(numbers) % 2 or any(value is None for value in numbers):
        return None
    return np.array(numbers, np.float64).reshape(-1, 2)


def turned_corners(corners: Coordinates, degrees: float, pivot: Coordinates) -> Coordinates:
    """Turn a rectangle clockwise on the screen.

    Args:
        corners: (2, 2) left top and right bottom.
        degrees: The angle.
        pivot: (2,) the point that stays.

    Returns:
        (4, 2) corners.

    Example:
        >>> turned = turned_corners(np.array([[0.0, 0], [2, 1]]), 90, np.zeros(2))
        >>> turned.round().astype(int).tolist()
        [[0, 0], [0, 2], [-1, 2], [-1, 0]]
    """
    (left, top), (right, bottom) = corners
    square = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (square - pivot) @ np.array([[cosine, sine], [-sine, cosine]]) + pivot


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> Coordinates:
    """Make a polygon of an ellipse.

    Args:
        centre: x, y.
        radii: Half the width and half the height, before turning.
        degrees: Turn, clockwise on the screen.

    Returns:
        (n, 2) corners, n from 16 to 720 by size.
    """
    count = int(np.clip(2 * max(radii), 16, 720))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    around = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return around @ np.array([[cosine, sine], [-sine, cosine]]) + np.array(centre)


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """Read the size that a file says; None where it says none, such as 0 x 0."""
    rows, columns = number(height), number(width)
    if rows is None or columns is None or rows < 1 or columns < 1:
        return None
    return int(rows), int(columns)
