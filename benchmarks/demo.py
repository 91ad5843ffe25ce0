"""The demo against its ceiling: the same segmenter trained on tags and on the exact masks.

    python benchmarks/demo.py [--out FOLDER] [--seed N]

Runs `wsseg demo`, then trains the demo's segmenter, with the same settings and the same images, on
the exact masks of the train split, and scores both on the held-out scenes. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from _ceiling import train_ceiling
from _machine import command, describe, peak_memory_gb
from real import class_table, seconds, table
from wsseg import console
from wsseg.data.discover import open_dataset
from wsseg.demo import demo
from wsseg.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-demo"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    console.configure()
    started = time.perf_counter()
    finished = demo(arguments.out, seed=arguments.seed)
    took_s, memory_gb = time.perf_counter() - started, peak_memory_gb()
    dataset = open_dataset(arguments.out / "data")
    recipe = load_recipe(finished.run.recipe_path)
    ceiling = train_ceiling(
        dataset,
        recipe,
        arguments.out.with_name(arguments.out.name + "-ceiling"),
        arguments.out,
    )
    weak = next(
        stage
        for stage in finished.metrics["stages"]
        if stage["stage"] == "segment" and stage["split"] == "val"
    )
    share = weak["miou"] / ceiling["miou"]
    print(f"`{command()}`, seed {arguments.seed}; {describe()}")
    facts = f"{took_s:.0f} s, peak memory {memory_gb:.1f} GB; share of the ceiling {share:.0%}"
    print(f"\nDemo: {facts}\n")
    print(table(finished.metrics, seconds(arguments.out), ceiling))
    print(class_table(finished.metrics))


if __name__ == "__main__":
    main()
