"""Read the boxes, points and scribbles that lie beside ``labels.csv``.

``boxes.csv`` (``file,class,x0,y0,x1,y1``), ``points.csv`` (``file,class,x,y``) and
``scribbles.json`` are those that `wsseg.data.shape_files` describes and writes.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wsseg.data.dataset import Sample
from wsseg.data.formats.assemble import labels_of
from wsseg.data.formats.drawn import Annotated, Drawn, Kind
from wsseg.data.formats.image_lookup import ImageLookup
from wsseg.data.formats.measures import coordinates, number
from wsseg.data.formats.place import Placed, place
from wsseg.data.formats.sources import read_json
from wsseg.data.image_io import image_size
from wsseg.data.labels import ClassList
from wsseg.data.problems import Problems
from wsseg.data.tables import read_table
from wsseg.errors import DataError

BOXES, POINTS, SCRIBBLES = "boxes.csv", "points.csv", "scribbles.json"

_Drawings = dict[str, dict[str, list[Drawn]]]


def add_shapes(
    samples: Iterable[Sample],
    classes: ClassList,
    lookup: ImageLookup,
    problems: Problems,
    *,
    root: Path,
) -> list[Sample]:
    """Give samples the shapes that the files beside ``labels.csv`` hold for them.

    Args:
        samples: The samples of the table.
        classes: The class list.
        lookup: Finds the images that the files name.
        problems: Receives shapes that cannot be used.
        root: The data folder.

    Returns:
        The samples whose shapes can all be used; tags stay as the table says.
    """
    drawings: _Drawings = defaultdict(lambda: defaultdict(list))
    unusable: set[str] = set()
    _read_tables(drawings, unusable, lookup, problems, root)
    _read_scribbles(drawings, unusable, lookup, problems, root)
    kept = []
    for sample in samples:
        if sample.id in drawings:
            found = _placed(sample, drawings[sample.id], classes, problems)
            if found is None or sample.id in unusable:
                continue
            labels = labels_of(found)
            tags = sample.labels.tags
            if tags is not None and not labels.class_ids() <= tags:
                extra = ", ".join(classes.name_of(i) for i in sorted(labels.class_ids() - tags))
                problems.warning(
                    f"labels.csv: image {sample.id}",
                    f"is not tagged with {extra}, which its boxes, points or scribbles show.",
                    "Correct its tags.",
                )
            sample = dataclasses.replace(sample, labels=dataclasses.replace(labels, tags=tags))
        kept += [sample] if sample.id not in unusable else []
    return kept


def _placed(
    sample: Sample, files: dict[str, list[Drawn]], classes: ClassList, problems: Problems
) -> Placed | None:
    """Check the shapes of one image against its size and the class list."""
    try:
        size = image_size(sample.image_path)
    except DataError as fault:
        problems.fault(sample.image_path, fault)
        return None
    whole = Placed()
    is_sound = True
    for file, drawn in files.items():
        item = Annotated(file, sample.id, sample.image_path, tuple(drawn))
        placed = place(item, size, classes, problems)
        if placed is None:
            is_sound = False
        else:
            whole.boxes += placed.boxes
            whole.points += placed.points
            whole.lines += placed.lines
    return whole if is_sound else None


def _read_tables(
    drawings: _Drawings, unusable: set[str], lookup: ImageLookup, problems: Problems, root: Path
) -> None:
    tables: tuple[tuple[str, Kind, tuple[str, ...]], ...] = (
        (BOXES, "box", ("x0", "y0", "x1", "y1")),
        (POINTS, "point", ("x", "y")),
    )
    for file, kind, columns in tables:
        if not (root / file).is_file():
            continue
        table = read_table(root / file, problems, root=root, required=("file", "class", *columns))
        for row in table.rows if table is not None else ():
            where = f"line {row.line}"
            sample_id, fault = lookup.find(row.cells["file"])
            if sample_id is None:
                problems.error(
                    f"{file} {where}",
                    f"column file: {fault}",
                    "Correct the name or remove the row.",
                )
                continue
            numbers = [number(row.text(column)) for column in columns]
            if any(value is None for value in numbers):
                cells = ", ".join(row.text(column) for column in columns)
                problems.error(
                    f"{file} {where}", f"{', '.join(columns)} are not numbers: {cells}.", "Correct."
                )
                unusable.add(sample_id)
                continue
            xy = np.array(numbers, np.float64).reshape(-1, 2)
            drawings[sample_id][file].append(Drawn(row.text("class"), kind, where, xy=xy))


def _read_scribbles(
    drawings: _Drawings, unusable: set[str], lookup: ImageLookup, problems: Problems, root: Path
) -> None:
    if not (root / SCRIBBLES).is_file():
        return
    document = read_json(root / SCRIBBLES, problems, root=root)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, dict):
        if document is not None:
            problems.error(SCRIBBLES, 'has no object "images".', "Write it as in the docs.")
        return
    for name, lines in images.items():
        sample_id, fault = lookup.find(name)
        if sample_id is None:
            problems.error(SCRIBBLES, fault, "Correct the name or remove the entry.")
            continue
        for index, entry in enumerate(lines if isinstance(lines, list) else [lines], start=1):
            line = coordinates(entry.get("line")) if isinstance(entry, dict) else None
            if line is None or not isinstance(entry.get("class"), str):
                problems.error(
                    f"{SCRIBBLES}: image {name}, scribble {index}",
                    'is not {"class": name, "line": [[x, y], ...]}.',
                    "Correct it.",
                )
                unusable.add(sample_id)
                continue
            drawn = Drawn(entry["class"], "line", f"scribble {index}", xy=line)
            drawings[sample_id][SCRIBBLES].append(drawn)
