"""Make a data set of annotated images: the common second half of all readers of such files."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.formats.compose import compose
from wsseg.data.formats.drawn import Annotated, Coordinates
from wsseg.data.formats.place import Placed, class_of, is_class_name, place
from wsseg.data.formats.protocol import ReadOptions
from wsseg.data.image_io import image_size, read_mask, write_mask
from wsseg.data.labels import (
    BACKGROUND,
    MAX_CLASSES,
    Boxes,
    ClassList,
    Points,
    Scribbles,
    WeakLabels,
    class_name_fault,
)
from wsseg.data.listing import shown
from wsseg.data.mask_tags import tags_from_masks
from wsseg.data.problems import Problems
from wsseg.data.rendered import temporary_folder
from wsseg.data.tables import read_class_table
from wsseg.errors import DataError


@dataclass
class Reading:
    """What the steps of one reading share.

    Args:
        root: The data folder.
        source: Name of the format.
        problems: Receives what is wrong.
        options: What the user said.
        notes: What was decided.
    """

    root: Path
    source: str
    problems: Problems
    options: ReadOptions
    notes: list[str] = field(default_factory=list)
    _masks_dir: Path | None = None

    def masks_dir(self) -> Path:
        """The folder that masks are drawn into; made when it is first asked for."""
        if self._masks_dir is None:
            self._masks_dir = self.options.work_dir or temporary_folder()
        return self._masks_dir


def class_list(
    reading: Reading, names: Collection[str], file: str, *, fixed: bool = False
) -> ClassList | None:
    """Take the classes from the user, from the file, from ``classes.csv``, or from what is drawn.

    Args:
        reading: What is being read.
        names: Class names in order; those that mean background or ignore do not count.
        file: Where the names stand, for messages.
        fixed: Whether the file itself declares the classes, in order.

    Returns:
        The class list; None when it cannot be made.
    """
    if reading.options.classes is not None:
        return reading.options.classes
    table = reading.root / "classes.csv"
    if table.is_file() and not fixed:
        return read_class_table(table, reading.problems, root=reading.root)
    chosen = [name for name in dict.fromkeys(names) if is_class_name(name)]
    faults = [f'"{name}" {fault}' for name in chosen if (fault := class_name_fault(name))]
    if len(chosen) > MAX_CLASSES:
        faults.append(f"{len(chosen)} names, at most {MAX_CLASSES} fit")
    if faults:
        reading.problems.error(file, f"has bad class names: {'; '.join(faults)}.", "Rename them.")
        return None
    return ClassList(tuple(chosen))


def unlabelled(reading: Reading, items: Iterable[Annotated], remedy: str) -> None:
    """Warn of images that have no annotation file, in one sentence.

    Args:
        reading: What is being read.
        items: All images.
        remedy: What to write for an image without any class.
    """
    bare = [item for item in items if item.drawn is None]
    if bare:
        reading.problems.warning(
            shown(bare[0].image_path, reading.root),
            f"and {len(bare) - 1} more image(s) have no annotation file and count as not labelled.",
            f"Where an image shows no class, write {remedy}.",
        )


def assemble(reading: Reading, items: Iterable[Annotated], classes: ClassList) -> Dataset:
    """Turn annotated images into a data set, one after the other.

    Args:
        reading: What is being read.
        items: The images; one that was seen before is an error.
        classes: The class list.

    Returns:
        The samples without errors, in the order of their ids.
    """
    found: dict[str, Sample] = {}
    sizes: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            reading.problems.error(
                f"{item.file}: image {item.id}",
                "is annotated twice.",
                "Keep one of the annotations, or merge them.",
            )
            continue
        seen.add(item.id)
        size = _size(item, reading.problems)
        sample = None if size is None else _sample(item, size, classes, reading)
        if sample is not None and size is not None:
            found[item.id], sizes[item.id] = sample, size
    samples: Iterable[Sample] = [found[key] for key in sorted(found)]
    if any(sample.mask_path is not None for sample in samples):
        samples = [_with_empty_mask(sample, sizes[sample.id], reading) for sample in samples]
    if reading.options.use_masks:
        samples = tags_from_masks(samples, classes, reading.problems, root=reading.root)
    empty = sum(sample.labels.is_ok for sample in samples)
    if empty:
        reading.notes.append(f"{empty} image(s) without any shape or class are taken to show none.")
    return Dataset(reading.root, classes, tuple(samples), reading.source, tuple(reading.notes))


def _size(item: Annotated, problems: Problems) -> tuple[int, int] | None:
    """Read the size of the image and compare it with what the file says."""
    try:
        size = image_size(item.image_path)
    except DataError as fault:
        problems.fault(item.image_path, fault)
        return None
    if item.stated_size in (None, size):
        return size
    height, width = item.stated_size or size
    problems.error(
        f"{item.file}: image {item.id}",
        f"is annotated at {width} x {height} px (width x height), but the file is {size[1]} x "
        f"{size[0]} px (upright).",
        "Use the image that was annotated; if it is turned by EXIF, save it upright.",
    )
    return None


def _sample(
    item: Annotated, size: tuple[int, int], classes: ClassList, reading: Reading
) -> Sample | None:
    """Make one sample; None where something drawn cannot be used."""
    if item.drawn is None:
        return Sample(item.id, item.image_path, WeakLabels(), item.split, None, item.group)
    placed = place(item, size, classes, reading.problems)
    if placed is None:
        return None
    names = {drawn.name for drawn in item.drawn if drawn.kind == "tag"}
    if placed.tags and any(class_of(name, classes) == BACKGROUND for name in names):
        reading.problems.warning(
            f"{item.file}: image {item.id}",
            'has a tag that means "no class" beside a class.',
            "Remove one of them.",
        )
    mask_path = None
    if placed.regions:
        mask, doubt = compose(placed, size, classes)
        if doubt:
            reading.problems.warning(
                f"{item.file}: image {item.id}",
                doubt,
                "Draw them apart, or one inside the other.",
            )
        mask_path = _render(item.id, mask, reading)
    return Sample(item.id, item.image_path, labels_of(placed), item.split, mask_path, item.group)


def labels_of(placed: Placed) -> WeakLabels:
    """Make weak labels of what is drawn on one image; a kind that is not there is None."""

    def ids(items: list[tuple[Coordinates, int]]) -> NDArray[np.int64]:
        return np.array([class_id for _, class_id in items], np.int64)

    def rows(items: list[tuple[Coordinates, int]]) -> NDArray[np.float32]:
        return np.array([xy for xy, _ in items], np.float32)

    boxes, points, lines = placed.boxes, placed.points, placed.lines
    return WeakLabels(
        tags=frozenset(placed.tags),
        boxes=Boxes(rows(boxes), ids(boxes)) if boxes else None,
        points=Points(rows(points), ids(points)) if points else None,
        scribbles=Scribbles(tuple(xy.astype(np.float32) for xy, _ in lines), ids(lines))
        if lines
        else None,
    )


def _with_empty_mask(sample: Sample, size: tuple[int, int], reading: Reading) -> Sample:
    """Give an image without any shape a mask of background, where other images have masks."""
    labels = sample.labels
    if not labels.is_ok or labels.scribbles is not None or sample.mask_path is not None:
        return sample
    path = _render(sample.id, np.zeros(size, np.uint8), reading)
    return dataclasses.replace(sample, mask_path=path)


def _render(sample_id: str, mask: NDArray[np.uint8], reading: Reading) -> Path:
    """Write a mask, unless the same is there already."""
    path = reading.masks_dir() / f"{sample_id}.png"
    if path.is_file():
        try:
            if np.array_equal(read_mask(path), mask):
                return path
        except DataError:
            # A damaged file is written again.
            path.unlink()
    write_mask(path, mask)
    return path
