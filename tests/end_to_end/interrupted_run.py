"""Run the pipeline again and again, stopping each time at a given write; used by test_survival.

Called as ``interrupted_run.py PLAN.json``. Every attempt is a process of its own, forked when all
imports are done, so that an attempt costs what it does and not its start.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Stop:
    """Stops this process at the n-th write that fits.

    Moments: "before" and "after" a file gets its final name, "torn" in the middle of a line of a
    manifest, "clearing" when a folder is half removed, "full" a disk without space, "interrupt"
    Ctrl-C.
    """

    def __init__(self, moment: str, pattern: str, number: int) -> None:
        self.moment, self.pattern, self.left = moment, pattern, number

    def fits(self, path: Any) -> bool:
        if not fnmatch.fnmatch(str(path), f"*/{self.pattern}"):
            return False
        self.left -= 1
        return self.left == 0

    def install(self) -> None:
        import wsseg.rundir
        import wsseg.training.folder

        if self.moment == "torn":
            for module in (wsseg.rundir, wsseg.training.folder):
                module.append_jsonl = self._torn(module.append_jsonl)  # type: ignore[attr-defined]
        elif self.moment == "clearing":
            shutil.rmtree = self._half_removed  # type: ignore[assignment]
        else:
            os.replace = self._replace(os.replace)  # type: ignore[assignment]

    def _replace(self, real: Callable[..., None]) -> Callable[..., None]:
        def replace(source: Any, target: Any) -> None:
            fits = self.fits(target)
            if fits and self.moment == "before":
                _die()
            if fits and self.moment == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if fits and self.moment == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            real(source, target)
            if fits and self.moment == "after":
                _die()

        return replace

    def _torn(self, real: Callable[..., None]) -> Callable[..., None]:
        def append(path: Path, record: Any) -> None:
            if self.fits(path):
                line = json.dumps(record, ensure_ascii=False).encode()
                with path.open("ab") as stream:
                    stream.write(line[: len(line) // 2])
                _die()
            real(path, record)

        return append

    def _half_removed(self, path: Path, **_: Any) -> None:
        files = sorted(entry for entry in Path(path).rglob("*") if entry.is_file())
        if self.fits(path):
            for file in files[: len(files) // 2]:
                file.unlink()
            _die()
        for file in files:
            file.unlink()
        Path(path).rename(Path(path).with_name(".removed"))
        for folder in sorted(Path(path).with_name(".removed").rglob("*"), reverse=True):
            folder.rmdir()
        Path(path).with_name(".removed").rmdir()


def _attempt(plan: dict[str, Any], stop: list[Any] | None) -> int:
    """Run once in a forked process; return its exit code, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if plan.get("max_file_bytes") and stop is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (plan["max_file_bytes"],) * 2)
    elif stop is not None:
        _Stop(*stop).install()
    from wsseg import cli
    from wsseg.cli import run

    del run
    sys.argv = ["wsseg", *plan["arguments"]]
    try:
        cli.main()
    except SystemExit as ended:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0)
    os._exit(0)


def _broken_files(run: Path) -> list[str]:
    """Name the files that are there under their final name and cannot be read."""
    import numpy as np
    import safetensors
    from PIL import Image

    broken = []
    for path in run.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            if path.suffix == ".png":
                Image.open(path).load()
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    assert all(arrays[name].size for name in arrays)
            elif path.suffix == ".safetensors":
                safetensors.safe_open(path, framework="np")
            elif path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".html":
                assert path.read_text("utf-8").rstrip().endswith("</html>")
        except Exception as fault:
            broken.append(f"{path}: {fault}")
    return broken


def main() -> None:
    """Do all attempts of the plan, then one that nothing stops."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    # Loaded once, for all attempts.
    import accelerate  # noqa: F401
    import cv2  # noqa: F401
    import segmentation_models_pytorch  # noqa: F401
    import timm  # noqa: F401

    import wsseg.kernels.dense_crf
    import wsseg.pipeline
    import wsseg.report.render
    import wsseg.training.loop  # noqa: F401

    told = []
    for stop in [*plan["stops"], None]:
        code = _attempt(plan, stop)
        told.append({"stop": stop, "code": code, "broken": _broken_files(Path(plan["run"]))})
    Path(sys.argv[1]).with_suffix(".out").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
