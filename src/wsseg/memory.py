"""How much memory some work took, watched from a thread beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERVAL_S = 0.1


@dataclass
class Peak:
    """The most memory that was held so far.

    Attributes:
        bytes: Resident memory of this process in bytes; what other processes read for it, such as
            the workers of a data loader, does not count, and neither does memory of a GPU.
    """

    bytes: int = 0


@contextmanager
def peak_memory(interval_s: float = INTERVAL_S) -> Iterator[Peak]:
    """Watch the memory of this process while the block runs.

    What the process held before counts too: a second piece of work cannot look smaller than what
    the first one left behind.

    Args:
        interval_s: Seconds between two looks; shorter peaks may be missed.

    Yields:
        The peak, complete once the block has ended.

    Example:
        >>> with peak_memory() as peak:
        ...     held = bytearray(1000)
        >>> peak.bytes > len(held)
        True
    """
    import psutil

    process = psutil.Process()
    peak = Peak()
    ended = threading.Event()

    def look() -> None:
        peak.bytes = max(peak.bytes, process.memory_info().rss)

    def watch() -> None:
        while not ended.wait(interval_s):
            look()

    look()
    watcher = threading.Thread(target=watch, name="wsseg-memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
        look()
