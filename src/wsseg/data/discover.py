"""Find out which annotation format a folder holds, and read it.

DATA is found out, not declared: every reader says what it recognises. None or several
candidates are an error that lists what was seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wsseg.data.dataset import Dataset
from wsseg.data.formats import (
    coco,
    cvat,
    folder_per_class,
    index_masks,
    label_studio,
    labelme,
    labels_csv,
    voc,
    voc_scribbles,
    yolo,
)
from wsseg.data.formats.protocol import Evidence, FormatReader, ReadOptions
from wsseg.data.labels import ClassList
from wsseg.data.problems import Problems
from wsseg.errors import DataError, unknown_name

READERS: dict[str, FormatReader] = {
    folder_per_class.NAME: folder_per_class,
    labels_csv.NAME: labels_csv,
    voc.NAME: voc,
    index_masks.NAME: index_masks,
    coco.NAME: coco,
    yolo.NAME: yolo,
    labelme.NAME: labelme,
    cvat.NAME: cvat,
    label_studio.NAME: label_studio,
    voc_scribbles.NAME: voc_scribbles,
}
"""The readers by name of format."""

_MAX_FOLDERS_TRIED = 50
_LAYOUTS = (
    "a folder of images per class (ok/, scratch/, dent/)",
    "images/ with labels.csv (columns file and tags)",
    "PASCAL VOC (JPEGImages/, Annotations/, ImageSets/, SegmentationClass/)",
    "images/ with index PNG masks/ and classes.csv",
    "COCO (*.json or annotations/*.json, with the images)",
    "LabelMe (a JSON file beside each image)",
    "CVAT for images 1.1 (annotations.xml, with the images)",
    "Label Studio (a JSON export, with the images)",
    "scribbles of ScribbleSup (Scribbles/*.xml, with the images)",
    "YOLO (data.yaml or classes.txt, images/ and labels/)",
)


def open_dataset(
    path: Path | str,
    *,
    classes: ClassList | Sequence[str] | None = None,
    use_masks: bool = False,
    format: str | None = None,  # noqa: A002 - the word the command line uses
    keep_difficult: bool = True,
    image_set: str | None = None,
    strict: bool = True,
    work_dir: Path | None = None,
) -> Dataset:
    """Open a data set in any known layout.

    Args:
        path: The data folder.
        classes: Class names in the order of their ids, where the folder does not fix them.
        use_masks: Whether untagged images get tags from their ground-truth masks.
        format: Name of the format, where several fit.
        keep_difficult: Whether objects that VOC marks as difficult count.
        image_set: Folder of lists in a VOC set, "Segmentation" or "Main".
        strict: Whether any error in the data stops. Otherwise the samples without errors are
            returned as long as there are some, and the notes say how many errors there were.
        work_dir: Folder for masks that are drawn from polygons and run lengths. None: they go
            when the process ends, and a run keeps copies in its own folder.

    Returns:
        The data set.

    Raises:
        DataError: If the format cannot be told, or the data have errors; the first 20 are shown.
    """
    dataset, problems = read_dataset(
        path,
        classes=classes,
        use_masks=use_masks,
        format=format,
        keep_difficult=keep_difficult,
        image_set=image_set,
        work_dir=work_dir,
    )
    return without_errors(dataset, problems, path, strict=strict)


def without_errors(
    dataset: Dataset, problems: Problems, path: Path | str, *, strict: bool
) -> Dataset:
    """Accept a data set with errors, or refuse it.

    Args:
        dataset: The samples without errors.
        problems: Everything that is wrong.
        path: The data folder, for messages.
        strict: Whether any error stops.

    Returns:
        The data set; its notes say how many errors there were.

    Raises:
        DataError: If there is an error and ``strict`` is set, or no sample is left.
    """
    found = f"{path}: the data set ({dataset.source}) has {problems.num_errors} error(s)"
    if strict or not dataset.samples:
        problems.raise_errors(f"{found}; {len(dataset)} image(s) are fine.")
    if not dataset.samples:
        raise DataError(
            f"{path}: the data set ({dataset.source}) has no images. Check the folder.",
            [str(problem) for problem in problems],
        )
    if not problems.num_errors:
        return dataset
    note = f"{found}; what they concern is left out. First: {problems.errors[0]}"
    return replace(dataset, notes=(*dataset.notes, note))


def read_dataset(
    path: Path | str,
    *,
    classes: ClassList | Sequence[str] | None = None,
    use_masks: bool = False,
    format: str | None = None,  # noqa: A002 - the word the command line uses
    keep_difficult: bool = True,
    image_set: str | None = None,
    work_dir: Path | None = None,
) -> tuple[Dataset, Problems]:
    """Read a data set and everything that is wrong with it, as `wsseg data check` shows.

    Args:
        path: The data folder.
        classes: As in `open_dataset`.
        use_masks: As in `open_dataset`.
        format: As in `open_dataset`.
        keep_difficult: As in `open_dataset`.
        image_set: As in `open_dataset`.
        work_dir: As in `open_dataset`.

    Returns:
        The samples without errors, and the problems in the order they were found.

    Raises:
        DataError: If the folder does not exist or its format cannot be told.
    """
    folder = Path(path)
    if classes is not None and not isinstance(classes, ClassList):
        classes = ClassList(tuple(classes))
    name = find_format(folder) if format is None else format.replace("-", "_")
    if name not in READERS:
        raise DataError(unknown_name("data format", name, READERS))
    options = ReadOptions(classes, use_masks, keep_difficult, image_set, work_dir)
    problems = Problems()
    try:
        return READERS[name].read(folder, problems, options), problems
    except OSError as fault:
        raise DataError(
            f"{fault.filename or folder}: cannot be read ({fault.strerror}). Check that it exists "
            "and may be read."
        ) from fault


def find_format(path: Path) -> str:
    """Tell the format of a folder.

    Args:
        path: The data folder.

    Returns:
        The name of the only format that fits, a key of `READERS`.

    Raises:
        DataError: If the folder does not exist, or none or several formats fit.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder. Check the path of the data.")
    if not path.is_dir():
        raise DataError(f"{path}: is a file; give the folder that holds the images.")
    try:
        candidates = _evidence(path)
        if len(candidates) == 1:
            return candidates[0].format
        if candidates:
            raise DataError(
                f"{path}: fits several formats. Choose one with --format, or keep only one kind "
                "of annotation.",
                [f"{item.format}: {item.found}" for item in candidates],
            )
        raise DataError(
            f"{path}: no known data format. Seen: {_seen(path)}.{_hint(path)} Known layouts:",
            _LAYOUTS,
        )
    except OSError as fault:
        raise DataError(
            f"{fault.filename or path}: cannot be read ({fault.strerror}). Check its permissions."
        ) from fault


def _evidence(path: Path) -> list[Evidence]:
    found = [item for reader in READERS.values() if (item := reader.detect(path)) is not None]
    return [item for item in found if not item.is_weak] or found


def _seen(path: Path) -> str:
    """Summarise a folder: its sub-folders, and its files by suffix."""
    entries = sorted(path.iterdir())
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    suffixes = Counter(entry.suffix.lower() or entry.name for entry in entries if entry.is_file())
    files = [f"{count} {suffix} file(s)" for suffix, count in sorted(suffixes.items())]
    more = [f"{len(folders) - 8} more folders"] if len(folders) > 8 else []
    return ", ".join([*folders[:8], *more, *files]) or "nothing"


def _hint(path: Path) -> str:
    """Name a folder up to two levels down that holds a known format."""
    below = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
    deeper = [inner for entry in below[:8] for inner in sorted(entry.iterdir()) if inner.is_dir()]
    for folder in [*below, *deeper][:_MAX_FOLDERS_TRIED]:
        if any(item.format != folder_per_class.NAME for item in _evidence(folder)):
            return f' "{folder}" holds a data set: give that folder.'
    return ""
