"""Every recipe for tags against plain CAM: same backbone, data, epochs and seeds.

    python benchmarks/methods.py [--scenes parts graded cooccurrence instances] [--recipes a,b]
        [--seeds 0 1 2] [--jobs 2]
    python benchmarks/methods.py --data DATA --size 128 --epochs 20 [--set KEY=VALUE]

Each shipped recipe is made small (`_small.small` says how; its own ideas and their strengths stay).
Papers start from ImageNet; here backbones are pre-trained on tags of other scenes of all families
(--pretrain), the same for all methods. A recipe is measured in the parts in which it differs from
the recipe cam:

* maps: its localizer. mIoU of the maps of the train split at the background score that is best on
  the val masks, the same after one dense CRF for all, and mAP of the classifier;
* refine: its refiners, on the maps of its localizer, against CAM + dense CRF;
* segment: its segmenter, on the val split, against the segmenter that cam trains.

Gains are against plain CAM of the same seed. Scenes know more than their masks: in *parts* the
recall of bodies, which all classes share, and in *graded* of those that hint at the class; in
*cooccurrence* how much of rail and water is called train and boat in images with these; in
*instances* the recall of objects. With scenes, each seed also draws scenes of its own.

Each method, family and seed runs in a process of its own with one thread, so that seconds (of
processor time) and peak memory are its own; refiners and segmenters start from maps that are there
already, whose seconds they do not count. Prints Markdown tables. A second call with the same
folder continues, and prints again what is there; what failed is tried again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from _machine import command, describe
from _pretrain import pretrained
from _small import (
    BACKBONE,
    BASE,
    TRANSFORMER,
    TRANSFORMERS,
    NotFromScratchError,
    Part,
    load,
    part,
    parts,
    same,
    tag_recipes,
)
from wsseg import console
from wsseg.atomic import append_jsonl, read_jsonl, write_json
from wsseg.data.dataset import Dataset
from wsseg.data.discover import open_dataset
from wsseg.data.scenes import FAMILIES, make_dataset
from wsseg.errors import WssegError
from wsseg.pipeline import run
from wsseg.recipe import Recipe, load_recipe
from wsseg.rundir import StageDir, fingerprint

SCENES = ("parts", "graded", "cooccurrence", "instances")
MARKS = {
    "parts": "recall of bodies",
    "graded": "recall of bodies",
    "cooccurrence": "context called class",
    "instances": "recall of objects",
}

PRETRAIN_SCENES = 300
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
# Processes start from one that has imported what takes seconds.
CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["__main__", "accelerate", "segmentation_models_pytorch", "wsseg.segment.stage"]


@dataclass(frozen=True)
class Cell:
    """One method on one set of images with one seed."""

    family: str
    seed: int
    recipe: str
    part: Part

    @property
    def name(self) -> str:
        """Its parts joined."""
        return f"{self.family}:{self.seed}:{self.recipe}:{self.part}"

    def folder(self, out: Path) -> Path:
        """Where its run lies."""
        return out / self.family / f"seed-{self.seed}" / f"{self.recipe}-{self.part}"


def main() -> None:
    arguments = parse()
    console.configure(quiet=True)
    os.environ |= {name: str(arguments.threads) for name in THREADS}
    CONTEXT.set_forkserver_preload(PRELOADED)
    arguments.weights = None
    if arguments.pretrain:
        arguments.weights = pretrain(arguments)
    contents, skipped = choose(arguments)
    families = [arguments.data.resolve().name] if arguments.data else arguments.scenes
    wanted = {name: parts(content, contents[BASE]) for name, content in contents.items()}
    cells = [
        Cell(family, seed, name, which)
        for family in families
        for seed in arguments.seeds
        for name, found in wanted.items()
        for which in found
        if which in arguments.parts
    ]
    results = list(run_all(cells, arguments))
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"`{command()}`, seeds {seeds}; {describe()}\n")
    print(
        f"{arguments.epochs} epochs of every classifier and round, {arguments.segment_epochs} of "
        f"every segmenter, images of {arguments.size} px; "
        f"{start_of(arguments)}."
    )
    for family in families:
        print(tables(family, [entry for entry in results if entry["family"] == family]))
    for name, reason in skipped.items():
        print(f"\nNot measured: {name}: {reason}.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", nargs="+", choices=FAMILIES, default=list(SCENES))
    parser.add_argument("--data", type=Path, help="a data set with masks instead of scenes")
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=tag_recipes())
    parser.add_argument("--parts", nargs="+", default=["maps", "refine", "segment"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8, help="of every classifier and round")
    parser.add_argument(
        "--segment-epochs",
        type=int,
        default=24,
        help="of every segmenter, which starts from nothing",
    )
    parser.add_argument("--train", type=int, default=160, help="training scenes")
    parser.add_argument("--val", type=int, default=40, help="validation scenes")
    parser.add_argument(
        "--pretrain",
        type=int,
        help="scenes per family that backbones start from; 0: from scratch, as always with --data",
    )
    parser.add_argument("--pretrain-epochs", type=int, default=15)
    parser.add_argument("--size", type=int, default=64, help="scenes, crops and longest sides, px")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="methods at a time, one thread each")
    parser.add_argument("--threads", type=int, default=1, help="threads of each method")
    parser.add_argument("--out", type=Path, help="folder of the runs")
    arguments = parser.parse_args()
    name = arguments.data.resolve().name if arguments.data else "scenes"
    arguments.out = arguments.out or Path("runs") / f"bench-methods-{name}"
    if arguments.data and arguments.pretrain:
        parser.error("--pretrain is for scenes; with --data networks train from scratch")
    if arguments.pretrain is None:
        arguments.pretrain = 0 if arguments.data else PRETRAIN_SCENES
    if BASE not in arguments.recipes:
        arguments.recipes.insert(0, BASE)
    return arguments


def start_of(arguments: argparse.Namespace) -> str:
    if not arguments.pretrain:
        return "all networks from scratch"
    return (
        f"classifiers start from {arguments.pretrain_epochs} epochs on the tags of "
        f"{arguments.pretrain} other scenes per family"
    )


def choose(arguments: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Make the recipes small; give those that can run, and why the others cannot."""
    contents, skipped = {}, {}
    for name in sorted(arguments.recipes, key=lambda name: name != BASE):
        try:
            content = content_of(name, 0, arguments)
            parts(content, contents.get(BASE, content))
            contents[name] = content
        except NotFromScratchError as reason:
            skipped[name] = str(reason)
    return contents, skipped


def pretrain(arguments: argparse.Namespace) -> dict[str, Path]:
    """Train the backbones that methods start from, or find them."""
    needed = {BACKBONE: BASE}
    if not set(TRANSFORMERS).isdisjoint(arguments.recipes):
        needed[TRANSFORMER] = TRANSFORMERS[0]
    settings = {
        "scenes": arguments.pretrain,
        "epochs": arguments.pretrain_epochs,
        "size_px": arguments.size,
    }
    folder = arguments.out / "pretrained"
    return {backbone: pretrained(folder, recipe, **settings) for backbone, recipe in needed.items()}


def content_of(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {
        "epochs": arguments.epochs,
        "segment_epochs": arguments.segment_epochs,
        "size_px": arguments.size,
        "seed": seed,
    }
    overrides = list(arguments.overrides)
    if arguments.data:
        overrides.insert(0, f"max_side_px={arguments.size}")
    return load(name, **settings, weights=arguments.weights, overrides=overrides)


def data_of(family: str, seed: int, arguments: argparse.Namespace) -> Dataset:
    if arguments.data:
        return open_dataset(arguments.data)
    counts = {"num_train": arguments.train, "num_val": arguments.val}
    name = f"data-{arguments.train}-{arguments.val}-{arguments.size}"
    root = arguments.out / family / f"seed-{seed}" / name
    # Written anew, files would count as changed and networks would train again.
    if not (root / "labels.csv").exists():
        make_dataset(family, root, **counts, seed=seed, size=(arguments.size, arguments.size))
    return open_dataset(root)


def run_all(cells: Sequence[Cell], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run what is not known yet: plain maps first, which others start from, then other maps."""
    known_path = arguments.out / "results.jsonl"
    known = {entry["mark"]: entry for entry in read_jsonl(known_path)}
    sets = {
        key: data_of(*key, arguments).fingerprint(masks=True)
        for key in {(cell.family, cell.seed) for cell in cells}
    }
    writing = Lock()

    def finished(cell: Cell) -> dict[str, Any]:
        mark = mark_of(cell, sets[cell.family, cell.seed], arguments)
        if mark not in known:
            entry = in_own_process(cell, arguments) | {"mark": mark}
            if "failed" in entry:
                return entry
            with writing:
                append_jsonl(known_path, entry)
            known[mark] = entry
        return known[mark]

    waves = (
        [cell for cell in cells if cell.part == "maps" and cell.recipe == BASE],
        [cell for cell in cells if cell.part == "maps" and cell.recipe != BASE],
        [cell for cell in cells if cell.part != "maps"],
    )
    done: dict[Cell, dict[str, Any]] = {}
    for wave in waves:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            done |= zip(wave, pool.map(finished, wave), strict=True)
    yield from (done[cell] for cell in cells)


def mark_of(cell: Cell, dataset: str, arguments: argparse.Namespace) -> str:
    """Hash what a result depends on."""
    recipe = part(content_of(cell.recipe, cell.seed, arguments), cell.part)
    return fingerprint(dataset, recipe.model_dump(mode="json"), cell.name)


def in_own_process(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = cell.folder(arguments.out)
    # What is left of a run that was stopped would make its seconds too few.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result = folder / "result.json"
    process = CONTEXT.Process(target=in_log, args=(cell, arguments, folder / "log.txt"))
    process.start()
    process.join()
    key = {name: getattr(cell, name) for name in ("family", "seed", "recipe", "part")}
    if process.exitcode or not result.exists():
        lines = (folder / "log.txt").read_text("utf-8").strip().splitlines()
        return key | {"failed": lines[-1] if lines else f"exit status {process.exitcode}"}
    entry = key | json.loads(result.read_text("utf-8"))
    print(f"{cell.name}: {entry['seconds']:.0f} s", file=sys.stderr)
    return entry


def in_log(cell: Cell, arguments: argparse.Namespace, log: Path) -> None:
    """Measure a cell; what it prints goes to a file."""
    with log.open("w") as target:
        os.dup2(target.fileno(), sys.stdout.fileno())
        os.dup2(target.fileno(), sys.stderr.fileno())
    console.configure(quiet=True)
    measure(cell, arguments)


def measure(cell: Cell, arguments: argparse.Namespace) -> None:
    """Run one cell in this process and write its numbers."""
    dataset = data_of(cell.family, cell.seed, arguments)
    recipe = part(content_of(cell.recipe, cell.seed, arguments), cell.part)
    folder = cell.folder(arguments.out)
    out = folder / "run"
    reuse_localizer(cell, recipe, arguments)
    try:
        metrics = run(dataset, recipe=recipe, out=out, use_masks=True).metrics
    except WssegError as error:
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    entry = numbers(metrics, cell.part) | {
        # Of all threads and of processes that have ended.
        "seconds": sum(os.times()[:4]),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "localize_seconds": StageDir(out / "localize", "").state().get("seconds", 0.0),
    }
    if cell.part == "maps" and not arguments.data and cell.family in MARKS:
        from _scene_marks import scene_mark

        scores = next((out / "refine").glob("1_*"))
        entry["scene"] = scene_mark(cell.family, cell.seed, dataset, scores)
    write_json(folder / "result.json", entry)


def reuse_localizer(cell: Cell, recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Start from the maps that are there already, where they come from the same localizer."""
    target = cell.folder(arguments.out) / "run" / "localize"
    if cell.part == "maps" or target.exists():
        return
    for name in (cell.recipe, BASE):
        there = Cell(cell.family, cell.seed, name, "maps").folder(arguments.out)
        if not (there / "result.json").exists():
            continue
        known = load_recipe(there / "run" / "recipe.yaml")
        if same(known.localize) == same(recipe.localize):
            shutil.copytree(there / "run" / "localize", target)
            return


def numbers(metrics: dict[str, Any], which: Part) -> dict[str, Any]:
    """Pick what a part is judged by out of ``metrics.json``."""
    split = "val" if which == "segment" else "train"
    found = {one["stage"]: one for one in metrics["stages"] if one["split"] == split}
    if "pseudo" not in found:
        raise SystemExit(f"The split {split} has no masks to score against.")
    if which == "segment":
        return {"miou": found["segment"]["miou"], "pseudo": found["pseudo"]["miou"]}
    entry = {"miou": found["pseudo"]["miou"]}
    if which == "maps":
        at = found["refine/threshold"]
        classifier = metrics.get("classifier") or {}
        entry |= {"maps": at["miou"], "threshold": at["threshold"], "map": classifier.get("map")}
    return entry


def tables(family: str, results: Sequence[dict[str, Any]]) -> str:
    """Draw one table for each part."""
    sound = [entry for entry in results if "failed" not in entry]
    lines = [f"\n## {family}\n", *maps_table(family, sound)]
    base = {entry["seed"]: entry["miou"] for entry in of(sound, "maps", BASE)}
    lines += gains_table("refiners", of(sound, "refine"), base, "CAM + dense CRF")
    base = {entry["seed"]: entry["miou"] for entry in of(sound, "segment", BASE)}
    lines += gains_table("segmenter", of(sound, "segment"), base, "the segmenter of cam")
    for entry in results:
        if "failed" in entry:
            lines.append(
                f"\n{entry['recipe']} ({entry['part']}), seed {entry['seed']}, failed: "
                f"{entry['failed']}"
            )
    return "\n".join(lines)


def of(
    results: Sequence[dict[str, Any]], which: Part, recipe: str | None = None
) -> list[dict[str, Any]]:
    return [
        entry for entry in results if entry["part"] == which and recipe in (None, entry["recipe"])
    ]


def maps_table(family: str, sound: Sequence[dict[str, Any]]) -> Iterator[str]:
    scene = MARKS.get(family)
    head = ["maps mIoU %", "gain", "+ dense CRF", "gain", *([f"{scene} %"] if scene else [])]
    yield f"| method | {' | '.join(head)} | classifier mAP % | seconds | memory GB |"
    yield "|" + "---|" * (len(head) + 4)
    base = of(sound, "maps", BASE)
    for name, entries in grouped(of(sound, "maps")):
        cells = []
        for key in ("maps", "miou"):
            plain = {entry["seed"]: entry[key] for entry in base}
            cells += [spread(entries, key), "" if name == BASE else gain(entries, key, plain)]
        cells += [spread(entries, "scene")] if scene else []
        cells += [spread(entries, "map"), *cost(entries)]
        yield f"| {name} | {' | '.join(cells)} |"


def gains_table(
    what: str, sound: Sequence[dict[str, Any]], base: dict[int, float], against: str
) -> Iterator[str]:
    if not sound:
        return
    yield f"\n| method: {what} | mIoU % | gain over {against} | seconds | memory GB |"
    yield "|---|---|---|---|---|"
    for name, entries in grouped(sound):
        gained = "" if name == BASE else gain(entries, "miou", base)
        yield f"| {name} | {spread(entries, 'miou')} | {gained} | {' | '.join(cost(entries))} |"


def grouped(results: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name in dict.fromkeys(entry["recipe"] for entry in results):
        yield name, [entry for entry in results if entry["recipe"] == name]


def cost(entries: Sequence[dict[str, Any]]) -> list[str]:
    seconds = statistics.median(entry["seconds"] for entry in entries)
    return [f"{seconds:.0f}", f"{max(entry['memory_gb'] for entry in entries):.1f}"]


def gain(entries: Sequence[dict[str, Any]], key: str, base: dict[int, float]) -> str:
    return in_percent([e[key] - base[e["seed"]] for e in entries if e["seed"] in base], "+")


def spread(entries: Sequence[dict[str, Any]], key: str) -> str:
    return in_percent([entry[key] for entry in entries if entry.get(key) is not None])


def in_percent(values: Sequence[float], sign: str = "") -> str:
    """Write mean ± standard deviation in percent."""
    if not values:
        return ""
    text = f"{100 * statistics.mean(values):{sign}.1f}"
    return f"{text} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else text


if __name__ == "__main__":
    main()
