"""Problems: everything that is wrong with a data set, collected instead of raised one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsseg.errors import DataError

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set.

    Args:
        file: The file, relative to the data folder where it lies inside, with "line N" where it
            is a text file.
        what: What is wrong, with the value seen and what is allowed.
        remedy: What the user can do.
        severity: "error": the sample (or the label) cannot be used; "warning": it can, but
            probably not as intended.

    Example:
        >>> print(Problem("a.png", "is empty (0 bytes).", "Copy it again.", "error"))
        a.png: is empty (0 bytes). Copy it again.
    """

    file: str
    what: str
    remedy: str
    severity: Severity

    def __str__(self) -> str:
        return f"{self.file}: {self.what} {self.remedy}"


class Problems:
    """A growing list of problems.

    Example:
        >>> problems = Problems()
        >>> problems.error("a.png", "is empty (0 bytes).", "Copy it again.")
        >>> len(problems), problems.num_errors
        (1, 1)
    """

    def __init__(self, found: Iterable[Problem] = ()) -> None:
        self._found: list[Problem] = list(found)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    def add(self, problem: Problem) -> None:
        """Append one problem; the same one twice is kept once."""
        if problem not in self._found[-1:]:
            self._found.append(problem)

    def error(self, file: object, what: str, remedy: str) -> None:
        """Append a problem that makes a sample or a label unusable."""
        self.add(Problem(str(file), what, remedy, "error"))

    def warning(self, file: object, what: str, remedy: str) -> None:
        """Append a problem that lets the sample be used, though probably not as intended."""
        self.add(Problem(str(file), what, remedy, "warning"))

    def fault(self, path: Path, fault: DataError, *, root: Path | None = None) -> None:
        """Append what a reader of single files raised.

        The last sentence of its message is the remedy.

        Args:
            path: The file that the fault names.
            fault: What was raised.
            root: The data folder, to name the file relative to it.
        """
        name = path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path
        what, stop, remedy = str(fault).removeprefix(f"{path}: ").rpartition(". ")
        self.error(name, what + stop.strip(), remedy)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems of severity "error"."""
        return tuple(problem for problem in self._found if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems of severity "warning"."""
        return tuple(problem for problem in self._found if problem.severity == "warning")

    @property
    def num_errors(self) -> int:
        """Number of problems of severity "error"."""
        return len(self.errors)

    def raise_errors(self, message: str) -> None:
        """Raise when there is an error; the first 20 are shown with the number of the rest.

        Args:
            message: What was being done, in one sentence.

        Raises:
            DataError: If there is at least one error.
        """
        errors = self.errors
        if errors:
            raise DataError(message, [str(problem) for problem in errors])
