"""Annotation files of strangers: found, opened and parsed with care.

Nothing outside of the data folder is read, whatever links or names say; XML with entities is
refused; so are numbers in JSON that are none.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from wsseg.data.dataset import Split
from wsseg.data.formats.protocol import SPLIT_NAMES
from wsseg.data.listing import Listing, list_images, shown
from wsseg.data.problems import Problems
from wsseg.errors import did_you_mean

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

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
