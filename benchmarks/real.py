"""Tags only against true masks on a real data set: every stage, and the ceiling.

    python benchmarks/real.py DATA --recipe defects [--set KEY=VALUE ...] [--out FOLDER]

Trains on the tags of the train split and scores on the masks of the val split. The ceiling is the
same segmenter, with the same settings, trained on the true masks of the train split. Prints a
Markdown table. A second call with the same folder continues or prints again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _ceiling import train_ceiling
from _machine import command, describe, peak_memory_gb
from wsseg import console
from wsseg.data.discover import open_dataset
from wsseg.evaluate.table import stage_notes
from wsseg.pipeline import run
from wsseg.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="defects")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-ceiling", action="store_true")
    arguments = parser.parse_args()
    console.configure()
    name = arguments.data.resolve().name
    out = arguments.out or Path("runs") / f"bench-{name}-{arguments.recipe}"
    dataset = open_dataset(arguments.data)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    finished = run(dataset, recipe=recipe, out=out)
    memory_gb = peak_memory_gb()
    ceiling = (
        None
        if arguments.no_ceiling
        else train_ceiling(dataset, recipe, out.with_name(out.name + "-ceiling"), out)
    )
    print(f"`{command()}`, seed {recipe.seed}; {describe()}; peak memory {memory_gb:.1f} GB\n")
    print(table(finished.metrics, seconds(out), ceiling))
    print(class_table(finished.metrics))


def seconds(out: Path) -> dict[str, float]:
    """Read how long each stage of a run took."""
    from wsseg.rundir import StageDir

    names = ["localize", "masks", "segment", "predictions"]
    names += sorted(str(path.relative_to(out)) for path in (out / "refine").glob("*"))
    return {name: StageDir(out / name, "").state().get("seconds", 0.0) for name in names}


def table(metrics: dict[str, Any], took: dict[str, float], ceiling: dict[str, Any] | None) -> str:
    """Draw one row per stage and split; mIoU with background in percent."""
    lines = ["| stage | split | mIoU % | without background % | note | seconds |"]
    lines.append("|---|---|---|---|---|---|")
    classifier = metrics.get("classifier")
    if classifier:
        text = f"| classifier mAP | {classifier['split']} | {100 * classifier['map']:.1f} | | |"
        lines.append(f"{text} {took['localize']:.0f} |")
    refine = sum(value for name, value in took.items() if name.startswith("refine"))
    for entry in metrics["stages"]:
        cost = {"pseudo": refine + took["masks"], "segment": took["segment"]}.get(entry["stage"])
        lines.append(_row(entry, cost))
    if ceiling:
        lines.append(_row(ceiling | {"label": "Segmenter on true masks"}, ceiling["seconds"]))
    return "\n".join(lines)


def class_table(metrics: dict[str, Any]) -> str:
    """Draw the classes on the val split: average precision, IoU, precision, recall in percent."""
    lines = ["", "| class | AP | stage | IoU | precision | recall |", "|---|---|---|---|---|---|"]
    precisions = (metrics.get("classifier") or {}).get("ap", {})
    for entry in metrics["stages"]:
        if entry["split"] != "val" or entry["stage"] not in ("pseudo", "segment"):
            continue
        for one in entry["classes"]:
            numbers = [one[key] for key in ("iou", "precision", "recall")]
            cells = [precisions.get(one["name"]), *numbers]
            ap, *rest = ["" if value is None else f"{100 * value:.0f}" for value in cells]
            lines.append(f"| {one['name']} | {ap} | {entry['label']} | {' | '.join(rest)} |")
    return "\n".join(lines)


def _row(entry: dict[str, Any], cost: float | None) -> str:
    foreground = entry["miou_foreground"]
    took = "" if cost is None else f"{cost:.0f}"
    return (
        f"| {entry['label']} | {entry['split']} | {100 * entry['miou']:.1f} | "
        f"{100 * foreground:.1f} | {stage_notes(entry)} | {took} |"
    )


if __name__ == "__main__":
    main()
