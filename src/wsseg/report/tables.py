"""The confusion matrix as a table to look at, and as a list of its largest mistakes."""

from __future__ import annotations

from dataclasses import dataclass

from wsseg.report.model import StageResult

_MAX_CONFUSIONS = 5
_MIN_SHARE = 0.01


@dataclass(frozen=True)
class Cell:
    """One cell: its column's class, pixels, share of the row in [0, 1] and the text to show."""

    name: str
    count: str
    heat: str
    text: str
    is_diagonal: bool


@dataclass(frozen=True)
class Row:
    """The pixels of one true class."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class HeatTable:
    """A confusion matrix, each row scaled to its true class."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def confusion_table(stage: StageResult) -> HeatTable:
    """Scale each row of a confusion matrix to the pixels of its true class.

    Args:
        stage: A result with a confusion matrix, rows the truth.

    Returns:
        The table; a class without true pixels has an empty row.
    """
    names = _names(stage)
    rows = []
    for index, counts in enumerate(stage.confusion):
        total = sum(counts)
        cells = []
        for column, number in enumerate(counts):
            share = number / total if total else 0.0
            text = _percent(share) if number else ""
            cells.append(Cell(names[column], f"{number:,}", f"{share:.3f}", text, column == index))
        rows.append(Row(names[index], tuple(cells)))
    return HeatTable(names, tuple(rows))


def largest_confusions(stage: StageResult) -> list[str]:
    """List the mistakes that take the largest share of their true class.

    Args:
        stage: A result with a confusion matrix, rows the truth.

    Returns:
        At most five sentences, the worst first; mistakes below 1 % are left out.
    """
    names = _names(stage)
    found = []
    for index, counts in enumerate(stage.confusion):
        total = sum(counts)
        for column, number in enumerate(counts):
            if column != index and total and number / total >= _MIN_SHARE:
                found.append((number / total, names[index], names[column]))
    found.sort(key=lambda item: -item[0])
    return [
        f"{_percent(share)} % of {truth} is taken for {result}"
        for share, truth, result in found[:_MAX_CONFUSIONS]
    ]


def _names(stage: StageResult) -> tuple[str, ...]:
    known = {row.id: row.name for row in stage.classes}
    return tuple(known.get(index, str(index)) for index in range(len(stage.confusion)))


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "<0.1"
    return f"{100 * share:.1f}"
