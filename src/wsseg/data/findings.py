"""One thing that a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set, or good to know about it.

    Args:
        kind: What kind of finding, e.g. "duplicate"; stable, for machines.
        severity: "error": makes samples, labels or scores unusable; "warning": probably not as
            intended; "info": good to know.
        file: The file it is about, relative to the data folder, or what else: a class, a split.
        what: What is wrong, with the value seen and what is allowed.
        remedy: What the user can do; may be empty for an info.

    Example:
        >>> print(Finding("one_pixel", "warning", "a.png", "is 1x9 pixels.", "Remove it."))
        a.png: is 1x9 pixels. Remove it.
    """

    kind: str
    severity: Severity
    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what} {self.remedy}".rstrip()

    def as_dict(self) -> dict[str, str]:
        """Return everything as JSON-able values."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "file": self.file,
            "what": self.what,
            "remedy": self.remedy,
        }
