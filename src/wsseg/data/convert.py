"""Write a data set of any readable layout in wsseg's own."""

from __future__ import annotations

from pathlib import Path

from wsseg.data.discover import open_dataset
from wsseg.data.formats.labels_csv_write import write_labels_csv
from wsseg.errors import OutputError, RecipeError, unknown_name

TARGETS = ("csv",)


def convert_dataset(data: Path, out: Path, *, to: str = "csv") -> int:
    """Write a copy of a data folder as ``images/``, ``masks/``, ``classes.csv``, ``labels.csv``.

    Args:
        data: Folder in any layout that wsseg reads.
        out: Folder to write.
        to: ``"csv"``.

    Returns:
        Number of images.

    Raises:
        RecipeError: When the target is unknown.
        DataError: When the data have errors.
        OutputError: When ``out`` holds labels already, or cannot be written.
    """
    if to not in TARGETS:
        raise RecipeError(unknown_name("target format", to, TARGETS))
    if (out / "labels.csv").exists():
        raise OutputError(f"{out} has a labels.csv already; write to a new folder.")
    dataset = open_dataset(data)
    write_labels_csv(dataset, out)
    return len(dataset)
