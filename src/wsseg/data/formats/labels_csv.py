"""Images with a table of tags: ``labels.csv`` beside them or beside their folder ``images/``.

Columns of ``labels.csv`` (others are ignored):

* ``file``: the image, relative to ``images/`` (or to the table where there is no such folder).
* ``tags``: class names separated by ";". Empty, or only a name such as "ok": the image was looked
  at and shows no class. "?": nobody tagged it. Without the column no image is tagged.
* ``split``: train, val or test; empty means train. Any other value leaves the row out.
* ``group``: rows of one group belong into one split.
* ``has_mask``: 0 means that the file in ``masks/`` is not to be used.

``classes.csv`` (``id,name``) fixes the class ids; without it the tags are sorted by name.
``masks/`` holds index PNG files with the stem of the image, used as ground truth. ``boxes.csv``,
``points.csv`` and ``scribbles.json``, where they are, hold shapes (`labels_csv_shapes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wsseg.data.dataset import Dataset, Sample, Split
from wsseg.data.formats.image_lookup import ImageLookup
from wsseg.data.formats.labels_csv_shapes import add_shapes
from wsseg.data.formats.protocol import (
    SPLIT_NAMES,
    Evidence,
    ReadOptions,
    empty_dataset,
    is_normal_name,
)
from wsseg.data.labels import ClassList, WeakLabels, class_name_fault
from wsseg.data.listing import Listing, list_images, shown
from wsseg.data.mask_tags import tags_from_masks
from wsseg.data.problems import Problems
from wsseg.data.tables import Row, Table, read_class_table, read_table
from wsseg.errors import did_you_mean

NAME = "labels_csv"
UNTAGGED = "?"

_TABLE = "labels.csv"
_YES_NO = {"": None, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


@dataclass
class _Reading:
    """What the steps of one reading share."""

    root: Path
    problems: Problems
    options: ReadOptions
    table: Table
    listing: Listing
    masks: dict[str, Path]
    lookup: ImageLookup
    named: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def where(self, row: Row) -> str:
        return f"{_TABLE} line {row.line}"


@dataclass(frozen=True)
class _Entry:
    """One row whose image was found. Tags None: not tagged."""

    row: Row
    id: str
    tags: tuple[str, ...] | None
    split: Split


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by its ``labels.csv``."""
    if not (path / _TABLE).is_file():
        return None
    folder = " and images/" if (path / "images").is_dir() else ""
    return Evidence(NAME, f"{_TABLE}{folder}")


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags, splits, groups and ground-truth masks.

    Args:
        path: The folder with ``labels.csv``.
        problems: Receives every problem with file, line and column.
        options: What the user said.

    Returns:
        The samples without errors, in the order of the table.
    """
    root = path.absolute()
    table = read_table(root / _TABLE, problems, root=root, required=("file",))
    if table is None:
        return empty_dataset(root, NAME, options)
    base = root / "images" if (root / "images").is_dir() else root
    skip = frozenset({"masks"}) if base == root else frozenset()
    listing = list_images(base, problems, root=root, contain=True, skip=skip)
    masks = _list_masks(root, problems)
    lookup = ImageLookup(listing, root)
    reading = _Reading(root, problems, options, table, listing, masks, lookup)
    entries = _without_repeats(reading, (_entry(reading, row) for row in table.rows))
    classes = _class_list(reading, entries)
    if classes is None:
        return empty_dataset(root, NAME, options)
    samples = [
        sample
        for entry in entries
        if entry is not None and (sample := _sample(reading, entry, classes)) is not None
    ]
    samples = add_shapes(samples, classes, lookup, problems, root=root)
    if options.use_masks:
        samples = list(tags_from_masks(samples, classes, problems, root=root))
    _note_what_is_left(reading)
    return Dataset(root, classes, tuple(samples), NAME, tuple(reading.notes))


def _list_masks(root: Path, problems: Problems) -> dict[str, Path]:
    folder = root / "masks"
    if not folder.is_dir():
        return {}
    return list_images(folder, problems, root=root, contain=True).images


def _entry(reading: _Reading, row: Row) -> _Entry | None:
    """Find the image of a row and read its tags and split; None where the row is left out."""
    sample_id, fault = reading.lookup.find(row.cells["file"])
    if sample_id is not None:
        reading.named.add(sample_id)
    value = row.text("split")
    split = SPLIT_NAMES.get(value.casefold() or "train")
    if split is None:
        reading.left_out[value] += 1
        guess = did_you_mean(value.casefold(), ("train", "val", "test"))
        if guess:
            reading.problems.warning(
                reading.where(row),
                f'column split: "{value}" is none of train, val, test; the row is left out.{guess}',
                "Correct it, if it is a misspelling.",
            )
        return None
    if sample_id is None:
        reading.problems.error(
            reading.where(row), f"column file: {fault}", "Correct the name or remove the row."
        )
        return None
    return _Entry(row, sample_id, _tags(reading, row), split)


def _tags(reading: _Reading, row: Row) -> tuple[str, ...] | None:
    """Split the tags of a row; names such as "ok" are kept for the class list to decide."""
    cell = row.text("tags")
    if "tags" not in reading.table.columns or cell == UNTAGGED:
        return None
    names = (name.strip() for name in cell.split(";"))
    return tuple(dict.fromkeys(name for name in names if name))


def _without_repeats(reading: _Reading, entries: Iterable[_Entry | None]) -> list[_Entry]:
    """Keep the first row of each image; a second one that says something else is an error."""
    first: dict[str, _Entry] = {}
    for entry in entries:
        if entry is None:
            continue
        before = first.setdefault(entry.id, entry)
        if before is entry:
            continue
        where, line = reading.where(entry.row), before.row.line
        if (entry.tags, entry.split) == (before.tags, before.split):
            reading.problems.warning(
                where, f'repeats the image "{entry.id}" of line {line}.', "Remove one of the rows."
            )
        else:
            reading.problems.error(
                where,
                f'gives the image "{entry.id}" of line {line} other tags or another split.',
                'Keep one row per image, its tags separated by ";".',
            )
    return list(first.values())


def _class_list(reading: _Reading, entries: list[_Entry]) -> ClassList | None:
    """Take the class list from the user, from ``classes.csv``, or from the tags."""
    path = reading.root / "classes.csv"
    given = reading.options.classes
    if path.is_file():
        written = read_class_table(path, reading.problems, root=reading.root)
        if written is not None and given is not None and written != given:
            reading.problems.error(
                "classes.csv",
                f"lists {', '.join(written.names)}, but the classes given are "
                f"{', '.join(given.names)}.",
                "Give the same classes in the same order, or none.",
            )
            return None
        return written
    return given or _classes_from_tags(reading, entries)


def _classes_from_tags(reading: _Reading, entries: list[_Entry]) -> ClassList | None:
    lines: dict[str, Row] = {}
    for entry in entries:
        for name in entry.tags or ():
            lines.setdefault(name, entry.row)
    names = sorted(name for name in lines if not is_normal_name(name))
    num_before = reading.problems.num_errors
    for name in names:
        if fault := class_name_fault(name):
            reading.problems.error(
                reading.where(lines[name]), f'column tags: "{name}" {fault}.', "Rename the class."
            )
        elif "," in name or "|" in name:
            reading.problems.warning(
                reading.where(lines[name]),
                f'column tags: "{name}" is taken for one class.',
                'Separate tags by ";".',
            )
    if len(names) > 254:
        reading.problems.error(
            _TABLE, f"has {len(names)} different tags; at most 254 fit.", "Merge classes."
        )
    if reading.problems.num_errors > num_before:
        return None
    if "tags" in reading.table.columns:
        reading.notes.append(f"No classes.csv: the class list is made of the tags ({len(names)}).")
        return ClassList(tuple(names))
    reading.problems.error(
        _TABLE,
        'has no column "tags", and there is no classes.csv.',
        "Add one of them, or give the classes.",
    )
    return None


def _sample(reading: _Reading, entry: _Entry, classes: ClassList) -> Sample | None:
    """Turn names into ids; None when a tag is unknown."""
    ids, normal = [], []
    for name in entry.tags or ():
        if name in classes.names:
            ids.append(classes.id_of(name))
        elif is_normal_name(name):
            normal.append(name)
        else:
            hint = ' Separate tags by ";".' if "," in name else ""
            reading.problems.error(
                reading.where(entry.row),
                f'column tags: class "{name}" is not in the class list '
                f"({', '.join(classes.names)}).{did_you_mean(name, classes.names)}{hint}",
                "Correct the tag, or add the class to classes.csv.",
            )
            return None
    if ids and normal:
        reading.problems.warning(
            reading.where(entry.row),
            f'column tags: "{normal[0]}" means no class, beside "{classes.name_of(ids[0])}".',
            "Remove one of them.",
        )
    return Sample(
        id=entry.id,
        image_path=reading.listing.images[entry.id],
        labels=WeakLabels(tags=None if entry.tags is None else frozenset(ids)),
        split=entry.split,
        mask_path=_mask(reading, entry),
        group=entry.row.text("group") or None,
    )


def _mask(reading: _Reading, entry: _Entry) -> Path | None:
    """Return the mask of an image, unless ``has_mask`` says not to use it."""
    cell = entry.row.text("has_mask")
    mask = reading.masks.get(entry.id)
    if cell.casefold() not in _YES_NO:
        reading.problems.error(
            reading.where(entry.row), f'column has_mask: "{cell}" is not 0 or 1.', "Correct it."
        )
        return None
    wanted = _YES_NO[cell.casefold()]
    if wanted and mask is None:
        reading.problems.error(
            reading.where(entry.row),
            f"column has_mask: is {cell}, but masks/{entry.id}.png does not exist.",
            "Add the mask or write 0.",
        )
    return None if wanted is False else mask


def _note_what_is_left(reading: _Reading) -> None:
    """Report rows that were left out, and images and masks without a row."""
    for value, count in sorted(reading.left_out.items()):
        reading.notes.append(f'{count} row(s) with split "{value}" left out.')
    for sample_id, path in reading.listing.images.items():
        if sample_id not in reading.named:
            reading.problems.warning(
                shown(path, reading.root),
                f"has no row in {_TABLE} and is left out.",
                "Add a row, or remove the image.",
            )
    for mask_id, path in reading.masks.items():
        if mask_id not in reading.listing.images:
            reading.problems.warning(
                shown(path, reading.root), "has no image of the same name.", "Rename or remove it."
            )
