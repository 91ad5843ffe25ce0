"""Quality against labelling time: the same images and segmenter, labels that cost ever more.

    python benchmarks/label_cost.py DATA --small [--kinds tags points ...] [--seeds 0 1 2]
    python benchmarks/label_cost.py DATA --method scribbles=graphnet scribbles=scribblesup

Tags, points, scribbles and boxes are simulated from the masks of DATA. For each kind of label a
recipe (--method, several per kind where wanted) runs on the labels of that kind alone; `mixed` has
another kind in every image, by fixed shares (--mix); `masks` trains the segmenter on the true
masks.

What labels cost (--seconds, per piece): a tag 1 s for every class of the data set, because
somebody has to decide on each; a point 2.4 s, a box 7 s, a scribble 11 s, the mask of an object
79 s. These are literature values from memory. An image without any object costs one tag.

--small is for one core: images of at most 128 pixels, a small U-Net and classifier from scratch,
and so many epochs that every training has about --steps steps, whatever the size of the data set.

Prints a Markdown table, as mean and standard deviation over the seeds, and writes it with a plot to
the folder --out. A second call with the same folder continues, and prints again what is there.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _ceiling import train_ceiling
from _machine import command, describe
from wsseg import console
from wsseg.atomic import append_jsonl, atomic_path, read_jsonl, write_text
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.labels import WeakLabels
from wsseg.data.simulate import Simulate, sample_rng, simulate_dataset
from wsseg.errors import WssegError
from wsseg.pipeline import run
from wsseg.recipe import Recipe, load_recipe, shipped
from wsseg.rundir import StageDir, fingerprint

DRAWN = ("points", "scribbles", "boxes")
KINDS = ("tags", *DRAWN, "mixed", "masks")
METHODS = {
    "tags": "cam",
    "points": "points",
    "scribbles": "scribbles",
    "boxes": "boxes",
    "mixed": "mixed",
    "masks": "cam",
}
SECONDS = {"tags": 1.0, "points": 2.4, "boxes": 7.0, "scribbles": 11.0, "masks": 79.0}
MIX = {"tags": 0.5, "points": 0.2, "boxes": 0.15, "scribbles": 0.15}
SMALL_PX = 128
BATCH = 8
SMALL_TRAINING = ("batch_size=8", "lr=3.0e-3", "schedule=cosine", "num_workers=0")
SMALL_LOCALIZER = (
    "backbone=resnet10t",
    "last_stage=3",
    "output_stride=8",
    "dropout=0",
    f"augment.crop_px={SMALL_PX}",
    "inference.scales=[1.0]",
)
SMALL_NETWORK = (
    "segment.architecture=unet",
    "segment.encoder=tu-resnet10t",
    "segment.encoder_depth=3",
)
# The reach of the dense CRF on small images.
SMALL_CRF = {"gauss_sxy_px": 1, "bilateral_sxy_px": 20}
COLOURS = dict(zip(KINDS, ("C7", "C0", "C1", "C2", "C4", "k"), strict=True))


def main() -> None:
    arguments = parse()
    console.configure(quiet=arguments.quiet)
    truth = open_dataset(arguments.data)
    results = [entry for seed in arguments.seeds for entry in of_seed(truth, seed, arguments)]
    seeds = ", ".join(map(str, arguments.seeds))
    text = f"`{command()}`, seeds {seeds}; {describe()}\n\n{table(results, truth, arguments)}\n"
    write_text(arguments.out / "label_cost.md", text)
    plot(results, arguments.data.resolve().name, arguments.out / "label_cost.png")
    print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="data set with masks")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--method", nargs="+", default=[], metavar="KIND=RECIPE")
    parser.add_argument("--seconds", nargs="+", default=[], metavar="KIND=SECONDS")
    parser.add_argument("--mix", nargs="+", default=[], metavar="KIND=SHARE")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--small", action="store_true", help="small images and networks")
    parser.add_argument("--steps", type=int, default=400, help="steps per training of --small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="default: runs/bench-label-cost-DATA")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    name = arguments.data.resolve().name
    arguments.out = arguments.out or Path("runs") / f"bench-label-cost-{name}"
    try:
        arguments.methods = methods_of(arguments)
        arguments.cost = SECONDS | numbers_of(arguments.seconds, SECONDS)
        arguments.shares = numbers_of(arguments.mix, MIX) or MIX
    except ValueError as error:
        parser.error(str(error))
    if sum(arguments.shares.values()) <= 0:
        parser.error("--mix needs a share above zero")
    return arguments


def methods_of(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """List pairs of kind and recipe; given ones replace the default of their kind."""
    given: dict[str, list[str]] = {}
    for text in arguments.method:
        kind, _, name = text.partition("=")
        if kind not in KINDS or not name:
            raise ValueError(
                f"--method {text}: expected KIND=RECIPE, KIND out of {', '.join(KINDS)}"
            )
        given.setdefault(kind, []).append(name)
    return [(kind, name) for kind in arguments.kinds for name in given.get(kind, [METHODS[kind]])]


def numbers_of(texts: Sequence[str], known: dict[str, float]) -> dict[str, float]:
    found = {}
    for text in texts:
        kind, _, number = text.partition("=")
        if kind not in known:
            raise ValueError(f"{text}: expected KIND=NUMBER, KIND out of {', '.join(known)}")
        found[kind] = float(number)
        if found[kind] < 0:
            raise ValueError(f"{text}: the number must not be negative")
    return found


def of_seed(truth: Dataset, seed: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run every method on labels that are drawn with one seed."""
    full = simulate_dataset(truth, Simulate(seed=seed))
    for kind, name in arguments.methods:
        dataset = dataset_of(full, kind, seed, arguments)
        recipe = load_recipe(name, changes(name, dataset, seed, arguments))
        known = {entry["mark"]: entry for entry in read_jsonl(results_path(arguments))}
        settings = (kind, recipe.model_dump(mode="json"))
        mark = fingerprint(dataset.fingerprint(masks=True), settings)
        if mark not in known:
            entry = {"mark": mark, "kind": kind, "method": name, "seed": seed}
            entry |= measured(dataset, kind, recipe, arguments.out / f"{kind}-{name}-seed-{seed}")
            append_jsonl(results_path(arguments), entry)
            known[mark] = entry
        # What labels cost is no part of the runs: other prices need no new ones.
        prices = [
            seconds_of(
                sample.labels,
                kind_of(sample, kind, seed, arguments.shares),
                full.classes.num_classes,
                arguments.cost,
            )
            for sample in full.split("train")
        ]
        yield known[mark] | {"price": statistics.mean(prices)}


def results_path(arguments: argparse.Namespace) -> Path:
    path: Path = arguments.out / "results.jsonl"
    return path


def dataset_of(full: Dataset, kind: str, seed: int, arguments: argparse.Namespace) -> Dataset:
    """Keep the labels of one kind, and the tags that every kind implies."""
    samples = []
    for sample in full.samples:
        own = kind_of(sample, kind, seed, arguments.shares)
        shapes = {own: getattr(sample.labels, own)} if own in DRAWN and sample.labels.tags else {}
        samples.append(replace(sample, labels=WeakLabels(tags=sample.labels.tags, **shapes)))
    return replace(full, samples=tuple(samples))


def kind_of(sample: Sample, kind: str, seed: int, shares: dict[str, float]) -> str:
    """Name the kind of label of an image; drawn where kinds are mixed."""
    if kind != "mixed":
        return kind
    place = sample_rng(seed, sample.id, "mixed").random() * sum(shares.values())
    for one, share in shares.items():
        place -= share
        if place < 0:
            return one
    return next(reversed(shares))


def seconds_of(labels: WeakLabels, kind: str, num_classes: int, cost: dict[str, float]) -> float:
    """Estimate what the labels of an image cost."""
    if kind == "tags":
        return cost["tags"] * num_classes
    if not labels.tags:
        return cost["tags"]
    # As many masks as boxes: one per object.
    return cost[kind] * len(getattr(labels, "boxes" if kind == "masks" else kind))


def changes(name: str, dataset: Dataset, seed: int, arguments: argparse.Namespace) -> list[str]:
    """Give the changes of a recipe; --set comes last."""
    found = [f"seed={seed}", "evaluate.boundary=false"]
    if arguments.small:
        found += small(name, len(dataset.split("train")), arguments.steps)
    return found + arguments.overrides


def small(name: str, num_train: int, steps: int) -> list[str]:
    """Make a shipped recipe small."""
    if name not in shipped():
        raise SystemExit(f"--small knows the shipped recipes alone, not {name}; use --set instead.")
    content = shipped()[name]
    epochs = max(1, round(steps * BATCH / max(1, num_train)))
    training = (*SMALL_TRAINING, f"epochs={epochs}")
    found = [f"max_side_px={SMALL_PX}", *small_segmenter(content["segment"])]
    found += [f"segment.training.{change}" for change in training]
    localize = content["localize"]
    prefix = "localize.tags" if isinstance(localize.get("tags"), dict) else "localize"
    if prefix == "localize.tags" or "training" in localize:
        found += [f"{prefix}.{change}" for change in SMALL_LOCALIZER]
        found += [f"{prefix}.training.{change}" for change in training]
    crf = [step | (SMALL_CRF if step["name"] == "dense_crf" else {}) for step in steps_of(content)]
    return [*found, f"refine.steps={crf}"]


def small_segmenter(content: dict[str, Any]) -> Iterator[str]:
    """Change the network, where it can be chosen, and the size of what it sees."""
    if content["name"] == "smp":
        yield from SMALL_NETWORK
    yield f"segment.augment.crop_px={SMALL_PX}"
    # Views of the whole image stay such.
    if "long_side_px" in content["augment"]:
        yield f"segment.augment.long_side_px=[{SMALL_PX}, {SMALL_PX}]"


def steps_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    steps = content.get("refine", {}).get("steps", [])
    return [{"name": step} if isinstance(step, str) else step for step in steps]


def measured(dataset: Dataset, kind: str, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train on labels of a kind; returns mIoU of masks and segmenter, or why there is none."""
    try:
        if kind == "masks":
            entry = train_ceiling(dataset, recipe, out)
            return {"segment": entry["miou"], "seconds": entry["seconds"]}
        finished = run(dataset, recipe=recipe, out=out)
    except WssegError as error:
        console.warning(f"{kind}, {recipe.name}: {error}")
        return {"error": str(error).splitlines()[0]}
    stages = {
        (entry["stage"], entry["split"]): entry["miou"] for entry in finished.metrics["stages"]
    }
    names = ("localize", "masks", "segment")
    seconds = sum(StageDir(out / name, "").state().get("seconds", 0.0) for name in names)
    pseudo, segment = stages.get(("pseudo", "train")), stages.get(("segment", "val"))
    return {"pseudo": pseudo, "segment": segment, "seconds": seconds}


def groups(results: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Group results by kind and method, cheap labels first."""
    keys = dict.fromkeys((entry["kind"], entry["method"]) for entry in results)
    found = [
        (kind, name, [e for e in results if (e["kind"], e["method"]) == (kind, name)])
        for kind, name in keys
    ]
    yield from sorted(found, key=lambda group: group[2][0]["price"])


def table(results: Sequence[dict[str, Any]], truth: Dataset, arguments: argparse.Namespace) -> str:
    """Draw one row per kind and method."""
    counts = f"{len(truth.split('train'))} training and {len(truth.split('val'))} val images"
    prices = ", ".join(f"{kind} {cost:g}" for kind, cost in arguments.cost.items())
    shares = ", ".join(f"{kind} {share:g}" for kind, share in arguments.shares.items())
    lines = [
        f"{counts}; mIoU with background, %. Seconds per piece: {prices}. "
        f"Shares of mixed: {shares}.\n",
        "| labels | recipe | labelling, s per image | pseudo masks (train) | segmenter (val) "
        "| training, s |",
        "|---|---|---|---|---|---|",
    ]
    for kind, name, entries in groups(results):
        price = statistics.mean(entry["price"] for entry in entries)
        title = "true masks" if kind == "masks" else f"`{name}`"
        done = [entry for entry in entries if "error" not in entry]
        if not done:
            lines.append(f"| {kind} | {title} | {price:.1f} | {entries[0]['error']} | | |")
            continue
        pseudo, segment = spread(done, "pseudo"), spread(done, "segment")
        took = statistics.mean(entry["seconds"] for entry in done)
        lines.append(f"| {kind} | {title} | {price:.1f} | {pseudo} | {segment} | {took:.0f} |")
    return "\n".join(lines)


def spread(entries: Sequence[dict[str, Any]], key: str) -> str:
    """Write mean ± standard deviation in percent; empty where there is nothing."""
    values = [100 * entry[key] for entry in entries if entry.get(key) is not None]
    if not values:
        return ""
    text = f"{statistics.mean(values):.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


def plot(results: Sequence[dict[str, Any]], name: str, path: Path) -> None:
    """Draw quality against labelling time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import matplotlib.ticker

    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for kind, method, entries in groups(results):
        price = statistics.mean(entry["price"] for entry in entries)
        for key, fill in (("pseudo", "white"), ("segment", COLOURS[kind])):
            values = [100 * entry[key] for entry in entries if entry.get(key) is not None]
            if not values:
                continue
            deviation = statistics.stdev(values) if len(values) > 1 else None
            style = {"color": COLOURS[kind], "markerfacecolor": fill, "capsize": 3}
            axes.errorbar(price, statistics.mean(values), deviation, fmt="o", **style)
            if key == "segment":
                title = kind if method in (kind, METHODS[kind]) else f"{kind}: {method}"
                place = (price, statistics.mean(values))
                axes.annotate(title, place, (6, 4), textcoords="offset points")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.margins(x=0.15, y=0.1)
    axes.set_xlabel("labelling time per image, seconds (estimated)")
    axes.set_ylabel("mIoU, %")
    axes.set_title(f"{name}: filled = segmenter on val, hollow = pseudo masks on train")
    axes.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
