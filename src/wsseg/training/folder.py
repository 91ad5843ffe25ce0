"""The folder of one training: what lies in it, and whether it is new, begun or done.

```
checkpoint.safetensors   everything needed to continue; removed when the training is done
best.safetensors         weights of the best validated epoch so far
last.safetensors         weights at the end
metrics.jsonl            one line per complete epoch
done.json                fingerprint, and which weights are the result
```
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from wsseg import console
from wsseg.atomic import (
    append_jsonl,
    read_jsonl,
    remove_temporaries,
    write_json,
    write_text,
    writing,
)
from wsseg.training.checkpoint import (
    Position,
    Trained,
    load_checkpoint,
    save_checkpoint,
)


@dataclass(frozen=True)
class TrainingFolder:
    """The files of one training.

    Args:
        path: The folder.
        fingerprint: Hash of everything that the trained weights depend on.
    """

    path: Path
    fingerprint: str

    @property
    def checkpoint_path(self) -> Path:
        """Everything needed to continue."""
        return self.path / "checkpoint.safetensors"

    @property
    def metrics_path(self) -> Path:
        """One line of JSON per complete epoch."""
        return self.path / "metrics.jsonl"

    @property
    def _done_path(self) -> Path:
        return self.path / "done.json"

    def weights_path(self, which: str) -> Path:
        """Name the file of the ``best`` or the ``last`` weights."""
        return self.path / f"{which}.safetensors"

    def read_done(self) -> dict[str, Any] | None:
        """Read what a finished training with this fingerprint left, or None."""
        try:
            done = json.loads(self._done_path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(done, dict) or done.get("fingerprint") != self.fingerprint:
            return None
        return done if self.weights_path(done["kept"]).is_file() else None

    def write_done(self, record: dict[str, Any]) -> None:
        """Mark the training as finished and drop what was only needed to continue it.

        Raises:
            OutputError: When the mark cannot be written.
        """
        write_json(self._done_path, {"fingerprint": self.fingerprint, **record})
        self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Remove what is only needed to continue.

        Raises:
            OutputError: When it cannot be removed.
        """
        with writing(self.checkpoint_path):
            self.checkpoint_path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the folder, and empty it of leftovers and of another training's files.

        Raises:
            OutputError: When the folder cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.path)
        if self._is_continuable():
            return
        stale = [self._done_path, self.checkpoint_path, self.metrics_path]
        stale += [self.weights_path("best"), self.weights_path("last")]
        for path in stale:
            with writing(path):
                path.unlink(missing_ok=True)

    def _is_continuable(self) -> bool:
        if not self.checkpoint_path.is_file():
            return False
        try:
            with safetensors.safe_open(self.checkpoint_path, framework="pt") as stored:
                header = json.loads((stored.metadata() or {}).get("wsseg", "{}"))
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            console.warning(
                f"{self.checkpoint_path} is broken ({error}); the training starts over."
            )
            return False
        return bool(header.get("fingerprint") == self.fingerprint)

    def resume(self, trained: Trained) -> Position:
        """Load the checkpoint, or begin at the beginning.

        Args:
            trained: The objects to load into.

        Returns:
            How far the training is.
        """
        return load_checkpoint(self.checkpoint_path, trained, self.fingerprint) or Position()

    def cut_metrics(self, position: Position) -> None:
        """Drop lines of epochs that the checkpoint does not know, and torn ones.

        Raises:
            OutputError: When the file cannot be written.
        """
        known = [r for r in read_jsonl(self.metrics_path) if r["epoch"] <= position.epoch]
        with contextlib.suppress(FileNotFoundError):
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in known)
            if self.metrics_path.read_text(encoding="utf-8", errors="replace") != text:
                write_text(self.metrics_path, text)

    def save(self, trained: Trained, position: Position) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: When it cannot be written; the one before it stays.
        """
        save_checkpoint(self.checkpoint_path, trained, position, self.fingerprint)

    def log(self, record: dict[str, Any]) -> None:
        """Append the line of an epoch.

        Raises:
            OutputError: When it cannot be written.
        """
        append_jsonl(self.metrics_path, record)
