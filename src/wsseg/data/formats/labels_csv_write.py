"""Write a data set in the layout of ``labels.csv``: images, table, class list and masks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.formats.labels_csv import UNTAGGED
from wsseg.data.formats.outgoing import FileTransfer, copy_image
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.labels import ClassList


def write_labels_csv(dataset: Dataset, out_dir: Path, *, files: FileTransfer = "copy") -> Path:
    """Write ``images/``, ``masks/``, ``classes.csv`` and, last, ``labels.csv``.

    Each image lies at ``images/ID`` with its own suffix, each mask at ``masks/ID.png``. The
    tables hold tags, splits, groups and which image has a mask; boxes, points and scribbles are
    written by `wsseg.data.shape_files`. Where ``labels.csv`` exists, the set is complete.

    Args:
        dataset: What to write.
        out_dir: Folder to write; made where missing.
        files: "copy" copies images and masks; "none" writes the two tables only, for a folder
            whose images and masks are already in place.

    Returns:
        ``out_dir``.

    Raises:
        DataError: If an image is missing or a mask cannot be read.
        OutputError: If a file cannot be written.
    """
    from wsseg.atomic import write_text

    if files == "copy":
        for sample in dataset:
            _copy_files(sample, out_dir)
    write_class_table(dataset.classes, out_dir)
    write_text(out_dir / "labels.csv", _label_table(dataset))
    return out_dir


def write_labels_csv_and_shapes(dataset: Dataset, out_dir: Path) -> tuple[str, ...]:
    """Write a whole data set: images, masks, tables, boxes, points and scribbles.

    Returns:
        Nothing: this layout has a place for all.

    Raises:
        DataError: If an image is missing or a mask cannot be read.
        OutputError: If a file cannot be written.
    """
    from wsseg.data.shape_files import write_shapes

    write_shapes(dataset, out_dir)
    write_labels_csv(dataset, out_dir)
    return ()


def write_class_table(classes: ClassList, out_dir: Path) -> None:
    """Write ``classes.csv``, which fixes the ids of the classes in any layout.

    Raises:
        OutputError: If the file cannot be written.
    """
    from wsseg.atomic import write_text

    write_text(out_dir / "classes.csv", _class_table(classes))


def _copy_files(sample: Sample, out_dir: Path) -> None:
    copy_image(sample, out_dir / "images" / _file_name(sample))
    if sample.mask_path is None:
        return
    target = out_dir / "masks" / f"{sample.id}.png"
    if not (target.exists() and target.samefile(sample.mask_path)):
        # Read and written again, so that any kind of index mask becomes a palette PNG.
        write_mask(target, read_mask(sample.mask_path))


def _file_name(sample: Sample) -> str:
    return sample.id + sample.image_path.suffix


def _class_table(classes: ClassList) -> str:
    names = ("background", *classes.names)
    return _csv(("id", "name"), ((str(number), name) for number, name in enumerate(names)))


def _label_table(dataset: Dataset) -> str:
    has_groups = any(sample.group is not None for sample in dataset)
    header = ("file", "tags", "split", "has_mask", *(("group",) if has_groups else ()))
    rows = (
        (
            _file_name(sample),
            _tag_cell(sample, dataset.classes),
            sample.split,
            "0" if sample.mask_path is None else "1",
            *((sample.group or "",) if has_groups else ()),
        )
        for sample in dataset
    )
    return _csv(header, rows)


def _tag_cell(sample: Sample, classes: ClassList) -> str:
    if sample.labels.tags is None:
        return UNTAGGED
    return ";".join(classes.name_of(class_id) for class_id in sorted(sample.labels.tags))


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table whose lines end in a line feed."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
