"""What wsseg says: progress and log lines on stderr, results on stdout.

Rich progress bars with the time left appear in a terminal, plain lines elsewhere; ``--json``
silences both and leaves stdout to one JSON document.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from wsseg.processes import is_main_process

logger = logging.getLogger("wsseg")

_PLAIN_INTERVAL_S = 10.0
_state = {"json": False, "quiet": False}


class Progress(Protocol):
    """A running count of work."""

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more units are done."""

    def set(self, text: str) -> None:
        """Show ``text`` (a loss, a file name) beside the count."""


def configure(*, json_output: bool = False, quiet: bool = False, debug: bool = False) -> None:
    """Set up logging once per process.

    Args:
        json_output: Keep stdout for one JSON document and show no progress.
        quiet: Show no progress and only warnings.
        debug: Show debug lines.
    """
    _state.update(json=json_output, quiet=quiet)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    logger.handlers[:] = [handler]
    logger.propagate = False
    level = logging.WARNING if quiet or json_output else logging.INFO
    if not is_main_process():
        # What the first process says once, the others need not repeat.
        level = logging.CRITICAL
    logger.setLevel(logging.DEBUG if debug else level)


class _LineFormatter(logging.Formatter):
    """Plain sentences; only warnings and worse carry their level."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {message}"
        return message


def is_json() -> bool:
    """Tell whether ``--json`` was asked for."""
    return bool(_state["json"])


def info(message: str) -> None:
    """Log a sentence for the user."""
    logger.info(message)


def warning(message: str) -> None:
    """Log something the user should look at."""
    logger.warning(message)


_said: set[str] = set()


def once(message: str) -> None:
    """Log an automatic choice the first time it is made in this process."""
    if message not in _said:
        _said.add(message)
        logger.info(message)


def result(text: str, data: Any = None) -> None:
    """Print a result on stdout, in the first process only.

    Args:
        text: For people.
        data: For machines, printed as JSON instead of ``text`` under ``--json``.
    """
    if not is_main_process():
        return
    if is_json():
        if data is not None:
            sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def progress(total: int | None, title: str, *, done: int = 0) -> Iterator[Progress]:
    """Show how far a long piece of work is and how long it will take.

    Args:
        total: Units of work in all, or None where unknown.
        title: What is being done.
        done: Units that an earlier run finished already.

    Yields:
        The object to report to.
    """
    if _state["json"] or _state["quiet"] or not is_main_process():
        yield _Silent()
    elif sys.stderr.isatty():
        with _rich_progress(total, title, done) as shown:
            yield shown
    else:
        plain = _Plain(total, title, done)
        try:
            yield plain
        finally:
            plain.close()


class _Silent:
    def advance(self, count: int = 1) -> None: ...

    def set(self, text: str) -> None: ...


class _Plain:
    """One line now and then, for logs and pipes."""

    def __init__(self, total: int | None, title: str, done: int) -> None:
        self.total, self.title, self.done, self.text = total, title, done, ""
        self.start_done = done
        self.started = self.last = time.monotonic()
        self.shown = -1

    def advance(self, count: int = 1) -> None:
        self.done += count
        if time.monotonic() - self.last >= _PLAIN_INTERVAL_S:
            self._show()

    def set(self, text: str) -> None:
        self.text = text

    def close(self) -> None:
        if self.done != self.shown:
            self._show()

    def _show(self) -> None:
        self.last, self.shown = time.monotonic(), self.done
        elapsed = self.last - self.started
        of = f"/{self.total}" if self.total is not None else ""
        left = ""
        worked = self.done - self.start_done
        if self.total is not None and worked and self.done < self.total:
            left = f", {elapsed / worked * (self.total - self.done):.0f} s left"
        text = f", {self.text}" if self.text else ""
        logger.info("%s %d%s (%.0f s%s%s)", self.title, self.done, of, elapsed, left, text)


@contextlib.contextmanager
def _rich_progress(total: int | None, title: str, done: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    bars = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
    )
    task = bars.add_task(escape(title), total=total, completed=done, text="")

    class _Shown:
        def advance(self, count: int = 1) -> None:
            bars.advance(task, count)

        def set(self, text: str) -> None:
            bars.update(task, text=escape(text))

    with bars:
        yield _Shown()
