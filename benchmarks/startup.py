"""How long ``wsseg --help`` takes, as a share of ``import torch``, in one interleaved run.

Usage: python benchmarks/startup.py [--repeats 15]

Prints a Markdown table: seconds from the start of a fresh process to its end (median), and the
ratio to a process that imports torch and nothing else. The bar is 0.3 s on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from _machine import command, describe

CASES = {
    "python (nothing)": ["-c", "pass"],
    "wsseg --help": ["-m", "wsseg", "--help"],
    "wsseg run --help": ["-m", "wsseg", "run", "--help"],
    "wsseg --version": ["-m", "wsseg", "--version"],
    "import wsseg": ["-c", "import wsseg"],
    "import torch": ["-c", "import torch"],
}


def seconds_of(arguments: list[str]) -> float:
    """Time one fresh process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="processes per case")
    repeats = parser.parse_args().repeats
    for arguments in CASES.values():
        seconds_of(arguments)  # fills the file cache
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repeats):
        for name, arguments in CASES.items():
            times[name].append(seconds_of(arguments))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"`{command()}`: {describe()}; {repeats} processes each, median (fastest)\n")
    print("| process | seconds | share of import torch |")
    print("|---|---|---|")
    for name, median in medians.items():
        share = median / medians["import torch"]
        print(f"| {name} | {median:.3f} ({min(times[name]):.3f}) | {share:.3f} |")


if __name__ == "__main__":
    main()
