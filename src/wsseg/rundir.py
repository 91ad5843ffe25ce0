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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wsseg import console
from wsseg.atomic import (
    append_jsonl,
    is_temporary,
    output_error,
    read_jsonl,
    remove_temporaries,
    write_json,
)
from wsseg.errors import DataError, OutputError, RecipeError
from wsseg.processes import from_main_process

STAGE_FILE = "stage.json"
MANIFEST_FILE = "manifest.jsonl"
KNOWS_BACKGROUND = "knows_background"
"""Key in ``stage.json``: row 0 of the scores is background that is known, not made by a rule."""
# What a stage may keep when only settings have changed; see `StageDir.learned`.
LEARNED_FOLDERS = ("confident", "training")


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
        learned: Hash of the input of what is learned. Folders of `LEARNED_FOLDERS` that were made
            with the same one outlive a change of the fingerprint, and tell by fingerprints of
            their own whether they still hold. Empty: nothing does.
    """

    path: Path
    fingerprint: str
    learned: str = ""

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
        return from_main_process(self._begin)

    def _begin(self) -> bool:
        if self.is_done:
            return True
        remove_temporaries(self.path)
        if self.is_current:
            return False
        if self._holds_results():
            self._require_own_folder()
            console.info(f"{self.path.name}: settings or input changed, starting this stage over")
            is_learned = bool(self.learned) and self.state().get("learned") == self.learned
            self._empty(LEARNED_FOLDERS if is_learned else ())
        self._write_state("running")
        return False

    def _holds_results(self) -> bool:
        """Tell whether there is more than what a writer that was killed left behind."""
        return self.path.exists() and any(not is_temporary(entry) for entry in self.path.iterdir())

    def _require_own_folder(self) -> None:
        if not self.state():
            raise OutputError(
                f"{self.path} exists and was not made by wsseg; nothing in it was touched. "
                "Choose another folder with --out."
            )

    def _empty(self, kept: tuple[str, ...] = ()) -> None:
        """Remove everything but ``stage.json``, which says whose folder this is, and what is kept.

        Killed half-way, the stage is found unfinished and the rest is removed the next time.
        """
        StageDir(self.path, "outdated", self.learned if kept else "")._write_state("running")
        for entry in self.path.iterdir():
            if entry.name in (STAGE_FILE, *kept):
                continue
            try:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            except OSError as error:
                raise output_error(entry, error) from error

    def invalidate(self) -> None:
        """Make the stage be done again from nothing when it is next begun; does nothing without."""
        if self.state():
            StageDir(self.path, "outdated")._write_state("running")

    def remove(self) -> None:
        """Remove the folder, if a stage of wsseg made it."""
        if not self.state():
            return
        self._empty()
        try:
            (self.path / STAGE_FILE).unlink()
            self.path.rmdir()
        except OSError as error:
            raise output_error(self.path, error) from error

    @property
    def is_current(self) -> bool:
        """Whether what lies in the folder was made with these settings and this input."""
        return self.state().get("fingerprint") == self.fingerprint

    @property
    def is_done(self) -> bool:
        """Whether that is complete."""
        return self.is_current and self.state().get("progress") == "done"

    def state(self) -> dict[str, Any]:
        """Read ``stage.json``; an unfinished or new stage has no complete one."""
        try:
            loaded = json.loads((self.path / STAGE_FILE).read_text())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _write_state(self, progress: str, **more: Any) -> None:
        state = {"fingerprint": self.fingerprint, "progress": progress, "time": time.time()}
        if self.learned:
            state["learned"] = self.learned
        write_json(self.path / STAGE_FILE, state | more)

    def finish(self, **facts: Any) -> None:
        """Mark the stage complete.

        Args:
            facts: What the report should know (JSON-able), such as ``seconds``.
        """
        from_main_process(lambda: self._write_state("done", **facts))

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
        self,
        items: Sequence[Any],
        work: Callable[[Any], dict[str, Any] | None],
        *,
        title: str,
        is_still_good: Callable[[Any, dict[str, Any]], bool] = lambda _item, _line: True,
    ) -> None:
        """Do the work for each image that has no result yet; a bad image stops nothing.

        Args:
            items: Objects with an ``id``.
            work: Makes the result of one item, and may return facts for its manifest line.
            title: What the progress bar says.
            is_still_good: Given an item and its manifest line, whether a result that is there
                holds; by default it does.

        Raises:
            OutputError: When a result cannot be written; what was done is kept.
        """
        from_main_process(lambda: self._for_each(items, work, title, is_still_good))

    def _for_each(
        self,
        items: Sequence[Any],
        work: Callable[[Any], dict[str, Any] | None],
        title: str,
        is_still_good: Callable[[Any, dict[str, Any]], bool],
    ) -> None:
        finished = {key: line for key, line in self.manifest().items() if line["status"] == "ok"}
        waiting = [
            item
            for item in items
            if item.id not in finished or not is_still_good(item, finished[item.id])
        ]
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

    def seconds(self) -> float:
        """Add up how long its complete stages took when they were last done, in seconds.

        What a stage had done before it was killed does not count.
        """
        files = [
            *self.path.glob(f"*/{STAGE_FILE}"),
            *self.path.glob(f"refine/*/{STAGE_FILE}"),
        ]
        states = [StageDir(file.parent, "").state() for file in files]
        return sum(state.get("seconds", 0.0) for state in states if state.get("progress") == "done")

    def stage(self, name: str, mark: str) -> StageDir:
        """Name a stage's folder, such as ``localize`` or ``refine/2_dense_crf``."""
        return StageDir(self.path / name, mark)

    def require(self) -> RunDir:
        """Return this folder when it is that of a run.

        Raises:
            RecipeError: When it is not.
        """
        if not self.recipe_path.is_file() or not self.samples_path.is_file():
            raise RecipeError(
                f"{self.path} is not the folder of a run: it has no recipe.yaml and samples.jsonl. "
                "`wsseg run DATA` makes one."
            )
        return self

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other wsseg processes out of the folder while this one writes.

        Raises:
            OutputError: When the folder cannot be made, or another process works in it.
        """
        with contextlib.ExitStack() as held:
            from_main_process(lambda: self._take_lock(held))
            yield

    def _take_lock(self, held: contextlib.ExitStack) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = held.enter_context((self.path / ".lock").open("a"))
        except OSError as error:
            raise output_error(self.path, error) from error
        _lock(stream, self.path)


def _lock(stream: Any, folder: Path) -> None:
    """Take the lock, which the operating system frees even when the process is killed."""
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind; runs are not guarded there
        return
    try:
        # Not flock: processes that load training items would hold it on after this one is killed.
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise OutputError(
            f"Another wsseg process is working in {folder}. Wait for it, or choose another "
            "folder with --out."
        ) from error
    except OSError:
        console.warning(f"{folder}: the file system has no locks; do not run two processes here")
