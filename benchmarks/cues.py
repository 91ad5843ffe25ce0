"""How fast the weight-free cues are, and how good alone.

    python benchmarks/cues.py [--repeats N]                      speed on a photograph
    python benchmarks/cues.py DATA [--images N] [--split val]    quality against masks, too

Speed: scikit-image's astronaut at 500 x 375 px; samples of all cues alternate, so that a busy
moment of the machine hits all; medians. `at` is timed per prompt, on the opened image, over points
and boxes on a grid.

Quality, on images of one split that show at least one class (void pixels left out of everything):

* saliency, foreground = any class: mean absolute error; F-measure (beta² = 0.3) at twice the mean
  of each map, at most 1 - 1e-3 (the usual adaptive threshold), mean over images; the best F-measure
  of the data set over 255 thresholds, precision and recall averaged over images first (tuned on
  these masks).
* anomaly: the same, learned from ok images of the train split, where there are two at least. The
  features are those of an untrained network and, with --run RUN, those of that run's classifier.
* segments: achievable segmentation accuracy of superpixels (share of pixels that are right when
  every superpixel gets its most frequent class) and of the tree cut to 100, 50 and 25 regions;
  per connected object of a class, the IoU of the best segment of `everything`, and of the best and
  the first-ranked answer to the object's innermost point and to its box. A last column has the IoU
  of the box itself, filled.

Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from _machine import command, describe
from wsseg import console
from wsseg.cues.anomaly import Anomaly
from wsseg.cues.protocol import CueInputs
from wsseg.cues.region_tree import RegionTree
from wsseg.cues.saliency import saliency
from wsseg.cues.segments import Prompt, Segments, open_segments
from wsseg.cues.source import CueSource, open_cue
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset
from wsseg.data.image_io import read_image, read_mask
from wsseg.data.labels import IGNORE
from wsseg.localize.regularise.attach import make_localizer
from wsseg.nets.cam_head import ClassMapNet
from wsseg.recipe import load_recipe
from wsseg.training.checkpoint import load_weights

SIZE = (375, 500)
SALIENCY = ("rbd", "mbd", "ft", "spectral_residual")
BARS_S = {"rbd": 0.25, "everything": 0.6, "at, per prompt": 0.02}
BETA_SQUARED = 0.3
MIN_OBJECT_PX = 64
CUTS = (100, 50, 25)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="a data set with masks")
    parser.add_argument("--images", type=int, default=100, help="how many are drawn at random")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="run whose classifier gives anomaly features, too")
    arguments = parser.parse_args()
    console.configure(quiet=True)
    print(f"`{command()}`, seed {arguments.seed}; {describe()}; load {os.getloadavg()[0]:.1f}\n")
    print_speed(arguments.repeats)
    if arguments.data is not None:
        dataset = open_dataset(arguments.data)
        samples = chosen_samples(dataset, arguments)
        print(f"\n{len(samples)} images of the split {arguments.split}.\n")
        print_saliency(dataset, samples, arguments.run)
        print_segments(samples)


# --- speed ---


def print_speed(repeats: int) -> None:
    image = photo()
    opened = open_segments(image)
    rows, columns = range(25, SIZE[0], 50), range(25, SIZE[1], 50)
    points = [Prompt([(x, y)]) for y in rows for x in columns]
    boxes = [Prompt(box=(x - 20, y - 20, x + 20, y + 20)) for y in rows for x in columns]
    prompts = points + boxes
    calls: dict[str, Callable[[], object]] = {
        name: (lambda name=name: saliency(image, name)) for name in SALIENCY
    }
    calls["everything"] = lambda: open_segments(image).everything()
    calls["at, per prompt"] = lambda: opened.at(prompts)
    times = measure(calls, repeats)
    times["at, per prompt"] = [sample / len(prompts) for sample in times["at, per prompt"]]
    print(f"{SIZE[1]} x {SIZE[0]} px, {repeats} samples.\n")
    print("| what | median ms | smallest | largest | bar ms |\n|---|---|---|---|---|")
    for name, samples in times.items():
        bar = BARS_S.get(name)
        middle = statistics.median(samples)
        verdict = "" if bar is None else f"{1e3 * bar:.0f}, {'met' if middle <= bar else 'missed'}"
        low, high = min(samples), max(samples)
        print(f"| {name} | {1e3 * middle:.1f} | {1e3 * low:.1f} | {1e3 * high:.1f} | {verdict} |")


def photo() -> np.ndarray:
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(data.astronaut())
    return np.array(picture.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, samples in turn; the first ones, which compile, apart."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return times


# --- quality ---


def chosen_samples(dataset: Dataset, arguments: argparse.Namespace) -> list[Sample]:
    """Draw images whose mask shows a class."""
    masked = [s for s in dataset.split(arguments.split) if s.mask_path is not None]
    order = np.random.default_rng(arguments.seed).permutation(len(masked))
    found: list[Sample] = []
    for index in order:
        if len(found) == arguments.images:
            break
        mask = read_mask(masked[index].mask_path)
        if ((mask > 0) & (mask != IGNORE)).any():
            found.append(masked[index])
    if not found:
        raise SystemExit(f"The split {arguments.split} has no mask that shows a class.")
    return found


def print_saliency(dataset: Dataset, samples: Sequence[Sample], run: Path | None) -> None:
    print("| cue | F, adaptive threshold | best F (tuned on these masks) | at | mean abs. error |")
    print("|---|---|---|---|---|")
    for name in SALIENCY:
        found = (saliency(read_image(sample.image_path), name) for sample in samples)
        print_row(name, samples, found)
    has_ok = sum(s.labels.tags == frozenset() for s in dataset.split("train")) >= 2
    print_row("all ones", samples, (np.ones(read_mask(s.mask_path).shape) for s in samples))
    if not has_ok:
        print("\nNo ok images to learn from: no anomaly cue.\n")
        return
    features: dict[str, tuple[dict[str, Any], Callable[[], ClassMapNet] | None]] = {
        "untrained resnet18": ({"init": "none", "backbone": "resnet18"}, None)
    }
    if run is not None:
        name = load_recipe(run / "recipe.yaml").localize.backbone
        features[f"trained {name}"] = ({}, partial(localizer_of, run, dataset))
    for title, (settings, localizer) in features.items():
        for method in ("patchcore", "padim"):
            config = Anomaly(method=method, **settings)
            with tempfile.TemporaryDirectory() as folder:
                inputs = CueInputs(dataset, Path(folder), localizer=localizer)
                source: CueSource = open_cue(config, inputs)
                print_row(f"anomaly, {method}, {title}", samples, map(source.map, samples))
    print()


def localizer_of(run: Path, dataset: Dataset) -> ClassMapNet:
    """Load the classifier that a run trained on the tags of the same data set."""
    net = make_localizer(load_recipe(run / "recipe.yaml").localize, dataset.classes.num_classes)
    kept = json.loads((run / "localize/training/done.json").read_text("utf-8"))["kept"]
    load_weights(run / f"localize/training/{kept}.safetensors", net)
    return net.eval()


def print_row(name: str, samples: Sequence[Sample], maps: Iterator[np.ndarray]) -> None:
    levels = np.arange(256)
    rows, adaptive, errors = [], [], []
    for sample, values in zip(samples, maps, strict=True):
        mask = read_mask(sample.mask_path)
        values, truth = values[mask != IGNORE], mask[mask != IGNORE] > 0
        errors.append(float(np.abs(values - truth).mean()))
        threshold = min(2 * float(values.mean()), 1 - 1e-3)
        found = values >= threshold
        precision = (found & truth).sum() / max(1, found.sum())
        adaptive.append(f_measure(precision, (found & truth).sum() / truth.sum()))
        steps = np.rint(values * 255).astype(np.int64)
        hits = np.cumsum(np.bincount(steps[truth], minlength=256)[::-1])[::-1]
        all_found = np.cumsum(np.bincount(steps, minlength=256)[::-1])[::-1]
        rows.append((hits / np.maximum(1, all_found), hits / truth.sum()))
    precision, recall = np.mean(rows, axis=0)
    curve = f_measure(precision, recall)
    best = int(curve[1:].argmax()) + 1
    print(
        f"| {name} | {np.mean(adaptive):.3f} | {curve[best]:.3f} | {levels[best] / 255:.2f} "
        f"| {np.mean(errors):.3f} |",
        flush=True,
    )


def f_measure(precision: Any, recall: Any) -> Any:
    total = BETA_SQUARED * precision + recall
    return (1 + BETA_SQUARED) * precision * recall / np.where(total > 0, total, 1)


def print_segments(samples: Sequence[Sample]) -> None:
    accuracy: list[list[float]] = []
    objects: list[list[float]] = []
    counts = []
    for sample in samples:
        image, mask = read_image(sample.image_path), read_mask(sample.mask_path)
        opened: Any = open_segments(image)
        everything = opened.everything()
        counts.append(len(everything))
        tree: RegionTree = opened.tree
        cuts = [tree.labels_at(height_for(tree, count)) for count in CUTS]
        accuracy.append([achievable(labels, mask) for labels in (tree.ranks, *cuts)])
        objects += list(object_scores(opened, everything, mask))
    names = ["superpixels", *(f"{count} regions" for count in CUTS)]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    shares = " | ".join(f"{value:.4f}" for value in np.mean(accuracy, axis=0))
    print(f"| {shares} |\n\nAchievable segmentation accuracy, mean over images.\n")
    if not objects:
        print(f"No object has {MIN_OBJECT_PX} pixels.")
        return
    print("| everything | point, best of 3 | first-ranked | box, best of 3 | first-ranked | box |")
    print("|---|---|---|---|---|---|")
    print(f"| {' | '.join(f'{value:.3f}' for value in np.mean(objects, axis=0))} |\n")
    print(
        f"IoU, mean over {len(objects)} objects of at least {MIN_OBJECT_PX} px; "
        f"{np.mean(counts):.0f} segments per image in `everything`."
    )


def height_for(tree: RegionTree, count: int) -> float:
    """Find the height at which a tree is cut into about so many regions."""
    merges = np.sort(tree.heights[tree.num_leaves :])
    return float(merges[max(0, len(merges) - count)]) if len(merges) else 0.0


def achievable(labels: np.ndarray, mask: np.ndarray) -> float:
    """Give every region its most frequent class; returns the share of pixels that are right."""
    known = mask != IGNORE
    pairs = labels[known].astype(np.int64) * 256 + mask[known]
    keys, sizes = np.unique(pairs, return_counts=True)
    best = np.zeros(int(labels.max()) + 1, np.int64)
    np.maximum.at(best, keys // 256, sizes)
    return float(best.sum() / known.sum())


def object_scores(opened: Any, everything: Segments, mask: np.ndarray) -> Iterator[list[float]]:
    import cv2
    from scipy import ndimage

    void = mask == IGNORE
    for class_id in set(np.unique(mask).tolist()) - {0, IGNORE}:
        numbered, count = ndimage.label(mask == class_id)
        for number in range(1, count + 1):
            thing = numbered == number
            if thing.sum() < MIN_OBJECT_PX:
                continue
            padded = np.pad(thing, 1).astype(np.uint8)
            depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            rows, columns = ndimage.find_objects(thing.astype(int))[0]
            box = (columns.start, rows.start, columns.stop, rows.stop)
            point, boxed = opened.at([Prompt([(x, y)]), Prompt(box=box)])
            filled = np.zeros(mask.shape, bool)
            filled[rows, columns] = True
            yield [
                max(ious(everything, thing, void), default=0.0),
                max(ious(point, thing, void), default=0.0),
                first_ranked(point, thing, void),
                max(ious(boxed, thing, void), default=0.0),
                first_ranked(boxed, thing, void),
                iou(filled & ~void, thing),
            ]


def ious(segments: Segments, thing: np.ndarray, void: np.ndarray) -> list[float]:
    common = segments.overlaps(thing)
    areas = segments.overlaps(~void)
    return (common / np.maximum(1, areas + thing.sum() - common)).tolist()


def first_ranked(segments: Segments, thing: np.ndarray, void: np.ndarray) -> float:
    if not len(segments):
        return 0.0
    return ious(segments, thing, void)[int(segments.scores.argmax())]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


if __name__ == "__main__":
    main()
