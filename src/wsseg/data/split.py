"""Split a data set so that every class has its share in every split and groups stay together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from wsseg.data.dataset import SPLITS, Dataset, Sample, Split
from wsseg.data.stratify import iterative_stratification
from wsseg.errors import DataError

_NO_CLASS = "(no class)"
_UNTAGGED = "(untagged)"
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SplitSummary:
    """How many images of each class each split has.

    Args:
        counts: Class name → split → number of images; ``"(no class)"`` and ``"(untagged)"`` stand
            for images without any class and without any label, ``"(images)"`` for all.
        notes: What the split could not do, one sentence each.
        path: The file written, or None.
    """

    counts: Mapping[str, Mapping[Split, int]]
    notes: tuple[str, ...] = ()
    path: Path | None = None

    def as_dict(self) -> dict[str, object]:
        """Return everything as JSON-able values."""
        return {
            "counts": {name: dict(row) for name, row in self.counts.items()},
            "notes": list(self.notes),
            "path": None if self.path is None else str(self.path),
        }

    def text(self) -> str:
        """Format a plain table, the notes and the file written."""
        used = [name for name in SPLITS if any(row[name] for row in self.counts.values())]
        width = max(len(name) for name in self.counts)
        lines = [" ".join([" " * width, *(f"{name:>7}" for name in used)])]
        for name, row in self.counts.items():
            lines.append(" ".join([f"{name:<{width}}", *(f"{row[split]:>7}" for split in used)]))
        lines += [f"note: {note}" for note in self.notes]
        if self.path is not None:
            lines.append(f"Wrote {self.path}")
        return "\n".join(lines)


def split_dataset(
    dataset: Dataset, fractions: Mapping[str, float] | None = None, seed: int = 0
) -> Dataset:
    """Assign every sample anew to train, val or test.

    The result depends on ids, labels and groups only, not on the order of the samples or on the
    splits they had.

    Args:
        dataset: The samples; their tags, or the classes of their boxes, points and scribbles, are
            what is shared out.
        fractions: Shares of "train", "val" and "test" in [0, 1]; a missing "train" is what the
            others leave. Default: val 0.2.
        seed: Any number from 0.

    Returns:
        The same samples in the same order with new splits; a note for every class that is too rare
        for each split to get one.

    Raises:
        DataError: A split is unknown, or the fractions do not sum to 1 with train above 0.
    """
    shares = _shares(fractions or {"val": 0.2})
    if seed < 0:
        raise DataError(f"The seed of a split is {seed}; give a number from 0.")
    by_unit: dict[tuple[bool, str], list[Sample]] = {}
    for sample in sorted(dataset.samples, key=lambda sample: sample.id):
        key = (sample.group is None, sample.id if sample.group is None else sample.group)
        by_unit.setdefault(key, []).append(sample)
    units = list(by_unit.values())
    if not units:
        return dataset
    columns = [_label_columns(unit, dataset.classes.num_classes) for unit in units]
    chosen = iterative_stratification(
        np.stack(columns),
        np.array([len(unit) for unit in units]),
        np.array([shares[name] for name in SPLITS]),
        np.random.default_rng(seed),
    )
    split_of: dict[str, Split] = {
        sample.id: SPLITS[index]
        for unit, index in zip(units, chosen, strict=True)
        for sample in unit
    }
    samples = tuple(replace(sample, split=split_of[sample.id]) for sample in dataset.samples)
    notes = _rare_class_notes(
        dataset, np.stack(columns), sum(share > 0 for share in shares.values())
    )
    return replace(dataset, samples=samples, notes=(*dataset.notes, *notes))


def split_summary(dataset: Dataset, *, path: Path | None = None) -> SplitSummary:
    """Count the images of every class in every split."""
    rows: dict[str, dict[Split, int]] = {
        name: dict.fromkeys(SPLITS, 0)
        for name in (*dataset.classes.names, _NO_CLASS, _UNTAGGED, "(images)")
    }
    for sample in dataset.samples:
        for name in (*_label_names(sample, dataset), "(images)"):
            rows[name][sample.split] += 1
    notes = [note for note in dataset.notes if note.startswith('class "')]
    return SplitSummary(rows, tuple(notes), path)


def _label_names(sample: Sample, dataset: Dataset) -> list[str]:
    ids = sorted(sample.labels.class_ids())
    if ids:
        return [dataset.classes.name_of(class_id) for class_id in ids]
    return [_NO_CLASS if sample.labels.kinds else _UNTAGGED]


def _label_columns(samples: Sequence[Sample], num_classes: int) -> npt.NDArray[np.int64]:
    """Count the images per class, then those without any class and the untagged ones."""
    counts = np.zeros(num_classes + 2, np.int64)
    for sample in samples:
        ids = sample.labels.class_ids()
        for class_id in ids:
            counts[class_id - 1] += 1
        if not ids:
            counts[num_classes if sample.labels.kinds else num_classes + 1] += 1
    return counts


def _shares(fractions: Mapping[str, float]) -> dict[Split, float]:
    """Complete and check the fractions."""
    unknown = sorted(set(fractions) - set(SPLITS))
    if unknown:
        raise DataError(f'Unknown split "{unknown[0]}"; allowed are {", ".join(SPLITS)}.')
    shares: dict[Split, float] = {name: float(fractions.get(name, 0.0)) for name in SPLITS}
    if "train" not in fractions:
        shares["train"] = 1.0 - shares["val"] - shares["test"]
    values = ", ".join(f"{name} {share:g}" for name, share in shares.items())
    if any(not 0 <= share <= 1 for share in shares.values()) or shares["train"] <= 0:
        raise DataError(
            f"The shares of a split ({values}) must lie between 0 and 1, with something left for "
            "train."
        )
    if abs(sum(shares.values()) - 1) > _TOLERANCE:
        raise DataError(f"The shares of a split ({values}) must sum to 1.")
    return shares


def _rare_class_notes(
    dataset: Dataset, columns: npt.NDArray[np.int64], num_splits: int
) -> list[str]:
    """Say which classes occur in fewer images or groups than there are splits."""
    grouped = any(sample.group is not None for sample in dataset.samples)
    notes = []
    for class_id, name in enumerate(dataset.classes.names, start=1):
        units = int(np.count_nonzero(columns[:, class_id - 1]))
        if units < num_splits:
            where = "groups" if grouped else "images"
            notes.append(
                f'class "{name}" occurs in {units} {where}, fewer than the {num_splits} splits: it '
                "is in train if anywhere, and cannot be scored in every split."
            )
    return notes


def split_folder(
    data: Path,
    out: Path | None = None,
    *,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> SplitSummary:
    """Split a data folder and write the splits into its ``labels.csv``.

    The table keeps all its columns; only ``split`` is written anew, and rows that the reader leaves
    out stay as they are.

    Args:
        data: Folder with a ``labels.csv``.
        out: Table to write; None writes ``labels.csv`` of the folder.
        fractions: See `split_dataset`.
        seed: See `split_dataset`.

    Returns:
        What is in each split, and the file written.

    Raises:
        DataError: The folder cannot be read, or has no ``labels.csv``.
        OutputError: The table cannot be written.
    """
    from wsseg.atomic import write_text
    from wsseg.data.discover import open_dataset

    dataset = open_dataset(data)
    table = dataset.root / "labels.csv"
    if not table.is_file():
        raise DataError(
            f"{data} has no labels.csv to hold the splits (it was read as {dataset.source}). Run "
            f"wsseg data convert {data} --out NEW_FOLDER, then split the new folder."
        )
    dataset = split_dataset(dataset, fractions, seed)
    path = table if out is None else out
    write_text(path, _with_new_splits(table, dataset))
    return split_summary(dataset, path=path)


def _with_new_splits(path: Path, dataset: Dataset) -> str:
    """Format a table anew, with the splits of the data set in its column ``split``."""
    from wsseg.data.problems import Problems
    from wsseg.data.shape_files import csv_text
    from wsseg.data.tables import read_table

    problems = Problems()
    table = read_table(path, problems, root=dataset.root, required=("file",))
    problems.raise_errors(f"{path} cannot be rewritten as long as it has errors.")
    split_of = {sample.id: sample.split for sample in dataset.samples}
    columns = () if table is None else table.columns
    rows = []
    for row in () if table is None else table.rows:
        file = PurePosixPath(row.text("file").replace("\\", "/"))
        if file.parts[:1] == ("images",) and file.with_suffix("").as_posix() not in split_of:
            file = file.relative_to("images")
        known = split_of.get(file.with_suffix("").as_posix() if file.name else "")
        cells = {**row.cells, "split": known or row.text("split")}
        rows.append([cells[name] for name in columns])
        if "split" not in columns:
            rows[-1].append(cells["split"])
    return csv_text(columns if "split" in columns else (*columns, "split"), rows)
