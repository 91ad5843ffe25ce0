"""Find what is wrong with a data set before a run spends hours on it.

Every problem names its file and what to do about it. Images are looked at one by one and forgotten;
only a few numbers and a 16-byte digest of the pixels are kept of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsseg.data.check_files import FileFacts, findings_of_files, look_at
from wsseg.data.check_labels import findings_of_labels
from wsseg.data.dataset import SPLITS, Dataset, Sample
from wsseg.data.findings import SEVERITIES, Finding, Severity
from wsseg.data.labels import BACKGROUND, IGNORE

if TYPE_CHECKING:
    from rich.table import Table

_CHUNK = 64
_WORKERS = 4
_SHOWN = 200


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found.

    Args:
        root: The data folder.
        source: The format it was read from.
        images: Split → number of images.
        classes: Class name → split → number of images that have the class as a label.
        no_class: Split → number of images that were looked at and show no class ("ok").
        mask_pixels: Class name (also "background", "ignore") → number of pixels in all masks; empty
            where there are no masks or the check was not deep.
        findings: Everything found, errors first.
        deep: Whether images and masks were decoded.
    """

    root: Path
    source: str
    images: dict[str, int]
    classes: dict[str, dict[str, int]]
    no_class: dict[str, int]
    mask_pixels: dict[str, int]
    findings: tuple[Finding, ...]
    deep: bool

    @property
    def num_errors(self) -> int:
        """Number of findings that must be put right."""
        return self.count("error")

    def count(self, severity: Severity) -> int:
        """Number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """Return everything as JSON-able values."""
        return {
            "root": str(self.root),
            "source": self.source,
            "deep": self.deep,
            "images": dict(self.images),
            "classes": {name: dict(row) for name, row in self.classes.items()},
            "no_class": dict(self.no_class),
            "mask_pixels": dict(self.mask_pixels),
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def text(self, *, max_shown: int = _SHOWN) -> str:
        """Format the counts and the findings as plain lines.

        Args:
            max_shown: Most findings of one severity to list; ``as_dict`` always has all.
        """
        lines = [f"{self.root}: {self.source}, {_per_split(self.images)}"]
        for name, row in (*self.classes.items(), ("(no class)", self.no_class)):
            lines.append(f"  {name}: {_per_split(row)}")
        for severity in SEVERITIES:
            chosen = [finding for finding in self.findings if finding.severity == severity]
            lines += [f"{severity}: {finding}" for finding in chosen[:max_shown]]
            if len(chosen) > max_shown:
                lines.append(f"{severity}: ... and {len(chosen) - max_shown} more (--json has all)")
        lines.append(f"{self.count('error')} error(s), {self.count('warning')} warning(s)")
        return "\n".join(lines)

    def table(self) -> Table:
        """Build a rich table of the findings."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("severity", "file", "what", "remedy", title=escape(str(self.root)))
        style = {"error": "red", "warning": "yellow", "info": "dim"}
        for finding in self.findings:
            cells = (finding.severity, finding.file, finding.what, finding.remedy)
            table.add_row(*(escape(cell) for cell in cells), style=style[finding.severity])
        return table


def check_dataset(data: Path | Dataset, *, deep: bool = True) -> CheckReport:
    """List every problem of a data set.

    Args:
        data: A folder in any layout that wsseg reads, or a data set that was read.
        deep: Decode every image and mask. Without, only tables, names and file headers are read;
            damaged pixels, wrong mask values and copies go unnoticed.

    Returns:
        Counts and findings. Errors make samples, labels or scores unusable; warnings probably were
        not intended; infos are good to know.

    Raises:
        DataError: The folder is in no layout that wsseg knows, or in several.
    """
    findings: list[Finding] = []
    if isinstance(data, Dataset):
        dataset = data
    else:
        dataset, findings = _read(data)
    mask_pixels = [0] * 256
    facts: list[FileFacts] = []
    for fact in _look_at_all(dataset, deep):
        for value, count in fact.mask_values.items():
            mask_pixels[value] += count
        facts.append(fact)
    findings += findings_of_files(dataset, facts)
    findings += findings_of_labels(dataset, facts)
    findings += [Finding("note", "info", dataset.source, note, "") for note in dataset.notes]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return CheckReport(
        root=dataset.root,
        source=dataset.source,
        images={split: len(dataset.split(split)) for split in SPLITS},
        classes=_class_counts(dataset),
        no_class={
            split: sum(_is_without_class(sample) for sample in dataset.split(split))
            for split in SPLITS
        },
        mask_pixels=_named_pixels(dataset, mask_pixels),
        findings=tuple(findings),
        deep=deep,
    )


def _look_at_all(dataset: Dataset, deep: bool) -> Iterator[FileFacts]:
    """Look at the files of all samples, some at a time, in order."""
    from wsseg import console

    samples = dataset.samples

    def look(sample: Sample) -> FileFacts:
        return look_at(sample, deep=deep)

    title = "Reading images" if deep else "Reading image headers"
    with ThreadPoolExecutor(_WORKERS) as workers, console.progress(len(samples), title) as bar:
        # In chunks: the pool would otherwise queue a task per image of a large set at once.
        for start in range(0, len(samples), _CHUNK):
            chunk = samples[start : start + _CHUNK]
            yield from workers.map(look, chunk)
            bar.advance(len(chunk))


def _read(path: Path) -> tuple[Dataset, list[Finding]]:
    """Read a folder; what the reader finds becomes findings."""
    from wsseg.data.discover import read_dataset

    dataset, problems = read_dataset(path)
    found = [
        Finding("reading", problem.severity, problem.file, problem.what, problem.remedy)
        for problem in problems
    ]
    return dataset, found


def _per_split(row: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in row.items() if count) or "no image"


def _is_without_class(sample: Sample) -> bool:
    return bool(sample.labels.kinds) and not sample.labels.class_ids()


def _class_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    counts = {name: dict.fromkeys(SPLITS, 0) for name in dataset.classes.names}
    for sample in dataset.samples:
        for class_id in sample.labels.class_ids():
            counts[dataset.classes.name_of(class_id)][sample.split] += 1
    return {name: {str(split): n for split, n in row.items()} for name, row in counts.items()}


def _named_pixels(dataset: Dataset, pixels: list[int]) -> dict[str, int]:
    if not any(pixels):
        return {}
    ids = (BACKGROUND, *range(1, dataset.classes.num_classes + 1), IGNORE)
    return {dataset.classes.name_of(value): pixels[value] for value in ids}
