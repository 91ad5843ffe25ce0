"""The demo against its ceiling: the same segmenter trained on tags and on the exact masks.

    python benchmarks/demo.py [--out FOLDER] [--seed N] [--chains]

Runs `wsseg demo`, then trains the demo's segmenter, with the same settings and the same images, on
the exact masks of the train split, and scores both on the held-out scenes. Prints a Markdown table.

With --chains: the classifier alone is trained, and several rows of refiners start from its maps, so
that they are not compared by way of different trainings.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from _ceiling import train_ceiling
from _machine import command, describe, peak_memory_gb
from real import class_table, seconds, table
from wsseg import console
from wsseg.data.discover import open_dataset
from wsseg.demo import OVERRIDES, RECIPE, demo, make_demo_data
from wsseg.pipeline import run
from wsseg.recipe import load_recipe, validate

# A dense CRF takes less away from maps that PAMR has spread, so that they are cut higher.
CHAINS: dict[str, list[dict[str, Any]]] = {
    "threshold, CRF": [{"name": "threshold", "factor": 0.6}],
    "PAMR, threshold, CRF": [{"name": "pamr"}, {"name": "threshold", "factor": 0.9}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chains", action="store_true")
    arguments = parser.parse_args()
    console.configure()
    if arguments.chains:
        print(f"`{command()}`, seed {arguments.seed}; {describe()}\n")
        print(compare_chains(arguments.out, arguments.seed))
        return
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


def compare_chains(out: Path, seed: int) -> str:
    """Draw a row of pseudo masks for each row of refiners, all from the maps of one classifier."""
    dataset = open_dataset(make_demo_data(out / "data", seed=seed))
    recipe = load_recipe(RECIPE, [*OVERRIDES, f"seed={seed}"]).model_dump(mode="json")
    crf = next(step for step in recipe["refine"]["steps"] if step["name"] == "dense_crf")
    lines = ["| refiners | classifier mAP, val | pseudo masks, train | val |", "|---|---|---|---|"]
    trained = None
    for name, steps in CHAINS.items():
        folder = out / name.replace(", ", "-")
        localized = folder / "localize"
        if trained and not localized.exists():
            shutil.copytree(trained, localized)
        trained = localized
        content = recipe | {"segment": None, "refine": {"steps": [*steps, crf]}}
        metrics = run(dataset, recipe=validate(content), out=folder).metrics
        scores = {s["split"]: s["miou"] for s in metrics["stages"] if s["stage"] == "pseudo"}
        cells = [metrics["classifier"]["map"], scores["train"], scores["val"]]
        lines.append(f"| {name} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
