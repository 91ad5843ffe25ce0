"""Read CSV tables strictly: whatever is malformed is a problem that names line and column."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsseg.data.labels import BACKGROUND, IGNORE, ClassList, class_name_fault
from wsseg.data.listing import shown
from wsseg.data.problems import Problems
from wsseg.errors import did_you_mean

_DELIMITERS = (",", "\t", ";")


@dataclass(frozen=True)
class Row:
    """One line of a table: its line number (from 1) and its cells by column name."""

    line: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """Return a cell without blanks at its ends; empty where there is no such column."""
        return self.cells.get(column, "").strip()


@dataclass(frozen=True)
class Table:
    """A table: the column names in lower case, and the rows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(
    path: Path, problems: Problems, *, root: Path, required: Sequence[str]
) -> Table | None:
    """Read a CSV file with a header line.

    UTF-8 with or without byte-order mark. The delimiter is the one of comma, tab and semicolon
    that makes the first required column appear in the header. Empty lines are left out, as are
    empty cells behind the last column.

    Args:
        path: The file.
        problems: Receives what is malformed; such rows are left out.
        root: The data folder, for the messages.
        required: Names of columns that must be there.

    Returns:
        The table, or None when the header or the encoding makes it unreadable.
    """
    name = shown(path, root)
    text = _decode(path, name, problems)
    if text is None:
        return None
    lines = text.splitlines()
    header_line = next((line for line in lines if line.strip()), "")
    delimiter = next(
        (mark for mark in _DELIMITERS if required[0] in _header(header_line, mark)), ","
    )
    records = _records(text, delimiter, name, problems)
    if not records:
        if not lines:
            problems.error(name, "is empty.", f"Write a header line: {','.join(required)},...")
        return None
    first_line, first = records[0]
    columns = [cell.strip().casefold() for cell in first]
    while columns and not columns[-1]:
        columns.pop()
    if not _check_header(columns, required, f"{name} line {first_line}", problems):
        return None
    rows = [
        Row(line, dict(zip(columns, cells, strict=True)))
        for line, record in records[1:]
        if (cells := _fit(record, columns, f"{name} line {line}", problems)) is not None
    ]
    return Table(tuple(columns), tuple(rows))


def read_class_table(path: Path, problems: Problems, *, root: Path) -> ClassList | None:
    """Read ``classes.csv``: columns ``id`` and ``name``.

    Row 0 (background) and row 255 (ignore) may be there under any name; the others must be
    numbered 1..C without gaps, in any order.

    Args:
        path: The file.
        problems: Receives what is wrong.
        root: The data folder, for the messages.

    Returns:
        The class list, or None when it cannot be made.
    """
    table = read_table(path, problems, root=root, required=("id", "name"))
    if table is None:
        return None
    name = shown(path, root)
    names: dict[int, str] = {}
    num_before = problems.num_errors
    for row in table.rows:
        where = f"{name} line {row.line}"
        cell = row.text("id")
        if not cell.isdecimal() or int(cell) > IGNORE:
            problems.error(
                where, f'column id: "{cell}" is not a number from 0 to 255.', "Correct it."
            )
            continue
        class_id, label = int(cell), row.text("name")
        if class_id in (BACKGROUND, IGNORE):
            continue
        if fault := class_name_fault(label):
            problems.error(where, f'column name: "{label}" {fault}.', "Rename the class.")
        elif class_id in names or label in names.values():
            problems.error(
                where, f'repeats id {class_id} or name "{label}".', "Keep one row per class."
            )
        names[class_id] = label
    missing = sorted(set(range(1, len(names) + 1)) - names.keys())
    if missing:
        problems.error(
            name,
            f"has the ids {sorted(names)}; expected 1 to {len(names)} without gaps.",
            "Number the classes from 1, and the masks in the same way.",
        )
    if problems.num_errors > num_before:
        return None
    return ClassList(tuple(names[class_id] for class_id in sorted(names)))


def _decode(path: Path, name: str, problems: Problems) -> str | None:
    """Read a file as UTF-8; say where it is not."""
    try:
        content = path.read_bytes()
    except OSError as fault:
        problems.error(name, f"cannot be read ({fault.strerror}).", "Check its permissions.")
        return None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        problems.error(name, "is UTF-16, not UTF-8.", 'Save it as "CSV UTF-8".')
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        before = content[: fault.start]
        line = before.count(b"\n") + 1
        column = fault.start - (before.rfind(b"\n") + 1) + 1
        problems.error(
            f"{name} line {line}",
            f"column {column}: byte 0x{content[fault.start]:02x} is not UTF-8.",
            'Save it as "CSV UTF-8".',
        )
        return None


def _header(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').casefold() for cell in line.split(delimiter)]


def _records(
    text: str, delimiter: str, name: str, problems: Problems
) -> list[tuple[int, list[str]]]:
    """Split into non-empty records with the line each starts at; stop at a broken quote."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[tuple[int, list[str]]] = []
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return records
        except csv.Error as fault:
            source = text.splitlines()[line - 1 : line]
            column = source[0].find('"') + 1 if source else 0
            problems.error(
                f"{name} line {line}",
                f"column {column}: the quotes are malformed ({fault}); this line and all after it "
                "are unreadable.",
                'Write a quote inside a cell as "" and close every quoted cell.',
            )
            return records
        if any(cell.strip() for cell in record):
            records.append((line, record))


def _check_header(
    columns: list[str], required: Sequence[str], where: str, problems: Problems
) -> bool:
    """Check that the required columns are there, and each only once."""
    missing = [name for name in required if name not in columns]
    for name in missing:
        problems.error(
            where,
            f'has no column "{name}"; found {", ".join(columns) or "nothing"}.'
            f"{did_you_mean(name, columns)}",
            "Write the column names into the first line.",
        )
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    for name in repeated:
        problems.error(where, f'has the column "{name}" more than once.', "Rename one of them.")
    return not missing and not repeated


def _fit(record: list[str], columns: list[str], where: str, problems: Problems) -> list[str] | None:
    """Drop empty cells at the end; None when their number is not that of the columns."""
    cells = list(record)
    while len(cells) > len(columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) == len(columns):
        return cells
    if len(cells) > len(columns):
        problems.error(
            where,
            f"has {len(cells)} cells for {len(columns)} columns; column {len(columns) + 1}, "
            f'"{cells[len(columns)]}", has no name.',
            "Put cells that contain the delimiter into quotes.",
        )
    else:
        problems.error(
            where,
            f'has {len(cells)} cells for {len(columns)} columns; column "{columns[len(cells)]}" '
            "is missing.",
            "Write every cell of the line, empty ones too.",
        )
    return None
