"""What segments do for class maps: S2C and SEPL, with segments of the image and with true ones.

    python benchmarks/segments.py [DATA] --small [--seeds 0 1 2] [--epochs N] [--segments KIND ...]
        [--parts] [--start-epoch N] [--max-side PX]

Without DATA, synthetic scenes (--family). Per seed these localizers are trained on the tags, with
the same backbone, images, augmentation and epochs: CAM, and S2C with every kind of segments. The
maps of each become masks at a constant background score, as they are and after SEPL (index order,
all rules) with every kind of segments. `true` segments are the connected areas of each class and of
the background in the masks; what is in their rows is the upper bound of what segments can bring,
as the true masks of the training images enter as segments, never as classes.

With --parts, what of S2C does what: its head, a layer before the class maps, without either loss
(S2C head only); and with the head of CAM, the contrast of segments alone (SSC only) and the
prompting by class maps alone (CPM only).

Printed, over the images of one split with a mask, as mean and standard deviation over the seeds:
mIoU with background, and without, at a constant background score of 0.2 (not tuned), and at the
constant that is best for the mIoU of these very masks, for each row alone. And the seconds of the
localizer, the making of its segments included.

Segments of SAM: --segments true superpixels sam --sam FOLDER. Photographs: --max-side 128 works on
copies that are shrunk to that many pixels, masks included.

A second call with the same folder continues, and prints again what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _machine import command, describe
from wsseg import console, registry
from wsseg.atomic import append_jsonl, read_jsonl
from wsseg.config import MethodConfig
from wsseg.cues.segments import SegmentsContext
from wsseg.cues.segments_folder import FolderSegments
from wsseg.cues.segments_source import all_segments
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.image_io import image_size, read_mask
from wsseg.data.labels import IGNORE
from wsseg.data.scenes import FAMILIES, make_dataset
from wsseg.data.scores import load_scores
from wsseg.data.working import read_working_image
from wsseg.pipeline import run
from wsseg.recipe import Recipe, load_recipe
from wsseg.refine.segment_merge import SegmentMerge, merge
from wsseg.rundir import StageDir, fingerprint

FIXED = 0.2
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TRUE = "true"
VERSION = 1
HEAD_ONLY = "S2C head only"
PARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("S2C", {}),
    ("plain head, SSC only", {"dim": None, "cpm_weight": 0}),
    ("plain head, CPM only", {"dim": None, "ssc_weight": 0}),
)
# A classifier that one core trains in about a minute on scenes of 96 px; 8 pixels per cell.
SMALL = (
    "localize.backbone=resnet10t",
    "localize.last_stage=3",
    "localize.output_stride=8",
    "localize.training.epochs=15",
    "localize.augment.crop_px=96",
    "localize.inference.scales=[1.0, 1.5]",
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
    parser.add_argument("data", type=Path, nargs="?", help="a data set with masks; else scenes")
    parser.add_argument("--family", default="parts", choices=sorted(FAMILIES))
    parser.add_argument("--train", type=int, default=240, help="training scenes")
    parser.add_argument("--val", type=int, default=40, help="validation scenes")
    parser.add_argument("--size", type=int, default=96, help="side of the scenes in pixels")
    parser.add_argument("--small", action="store_true", help="a small network for small images")
    parser.add_argument("--epochs", type=int, help="epochs of every localizer")
    parser.add_argument("--parts", action="store_true", help="the parts of S2C on their own, too")
    parser.add_argument("--start-epoch", type=int, help="epoch of S2C's first prompts; else 2")
    parser.add_argument("--segments", nargs="+", default=[TRUE, "superpixels"])
    parser.add_argument("--max-side", type=int, help="shrink DATA to this longest side, pixels")
    parser.add_argument("--sam", help="folder of the network for --segments sam")
    parser.add_argument("--recipe", default="cam", help="what all localizers share")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="train", choices=["train", "val"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    name = arguments.data.resolve().name if arguments.data else arguments.family
    arguments.out = arguments.out or Path("runs") / f"bench-segments-{name}"
    return arguments


def of_seed(seed: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train the localizers of one seed, and score their maps with and without SEPL."""
    folder = arguments.out / f"seed-{seed}"
    dataset = data_of(seed, folder, arguments)
    kinds = {kind: settings_of(kind, dataset, folder, arguments) for kind in arguments.segments}
    known_path = folder / "results.jsonl"
    known = {entry["mark"]: entry for entry in read_jsonl(known_path)}
    for name, recipe in recipes_of(seed, kinds, arguments):
        listed = {kind: one.model_dump(mode="json") for kind, one in kinds.items()}
        settings = (VERSION, recipe.model_dump(mode="json"), arguments.split, listed)
        mark = fingerprint(dataset.fingerprint(masks=True), settings)
        if mark not in known:
            out = folder / name.replace(" ", "-").replace(",", "")
            run(dataset, recipe=recipe, out=out)
            seconds = StageDir(out / "localize", "").state().get("seconds", 0.0)
            entry = {"mark": mark, "method": name, "seed": seed, "seconds": seconds}
            entry["rows"] = scored(dataset, out, recipe, kinds, arguments.split)
            append_jsonl(known_path, entry)
            known[mark] = entry
        yield known[mark]


def data_of(seed: int, folder: Path, arguments: argparse.Namespace) -> Dataset:
    """Open the data set without the images whose true segments are not known."""
    if arguments.data:
        dataset = open_dataset(arguments.data)
        known = [s for s in dataset.samples if s.mask_path or s.labels.tags == frozenset()]
        if arguments.max_side:
            known = [shrunk(sample, folder, arguments.max_side) for sample in known]
        return dataclasses.replace(dataset, samples=tuple(known))
    root = folder / f"data-{arguments.family}-{arguments.train}-{arguments.val}-{arguments.size}"
    # Written anew, files would count as changed and the classifier would train again.
    if not (root / "labels.csv").exists():
        size = (arguments.size, arguments.size)
        counts = {"num_train": arguments.train, "num_val": arguments.val}
        make_dataset(arguments.family, root, **counts, seed=seed, size=size)
    return open_dataset(root)


def shrunk(sample: Sample, folder: Path, max_side_px: int) -> Sample:
    """Copy an image and its mask, no longer than some pixels."""
    from PIL import Image

    target = folder / f"images-{max_side_px}" / f"{sample.id}.png"
    mask_target = folder / f"masks-{max_side_px}" / f"{sample.id}.png"
    if not target.exists():
        image = Image.fromarray(read_working_image(sample.image_path, max_side_px))
        if sample.mask_path is not None:
            mask = Image.fromarray(read_mask(sample.mask_path))
            mask_target.parent.mkdir(parents=True, exist_ok=True)
            mask.resize(image.size, Image.Resampling.NEAREST).save(mask_target)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    mask_path = None if sample.mask_path is None else mask_target
    return dataclasses.replace(sample, image_path=target, mask_path=mask_path)


def settings_of(
    kind: str, dataset: Dataset, folder: Path, arguments: argparse.Namespace
) -> MethodConfig:
    """Give the settings of a kind of segments; true ones are written to a folder first."""
    if kind == TRUE:
        path = true_segments(
            dataset, folder / f"true-segments-{dataset.root.name}-{arguments.max_side or 0}"
        )
        return FolderSegments(path=str(path), split=True, zero_is_segment=True)
    if kind == "sam":
        if not arguments.sam:
            raise SystemExit("--segments sam needs --sam FOLDER")
        return registry.settings("segments", {"name": "sam", "model": arguments.sam})
    return registry.settings("segments", kind)


def true_segments(dataset: Dataset, folder: Path) -> Path:
    """Write the mask of every image as segment numbers."""
    from PIL import Image

    for sample in dataset.samples:
        path = folder / f"{sample.id}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if sample.mask_path is None:
                numbers = np.zeros(image_size(sample.image_path), np.uint8)
            else:
                numbers = read_mask(sample.mask_path)
            Image.fromarray(numbers).save(path)
    return folder


def recipes_of(
    seed: int, kinds: dict[str, MethodConfig], arguments: argparse.Namespace
) -> Iterator[tuple[str, Recipe]]:
    """Give the recipe of every localizer; they differ in the regulariser only."""
    fixed = [
        *("segment=null", "evaluate.boundary=false", f"seed={seed}"),
        f"refine.steps=[{{name: background_constant, value: {FIXED}}}]",
        *(SMALL if arguments.small else ()),
        *([f"localize.training.epochs={arguments.epochs}"] if arguments.epochs else ()),
        *arguments.overrides,
    ]
    yield "CAM", load_recipe(arguments.recipe, fixed)
    shared: dict[str, Any] = {"name": "s2c", "stride_px": 4, "scales": [0.5, 1.0]}
    if arguments.start_epoch is not None:
        shared["start_epoch"] = arguments.start_epoch
    if arguments.parts:
        one = shared | {"ssc_weight": 0, "cpm_weight": 0}
        changes = [f"localize.regularisers={json.dumps([one])}"]
        yield HEAD_ONLY, load_recipe(arguments.recipe, [*fixed, *changes])
    for kind, settings in kinds.items():
        outside = ["supervision=I+SAM"] if kind == "sam" else []
        for name, part in PARTS if arguments.parts else PARTS[:1]:
            one = shared | {"segments": settings.model_dump(mode="json")} | part
            changes = [f"localize.regularisers={json.dumps([one])}", *outside]
            yield f"{name}, {kind} segments", load_recipe(arguments.recipe, [*fixed, *changes])


def scored(
    dataset: Dataset, out: Path, recipe: Recipe, kinds: dict[str, MethodConfig], split: str
) -> dict[str, list[dict[str, float]]]:
    """Score the maps of a run at every constant background, as they are and after SEPL."""
    num_rows = dataset.classes.num_classes + 1
    names = ["", *(f"SEPL, {kind} segments" for kind in kinds)]
    confusion = {name: np.zeros((len(LEVELS), num_rows**2), np.int64) for name in names}
    stage = StageDir(out / "localize", "")
    shared: dict[Any, Any] = {}
    for sample in dataset.split(split):
        path = stage.file("scores", sample.id, ".npz")
        if sample.mask_path is None or not path.is_file():
            continue
        scores = load_scores(path)
        truth = read_mask(sample.mask_path, dataset.classes)
        image = read_working_image(sample.image_path, recipe.max_side_px)
        if truth.shape != image.shape[:2]:
            raise SystemExit(f"{sample.id}: give --max-side, as masks are compared as they are")
        context = SegmentsContext(sample.id, folder=out / "cues" / "segments", shared=shared)
        segments = [all_segments(image, one, context) for one in kinds.values()]
        full, is_known = scores.resized(), truth != IGNORE
        for index, level in enumerate(LEVELS):
            if len(scores.class_ids) > 1:
                full[0] = level
            labels = scores.class_ids[full.argmax(axis=0)]
            merged = [
                merge(labels, one, SegmentMerge()) if len(one) else labels for one in segments
            ]
            for name, found in zip(names, [labels, *merged], strict=True):
                pairs = truth[is_known].astype(np.int64) * num_rows + found[is_known]
                confusion[name][index] += np.bincount(pairs, minlength=num_rows**2)
    return {
        name: [
            {"level": level, **numbers(counts.reshape(num_rows, num_rows))}
            for level, counts in zip(LEVELS, table_, strict=True)
        ]
        for name, table_ in confusion.items()
    }


def numbers(confusion: np.ndarray) -> dict[str, float]:
    hits = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    ious = [float(a) / b for a, b in zip(hits, union, strict=True) if b]
    return {"miou": float(np.mean(ious)), "foreground": float(np.mean(ious[1:] or [0.0]))}


def table(results: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Draw one row per localizer and merging."""
    data = arguments.data.resolve().name if arguments.data else f"{arguments.family} scenes"
    epochs = arguments.epochs or "the recipe's"
    lines = [
        f"{data}, {epochs} epochs; masks of the split {arguments.split}, %.\n",
        f"| localizer | merging | mIoU at {FIXED} | without background | best mIoU on these masks "
        "| without background | its constants | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(entry["method"] for entry in results):
        entries = [entry for entry in results if entry["method"] == method]
        seconds = f"{statistics.mean(entry['seconds'] for entry in entries):.0f}"
        for merging in entries[0]["rows"]:
            rows = [entry["rows"][merging] for entry in entries]
            fixed = [next(x for x in levels if x["level"] == FIXED) for levels in rows]
            best = [max(levels, key=lambda x: x["miou"]) for levels in rows]
            cells = [
                spread_of([one[key] for one in chosen])
                for chosen in (fixed, best)
                for key in ("miou", "foreground")
            ]
            chosen = ", ".join(f"{one['level']:.1f}" for one in best)
            cells += [chosen, seconds]
            lines.append(f"| {method} | {merging or 'none'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread_of(values: Sequence[float]) -> str:
    """Write mean ± standard deviation in percent."""
    text = f"{100 * statistics.mean(values):.1f}"
    return f"{text} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else text


if __name__ == "__main__":
    main()
