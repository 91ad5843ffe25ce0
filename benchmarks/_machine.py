"""What a benchmark ran on, for the line above its table."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

from wsseg.device import processor_name


def describe() -> str:
    """Name processor, cores, Python and the packages that decide speed and results."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "numba", "timm"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor_name()}, {cores} cores, Python {platform.python_version()}, {packages}"


def command() -> str:
    """The command line that is running, with paths shortened to their names."""
    words = [Path(word).name if "/" in word and "=" not in word else word for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def peak_memory_gb() -> float:
    """Largest resident memory of this process and, on top, of its largest child, in GB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + child) * 1024 / 1e9
