"""How the kernels are compiled and share the processor's cores.

Kernels are compiled by numba on first use and kept on disk: beside the package, in the user's
cache folder when the package is read-only, or where ``NUMBA_CACHE_DIR`` says. When nothing can
be written they are compiled anew in every process, which costs seconds and changes no result.

Threads are plain Python threads around kernels that release the interpreter lock. numba's own
parallel loops abort a process that forks after using OpenMP (as data loaders do), and their
barriers spin: on a loaded machine one thread waits whole time slices for the other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])


def _sources_stamp() -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of all kernel sources: a kernel inlines others from other files."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


_STAMP = _sources_stamp()


class _KernelCache(FunctionCache):
    """numba's disk cache, renewed when any kernel source changes and silent on a full disk."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _STAMP)

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:
            # The compiled code is in memory; only the next process has to compile again.
            self.disable()


def compiled(function: Function) -> Function:
    """Compile a function on first use, without the interpreter lock, and keep it on disk.

    Floating-point operations stay in the order written: no fast-math, no contraction.

    Args:
        function: A module-level function that numba understands.

    Returns:
        The compiled function.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    # RuntimeError: neither the package nor the user's cache folder can be written.
    with contextlib.suppress(RuntimeError):
        dispatcher._cache = _KernelCache(function)
    return cast(Function, dispatcher)


def num_threads(requested: int | None = None) -> int:
    """Choose how many threads a kernel uses.

    Args:
        requested: A number >= 1, or None for the cores this process may use, at most
            ``NUMBA_NUM_THREADS`` or ``OMP_NUM_THREADS`` where they are set.

    Returns:
        The number of threads, >= 1.

    Raises:
        ValueError: When ``requested`` is below 1.
    """
    if requested is not None:
        if requested < 1:
            raise ValueError(f"threads is {requested}; expected at least 1, or None.")
        return requested
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        limit = os.environ.get(name, "")
        if limit.isdecimal() and int(limit) > 0:
            available = min(available, int(limit))
    return available


class Team:
    """A few threads that work on the tasks of one phase after the other.

    Use it as a context manager; the threads end with it.

    Args:
        threads: How many threads, this one included.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function once per task and wait for all of them.

        Args:
            function: What to call; compiled functions run at the same time.
            tasks: The arguments of each call. Thread t takes tasks t, t + threads, ...

        Returns:
            The results, in the order of the tasks.
        """
        if self._pool is None or len(tasks) < 2:
            return _run_all(function, tasks)
        share = min(self.threads, len(tasks))
        futures = [
            self._pool.submit(_run_all, function, tasks[first::share]) for first in range(1, share)
        ]
        results: list[Any] = [None] * len(tasks)
        results[0::share] = _run_all(function, tasks[0::share])
        for first, future in enumerate(futures, start=1):
            results[first::share] = future.result()
        return results

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """Split ``range(size)`` into one piece per thread."""
        parts = max(1, min(self.threads, size))
        return [(size * part // parts, size * (part + 1) // parts) for part in range(parts)]


def _run_all(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [function(*task) for task in tasks]
