"""What a format reader gets and gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from wsseg.data.dataset import Dataset, Split
from wsseg.data.labels import ClassList
from wsseg.data.problems import Problems

NORMAL_NAMES = frozenset(
    {"ok", "good", "normal", "negative", "no_defect", "defect_free", "none", "background"}
)
"""Folder names and tags that mean "no class"; in lower case, "_" for blanks and "-"."""

SPLIT_NAMES: Final[dict[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of splits in tables and folders, in lower case."""


@dataclass(frozen=True)
class Evidence:
    """What makes a folder look like a format.

    Args:
        format: Name of the format.
        found: What was seen, for the user, e.g. "labels.csv and images/".
        is_weak: Whether the evidence of any other format outweighs it.
    """

    format: str
    found: str
    is_weak: bool = False


@dataclass(frozen=True)
class ReadOptions:
    """What the user said about how to read.

    Args:
        classes: The class list, where the user gave one.
        use_masks: Whether images without tags get them from their ground-truth masks.
        keep_difficult: Whether objects that VOC marks as difficult count.
        image_set: Folder below ``ImageSets`` whose lists make the splits of a VOC set.
        work_dir: Folder for the masks that readers draw from polygons and run lengths; None draws
            them into one that goes when the process ends.
    """

    classes: ClassList | None = None
    use_masks: bool = False
    keep_difficult: bool = True
    image_set: str | None = None
    work_dir: Path | None = None


class FormatReader(Protocol):
    """A module that reads one format."""

    def detect(self, path: Path) -> Evidence | None:
        """Say what makes ``path`` look like this format, cheaply; None when nothing does."""

    def read(self, path: Path, problems: Problems, options: ReadOptions) -> Dataset:
        """Read ``path``; what is wrong goes to ``problems`` and is left out of the data set."""


def is_normal_name(name: str) -> bool:
    """Tell whether a folder name or tag means "no class".

    Example:
        >>> is_normal_name("No-Defect"), is_normal_name("scratch")
        (True, False)
    """
    return name.strip().casefold().replace(" ", "_").replace("-", "_") in NORMAL_NAMES


def empty_dataset(root: Path, source: str, options: ReadOptions) -> Dataset:
    """Return the data set of a reader that could read nothing; the problems say why."""
    return Dataset(root, options.classes or ClassList(()), (), source)
