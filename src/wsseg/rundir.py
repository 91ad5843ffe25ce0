"""A run is a folder: stages, manifests, fingerprints and what makes a killed run go on.

Each stage owns one folder with ``stage.json`` (its fingerprint and state) and ``manifest.jsonl``
(one line per image). A stage whose fingerprint is unchanged is not done again; within a stage,
images whose results are there are not done again, and images that failed are tried again until
the stage is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wsseg import console
from wsseg.atomic import append_jsonl, output_error, read_jsonl, remove_temporaries, write_json
from wsseg.errors import DataError, OutputError

STAGE_FILE = "stage.json"
MANIFEST_FILE = "manifest.jsonl"


class HasId(Protocol):
    """Anything that carries an image id."""

    @property
    def id(self) -> str:
        """The image id: a relative path without suffix."""


def fingerprint(*parts: Any) -> str:
    """Hash settings, versions and input fingerprints into one short name.

    Args:
        parts: Anything JSON can hold.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> fingerprint({"a": 1}, "x") == fingerprint({"a": 1}, "x")
        True
        >>> fingerprint({"a": 1}, "x") == fingerprint({"a": 2}, "x")
        False
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StageDir:
    """One stage's folder.

    Args:
        path: The folder.
        fingerprint: Hash of everything that the results depend on.
    """

    path: Path
    fingerprint: str

    def file(self, kind: str, image_id: str, suffix: str) -> Path:
        """Name the result file of an image, such as ``scores/SUB/NAME.npz``."""
        return self.path / kind / f"{image_id}{suffix}"

    def begin(self) -> bool:
        """Open the stage, clearing what was made with other settings.

        Returns:
            True when the stage is complete already and need not run.

        Raises:
            OutputError: When the folder cannot be written.
        """
        state = self.state()
        if state.get("fingerprint") == self.fingerprint:
            if state.get("progress") == "done":
                return True
            remove_temporaries(self.path)
            return False
        if self.path.exists() and any(self.path.iterdir()):
            self._require_own_folder(state)
            console.info(f"{self.path.name}: settings or input changed, starting this stage over")
            try:
                shutil.rmtree(self.path)
            except OSError as error:
                raise output_error(self.path, error) from error
        self._write_state("running")
        return False

    def _require_own_folder(self, state: dict[str, Any]) -> None:
        if not state:
            raise OutputError(
                f"{self.path} exists and was not made by wsseg; nothing in it was touched. "
                "Choose another folder with --out."
            )

    def state(self) -> dict[str, Any]:
        """Read ``stage.json``; an unfinished or new stage has no complete one."""
        try:
            loaded = json.loads((self.path / STAGE_FILE).read_text())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _write_state(self, progress: str, **more: Any) -> None:
        write_json(
            self.path / STAGE_FILE,
            {"fingerprint": self.fingerprint, "progress": progress, "time": time.time(), **more},
        )

    def finish(self, **facts: Any) -> None:
        """Mark the stage complete.

        Args:
            facts: What the report should know (JSON-able), such as ``seconds``.
        """
        self._write_state("done", **facts)

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Read the last line of each image: ``{id: {"status": ..., "reason": ...}}``."""
        return {line["id"]: line for line in read_jsonl(self.path / MANIFEST_FILE)}

    def failures(self) -> dict[str, str]:
        """List the images that failed: ``{id: reason}``."""
        return {
            image_id: line.get("reason", "")
            for image_id, line in self.manifest().items()
            if line["status"] == "failed"
        }

    def seconds(self) -> float:
        """Add up the time that the images of this stage took, over all its runs."""
        return sum(line.get("seconds", 0.0) for line in self.manifest().values())

    def for_each(
        self, items: Sequence[Any], work: Callable[[Any], dict[str, Any] | None], *, title: str
    ) -> None:
        """Do the work for each image that has no result yet; a bad image stops nothing.

        Args:
            items: Objects with an ``id``.
            work: Makes the result of one item, and may return facts for its manifest line.
            title: What the progress bar says.

        Raises:
            OutputError: When a result cannot be written; what was done is kept.
        """
        finished = {key for key, line in self.manifest().items() if line["status"] == "ok"}
        waiting = [item for item in items if item.id not in finished]
        if not waiting:
            return
        if len(waiting) < len(items):
            console.info(f"{title}: {len(items) - len(waiting)} of {len(items)} done before")
        with console.progress(len(items), title, done=len(items) - len(waiting)) as shown:
            for item in waiting:
                self._one(item, work)
                shown.advance()

    def _one(self, item: Any, work: Callable[[Any], dict[str, Any] | None]) -> None:
        started = time.perf_counter()
        line: dict[str, Any]
        try:
            facts = work(item)
            seconds = round(time.perf_counter() - started, 4)
            line = {"id": item.id, "status": "ok", "seconds": seconds, **(facts or {})}
        except DataError as error:
            console.warning(f"{item.id}: {error}")
            line = {"id": item.id, "status": "failed", "reason": str(error)}
        append_jsonl(self.path / MANIFEST_FILE, line)

    def usable(self, items: Iterable[Any]) -> list[Any]:
        """Keep the items whose results are there."""
        manifest = self.manifest()
        return [item for item in items if manifest.get(item.id, {}).get("status") == "ok"]


@dataclass(frozen=True)
class RunDir:
    """The folder of one run; see the design of the files in the documentation.

    Args:
        path: The folder.
    """

    path: Path
    _held: list[Any] = field(default_factory=list, repr=False, compare=False)

    @property
    def recipe_path(self) -> Path:
        """The fully resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def samples_path(self) -> Path:
        """The data set as it was read."""
        return self.path / "samples.jsonl"

    @property
    def metrics_path(self) -> Path:
        """The numbers of every stage."""
        return self.path / "metrics.json"

    @property
    def report_path(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def stage(self, name: str, mark: str) -> StageDir:
        """Name a stage's folder, such as ``localize`` or ``refine/2_dense_crf``."""
        return StageDir(self.path / name, mark)

    def stage_as_is(self, name: str) -> StageDir:
        """Open a stage with the fingerprint it has on disk (for reading)."""
        found = StageDir(self.path / name, "")
        return StageDir(found.path, str(found.state().get("fingerprint", "")))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other wsseg processes out of the folder while this one writes.

        Raises:
            OutputError: When the folder cannot be made, or another process works in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("a")
        except OSError as error:
            raise output_error(self.path, error) from error
        with stream:
            _lock(stream, self.path)
            yield


def _lock(stream: Any, folder: Path) -> None:
    """Take the lock, which the operating system frees even when the process is killed."""
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind; runs are not guarded there
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"Another wsseg process is working in {folder}. Wait for it, or choose another "
            "folder with --out."
        ) from error
    except OSError:
        console.warning(f"{folder}: the file system has no locks; do not run two processes here")
