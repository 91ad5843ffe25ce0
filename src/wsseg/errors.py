"""The faults that wsseg reports: one root, one class per kind, each with its exit code.

A message says what was wrong, the value seen, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MAX_PROBLEMS_SHOWN = 20


class WssegError(Exception):
    """Root of all faults that a user can act on.

    The command line prints the message without a traceback and exits with ``exit_code``.
    """

    exit_code = 2


class RecipeError(WssegError):
    """A recipe, an override or a command-line argument is wrong (exit code 2)."""


class DataError(WssegError):
    """Images, labels or masks are wrong (exit code 3).

    Args:
        message: What is wrong, in one sentence.
        problems: The single problems, each naming its file; the first 20 are shown.
    """

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        lines = [message, *(f"  - {text}" for text in self.problems[:MAX_PROBLEMS_SHOWN])]
        hidden = len(self.problems) - MAX_PROBLEMS_SHOWN
        if hidden > 0:
            lines.append(f"  ... and {hidden} more")
        super().__init__("\n".join(lines))


class OutputError(WssegError):
    """A result could not be written: disk full, read-only folder (exit code 3)."""

    exit_code = 3


class MissingWeightsError(WssegError):
    """Pre-trained weights are neither cached nor reachable, or do not fit (exit code 4)."""

    exit_code = 4


class MissingExtraError(WssegError):
    """An optional dependency is not installed (exit code 4)."""

    exit_code = 4

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs the extra "{extra}": pip install "wsseg[{extra}]"')


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known name nearest to a mistyped one.

    Args:
        name: What the user wrote.
        known: The names that exist.

    Returns:
        A sentence such as ``' Did you mean "scratch"?'`` with a leading space, or ``""``.

    Example:
        >>> did_you_mean("scrach", ["scratch", "dent"])
        ' Did you mean "scratch"?'
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, what it was probably meant to be, and what there is.

    Example:
        >>> unknown_name("refiner", "dense-crf", ["dense_crf", "superpixel"])
        'Unknown refiner "dense-crf". Did you mean "dense_crf"? Available: dense_crf, superpixel.'
    """
    names = sorted(known)
    return f'Unknown {kind} "{name}".{did_you_mean(name, names)} Available: {", ".join(names)}.'
