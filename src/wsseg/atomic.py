"""Files that are either whole or absent: write to a temporary name, then rename.

Every result that wsseg writes goes through here, so a kill, a full disk or Ctrl-C never leaves
half a file under its final name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsseg.errors import OutputError

_TEMPORARY_PREFIX = ".tmp-"
# Exactly what `atomic_path` writes, so that no file of the user is ever taken for one.
_TEMPORARY_NAME = r"\.tmp-[0-9a-f]{12}(\..*)?"

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder with --out",
    errno.EACCES: "the folder may not be written; choose another one with --out",
    errno.EPERM: "the folder may not be written; choose another one with --out",
    errno.ENAMETOOLONG: "the name is too long for this file system; shorten the image's name",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn an operating-system error into a message that says what to do.

    Args:
        path: The file or folder that was being written.
        error: What the operating system said.

    Returns:
        The fault to raise; nothing that was complete before is lost.
    """
    remedy = _REMEDIES.get(error.errno or 0, "check the disk and run the same command again")
    return OutputError(f"Cannot write {path}: {error.strerror or error} - {remedy}.")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn operating-system errors of the enclosed writes into `OutputError`.

    Args:
        path: What is being written, for the message.

    Raises:
        OutputError: When the disk is full, the folder read-only, and the like.
    """
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes ``path`` when the block ends without an error.

    The temporary file lies in the same folder and keeps the suffix, so that writers that look
    at it work. The folder is made when it is missing.

    Args:
        path: The final name.

    Yields:
        The name to write to.

    Raises:
        OutputError: When the file cannot be written; ``path`` is then as it was before.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{secrets.token_hex(6)}{path.suffix}"
    try:
        with writing(path):
            yield temporary
            os.replace(temporary, path)  # noqa: PTH105 - the atomic call, named as such
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes to ``path`` atomically.

    Raises:
        OutputError: When the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path`` atomically.

    Raises:
        OutputError: When the file cannot be written.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON to ``path`` atomically; NaN is not allowed.

    Raises:
        OutputError: When the file cannot be written.
        ValueError: When ``content`` holds NaN or infinity.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_jsonl(path: Path, record: Any) -> None:
    """Append one record as a line of JSON; a line torn by a kill is closed first.

    Args:
        path: The file; it and its folder are made when missing.
        record: Anything JSON can hold.

    Raises:
        OutputError: When the file cannot be written.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            if stream.tell() > 0:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = "\n" + line
            stream.write(line.encode())


def read_jsonl(path: Path) -> list[Any]:
    """Read the records of a JSON-lines file, leaving out lines torn by a kill.

    Args:
        path: The file; a missing file has no records.

    Returns:
        The records in the order of writing.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def is_temporary(path: Path) -> bool:
    """Tell whether a file is an unfinished one, by its name."""
    return re.fullmatch(_TEMPORARY_NAME, path.name) is not None


def remove_temporaries(folder: Path, *, below: bool = True) -> None:
    """Remove what killed writers left behind in ``folder``.

    Args:
        folder: May be missing.
        below: Whether to look into its sub-folders too.
    """
    find = folder.rglob if below else folder.glob
    for leftover in find(f"{_TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if is_temporary(leftover):
                leftover.unlink()
