"""Memory against the number of images: the same tiny run on 1x and 8x as many.

    python benchmarks/memory.py [--images N]

Each run is a process of its own on synthetic scenes of 64 px, one epoch per network. Prints peak
memory of both as a Markdown table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from _machine import command, describe
from wsseg.data.scenes import make_dataset

OVERRIDES = (
    "localize.training.epochs=1",
    "localize.augment.crop_px=64",
    "segment.training.epochs=1",
    "segment.augment.crop_px=64",
)
SCRIPT = """
import resource, sys
from wsseg import console, run
console.configure(quiet=True)
run(sys.argv[1], recipe="defects", overrides=sys.argv[3:], out=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    count = parser.parse_args().images
    print(f"`{command()}`; {describe()}\n")
    print("| train images | peak memory MB | per image more KB |")
    print("|---|---|---|")
    first = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for factor in (1, 8):
            folder = Path(scratch) / str(factor)
            data = make_dataset(
                "defects", folder / "data", num_train=count * factor, num_val=8, size=(64, 64)
            )
            arguments = [sys.executable, "-c", SCRIPT, str(data), str(folder / "run"), *OVERRIDES]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
            peak_kb = float(done.stdout.split()[-1])
            more = "" if factor == 1 else f"{(peak_kb - first) / (count * 7):.1f}"
            first = first or peak_kb
            print(f"| {count * factor} | {peak_kb / 1024:.0f} | {more} |", flush=True)


if __name__ == "__main__":
    main()
