"""What saliency does for classes that never leave their background: EPS on *co-occurrence* scenes.

    python benchmarks/saliency.py --small [--seeds 0 1 2] [--epochs N] [--cues true rbd]

In these scenes a train always stands on a rail and a boat floats on water; rail and water are
background. Per seed one set of scenes is painted, and these localizers are trained on its tags,
with the same backbone, images, augmentation and epochs:

* CAM, tags alone;
* EPS with true saliency: all classes of the mask, in one colour (the upper bound; the masks of the
  training images enter as saliency, never as classes);
* EPS with weight-free saliency (rbd, or others by --cues).

Printed, over the images of one split, as mean and standard deviation over the seeds:

* IoU of train, mIoU, and the share of rail pixels called train in images with a train, at a
  constant background score of 0.2 (the authors' value for EPS, not tuned here), and
* the same at the constant that is best for the mIoU of these very masks, for each method alone,
  because a CAM wants another one than EPS.

How good the saliency alone is, and the segments, on scenes or real images: benchmarks/cues.py.

A second call with the same folder continues, and prints again what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _machine import command, describe
from wsseg import console
from wsseg.atomic import append_jsonl, read_jsonl
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.image_io import read_mask
from wsseg.data.scenes import CLASSES, make_dataset, make_scene, scene_seed
from wsseg.data.scores import load_scores
from wsseg.pipeline import run
from wsseg.recipe import Recipe, load_recipe
from wsseg.rundir import StageDir, fingerprint

FAMILY = "cooccurrence"
TRAIN, BOAT = 1, 2
# The background that goes with a class.
COMPANIONS = {"rail": TRAIN, "water": BOAT}
FIXED = 0.2
LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
TRUE = "true"
# A classifier that one core trains in about a minute for 160 scenes of 96 px. Cells of 4 pixels: a
# train is 15 pixels high, and with cells of 8 its map cannot leave the rail.
SMALL = (
    "localize.backbone=resnet10t",
    "localize.last_stage=2",
    "localize.output_stride=4",
    "localize.training.epochs=12",
    "localize.training.batch_size=8",
    "localize.training.lr=3.0e-3",
    "localize.augment.crop_px=96",
    "localize.inference.scales=[1.0]",
)


def main() -> None:
    arguments = parse()
    console.configure(quiet=arguments.quiet)
    results = [entry for seed in arguments.seeds for entry in of_seed(seed, arguments)]
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"`{command()}`, seeds {seeds}; {describe()}\n")
    print(table(results, arguments))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, default=160, help="training scenes")
    parser.add_argument("--val", type=int, default=40, help="validation scenes")
    parser.add_argument("--size", type=int, default=96, help="side of the scenes in pixels")
    parser.add_argument("--small", action="store_true", help="a small network for scenes of 96 px")
    parser.add_argument("--epochs", type=int, help="epochs of every localizer")
    parser.add_argument("--cues", nargs="+", default=[TRUE, "rbd"], help="saliency for EPS")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="train", choices=["train", "val"])
    parser.add_argument("--out", type=Path, default=Path("runs") / "bench-saliency")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args()


def of_seed(seed: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train the localizers of one seed and score their maps."""
    folder = arguments.out / f"seed-{seed}"
    dataset = data_of(seed, folder, arguments)
    known_path = folder / "results.jsonl"
    known = {entry["mark"]: entry for entry in read_jsonl(known_path)}
    for name, recipe in recipes_of(seed, dataset, folder, arguments):
        settings = (recipe.model_dump(mode="json"), arguments.split)
        mark = fingerprint(dataset.fingerprint(masks=True), settings)
        if mark not in known:
            out = folder / name.replace(" ", "-").replace(",", "")
            run(dataset, recipe=recipe, out=out)
            seconds = StageDir(out / "localize", "").state().get("seconds", 0.0)
            entry = {"mark": mark, "method": name, "seed": seed, "seconds": seconds}
            entry["levels"] = scored(dataset, out, seed, arguments)
            append_jsonl(known_path, entry)
            known[mark] = entry
        yield known[mark]


def data_of(seed: int, folder: Path, arguments: argparse.Namespace) -> Dataset:
    root = folder / f"data-{arguments.train}-{arguments.val}-{arguments.size}"
    # Written anew, files would count as changed and the classifier would train again.
    if not (root / "labels.csv").exists():
        size = (arguments.size, arguments.size)
        counts = {"num_train": arguments.train, "num_val": arguments.val}
        make_dataset(FAMILY, root, **counts, seed=seed, size=size)
    return open_dataset(root)


def recipes_of(
    seed: int, dataset: Dataset, folder: Path, arguments: argparse.Namespace
) -> Iterator[tuple[str, Recipe]]:
    """Give the recipe of every method; they differ in the head and the saliency loss only."""
    fixed = [
        *("segment=null", "evaluate.boundary=false", f"seed={seed}", "localize.dropout=0"),
        f"refine.steps=[{{name: background_constant, value: {FIXED}}}]",
        *(SMALL if arguments.small else ()),
        *([f"localize.training.epochs={arguments.epochs}"] if arguments.epochs else ()),
        *arguments.overrides,
    ]
    yield "CAM", load_recipe("cam", fixed)
    for cue in arguments.cues:
        if cue == TRUE:
            path = true_saliency(dataset, folder / f"true-saliency-{dataset.root.name}")
            settings = {"name": "folder", "path": str(path)}
        else:
            settings = {"name": cue}
        eps = ["localize.name=eps", f"localize.cue={json.dumps(settings)}"]
        yield f"EPS, {cue} saliency", load_recipe("cam", [*eps, *fixed])


def true_saliency(dataset: Dataset, folder: Path) -> Path:
    """Paint the classes of every mask white."""
    from PIL import Image

    for sample in dataset.samples:
        path = folder / f"{sample.id}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            is_object = read_mask(sample.mask_path) > 0
            Image.fromarray(is_object.astype(np.uint8) * 255).save(path)
    return folder


def scored(
    dataset: Dataset, out: Path, seed: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Score the maps of a run at every constant background."""
    num_rows = len(CLASSES[FAMILY]) + 1
    confusion = np.zeros((len(LEVELS), num_rows, num_rows), np.int64)
    called = {name: np.zeros((len(LEVELS), 2), np.int64) for name in COMPANIONS}
    stage = StageDir(out / "localize", "")
    for sample in dataset.split(arguments.split):
        scores = load_scores(stage.file("scores", sample.id, ".npz"))
        full, truth = scores.resized(), read_mask(sample.mask_path)
        regions = regions_of(sample, seed, arguments)
        for index, level in enumerate(LEVELS):
            if len(scores.class_ids) > 1:
                full[0] = level
            found = scores.class_ids[full.argmax(axis=0)].astype(np.int64)
            pairs = np.bincount(truth.ravel() * num_rows + found.ravel(), minlength=num_rows**2)
            confusion[index] += pairs.reshape(num_rows, num_rows)
            for name, class_id in COMPANIONS.items():
                if class_id in scores.present:
                    inside = found[regions[name]]
                    called[name][index] += (inside == class_id).sum(), inside.size
    return [
        {"level": level, **numbers(confusion[index])}
        | {name: ratio(*called[name][index]) for name in COMPANIONS}
        for index, level in enumerate(LEVELS)
    ]


def regions_of(sample: Sample, seed: int, arguments: argparse.Namespace) -> Any:
    """Paint the scene again, for the places of rail and water."""
    index = int(sample.image_path.stem.rpartition("_")[2])
    size = (arguments.size, arguments.size)
    scene = make_scene(FAMILY, scene_seed(seed, arguments.split, index), size)
    return scene.regions


def numbers(confusion: np.ndarray) -> dict[str, float]:
    hits = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    ious = [ratio(a, b) for a, b in zip(hits, union, strict=True)]
    return {"train_iou": ious[TRAIN], "boat_iou": ious[BOAT], "miou": float(np.mean(ious))}


def ratio(part: int, whole: int) -> float:
    return float(part) / max(1, float(whole))


def table(results: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Draw one row per method and background score."""
    lines = [
        f"{arguments.train} training scenes of {arguments.size} px; numbers of the split "
        f"{arguments.split}, %.\n",
        "| method | background | train IoU | boat IoU | mIoU | rail called train "
        "| water called boat | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(entry["method"] for entry in results):
        entries = [entry for entry in results if entry["method"] == method]
        seconds = f"{statistics.mean(entry['seconds'] for entry in entries):.0f}"
        fixed = [next(x for x in entry["levels"] if x["level"] == FIXED) for entry in entries]
        best = [max(entry["levels"], key=lambda x: x["miou"]) for entry in entries]
        chosen = ", ".join(f"{one['level']:.2f}" for one in best)
        lines.append(row(method, f"{FIXED}", fixed, seconds))
        lines.append(row(method, f"best on these masks ({chosen})", best, seconds))
    return "\n".join(lines)


def row(method: str, background: str, found: Sequence[dict[str, float]], seconds: str) -> str:
    keys = ("train_iou", "boat_iou", "miou", *COMPANIONS)
    cells = " | ".join(spread_of([one[key] for one in found]) for key in keys)
    return f"| {method} | {background} | {cells} | {seconds} |"


def spread_of(values: Sequence[float]) -> str:
    """Write mean ± standard deviation in percent."""
    text = f"{100 * statistics.mean(values):.1f}"
    return f"{text} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else text


if __name__ == "__main__":
    main()
