"""What each refiner does to the maps of one classifier: pseudo masks before and after.

    python benchmarks/refiners.py --scenes parts --small [--seeds 0 1 2]
    python benchmarks/refiners.py DATA [--recipe cam] [--set KEY=VALUE] [--step NAME.KEY=VALUE]

Trains one classifier per seed, applies each chain of refiners to its maps, and scores the pseudo
masks of one split against the true masks. Prints a Markdown table: mIoU, mean ± standard deviation
over the seeds, and the gain over CAM + dense CRF of the same seed. A chain is written
`affinity_net+dense_crf`; where no step of it makes a background, `threshold` is put where that
refiner's page XX
A second call with the same folder continues, and prints again what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _machine import command, describe
from wsseg import console, registry
from wsseg.atomic import append_jsonl, read_jsonl
from wsseg.data.dataset import Dataset
from wsseg.data.discover import open_dataset
from wsseg.data.scenes import FAMILIES, make_dataset
from wsseg.errors import WssegError
from wsseg.pipeline import again, run
from wsseg.recipe import Recipe, load_recipe
from wsseg.rundir import StageDir, fingerprint

PLAIN = "threshold"
CRF = "threshold+dense_crf"
CHAINS = (
    "pamr",
    "guided_filter",
    "random_walker",
    "superpixel_pooling",
    "superpixel_voting",
    "affinity_net",
    "affinity_net+dense_crf",
    "irn",
    "irn+threshold",
    "irn+threshold+dense_crf",
    # The CRF first: what it found becomes what the affinities learn from. Without affinities in
    # between, the second CRF shows what it does alone.
    "threshold+dense_crf+dense_crf",
    "threshold+dense_crf+affinity_net+dense_crf",
    "threshold+dense_crf+irn+threshold+dense_crf",
)
# These look at the class rows only, so that the threshold belongs behind them.
THRESHOLD_BEHIND = ("attention_affinity", "superpixel_pooling")
# Finds the background by itself.
NO_THRESHOLD = ("random_walker",)
TRAINED = ("affinity_net", "irn")
GRID = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
# A classifier and refiners that 2 cores train in a few minutes each, for scenes of 96 px.
SMALL = (
    "localize.backbone=resnet10t",
    "localize.output_stride=16",
    "localize.dropout=0",
    "localize.training.epochs=20",
    "localize.augment.crop_px=96",
    "localize.inference.scales=[1.0, 1.5]",
)
# The dense CRF reaches a fifth of the image, a little more than as published. Objects are half as
# large as the image, where photographs of the papers show smaller ones: where the CRF of the
# confident areas does not reach as far as the object, 60 px, these end inside it. Grids have few
# cells: short walks, and links that reach the border. Classifiers from scratch have features for
# their parts only, so IRN trains them on.
SMALL_STEPS = (
    "dense_crf.gauss_sxy_px=1",
    "dense_crf.bilateral_sxy_px=20",
    "superpixel_pooling.area_px=60",
    "superpixel_voting.area_px=60",
    "affinity_net.stride_px=4",
    "affinity_net.links=all",
    "affinity_net.alpha_low=16",
    "affinity_net.alpha_high=58",
    "affinity_net.log2_steps=5",
    "affinity_net.beta=8",
    "affinity_net.crf={gauss_sxy_px: 1, bilateral_sxy_px: 60, bilateral_srgb: 10}",
    "affinity_net.augment={scale: null, crop_px: 96}",
    "affinity_net.training={epochs: 20, batch_size: 8, lr: 2.0e-3, head_lr_factor: 3, keep: last}",
    "irn.min_foreground=0.12",
    "irn.max_background=0.05",
    "irn.steps=48",
    "irn.crf={gauss_sxy_px: 1, bilateral_sxy_px: 60, bilateral_srgb: 10}",
    "irn.augment={scale: [0.75, 1.25], crop_px: 96}",
    "irn.pair_radius=4",
    "irn.train_backbone=true",
    "irn.training={epochs: 12, batch_size: 8, lr: 1.0e-3, keep: last}",
)


def main() -> None:
    arguments = parse()
    console.configure(quiet=arguments.quiet)
    chains = [PLAIN, CRF, *(chain for chain in arguments.refiners if chain not in (PLAIN, CRF))]
    results = [entry for seed in arguments.seeds for entry in of_seed(seed, chains, arguments)]
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"`{command()}`, seeds {seeds}; {describe()}\n")
    print(table(results, arguments))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="a data set with masks")
    parser.add_argument("--scenes", choices=sorted(FAMILIES), help="synthetic scenes instead")
    parser.add_argument("--train", type=int, default=400, help="training scenes")
    parser.add_argument("--val", type=int, default=50, help="validation scenes")
    parser.add_argument("--size", type=int, default=96, help="side of the scenes in pixels")
    parser.add_argument("--recipe", default="cam", help="whose localizer is trained")
    parser.add_argument("--small", action="store_true", help="small networks for scenes of 96 px")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--step", action="append", default=[], metavar="REFINER.KEY=VALUE")
    parser.add_argument("--refiners", type=lambda text: text.split(","), default=list(CHAINS))
    parser.add_argument(
        "--threshold",
        default="sweep",
        help="sweep, through, label_free, or a number from 0 to 1",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="train", choices=["train", "val", "test"])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    if (arguments.data is None) == (arguments.scenes is None):
        parser.error("give either DATA or --scenes FAMILY")
    name = arguments.scenes or arguments.data.resolve().name
    arguments.out = arguments.out or Path("runs") / f"bench-refiners-{name}"
    return arguments


def of_seed(
    seed: int, chains: Sequence[str], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Train the classifier of one seed and give what each chain makes of its maps."""
    folder = arguments.out / f"seed-{seed}"
    dataset = data_of(seed, folder, arguments)
    recipe = recipe_of(seed, arguments)
    known_path = folder / "results.jsonl"
    known = {entry["mark"]: entry for entry in read_jsonl(known_path)}
    for chain in chains:
        steps = steps_of(chain, arguments)
        settings = (recipe.model_dump(mode="json"), steps, arguments.split)
        mark = fingerprint(dataset.fingerprint(masks=True), settings)
        if mark not in known:
            entry = {"mark": mark, "chain": chain, "seed": seed}
            entry |= outcome(dataset, recipe, steps, folder / "run", arguments)
            known[mark] = entry
            if "failed" not in entry:
                append_jsonl(known_path, entry)
        yield known[mark]


def data_of(seed: int, folder: Path, arguments: argparse.Namespace) -> Dataset:
    if arguments.scenes is None:
        return open_dataset(arguments.data)
    size = (arguments.size, arguments.size)
    counts = {"num_train": arguments.train, "num_val": arguments.val}
    root = folder / f"data-{arguments.train}-{arguments.val}-{arguments.size}"
    # Written anew, files would count as changed and the classifier would train again.
    if not (root / "labels.csv").exists():
        make_dataset(arguments.scenes, root, **counts, seed=seed, size=size)
    return open_dataset(root)


def recipe_of(seed: int, arguments: argparse.Namespace) -> Recipe:
    """Give the recipe of the classifier alone: no refiner, no segmenter."""
    fixed = ["segment=null", "refine.steps=[]", "evaluate.boundary=false", f"seed={seed}"]
    small = SMALL if arguments.small else ()
    return load_recipe(arguments.recipe, [*fixed, *small, *arguments.overrides])


def steps_of(chain: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Turn ``affinity_net+dense_crf`` into the steps of a recipe."""
    import yaml

    names = chain.split("+")
    makes_background = any(
        name in NO_THRESHOLD or registry.config_class("refiners", name).writes_background
        for name in names
    )
    if not makes_background and names[0] in THRESHOLD_BEHIND:
        names.insert(1, PLAIN)
    elif not makes_background:
        names.insert(0, PLAIN)
    changes: dict[str, dict[str, Any]] = {PLAIN: threshold_settings(arguments.threshold)}
    for text in (*(SMALL_STEPS if arguments.small else ()), *arguments.step):
        key, _, value = text.partition("=")
        name, _, setting = key.partition(".")
        *path, last = setting.split(".")
        node = changes.setdefault(name, {})
        for part in path:
            node = node.setdefault(part, {})
        node[last] = yaml.safe_load(value)
    return [{"name": name} | changes.get(name, {}) for name in names]


def threshold_settings(choice: str) -> dict[str, Any]:
    if choice == "through":
        return {}
    if choice in ("sweep", "label_free"):
        return {"method": choice}
    return {"method": "fixed", "value": float(choice)}


def outcome(
    dataset: Dataset,
    recipe: Recipe,
    steps: list[dict[str, Any]],
    out: Path,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Apply steps to the maps of the run, which are made where they are missing, and score them."""
    try:
        if not (out / "recipe.yaml").exists() or not same_localizer(recipe, out):
            # Maps of all images, and nothing else; the threshold fills the background row.
            start = load_recipe(recipe.model_dump(mode="json"), ["refine.steps=[threshold]"])
            tunes = arguments.threshold in ("sweep", "through")
            run(dataset, recipe=start, out=out, use_masks=tunes)
        if arguments.threshold == "through":
            steps = with_thresholds(steps, out)
        metrics = applied(steps, out)
    except WssegError as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    stages = metrics["stages"]
    of_split = [entry for entry in stages if entry["split"] == arguments.split]
    found = [entry for entry in of_split if entry["stage"] == "pseudo"]
    if not found:
        raise SystemExit(f"The split {arguments.split} has no masks to score against.")
    best = next(entry for entry in of_split if entry["label"] == "Maps, best threshold")
    folders = sorted((out / "refine").iterdir())
    seconds = {folder.name: StageDir(folder, "").state().get("seconds", 0.0) for folder in folders}
    classifier = metrics.get("classifier") or {}
    return {
        "miou": found[0]["miou"],
        "best_map_miou": best["miou"],
        "map": classifier.get("map"),
        "map_split": classifier.get("split"),
        "thresholds": [step["value"] for step in steps if "value" in step],
        "seconds": sum(seconds.values()),
        "localize_seconds": StageDir(out / "localize", "").state().get("seconds", 0.0),
    }


def applied(steps: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """Apply steps to the maps of a run; returns its metrics."""
    change = f"refine.steps={json.dumps(steps)}"
    metrics: dict[str, Any] = again(out, "evaluate", overrides=[change]).metrics
    return metrics


def with_thresholds(steps: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Give each threshold the value that is best on the val masks behind the steps that follow."""
    steps = list(steps)
    for place, step in enumerate(steps):
        if step["name"] != PLAIN:
            continue
        ends = (k for k in range(place + 1, len(steps)) if steps[k]["name"] in (PLAIN, *TRAINED))
        end = next(ends, len(steps))

        def quality(value: float, place: int = place, end: int = end) -> float:
            steps[place] = threshold_at(value)
            stages = applied(steps[:end], out)["stages"]
            found = [e["miou"] for e in stages if (e["stage"], e["split"]) == ("pseudo", "val")]
            if not found:
                raise SystemExit("The split val has no masks to tune a threshold on.")
            return float(found[0])

        steps[place] = threshold_at(max(GRID, key=quality))
    return steps


def threshold_at(value: float) -> dict[str, Any]:
    return {"name": PLAIN, "method": "fixed", "value": value}


def same_localizer(recipe: Recipe, out: Path) -> bool:
    there = load_recipe(out / "recipe.yaml")
    kept = ("localize", "seed", "max_side_px")
    return all(getattr(there, key) == getattr(recipe, key) for key in kept)


def table(results: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Draw one row per chain."""
    chains = list(dict.fromkeys(entry["chain"] for entry in results))
    sound = [entry for entry in results if "failed" not in entry]
    base = {entry["seed"]: entry["miou"] for entry in sound if entry["chain"] == CRF}
    firsts = [entry for entry in sound if entry["chain"] == PLAIN]
    lines = []
    if firsts and firsts[0]["map"] is not None:
        quality = spread_of([entry["map"] for entry in firsts])
        took = statistics.mean(entry["localize_seconds"] for entry in firsts)
        lines.append(
            f"Classifier: mAP {quality} % ({firsts[0]['map_split']}), {took:.0f} s each.\n"
        )
    lines.append(f"| chain | mIoU % ({arguments.split}) | gain over CAM + dense CRF | seconds |")
    lines.append("|---|---|---|---|")
    if firsts:
        best = spread_of([entry["best_map_miou"] for entry in firsts])
        lines.append(f"| CAM, best threshold (tuned on these masks) | {best} | | |")
    lines += [row(chain, [e for e in sound if e["chain"] == chain], base) for chain in chains]
    failed = [entry for entry in results if "failed" in entry]
    lines += [f"\n{e['chain']}, seed {e['seed']}: {e['failed']}" for e in failed]
    return "\n".join(lines)


def row(chain: str, entries: Sequence[dict[str, Any]], base: dict[int, float]) -> str:
    name = {PLAIN: "CAM + threshold", CRF: "CAM + threshold + dense CRF"}.get(chain, chain)
    if not entries:
        return f"| {name} | failed | | |"
    gains = [entry["miou"] - base[entry["seed"]] for entry in entries if entry["seed"] in base]
    gain = "" if chain == CRF or not gains else spread_of(gains, signed=True)
    seconds = statistics.mean(entry["seconds"] for entry in entries)
    return f"| {name} | {spread_of([e['miou'] for e in entries])} | {gain} | {seconds:.0f} |"


def spread_of(values: Sequence[float], *, signed: bool = False) -> str:
    """Write mean ± standard deviation in percent."""
    mean = 100 * statistics.mean(values)
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    if len(values) > 1:
        text += f" ± {100 * statistics.stdev(values):.1f}"
    return text


if __name__ == "__main__":
    main()
