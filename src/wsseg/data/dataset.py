"""Data sets: which images there are, what is known about each, and how to write that down."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from wsseg.data.labels import Boxes, ClassList, Points, Scribbles, WeakLabels
from wsseg.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_FORMAT = "wsseg-samples"
_VERSION = 1


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it.

    Args:
        id: Path relative to the image folder without suffix, "/" between folders; names the
            sample in every output.
        image_path: The image file.
        labels: What a person gave.
        split: "train", "val" or "test"; only "train" is ever trained on.
        mask_path: Index PNG with the ground truth, or None. It scores, and trains or tunes only
            where the user says so.
        group: Samples of one group (the same part, the same patient) belong into one split.

    Raises:
        DataError: If the id cannot name an output file, or the split is unknown.
    """

    id: str
    image_path: Path
    labels: WeakLabels = field(default_factory=WeakLabels)
    split: Split = "train"
    mask_path: Path | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.id).parts
        if not parts or ".." in parts or "\\" in self.id or self.id != "/".join(parts):
            raise DataError(
                f'Sample id "{self.id}" is not a relative path with "/" between folders and '
                'without "..".'
            )
        if self.split not in SPLITS:
            raise DataError(
                f'Sample "{self.id}" has split "{self.split}"; allowed are {", ".join(SPLITS)}.'
            )


@dataclass(frozen=True)
class Dataset:
    """Images with weak labels and, where known, ground-truth masks.

    Args:
        root: The data folder.
        classes: The foreground classes.
        samples: Samples with unique ids.
        source: The format it was read from, e.g. "labels_csv".
        notes: What the reader decided or left out, one sentence each.

    Raises:
        DataError: If two samples share an id, or a label is outside the class list.
    """

    root: Path
    classes: ClassList
    samples: tuple[Sample, ...]
    source: str = "python"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", tuple(self.samples))
        object.__setattr__(self, "notes", tuple(self.notes))
        counts = Counter(sample.id for sample in self.samples)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise DataError(
                "Sample ids must be unique; rename or remove all but one of each.",
                [f'"{name}" occurs {counts[name]} times' for name in repeated],
            )
        unknown = [
            f'"{sample.id}" has class id {max(ids)}'
            for sample in self.samples
            if (ids := sample.labels.class_ids()) and max(ids) > self.classes.num_classes
        ]
        if unknown:
            raise DataError(
                f"Labels must use the class ids 1 to {self.classes.num_classes}.", unknown
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def split(self, name: str) -> tuple[Sample, ...]:
        """Return the samples of one split, in order.

        Args:
            name: "train", "val" or "test".

        Raises:
            DataError: If there is no such split name; an empty split is not an error.
        """
        if name not in SPLITS:
            raise DataError(f'Unknown split "{name}"; allowed are {", ".join(SPLITS)}.')
        return tuple(sample for sample in self.samples if sample.split == name)

    def by_id(self, sample_id: str) -> Sample:
        """Return one sample.

        Raises:
            DataError: If there is no such sample.
        """
        for sample in self.samples:
            if sample.id == sample_id:
                return sample
        raise DataError(f'No sample "{sample_id}" in {self.root} ({len(self)} samples).')

    def fingerprint(self, *, masks: bool = True) -> str:
        """Hash what a run depends on, without opening images.

        Covers classes, ids, labels, splits, groups, and size and modification time of each file.
        The place of the data folder and the order of the samples do not matter.

        Args:
            masks: Whether the ground-truth masks count. Stages that never see them can pass
                False, so that adding masks later repeats nothing.

        Returns:
            32 hexadecimal digits.
        """
        digest = hashlib.sha256()
        digest.update(_dump({"classes": self.classes.names}).encode())
        for sample in sorted(self.samples, key=lambda sample: sample.id):
            record = {
                "id": sample.id,
                "labels": _labels_to_json(sample.labels),
                "split": sample.split,
                "group": sample.group,
                "image": _file_state(sample.image_path),
                "mask": _file_state(sample.mask_path) if masks else None,
            }
            digest.update(_dump(record).encode())
        return digest.hexdigest()[:32]

    def to_jsonl(self, path: Path) -> None:
        """Write one line about the set and one per sample, atomically.

        Paths inside ``root`` are written relative to it.

        Args:
            path: File to write.

        Raises:
            OutputError: If the file cannot be written.
        """
        from wsseg.atomic import write_text

        head = {
            "format": _FORMAT,
            "version": _VERSION,
            "root": str(self.root),
            "classes": self.classes.names,
            "source": self.source,
            "notes": self.notes,
        }
        lines = [_dump(head), *(_dump(_sample_to_json(s, self.root)) for s in self.samples)]
        write_text(path, "\n".join(lines) + "\n")

    @classmethod
    def from_jsonl(cls, path: Path, *, root: Path | None = None) -> Dataset:
        """Read what :meth:`to_jsonl` wrote.

        Args:
            path: The file.
            root: The data folder, where it has moved since.

        Raises:
            DataError: If the file is missing or a line is not valid; the line is named.
        """
        try:
            # Only "\n" ends a record: names may hold the other characters of str.splitlines.
            lines = path.read_bytes().decode().removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as fault:
            raise DataError(f"{path}: cannot be read ({fault}). Run the command again.") from None
        records = _parse_lines(path, lines)
        head = records[0] if records else {}
        if head.get("format") != _FORMAT or head.get("version") != _VERSION:
            raise DataError(
                f"{path}: line 1 is not the head of a sample list (format {_FORMAT}, version "
                f"{_VERSION}). Read the data folder again."
            )
        folder = root if root is not None else Path(head["root"])
        samples = []
        for number, record in enumerate(records[1:], start=2):
            try:
                samples.append(_sample_from_json(record, folder))
            except (KeyError, TypeError, ValueError) as fault:
                raise DataError(f"{path} line {number}: not a sample ({fault!r}).") from fault
        return cls(
            root=folder,
            classes=ClassList(tuple(head["classes"])),
            samples=tuple(samples),
            source=str(head["source"]),
            notes=tuple(head["notes"]),
        )


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _parse_lines(path: Path, lines: Iterable[str]) -> list[dict[str, Any]]:
    """Parse every line; name the first one that is not a JSON object."""
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as fault:
            raise DataError(f"{path} line {number}: not valid JSON ({fault}).") from None
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number}: expected a JSON object, got {line[:40]}.")
        records.append(record)
    return records


def _file_state(path: Path | None) -> list[int] | None:
    """Size in bytes and modification time in ns; None for a missing file."""
    if path is None:
        return None
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _labels_to_json(labels: WeakLabels) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if labels.tags is not None:
        record["tags"] = sorted(labels.tags)
    if labels.boxes is not None:
        record["boxes"] = {
            "xyxy": labels.boxes.xyxy.tolist(),
            "class_ids": labels.boxes.class_ids.tolist(),
        }
    if labels.points is not None:
        record["points"] = {
            "xy": labels.points.xy.tolist(),
            "class_ids": labels.points.class_ids.tolist(),
        }
    if labels.scribbles is not None:
        record["scribbles"] = {
            "lines": [line.tolist() for line in labels.scribbles.lines],
            "class_ids": labels.scribbles.class_ids.tolist(),
        }
    return record


def _labels_from_json(record: dict[str, Any]) -> WeakLabels:
    def ids(values: list[int]) -> np.ndarray:
        return np.asarray(values, dtype=np.int64)

    def floats(values: list[list[float]], width: int) -> np.ndarray:
        return np.asarray(values, dtype=np.float32).reshape(-1, width)

    boxes, points, scribbles = (record.get(name) for name in ("boxes", "points", "scribbles"))
    return WeakLabels(
        tags=frozenset(record["tags"]) if "tags" in record else None,
        boxes=Boxes(floats(boxes["xyxy"], 4), ids(boxes["class_ids"])) if boxes else None,
        points=Points(floats(points["xy"], 2), ids(points["class_ids"])) if points else None,
        scribbles=Scribbles(
            tuple(floats(line, 2) for line in scribbles["lines"]), ids(scribbles["class_ids"])
        )
        if scribbles
        else None,
    )


def _path_to_json(path: Path | None, root: Path) -> str | None:
    if path is None:
        return None
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return str(path.absolute())


def _sample_to_json(sample: Sample, root: Path) -> dict[str, Any]:
    return {
        "id": sample.id,
        "image": _path_to_json(sample.image_path, root),
        "labels": _labels_to_json(sample.labels),
        "split": sample.split,
        "mask": _path_to_json(sample.mask_path, root),
        "group": sample.group,
    }


def _sample_from_json(record: dict[str, Any], root: Path) -> Sample:
    mask = record["mask"]
    return Sample(
        id=record["id"],
        image_path=root / record["image"],
        labels=_labels_from_json(record["labels"]),
        split=record["split"],
        mask_path=None if mask is None else root / mask,
        group=record["group"],
    )
